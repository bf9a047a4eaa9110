"""Imports the lines of tokens that 1d-tokenizer's generators (RAR and its kin) are trained on.

Axes: A stored versions of an image, P positions.

A `.jsonl` file holds an image, or a version of one, on each line: `{"class_id": int, "tokens": [P
ints]}`. Of ten crops, the ten lines of an image follow each other. Of mirror images they do not:
the images of a batch come first, then their mirror images. Source of the format:
bytedance/1d-tokenizer, `scripts/pretokenization.py`.

Files may be larger than memory: they are read line by line, once to count the images, and once for
each split.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gen import layouts
from gen.data.importing import KINDS, grid_of, held_out, path_of, progress_bar
from gen.data.lines import Line, parse_object, read_lines, shown
from gen.data.manifest import Manifest, check_condition
from gen.data.writer import check_new, write_dataset
from gen.errors import UserError

VERSIONS = {kind: count for count, kind in KINDS.items()}
MASKGIT_VQGAN = {"id": "maskgit-vqgan", "sha256": None}
MAX_BLOCK = 2**12  # images, whose lines are in memory together


@dataclasses.dataclass(frozen=True)
class TokenLines:
    """How the lines of some files make up images.

    Attributes:
      paths: the files, plain or packed with gzip.
      versions: A; so many lines are one image.
      block: so many images (fewer at the end of a file) were written together, the first versions
        of all of them, then the second ones.
      length: P.
      vocab_size: ids are below it.
      num_classes: class ids are below it.
    """

    paths: Sequence[Path]
    versions: int
    block: int
    length: int
    vocab_size: int
    num_classes: int

    def count(self, progress: bool) -> int:
        """The number of images, once the lines of each file are as many as they should be.

        The first and last image of each file are read: most mistakes show before anything is
        written.

        Raises:
          UserError: a file is unreadable, empty or ends within an image, or an image is faulty.
        """
        total = sum(path.stat().st_size for path in self.paths)
        images = 0
        with progress_bar(progress, total, "counting", unit="B", unit_scale=True) as bar:
            for path in self.paths:
                last = None
                for last in self._images(path, bar.update):
                    if last[0][0] == 1:
                        self._record(path, last)
                    images += 1
                if last is None:
                    raise UserError(f"{path} is empty")
                self._record(path, last)
        return images

    def records(self, chosen: np.ndarray, bar: Any) -> Iterator[dict[str, Any]]:
        """The images that `chosen`, bool of one for each, marks: tokens (A, P) or (P,), and label.

        Raises:
          UserError: a line is faulty, file and line are named; or the files were changed.
        """
        index = 0
        for path in self.paths:
            for lines in self._images(path):
                if index < len(chosen) and chosen[index]:
                    yield self._record(path, lines)
                    bar.update()
                index += 1
        if index != len(chosen):
            raise UserError(
                f"the files held {len(chosen)} images when they were counted, and now {index}: "
                "were they still being written?"
            )

    def _images(self, path: Path, *advance: Callable[[int], Any]) -> Iterator[list[Line]]:
        """The A lines of each image of a file."""
        lines = read_lines(path, *advance)
        while block := list(itertools.islice(lines, self.block * self.versions)):
            count, rest = divmod(len(block), self.versions)
            if rest:
                raise UserError(
                    f"{path}, line {block[-1][0]}: the file ends with {rest} of the "
                    f"{self.versions} lines of an image"
                )
            for image in range(count):
                yield block[image::count]

    def _record(self, path: Path, lines: list[Line]) -> dict[str, Any]:
        tokens, labels = zip(*(self._parse(path, line) for line in lines))
        for (number, _), label in zip(lines, labels):
            if label != labels[0]:
                raise UserError(
                    f"{path}, line {number}: class_id {label}, but line {lines[0][0]} of the same "
                    f"image has {labels[0]}: are these its {self.versions} versions?"
                )
        tokens_AP = np.array(tokens, np.int64)
        return {
            "tokens": tokens_AP if self.versions > 1 else tokens_AP[0],
            "label": np.int64(labels[0]),
        }

    def _parse(self, path: Path, line: Line) -> tuple[list[int], int]:
        """Tokens and class of a line."""
        where = f"{path}, line {line[0]}"
        record = _fields(where, line[1])
        label, tokens = record["class_id"], record["tokens"]
        _check_integers(f"{where}: class_id", [label])
        if not 0 <= label < self.num_classes:
            raise UserError(
                f"{where}: class_id {shown(label)}, the classes are 0..{self.num_classes - 1}"
            )
        if len(tokens) != self.length:
            raise UserError(
                f"{where} has {len(tokens)} tokens, line 1 of {self.paths[0]} has {self.length}"
            )
        _check_integers(f"{where}: a token", tokens)
        if min(tokens) < 0 or max(tokens) >= self.vocab_size:
            bad = next(token for token in tokens if not 0 <= token < self.vocab_size)
            raise UserError(
                f"{where} holds id {shown(bad)}, the vocabulary is 0..{self.vocab_size - 1}"
            )
        return tokens, label


def import_token_lines(
    *sources: str | os.PathLike[str],
    name: str,
    copies: str,
    block: int | None = None,
    directory: str | os.PathLike[str] | None = None,
    num_classes: int = 1000,
    vocab_size: int = 1024,
    grid: tuple[int, int] | None = None,
    tokenizer: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    holdout: int = 0,
    progress: bool = False,
) -> Manifest:
    """Writes a dataset from files of a line for each version of an image, in their order.

    Args:
      sources: the `.jsonl` files, plain or packed with gzip; an image lies in one of them.
      name, directory: as in `write_dataset`.
      copies: what the lines of an image are: `none` (each line is an image), `flip` (two) or
        `tencrop` (ten that follow each other).
      block: of `flip`: the images of a batch, whose mirror images follow the whole batch; 1 where
        the two lines of an image follow each other. The last batch of a file may be smaller.
      num_classes: number of classes.
      vocab_size: number of ids of the tokenizer.
      grid: (height, width) of the tokens; None for a square.
      tokenizer: as in `Manifest`; None for MaskGIT's VQGAN.
      class_names: one name per class, or None.
      holdout: this many images, spread evenly over all, become the split `test`; all others are
        the split `train`. The same files always give the same splits.
      progress: show progress bars.

    Raises:
      UserError: the files are not as above, or the dataset exists already.
    """
    condition = {"kind": "class", "num_classes": num_classes, "names": class_names}
    check_condition(condition)
    block = _block(copies, block)
    check_new(directory, name)
    paths = _find_all(sources)
    first = next(read_lines(paths[0]), None)
    if first is None:
        raise UserError(f"{paths[0]} is empty")
    length = len(_fields(f"{paths[0]}, line 1", first[1])["tokens"])
    layout = layouts.grid(*grid_of(grid, length, f"{paths[0]}, line 1,"), vocab_size)
    lines = TokenLines(paths, VERSIONS[copies], block, length, vocab_size, num_classes)
    held = held_out(lines.count(progress), holdout, paths[0].parent)
    with progress_bar(progress, len(held)) as bar:
        splits = {"train": lines.records(~held, bar)}
        if holdout:
            splits["test"] = lines.records(held, bar)
        return write_dataset(
            directory, name=name, splits=splits, layout=layout, condition=condition,
            tokenizer=tokenizer or MASKGIT_VQGAN,
            augmentation={"kind": copies, "count": VERSIONS[copies]},
            source=f"lines of tokens: {', '.join(path.name for path in paths)}",
        )  # fmt: skip


def _find_all(sources: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The files, each of which must be there, and named once."""
    paths: list[Path] = []
    for source in sources:
        path = path_of(source)
        # Not a pipe: the lines are read more than once.
        if not os.path.isfile(path):
            raise UserError(f"{path} is no file: it should hold an image on each line")
        if any(path.samefile(other) for other in paths):
            raise UserError(f"{path} is given twice")
        paths.append(path)
    if not paths:
        raise UserError("there is nothing to import: name a file of tokens")
    return paths


