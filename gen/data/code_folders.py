"""Imports the folders of codes that LlamaGen's extraction script leaves.

Axes: A stored versions of an image, N codes of one version.

For image number i, `*_codes/i.npy` holds its codes, integers of shape (1, A, N), and
`*_labels/i.npy` beside that folder its class, (1,). A is 2 for an image and its mirror image, and
10 for ten crops. Crops of another range of the same images lie in a pair of folders of their own.
Source of the format: FoundationVision/LlamaGen, `autoregressive/train/extract_codes_c2i.py`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gen import layouts
from gen.data.importing import (
    KINDS,
    check_ids,
    check_same,
    grid_of,
    numbers_of,
    path_of,
    progress_bar,
    records_of,
    split_evenly,
)
from gen.data.manifest import Manifest, check_condition
from gen.data.npy import read_integers
from gen.data.writer import write_dataset
from gen.errors import UserError, note


@dataclasses.dataclass(frozen=True)
class CodeFolder:
    """A folder of codes and its folder of labels.

    Attributes:
      codes, labels: the two folders.
      numbers: numbers of the images, ascending int64.
    """

    codes: Path
    labels: Path
    numbers: np.ndarray

    @classmethod
    def find(cls, source: str | os.PathLike[str]) -> CodeFolder:
        """The pair of folders that a path stands for: itself, if it ends in `_codes`, or inside it.

        Raises:
          UserError: there is no such pair, it is empty, or codes and labels differ in number.
        """
        source = path_of(source)
        if not os.path.isdir(source):
            raise UserError(f"{source} is no folder: it should hold *_codes and *_labels")
        inside = sorted(path for path in source.glob("*_codes") if path.is_dir())
        if len(inside) > 1:
            raise UserError(f"{source} holds {len(inside)} folders *_codes: name one, {inside[0]}")
        if not inside and not source.name.endswith("_codes"):
            raise UserError(f"{source} holds no folder *_codes, such as imagenet256_codes")
        codes = inside[0] if inside else source
        labels = codes.with_name(codes.name.removesuffix("_codes") + "_labels")
        if not labels.is_dir():
            raise UserError(f"{labels} is missing: it should hold the labels of {codes}")
        numbers = numbers_of(codes)
        if not len(numbers):
            raise UserError(f"{codes} holds no files: it should hold 0.npy, 1.npy and so on")
        check_same(codes, numbers, labels, numbers_of(labels))
        return cls(codes, labels, numbers)


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of one or several folders, which hold the same images.

    Attributes:
      folders: where the versions come from, in this order.
      shape: (1, A, N) of each code file.
      vocab_size: ids are below it.
      num_classes: labels are below it.
    """

    folders: Sequence[CodeFolder]
    shape: tuple[int, ...]
    vocab_size: int
    num_classes: int

    @property
    def numbers(self) -> np.ndarray:
        return self.folders[0].numbers

    def read(self, number: int) -> dict[str, np.ndarray]:
        """Tokens (N,) or, with the versions of all folders together, (A, N); and the label.

        Raises:
          UserError: a file is unreadable or does not fit the others; it is named.
        """
        name = f"{number}.npy"
        parts = [self._read_codes(folder.codes / name) for folder in self.folders]
        labels = [self._read_label(folder.labels / name) for folder in self.folders]
        for folder, label in zip(self.folders[1:], labels[1:], strict=True):
            if label != labels[0]:
                raise UserError(
                    f"{folder.labels / name} holds label {label}, "
                    f"{self.folders[0].labels / name} label {labels[0]}"
                )
        codes_AN = np.concatenate(parts)
        return {"tokens": codes_AN if len(codes_AN) > 1 else codes_AN[0], "label": labels[0]}

    def _read_codes(self, path: Path) -> np.ndarray:
        codes = read_integers(path)
        if codes.shape != self.shape:
            first = self.folders[0].codes / f"{self.numbers[0]}.npy"
            raise UserError(f"{path} has shape {codes.shape}, {first} has {self.shape}")
        check_ids(codes, self.vocab_size, path)
        return codes[0]

    def _read_label(self, path: Path) -> np.integer:
        labels = read_integers(path)
        if labels.shape != (1,):
            raise UserError(f"{path} has shape {labels.shape}, a label has (1,)")
        if not 0 <= labels[0] < self.num_classes:
            raise UserError(
                f"{path} holds label {labels[0]}, the classes are 0..{self.num_classes - 1}"
            )
        return labels[0]


