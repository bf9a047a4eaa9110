"""What a generator makes, as pixels: its tokenizer opened, and pictures written.

Axes: N samples, T frames, H height, W width.

    decode = gen.pixels_of(generator, "out/vq16.safetensors")
    pixels = decode(generator.draw(0, labels=[207, 360], guidance=4.0))
    gen.save_pictures("out/samples.png", pixels, labels=["retriever", "otter"])
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gen import pictures, tokenizers
from gen.api import Generator
from gen.errors import UserError, nearest
from gen.pictures.samples import strip_columns
from gen.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The tokenizer of a generator, and the shape of its samples.

    Attributes:
      tokenizer: decodes them.
      shape: (height, width) in pixels, or (frames, height, width) of videos.
    """

    tokenizer: Tokenizer
    shape: tuple[int, ...]

    def __call__(
        self, drawn: Mapping[str, np.ndarray] | np.ndarray, *, batch_size: int = 16
    ) -> np.ndarray:
        """Pixels of what was drawn, uint8 `(N, H, W, 3)`, or `(N, T, H, W, 3)` of videos.

        Args:
          drawn: what `Generator.draw` gave, or tokens. Latents are decoded where there are any:
            some options smooth these alone.
          batch_size: samples decoded together.

        Raises:
          UserError: the tokens are none of the tokenizer's.
        """
        if not isinstance(drawn, Mapping):
            drawn = {"tokens": drawn}
        if "latents" in drawn:
            pixels = self.tokenizer.decode_latents(drawn["latents"], batch_size=batch_size)
        else:
            pixels = self.tokenizer.decode(drawn["tokens"], self.shape, batch_size=batch_size)
        return self.tokenizer.to_uint8(pixels)


def pixels_of(generator: Generator, tokenizer: str | Path | Tokenizer) -> Pixels:
    """The tokenizer of a generator, held against it.

    Args:
      generator: whose samples are to be seen.
      tokenizer: the tokenizer, or the file that it was saved in.

    Raises:
      UserError: the file is no tokenizer, or its tokens are not the generator's.
    """
    name, layout = "the tokenizer", generator.family.layout
    if not isinstance(tokenizer, Tokenizer):
        name = f"the tokenizer {tokenizer}"
        tokenizer = tokenizers.load(tokenizer, mesh=generator.mesh)
    if layout.is_continuous:  # of latents at several scales, the last are what is decoded
        layout = dataclasses.replace(layout, geometry="grid", shapes=layout.shapes[-1:])
    shape = tokenizer.pixel_shape(layout.shapes[-1])
    differing = layout.differences(tokenizer.layout(shape))
    if differing:
        raise UserError(
            f"{name} does not fit the generator: {'; '.join(differing)} "
            "(the generator's against the tokenizer's)"
        )
    for part in generator.family.tokenizer_parts:
        ours, theirs = generator.params[part], tokenizer.params[part]
        if not all(map(np.array_equal, jax.tree.leaves(ours), jax.tree.leaves(theirs))):
            raise UserError(f"{name} has another {part} than the generator holds")
    return Pixels(tokenizer, shape)


def save_pictures(
    path: str | Path,
    pixels: Any,
    *,
    labels: Sequence[Any] | None = None,
    columns: int | None = None,
    title: str | None = None,
    fps: float = 8.0,
) -> None:
    """Writes samples as one labelled picture: a grid, of videos one that moves.

    Args:
      path: ends in `.png`, or for videos in `.gif` or `.mp4` (extra `video`); as a PNG, videos are
        strips of frames.
      pixels: uint8, or floats in 0..1: `(N, H, W, 3)`, or `(N, T, H, W, 3)` of videos.
      labels: one for each.
      columns: samples in a row; by default ten, or as many strips as are well seen.
      title: line above.
      fps: frames per second.

    Raises:
      UserError: another ending or shape, as many labels as there are no samples, or a path that
        cannot be written.
    """
    path, pixels = Path(path), np.asarray(pixels)
    ending = path.suffix.lower()
    if ending not in (".png", ".gif", ".mp4"):
        close = nearest(ending, (".png", ".gif", ".mp4"))
        raise UserError(f'pictures end in .png, .gif or .mp4, not "{ending}"{close}')
    if ending != ".png" and pixels.ndim != 5:
        raise UserError(f"{path}: only videos (N, T, H, W, 3) move, not {pixels.shape}")
    named = None if labels is None else [str(label) for label in labels]
    options = {"labels": named, "columns": columns or 10, "title": title}
    if pixels.ndim != 5:
        pictures.save_grid(path, pixels, **options)
    elif ending == ".png":
        options["columns"] = columns or strip_columns(pixels.shape[1])
        pictures.save_strips(path, pixels, **options)
    else:
        save = pictures.save_gif if ending == ".gif" else pictures.save_mp4
        save(path, pixels, fps=fps, **options)


def save_each(folder: Path, pixels: np.ndarray, first: int = 0) -> None:
    """Writes each sample as a file of its own, `00000.png` and so on; videos as GIFs.

    Args:
      folder: that is there.
      pixels: uint8 `(N, H, W, 3)` or `(N, T, H, W, 3)`.
      first: number of the first.

    Raises:
      UserError: a file cannot be written.
    """
    from PIL import Image

    for number, sample in enumerate(pixels, first):
        frames = [Image.fromarray(frame) for frame in sample.reshape(-1, *sample.shape[-3:])]
        if sample.ndim == 3:
            pictures.save(folder / f"{number:05d}.png", frames[0])
        else:
            pictures.save_frames(folder / f"{number:05d}.gif", frames, fps=8.0)