def _block(copies: str, block: int | None) -> int:
    if copies not in VERSIONS:
        raise UserError(f'copies "{copies}" is not one of {", ".join(VERSIONS)}')
    if (copies == "flip") != (block is not None):
        raise UserError(
            "with --copies flip, and only then, give --block (or block=): the images of a batch, "
            "whose mirror images follow; 1 if each follows its image"
        )
    if block is not None and not 1 <= block <= MAX_BLOCK:
        raise UserError(f"a block has 1 to {MAX_BLOCK} images, not {block}")
    return block or 1


def _fields(where: str, line: bytes) -> dict[str, Any]:
    """What a line holds, once there are a class and a list of tokens."""
    record = parse_object(where, line)
    for key in ("class_id", "tokens"):
        if key not in record:
            keys = ", ".join(list(record)[:5]) or "nothing"
            raise UserError(f'{where} has no "{key}"; it holds {shown(keys)}')
    if not isinstance(record["tokens"], list) or not record["tokens"]:
        raise UserError(f'{where}: "tokens" is no list, or empty')
    return record


def _check_integers(what: str, values: list[Any]) -> None:
    # JSON's true and 3.0 would pass for 1 and 3.
    if set(map(type, values)) != {int}:
        bad = next(value for value in values if type(value) is not int)
        raise UserError(f"{what} is {shown(bad)}, not a whole number")
