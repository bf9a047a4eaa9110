"""Imports codes of captioned images, and the features of their captions.

Axes: P positions, T caption slots, C channels of a feature.

For image number i of a folder, `i.npy` holds its codes, integers of shape (1, P). Its caption lies
in another folder: as `i.npy`, (1, length of the caption, C) floats, or in row i of what `gen.encode
text` wrote. Codes in folders of a folder have their captions in folders of the same names. Source
of the format: FoundationVision/LlamaGen, `autoregressive/train/extract_codes_t2i.py`,
`language/extract_t5_feature.py`, `dataset/t2i.py`.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gen import layouts
from gen.data.caption_sources import CaptionRows, FeatureFolder
from gen.data.importing import (
    check_ids,
    grid_of,
    names_in,
    numbers_of,
    path_of,
    progress_bar,
    records_of,
    split_evenly,
)
from gen.data.manifest import Manifest
from gen.data.npy import read_integers
from gen.data.writer import check_new, write_dataset
from gen.errors import UserError, note

VQ16 = {"id": "llamagen-vq16", "sha256": None}
MAX_LENGTH = 2**12
LENGTH, ENCODER = 120, "google/flan-t5-xl"  # of LlamaGen's text models


@dataclasses.dataclass(frozen=True)
class CaptionedCodes:
    """The images of one or several folders, one folder after the other.

    Attributes:
      codes: the folders of codes.
      numbers: of each folder the numbers of its images, ascending.
      captions: of each folder where the captions are.
      length: P.
      vocab_size: ids are below it.
    """

    codes: Sequence[Path]
    numbers: Sequence[np.ndarray]
    captions: Sequence[FeatureFolder | CaptionRows]
    length: int
    vocab_size: int

    @functools.cached_property
    def ends(self) -> list[int]:
        """Index of the first image after each folder."""
        return list(itertools.accumulate(map(len, self.numbers)))

    def __len__(self) -> int:
        return self.ends[-1]

    def read(self, index: int) -> dict[str, np.ndarray]:
        """Tokens (P,), caption (T, C) and caption_valid (T,).

        Raises:
          UserError: a file is unreadable or does not fit the others; it is named.
        """
        part = bisect.bisect_right(self.ends, index)
        number = self.numbers[part][index - (self.ends[part - 1] if part else 0)]
        path = self.codes[part] / f"{number}.npy"
        tokens = read_integers(path)
        if tokens.shape != (1, self.length):
            raise UserError(f"{path} has shape {tokens.shape}, and should have {(1, self.length)}")
        check_ids(tokens, self.vocab_size, path)
        caption_TC, valid_T = self.captions[part].read(number)
        return {"tokens": tokens[0], "caption": caption_TC, "caption_valid": valid_T}


def import_captioned_codes(
    codes: str | os.PathLike[str],
    *,
    features: str | os.PathLike[str] | None = None,
    captions: str | os.PathLike[str] | None = None,
    name: str,
    directory: str | os.PathLike[str] | None = None,
    vocab_size: int = 16384,
    grid: tuple[int, int] | None = None,
    length: int | None = None,
    encoder: str | None = None,
    tokenizer: Mapping[str, Any] | None = None,
    holdout: int = 0,
    progress: bool = False,
) -> Manifest:
    """Writes a dataset of captioned images, folder after folder, in the order of their numbers.

    Args:
      codes: a folder of codes, or of such folders.
      features: the folder with a file of features for each file of codes.
      captions: in place of it, the folder that `gen.encode text` wrote, or of such folders; the
        first caption is that of `0.npy`.
      name, directory: as in `write_dataset`.
      vocab_size: number of ids of the tokenizer.
      grid: (height, width) of the codes; None for a square.
      length: T, of `features`; None for 120. Longer captions are cut.
      encoder: what made the `features`; None for flan-t5-xl.
      tokenizer: as in `Manifest`; None for LlamaGen's VQ-16.
      holdout: this many images, spread evenly over all, become the split `test`; all others are
        the split `train`. The same folders always give the same splits.
      progress: show a progress bar.

    Raises:
      UserError: the folders or files are not as above, or the dataset exists already.
    """
    check_new(directory, name)
    root = _folder(codes)
    parts = _parts(root)
    found = _find_captions(root, parts, features, captions, length, encoder)
    (start, numbers), *_ = parts.items()
    first = start / f"{numbers[0]}.npy"
    positions = _positions(first)
    layout = layouts.grid(*grid_of(grid, positions, first), vocab_size)
    images = CaptionedCodes(list(parts), list(parts.values()), found, positions, vocab_size)
    train, test = split_evenly(np.arange(len(images)), holdout, root)
    for index in (0, len(images) - 1):
        images.read(index)
    with progress_bar(progress, len(images)) as bar:
        splits = {"train": records_of(images, train, bar)}
        if holdout:
            splits["test"] = records_of(images, test, bar)
        return write_dataset(
            directory, name=name, splits=splits, layout=layout, tokenizer=tokenizer or VQ16,
            condition={
                "kind": "text", "length": found[0].length, "dim": found[0].dim,
                "encoder": found[0].encoder,
            },
            source=f"captioned codes: {root.name}",
        )  # fmt: skip


def _find_captions(
    root: Path,
    parts: Mapping[Path, np.ndarray],
    features: str | os.PathLike[str] | None,
    captions: str | os.PathLike[str] | None,
    length: int | None,
    encoder: str | None,
) -> list[FeatureFolder | CaptionRows]:
    """The captions of each folder of codes; all are of one shape and encoder."""
    if (features is None) == (captions is None):
        raise UserError("give either the features of the captions or the captions, not both")
    if captions is not None and (length, encoder) != (None, None):
        raise UserError("captions of gen.encode text know their length and encoder: give neither")
    if length is not None and not 1 <= length <= MAX_LENGTH:
        raise UserError(f"captions have 1 to {MAX_LENGTH} slots, not {length}")
    other = _folder(captions if features is None else features)
    found: list[FeatureFolder | CaptionRows] = []
    for codes, numbers in parts.items():
        folder = other / codes.relative_to(root)
        if features is None:
            found.append(CaptionRows.find(folder, codes, numbers))
        else:
            described = (length or LENGTH, encoder or ENCODER)
            found.append(FeatureFolder.find(folder, codes, numbers, *described))
        first, last = ((one.length, one.dim, one.encoder) for one in (found[0], found[-1]))
        if first != last:
            raise UserError(
                f"{folder} holds captions of {last} (slots, width, encoder), "
                f"{found[0].folder} of {first}"
            )
    unused = set(names_in(other, folders=True)) - {folder.name for folder in parts}
    if unused:
        note(f"{other} holds {len(unused)} folders without codes, such as {min(unused)}; going on")
    return found


def _positions(first: Path) -> int:
    """P, which the first file tells."""
    shape = read_integers(first).shape
    if len(shape) != 2 or shape[0] != 1 or not shape[1]:
        raise UserError(f"{first} has shape {shape}, and should have (1, codes)")
    return shape[1]


def _folder(path: str | os.PathLike[str]) -> Path:
    folder = path_of(path)
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is no folder")
    return folder


def _parts(root: Path) -> dict[Path, np.ndarray]:
    """The numbers of the images in the folder, or in each of the folders in it."""
    inside = [root / name for name in names_in(root, folders=True)]
    if inside and len(numbers_of(root)):
        raise UserError(f"{root} holds both files and folders of codes: name one, {inside[0]}")
    parts = {folder: numbers_of(folder) for folder in inside or [root]}
    for folder, numbers in parts.items():
        if not len(numbers):
            raise UserError(f"{folder} holds no files: it should hold 0.npy, 1.npy and so on")
    return parts
