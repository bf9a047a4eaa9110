"""Moving digits: short clips made of the UCI handwritten digits that ship with this package.

Axes: N digits or clips, T frames, H and W height and width of a frame, P = T * H * W tokens,
D and E height and width of a digit.

A clip shows one digit that moves to the right in a straight line, level, falling or rising by one
cell per frame, over a canvas of 17 gray levels; a token is a cell. So that small models learn it
in minutes, the 8x8 digits are scaled down to 5x4, without their outer columns, which hold 0.3 % of
their ink: at this size a classifier did best on the last frames of test clips (0.91). Training
clips show training digits, test clips test digits: the clips of digit i are the records
`i * CLIPS_PER_DIGIT[split]` and on, so that a slice of a split separates digits.

This module needs TFDS, so it is imported only when the clips are asked for.
"""

from __future__ import annotations

import functools
import itertools
import os
from pathlib import Path

import numpy as np

from gen.data.digits import DESCRIPTION as DIGITS
from gen.data.digits import NUM_TRAIN, BuiltIn, load_digits, prepare
from gen.data.manifest import Manifest
from gen.layouts import grid

NAME = "digits_video"
FRAMES, HEIGHT, WIDTH = 3, 7, 6
DIGIT = (5, 4)
CLIPS_PER_DIGIT = {"train": 4, "test": 1}
SEED = 0
# (down, right) cells per frame. No sum is negative: families that decode from the top left corner
# of all frames at once meet a digit in each frame after they met it in the frame before.
VELOCITIES = ((0, 1), (1, 1), (-1, 1))
DESCRIPTION = Manifest(
    name=NAME,
    layout=grid(HEIGHT, WIDTH, 17, frames=FRAMES),
    condition=DIGITS.condition,
    splits={},
    tokenizer=DIGITS.tokenizer,
    licence=DIGITS.licence,
    source=f"{DIGITS.source}; moved over a canvas",
)


@functools.cache
def paths() -> np.ndarray:
    """All straight paths that keep a digit on the canvas: int64 (K, T, 2) of its top left cell.

    Each is a start and one of `VELOCITIES`.
    """
    room = np.array([HEIGHT, WIDTH]) - DIGIT
    starts = list(itertools.product(range(room[0] + 1), range(room[1] + 1)))
    time_T1 = np.arange(FRAMES)[:, None]
    every = [np.array(s) + time_T1 * np.array(v) for s in starts for v in VELOCITIES]
    return np.array([path for path in every if ((path >= 0) & (path <= room)).all()])


def small_digits() -> tuple[np.ndarray, np.ndarray]:
    """All digits in the size of the clips, in the order of the file.

    Returns:
      digits_NDE: (1797, 5, 4) uint8 of 0..16, the mean ink of the area under each cell;
      labels_N: (1797,) int64 of 0..9.
    """
    tokens_NP, labels_N = load_digits()
    inner = tokens_NP.reshape(-1, 8, 8)[:, :, 1:-1].astype(np.int64)
    # Each pixel becomes 5 x 4 parts, of which a cell takes 8 x 6: whole numbers, so that the
    # rounding is the same on every machine.
    height, width = DIGIT
    parts = inner.repeat(height, axis=1).repeat(width, axis=2)
    sums_NDE = parts.reshape(-1, height, 8, width, 6).sum(axis=(2, 4))
    return ((sums_NDE + 24) // 48).astype(np.uint8), labels_N


def make_clips(digits_NDE: np.ndarray, *, each: int, seed: int) -> np.ndarray:
    """Clips of the given digits, each digit along `each` different paths drawn by the seed.

    Args:
      digits_NDE: uint8 (N, 5, 4) of 0..16.
      each: clips of a digit, at most `len(paths())`.
      seed: key of the paths.

    Returns:
      uint8 (N * each, P) of 0..16, clips of one digit side by side.
    """
    rng = np.random.default_rng(seed)
    clips = []
    for digit_DE in digits_NDE:
        for path in paths()[rng.permutation(len(paths()))[:each]]:
            clip_THW = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
            for frame_HW, (top, left) in zip(clip_THW, path):
                frame_HW[top : top + DIGIT[0], left : left + DIGIT[1]] = digit_DE
            clips.append(clip_THW.reshape(-1))
    return np.stack(clips)


class DigitsVideo(BuiltIn):
    """TFDS builder of the clips."""

    description = DESCRIPTION

    def arrays(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        digits_NDE, labels_N = small_digits()
        parts = {"train": slice(NUM_TRAIN), "test": slice(NUM_TRAIN, None)}
        arrays = {}
        for number, (split, part) in enumerate(parts.items()):
            each = CLIPS_PER_DIGIT[split]
            clips_NP = make_clips(digits_NDE[part], each=each, seed=SEED + number)
            arrays[split] = clips_NP, labels_N[part].repeat(each)
        return arrays


def prepare_digits_video(directory: str | os.PathLike[str] | None = None) -> Path:
    """Makes the clips under a data directory, unless they are there, and returns their folder."""
    return prepare(DigitsVideo, directory)