def import_code_folder(
    *sources: str | os.PathLike[str],
    name: str,
    directory: str | os.PathLike[str] | None = None,
    num_classes: int = 1000,
    vocab_size: int = 16384,
    grid: tuple[int, int] | None = None,
    copies: str | None = None,
    tokenizer: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    holdout: int = 0,
    progress: bool = False,
) -> Manifest:
    """Writes a dataset from folders of codes, image after image, in the order of their numbers.

    Args:
      sources: folders that hold `*_codes` and `*_labels`, or the `*_codes` themselves. Of several,
        which must hold the same images, the versions of each image are put together.
      name, directory: as in `write_dataset`.
      num_classes: number of classes.
      vocab_size: number of ids of the tokenizer.
      grid: (height, width) of the codes; None for a square.
      copies: what the versions are, `none`, `flip` or `tencrop`; None to tell it from A.
      tokenizer: as in `Manifest`; None for LlamaGen's VQ-16.
      class_names: one name per class, or None.
      holdout: this many images, spread evenly over the numbers, become the split `test`; all
        others are the split `train`. The same folders always give the same splits.
      progress: show a progress bar.

    Raises:
      UserError: the folders or files are not as above, or the dataset exists already.
    """
    condition = {"kind": "class", "num_classes": num_classes, "names": class_names}
    check_condition(condition)
    folders = _find_all(sources)
    first = folders[0].codes / f"{folders[0].numbers[0]}.npy"
    shape = read_integers(first).shape
    if len(shape) != 3 or shape[0] != 1 or 0 in shape:
        raise UserError(f"{first} has shape {shape}, and should have (1, versions, codes)")
    images = Images(folders, shape, vocab_size, num_classes)
    layout = layouts.grid(*grid_of(grid, shape[2], first), vocab_size)
    augmentation = _augmentation(copies, shape[1], len(folders), first)
    train, test = split_evenly(images.numbers, holdout, folders[0].codes)
    for number in images.numbers[[0, -1]]:
        images.read(number)
    with progress_bar(progress, len(images.numbers)) as bar:
        splits = {"train": records_of(images, train, bar)}
        if holdout:
            splits["test"] = records_of(images, test, bar)
        return write_dataset(
            directory, name=name, splits=splits, layout=layout, condition=condition,
            tokenizer=tokenizer or {"id": "llamagen-vq16", "sha256": None},
            augmentation=augmentation, source=_description(folders),
        )  # fmt: skip


def _find_all(sources: Sequence[str | os.PathLike[str]]) -> list[CodeFolder]:
    """The folders of each source, once it is clear that they hold the same images."""
    if not sources:
        raise UserError("there is nothing to import: name a folder of codes")
    folders: list[CodeFolder] = []
    for source in sources:
        folder = CodeFolder.find(source)
        if any(folder.codes.samefile(other.codes) for other in folders):
            raise UserError(f"{folder.codes} is given twice")
        folders.append(folder)
        check_same(folders[0].codes, folders[0].numbers, folder.codes, folder.numbers)
    numbers = folders[0].numbers
    absent = int(numbers[-1]) + 1 - len(numbers)
    if absent:
        gap = int(np.flatnonzero(numbers != np.arange(len(numbers)))[0])
        note(f"{folders[0].codes} lacks {absent} numbers, the first of them {gap}; going on")
    return folders


def _augmentation(
    copies: str | None, versions: int, num_folders: int, first: Path
) -> dict[str, Any]:
    """The manifest's augmentation; several folders of ten crops are more crops."""
    kind, count = copies or KINDS.get(versions), versions * num_folders
    if kind is None:
        raise UserError(
            f"{first} holds {versions} versions of its image, where 2 are a flip and 10 are ten "
            "crops: say what they are with --copies (or copies=)"
        )
    if (kind == "none") != (count == 1):
        raise UserError(
            f"{first} holds {versions} of the {count} versions of its image in "
            f'{num_folders} folders, which copies "{kind}" does not describe'
        )
    return {"kind": kind, "count": count}


def _description(folders: Sequence[CodeFolder]) -> str:
    names = ", ".join(f"{folder.codes.parent.name}/{folder.codes.name}" for folder in folders)
    return f"LlamaGen code folders: {names}"
