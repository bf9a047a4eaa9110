"""Pixels at the door of a tokenizer: checked, scaled, and rounded back.

Axes: B samples, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gen.errors import UserError

Range = tuple[float, float]
# What rounding may add to floats that were scaled elsewhere.
TOLERANCE = 1e-3


def check_pixels(pixels: Any, pixel_range: Range) -> np.ndarray:
    """The pixels as an array `(B, H, W, 3)` or `(B, T, H, W, 3)`, of the dtype they came in.

    Raises:
      UserError: shape, dtype or range is none that a tokenizer takes.
    """
    pixels = np.asarray(pixels)
    if pixels.ndim not in (4, 5) or pixels.shape[-1] != 3 or not pixels.size:
        raise UserError(
            f"pixels must have shape (B, height, width, 3), or (B, frames, height, width, 3) for "
            f"videos, not {pixels.shape}"
        )
    if pixels.dtype == np.uint8:
        return pixels
    low, high = pixel_range
    if not _is_float(pixels):
        raise UserError(
            f"pixels must be uint8, or floats from {low:g} to {high:g}, not {pixels.dtype}"
        )
    least, most = float(pixels.min()), float(pixels.max())
    # NaN fails both comparisons.
    if not (low - TOLERANCE <= least and most <= high + TOLERANCE):
        raise UserError(
            f"float pixels lie from {low:g} to {high:g} for this tokenizer, "
            f"found {least:g} to {most:g}"
        )
    return pixels


def scale(pixels: np.ndarray, pixel_range: Range) -> np.ndarray:
    """Checked pixels as float32 in the range."""
    if pixels.dtype != np.uint8:
        return pixels.astype(np.float32)
    low, high = np.float32(pixel_range[0]), np.float32(pixel_range[1])
    return low + (high - low) * (pixels.astype(np.float32) / np.float32(255))


def to_uint8(pixels: Any, pixel_range: Range) -> np.ndarray:
    """Float pixels clamped to the range and rounded to 0..255.

    Raises:
      UserError: they are no floats, or NaN is among them.
    """
    pixels = np.asarray(pixels)
    if not _is_float(pixels):
        raise UserError(f"decoded pixels are floats, not {pixels.dtype}")
    if np.isnan(pixels).any():
        raise UserError("decoded pixels hold NaN: the weights that made them are broken")
    low, high = pixel_range
    unit = (np.clip(pixels.astype(np.float32), low, high) - low) / (high - low)
    return np.rint(unit * 255).astype(np.uint8)


def image_cells(shape: Sequence[int], downsample: tuple[int, int, int]) -> tuple[int, int]:
    """(rows, columns) of the cells of an image of (height, width) pixels.

    Raises:
      UserError: this is no height and width, or a side is no multiple of its cells'.
    """
    return _cells(shape, downsample[1:], "images whose (height, width)")


def video_cells(shape: Sequence[int], downsample: tuple[int, int, int]) -> tuple[int, int, int]:
    """(frames, rows, columns) of the cells of a video of (frames, height, width) pixels.

    Raises:
      UserError: as `image_cells`.
    """
    return _cells(shape, downsample, "videos whose (frames, height, width)")


def _cells(shape: Sequence[int], cell: tuple[int, ...], what: str) -> tuple[int, ...]:
    sizes = tuple(shape) if np.ndim(shape) == 1 else (shape,)
    whole = all(isinstance(size, (int, np.integer)) and size > 0 for size in sizes)
    uneven = not whole or any(size % side for size, side in zip(sizes, cell))
    if len(sizes) != len(cell) or uneven:
        raise UserError(f"this tokenizer takes {what} are multiples of {cell}, not {sizes}")
    return tuple(size // side for size, side in zip(sizes, cell))


def _is_float(pixels: np.ndarray) -> bool:
    # NumPy does not count JAX's bfloat16 among its float kinds.
    return pixels.dtype.kind == "f" or pixels.dtype.name == "bfloat16"
