"""Small tokenizers and folders of pictures for the tests of gen.encode."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from gen import tokenizers
from gen.data import open_dataset
from gen.encoding import Job
from gen.errors import UserError
from gen.images import Cut, ImageFolder
from gen.layouts import grid

VQ = tokenizers.VQConfig(
    codebook_size=16,
    codebook_dim=4,
    width=4,
    encoder_multipliers=(1, 2),
    decoder_multipliers=(1, 2),
    blocks_per_level=1,
    z_channels=4,
    normalise_codes=True,
    norm_groups=2,
)
KL = tokenizers.KLConfig(
    channels=3,
    z_channels=4,
    width=4,
    multipliers=(1, 2),
    blocks_per_level=1,
    scale=0.5,
    norm_groups=2,
)


@functools.cache
def vq(seed=0):
    """A tokenizer, whose programs are compiled once for all tests of a file."""
    return tokenizers.VQTokenizer.fresh(VQ, seed)


@functools.cache
def kl(seed=0):
    return tokenizers.KLTokenizer.fresh(KL, seed)


@dataclasses.dataclass(frozen=True)
class PoolConfig:
    codebook_size: int = 16


class PoolModel(nnx.Module):
    """Blocks of 2 frames, 4 rows and 4 columns become the code that is nearest to their mean."""

    def __init__(self, config, rngs):
        self.table = nnx.Param(jax.random.uniform(rngs.params(), (config.codebook_size, 3)))

    def encode(self, pixels, layout):
        t, h, w = layout.shapes[0]
        mean = (
            pixels.reshape(-1, t, 2, h, 4, w, 4, 3).mean((2, 4, 6)).reshape(len(pixels), -1, 1, 3)
        )
        return jnp.square(mean - self.table[...]).sum(-1).argmin(-1).astype(jnp.int32)

    def decode(self, tokens, layout):
        pixels = self.table[...][tokens].reshape(-1, *layout.shapes[0], 3)
        return pixels.repeat(2, 1).repeat(4, 2).repeat(4, 3)


class PoolTokenizer(tokenizers.Tokenizer):
    """The least tokenizer of videos that there is."""

    kind = "pool"
    Config = PoolConfig
    pixel_range = (0.0, 1.0)
    downsample = (2, 4, 4)

    @classmethod
    def build(cls, config, rngs, *, dtype):
        return PoolModel(config, rngs)

    def layout(self, shape):
        if len(shape) != 3 or any(n % cell for n, cell in zip(shape, self.downsample)):
            raise UserError(
                f"this tokenizer takes videos whose (frames, height, width) are multiples of "
                f"{self.downsample}, not {tuple(shape)}"
            )
        frames, height, width = (n // cell for n, cell in zip(shape, self.downsample))
        return grid(height, width, self.config.codebook_size, frames=frames)

    def default_shape(self, num_positions):
        raise UserError("give the shape")


def save_image(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def image_folder(root, count, *, classes=("ant", "bee", "cat"), seed=0):
    """Pictures of noise, at least 8 pixels a side, in class folders in turn, or in the folder."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        pixels = rng.integers(0, 256, (*rng.integers(8, 14, 2), 3), dtype=np.uint8)
        inside = classes[index % len(classes)] if classes else ""
        save_image(root / inside / f"{index:04d}.png", pixels)
    return root


def whole(folder):
    """All images of a folder as the split `train`."""
    images = folder if not hasattr(folder, "is_dir") else ImageFolder.find(folder)
    return {"train": (images, np.arange(len(images)))}


def job(folder, directory, *, tokenizer=None, cut=None, name="codes", **options):
    """A job of small pictures in small parts."""
    options = {"batch_size": 4, "part_size": 6} | options
    splits = options.pop("splits", None) or whole(folder)
    cut = cut or Cut((8, 8))
    return Job(name, splits, tokenizer or vq(), cut, directory=directory, **options)


def stored(directory, split="train", name="codes"):
    """Tokens and labels of a split, in order."""
    records = open_dataset(name, directory=directory).split(split)
    rows = [records[i] for i in range(len(records))]
    labels = [int(row["label"]) for row in rows] if "label" in rows[0] else None
    return np.stack([row["tokens"] for row in rows]), labels


def refused(call, *args, **kwargs):
    """The message of the `UserError` that a call must raise."""
    try:
        call(*args, **kwargs)
    except UserError as error:
        return str(error)
    raise AssertionError("nothing was refused")
