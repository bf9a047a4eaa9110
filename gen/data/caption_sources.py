"""Where the captions of codes lie, as text-encoder features: in files, or in rows of an array.

Axes: N captions, T caption slots, C channels of a feature.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from gen import captions as caption_sets
from gen.data.importing import check_same, numbers_of
from gen.data.npy import read_floats
from gen.errors import UserError


@dataclasses.dataclass(frozen=True)
class FeatureFolder:
    """Features in a file for each caption, of as many vectors as the caption is long.

    Attributes:
      folder: where the files lie.
      length: T; longer captions are cut, as LlamaGen does.
      dim: C.
      encoder: name of the text encoder.
    """

    folder: Path
    length: int
    dim: int
    encoder: str

    @classmethod
    def find(
        cls, folder: Path, codes: Path, numbers: np.ndarray, length: int, encoder: str
    ) -> FeatureFolder:
        """The captions of these codes."""
        check_same(codes, numbers, folder, numbers_of(folder))
        first = _features(folder / f"{numbers[0]}.npy")
        return cls(folder, length, first.shape[1], encoder)

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Features (T, C), float16, at the end of the slots, and which slots are valid (T,)."""
        path = self.folder / f"{number}.npy"
        features = _features(path)
        if features.shape[1] != self.dim:
            raise UserError(f"{path} has features of width {features.shape[1]}, others {self.dim}")
        kept = features[: self.length]
        caption_TC = np.zeros((self.length, self.dim), np.float16)
        caption_TC[-len(kept) :] = _halves(kept, path)
        return caption_TC, np.arange(self.length) >= self.length - len(kept)


@dataclasses.dataclass(frozen=True)
class CaptionRows:
    """Captions that `gen.encode text` wrote, a row for each.

    Attributes:
      folder: where they lie.
      caption, valid: (N, T, C) and (N, T), memory-mapped.
      encoder: name of the text encoder.
    """

    folder: Path
    caption: np.ndarray
    valid: np.ndarray
    encoder: str

    @classmethod
    def find(cls, folder: Path, codes: Path, numbers: np.ndarray) -> CaptionRows:
        """The captions of these codes."""
        found = caption_sets.load(folder)
        absent = np.setdiff1d(np.arange(len(found.caption)), numbers)
        surplus = numbers[numbers >= len(found.caption)]
        if len(absent) or len(surplus):
            what = f"{absent[0]}.npy is missing" if len(absent) else f"{surplus[0]}.npy has none"
            count = len(found.caption)
            raise UserError(
                f"{folder} holds {count} captions, {codes} {len(numbers)} codes: {what}"
            )
        return cls(folder, found.caption, found.caption_valid, found.encoder)

    @property
    def length(self) -> int:
        return self.caption.shape[1]

    @property
    def dim(self) -> int:
        return self.caption.shape[2]

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Features (T, C), float16, and which slots are valid (T,)."""
        where = f"{self.folder}, row {number},"
        valid_T = np.array(self.valid[number], bool)
        if not valid_T.any():
            raise UserError(f"{where} has no valid slot")
        return _halves(np.array(self.caption[number]), where), valid_T


def _features(path: Path) -> np.ndarray:
    """The features of a caption, (its length, C)."""
    features = read_floats(path)
    if features.ndim != 3 or len(features) != 1 or not features.size:
        raise UserError(f"{path} has shape {features.shape}, and should have (1, length, width)")
    return features[0]


def _halves(features: np.ndarray, where: Path | str) -> np.ndarray:
    """In float16, as datasets store captions."""
    with np.errstate(over="ignore"):
        halves = features.astype(np.float16)
    if not np.isfinite(halves).all():
        raise UserError(f"{where} holds features that are no numbers in float16")
    return halves
