"""Crops of pictures, for training and held out.

Axes: B crops, H height, W width.

Batch k is a pure function of the seed and of k: the images are shuffled, again in another order
for each epoch, and each visit cuts one crop at a random place.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from gen.errors import UserError, nearest
from gen.images import crops
from gen.images.config import ImagesConfig
from gen.images.digits import DigitImages
from gen.images.folder import ImageFolder, image_size
from gen.images.source import BadImage, Images

THREADS = 8  # that look at the files of a folder before a run starts
RANDOM_IMAGES = 32


class RandomImages(Images):
    """Made-up pixels, each image a pure function of its number."""

    name, class_names = "random", None

    def __init__(self, seed: int, size: Sequence[int]):
        self._seed, self._size = seed, tuple(size)

    def __len__(self) -> int:
        return RANDOM_IMAGES

    def key(self, index: int) -> str:
        return str(index)

    def label(self, index: int) -> None:
        return None

    def read(self, index: int) -> np.ndarray:
        rng = np.random.default_rng([self._seed, index])
        return rng.integers(0, 256, (*self._size, 3), dtype=np.uint8)


class Pictures:
    """Some images of a source, scaled, and kept in memory as far as the budget goes."""

    def __init__(self, images: Images, indices: Sequence[int], config: ImagesConfig) -> None:
        self._images, self._indices, self._resize = images, list(indices), config.resize
        self._kept: dict[int, np.ndarray] = {}
        self._left = config.cache_mb * 2**20
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> np.ndarray:
        """uint8 `(H, W, 3)`; raises `UserError` where it cannot be read."""
        if index in self._kept:
            return self._kept[index]
        try:
            pixels_HWC = self._images.read(self._indices[index])
        except BadImage as error:
            raise UserError(str(error)) from None
        if self._resize:
            pixels_HWC = crops.cover(pixels_HWC, (self._resize, self._resize))
        with self._lock:
            if pixels_HWC.nbytes <= self._left:
                self._left -= pixels_HWC.nbytes
                self._kept[index] = pixels_HWC
        return pixels_HWC


def _folder(config: ImagesConfig) -> tuple[Pictures, Pictures]:
    if config.dir is None:
        raise UserError("config.data.dir is missing: give the folder of images")
    images = ImageFolder.find(config.dir)
    if config.valid_dir:
        held_out = ImageFolder.find(config.valid_dir)
        every, last = range(len(images)), range(len(held_out))
    else:
        held_out, nth = images, config.valid_every
        last = range(nth - 1, len(images), nth)
        every = sorted(set(range(len(images))) - set(last))
        if not last:
            raise UserError(
                f"{config.dir} holds {len(images)} images, of which every {nth}-th is held out: "
                "lower config.data.valid_every or give config.data.valid_dir"
            )
    _check_sizes(images, every, config)
    _check_sizes(held_out, last, config)
    return Pictures(images, every, config), Pictures(held_out, last, config)


def _check_sizes(images: ImageFolder, indices: Sequence[int], config: ImagesConfig) -> None:
    """Raises `UserError` for the first that is no image, or smaller than a crop."""

    def check(index: int) -> None:
        path = images.root / images.key(index)
        height, width = image_size(path)
        if not config.resize and (height < config.size[0] or width < config.size[1]):
            raise UserError(
                f"{path} has {height} x {width} pixels, less than a crop, {config.size}: take it "
                "out, or set config.data.resize"
            )

    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for _ in pool.map(check, indices):
                pass
        except BadImage as error:
            raise UserError(str(error)) from None


def _digits(config: ImagesConfig) -> tuple[Pictures, Pictures]:
    parts = (DigitImages(split) for split in ("train", "test"))
    first, second = (Pictures(part, range(len(part)), config) for part in parts)
    return first, second


def _random(config: ImagesConfig) -> tuple[Pictures, Pictures]:
    parts = (RandomImages(seed, config.size) for seed in range(2))
    first, second = (Pictures(part, range(len(part)), config) for part in parts)
    return first, second


SOURCES: dict[str, Callable[[ImagesConfig], tuple[Pictures, Pictures]]] = {
    "folder": _folder,
    "digits": _digits,
    "random": _random,
}


def open_pictures(config: ImagesConfig) -> tuple[Pictures, Pictures]:
    """Those to learn from, and those held out.

    Raises:
      UserError: there is no such source or folder, it holds too few images, or one of them is
        none or too small.
    """
    if config.name not in SOURCES:
        raise UserError(
            f'config.data.name "{config.name}" is unknown{nearest(config.name, SOURCES)}'
        )
    return SOURCES[config.name](config)


def training_crops(
    pictures: Pictures, config: ImagesConfig, *, batch_size: int, seed: int
) -> Callable[[int], dict[str, np.ndarray]]:
    """A function that gives batch k: `pixels`, uint8 `(B, H, W, 3)`."""
    num = len(pictures)

    # Grain's shuffle takes milliseconds an item where items are few: photographs often are.
    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng([0, seed, epoch]).permutation(num)

    def crop(visit: int) -> np.ndarray:
        epoch, place = divmod(visit, num)
        rng = np.random.default_rng([1, seed, epoch, place])
        pixels_HWC = _cut(pictures[order(epoch)[place]], config.size, rng)
        return crops.mirrored(pixels_HWC) if config.flip and rng.random() < 0.5 else pixels_HWC

    def batch(k: int) -> dict[str, np.ndarray]:
        visits = range(k * batch_size, (k + 1) * batch_size)
        return {"pixels": np.stack([crop(visit) for visit in visits])}

    return batch


def held_out_crops(pictures: Pictures, config: ImagesConfig) -> np.ndarray:
    """The held-out crops, the images in turn: uint8 `(B, H, W, 3)`, always the same."""
    places = (np.random.default_rng(number) for number in range(config.valid_crops))
    found = [
        _cut(pictures[number % len(pictures)], config.size, rng)
        for number, rng in enumerate(places)
    ]
    return np.stack(found)


def _cut(pixels_HWC: np.ndarray, size: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """A crop at a random place."""
    room = [side - part for side, part in zip(pixels_HWC.shape, size)]
    if min(room) < 0:
        raise UserError(f"a picture of {pixels_HWC.shape[:2]} pixels is smaller than {size}")
    top, left = (int(rng.integers(most + 1)) for most in room)
    return crops.cut(pixels_HWC, top, left, size)
