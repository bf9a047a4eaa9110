"""What importing from one format has in common with importing from another."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from gen.errors import UserError

KINDS = {1: "none", 2: "flip", 10: "tencrop"}  # by the number of versions of an image
# Threads hide the delay of opening small files on a network disk; decoding is not the bottleneck.
NUM_READERS = 8
READ_AHEAD = 256
_FILE = re.compile(r"(0|[1-9][0-9]{0,11})\.npy")


def progress_bar(progress: bool, total: int, label: str = "importing", **options: Any) -> Any:
    """A bar over so many images, as a context; it shows nothing unless `progress`."""
    from tqdm import tqdm

    # The delay keeps a bar that never moved out of the way of an error message.
    return tqdm(
        **{"unit": " images", "delay": 0.5} | options,
        total=total, desc=label, disable=not progress,
    )  # fmt: skip


def records_of(images: Any, numbers: np.ndarray, bar: Any) -> Iterator[dict[str, np.ndarray]]:
    """What `images.read` gives for these numbers, in order, a few hundred in memory at a time."""
    with ThreadPoolExecutor(NUM_READERS) as pool:
        for start in range(0, len(numbers), READ_AHEAD):
            for record in pool.map(images.read, numbers[start : start + READ_AHEAD].tolist()):
                yield record
                bar.update()


def held_out(count: int, holdout: int, where: Path) -> np.ndarray:
    """Which of so many images are held out, bool `(count,)`; they lie evenly spread.

    Raises:
      UserError: none would be left, or fewer than none are held out; `where` begins the message.
    """
    if not 0 <= holdout < count:
        raise UserError(f"{where} holds {count} images: {holdout} of them cannot be held out")
    held = np.zeros(count, bool)
    held[(2 * np.arange(holdout) + 1) * count // max(2 * holdout, 1)] = True
    return held


def split_evenly(numbers: np.ndarray, holdout: int, where: Path) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of training and of held-out images, as `held_out` tells them."""
    held = held_out(len(numbers), holdout, where)
    return numbers[~held], numbers[held]


def grid_of(grid: tuple[int, int] | None, length: int, where: Path | str) -> tuple[int, int]:
    """Height and width of so many codes: those given, or a square's.

    Raises:
      UserError: the grid has another number of cells, or none was given and there is no square.
    """
    side = math.isqrt(length)
    if grid is None and side * side != length:
        raise UserError(f"{where} holds {length} codes, which is no square: give --grid (or grid=)")
    if grid is not None and math.prod(grid) != length:
        raise UserError(
            f"{where} holds {length} codes, the grid {grid[0]}x{grid[1]} {math.prod(grid)}"
        )
    return grid or (side, side)


def check_ids(codes: np.ndarray, vocab_size: int, where: Path | str) -> None:
    """Raises `UserError` unless all ids lie in the vocabulary."""
    for extreme in (int(codes.min()), int(codes.max())):
        if not 0 <= extreme < vocab_size:
            raise UserError(f"{where} holds id {extreme}, the vocabulary is 0..{vocab_size - 1}")


def path_of(source: str | os.PathLike[str]) -> Path:
    """A path that a user gave, from the root; it need not exist."""
    # Not Path.expanduser, which fails where there is no such user.
    return Path(os.path.expanduser(source)).absolute()


def names_in(folder: Path, *, folders: bool = False) -> list[str]:
    """Names of the files or folders in a folder, sorted; hidden ones are left out."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.is_dir() == folders and not entry.name.startswith(".")
            )
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror})") from None


def numbers_of(folder: Path) -> np.ndarray:
    """The numbers of the `.npy` files of a folder, ascending int64.

    Raises:
      UserError: the folder cannot be read, or such a file is not named by a number.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(".npy")]
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror})") from None
    for name in names:
        if not _FILE.fullmatch(name):
            raise UserError(f"{folder / name} is not named by an image's number, such as 12.npy")
    return np.sort(np.array([int(name[:-4]) for name in names], np.int64))


def check_same(one: Path, numbers: np.ndarray, other: Path, others: np.ndarray) -> None:
    """Raises `UserError` unless two folders hold files of the same numbers."""
    for folder, absent in (
        (other, np.setdiff1d(numbers, others)),
        (one, np.setdiff1d(others, numbers)),
    ):
        if len(absent):
            raise UserError(
                f"{one} holds {len(numbers)} files, {other} {len(others)}: "
                f"{folder / f'{absent[0]}.npy'} is missing"
            )
