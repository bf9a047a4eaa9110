"""The digits that ship with the package, as pictures of 8x8 pixels."""

from __future__ import annotations

import numpy as np

from gen.images.source import Images

LEVELS = 16  # the brightest gray level


class DigitImages(Images):
    """One split of the digits: gray levels 0..16 spread over 0..255, in all three channels."""

    name = "digits"
    class_names = tuple(str(digit) for digit in range(10))
    licence = "CC BY 4.0"

    def __init__(self, split: str):
        """
        Args:
          split: `train`, the first 1500, or `test`, the other 297.
        """
        from gen.data.digits import NUM_TRAIN, load_digits  # needs TFDS

        tokens_NP, self._labels = load_digits()
        part = {"train": slice(NUM_TRAIN), "test": slice(NUM_TRAIN, None)}[split]
        self._levels, self._labels = tokens_NP[part].reshape(-1, 8, 8), self._labels[part]

    def __len__(self) -> int:
        return len(self._labels)

    def key(self, index: int) -> str:
        return f"{index:04d}"

    def label(self, index: int) -> int:
        return int(self._labels[index])

    def read(self, index: int) -> np.ndarray:
        gray_HW = np.rint(self._levels[index] * (255 / LEVELS)).astype(np.uint8)
        return np.repeat(gray_HW[..., None], 3, axis=-1)
