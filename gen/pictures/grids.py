"""Labelled grids of images.

Axes: N images, H height, W width, C channels (1 or 3), P = H * W tokens of an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gen.errors import UserError
from gen.pictures.base import (
    GREY,
    MARGIN,
    TEXT,
    TITLE,
    blank,
    fit_text,
    font_of,
    save,
    text_width,
    write_title,
)

# In pixels: the least size of an image, and the space between two.
_CELL, _GAP = 56, 8


def to_rgb(images: Any) -> np.ndarray:
    """uint8 (N, H, W, 3) of any images that `save_grid` takes; raises `UserError` for others."""
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.size == 0:
        raise UserError(f"images must be (N, H, W[, 1 or 3]) and not empty, got {images.shape}")
    # NumPy does not count JAX's bfloat16 among its float kinds.
    if images.dtype.kind == "f" or images.dtype.name == "bfloat16":
        images = images.astype(np.float32)
        # NaN fails both comparisons; the tolerance is for a decoder's rounding.
        if not ((images >= -1e-3) & (images <= 1 + 1e-3)).all():
            raise UserError(f"float images must lie in 0..1, got {images.min()}..{images.max()}")
        images = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
    if images.dtype != np.uint8:
        raise UserError(f"images must be uint8 or float in 0..1, got {images.dtype}")
    return np.broadcast_to(images, (*images.shape[:3], 3))


def _draw_cells(
    picture: Any, images: np.ndarray, labels: Any, columns: int, scale: int, cell: Any, top: int
) -> None:
    """Pastes the images from the line `top` on, each centred in its (width, height) cell."""
    from PIL import Image, ImageDraw

    draw, font = ImageDraw.Draw(picture), font_of(TEXT)
    height, width = images.shape[1] * scale, images.shape[2] * scale
    for index, image in enumerate(images):
        x = MARGIN + (index % columns) * (cell[0] + _GAP) + (cell[0] - width) // 2
        y = top + (index // columns) * (cell[1] + _GAP)
        picture.paste(Image.fromarray(image.repeat(scale, 0).repeat(scale, 1)), (x, y))
        if labels is not None:
            text = fit_text(labels[index], font, cell[0])
            draw.text((x + width / 2, y + height + 15), text, font=font, fill=GREY, anchor="ms")


def draw_grid(
    images_NHWC: Any,
    *,
    labels: Sequence[str] | None = None,
    columns: int | None = None,
    title: str | None = None,
    scale: int | None = None,
) -> Any:
    """The Pillow picture that `save_grid` saves; same arguments, same errors."""
    images = to_rgb(images_NHWC)
    count, height, width, _ = images.shape
    if labels is not None and len(labels) != count:
        raise UserError(f"{len(labels)} labels for {count} images")
    if any(v is not None and (not isinstance(v, int) or v < 1) for v in (columns, scale)):
        raise UserError(f"columns and scale must be whole and above 0, got {columns} and {scale}")
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    scale = scale or math.ceil(_CELL / min(height, width))
    cell = (width * scale, height * scale)
    if labels is not None:
        # A column grows with its labels, but not for whole captions.
        widest = max(text_width(text, font_of(TEXT)) for text in labels)
        cell = (max(cell[0], min(widest, 2 * _CELL)), cell[1] + TEXT + 7)
    top = MARGIN + (TITLE + 14 if title else 0)
    full_width = 2 * MARGIN + columns * (cell[0] + _GAP) - _GAP
    full_height = top + math.ceil(count / columns) * (cell[1] + _GAP) - _GAP + MARGIN
    if title:
        # A grid of few columns is often narrower than its title.
        full_width = max(full_width, min(text_width(title, font_of(TITLE)) + 2 * MARGIN, 640))
    picture = blank(full_width, full_height)
    write_title(picture, title or "")
    _draw_cells(picture, images, labels, columns, scale, cell, top)
    return picture


def save_grid(
    path: Any,
    images_NHWC: Any,
    *,
    labels: Sequence[str] | None = None,
    columns: int | None = None,
    title: str | None = None,
    scale: int | None = None,
) -> None:
    """Saves images as one PNG, row by row, each with its label centred below it.

    Long labels are cut with dots. The built-in font draws only ASCII; the rest shows as boxes.

    Args:
        path: file to write, ending in .png; missing folders are made.
        images_NHWC: (N, H, W), (N, H, W, 1) or (N, H, W, 3), uint8 or float in 0..1.
        labels: one text per image.
        columns: images per row; by default about the square root of N.
        title: line above the grid.
        scale: whole factor by which pixels are repeated; by default the least that makes the
            shorter side 56 pixels or more.

    Raises:
        UserError: wrong shapes, dtypes or ranges, a label count other than N, columns or scale
            below 1, a picture of over 16384 pixels a side, or a path that cannot be written.
    """
    save(path, draw_grid(images_NHWC, labels=labels, columns=columns, title=title, scale=scale))


def tokens_to_gray(tokens_NP: Any, *, height: int, width: int, vocab_size: int) -> np.ndarray:
    """Token ids as gray levels, for tokens that have no tokenizer: id 0 black, the last white.

    Faithful where tokens are pixel values; for the codes of a codebook it shows only which
    positions agree.

    Args:
        tokens_NP: int array in 0..vocab_size-1, row by row, P = height * width.
        height, width: rows and columns of an image.
        vocab_size: number of token values, at least 2.

    Returns:
        uint8 (N, height, width).

    Raises:
        UserError: wrong shape, dtype or vocab_size, or tokens out of range.
    """
    tokens_NP, cells = np.asarray(tokens_NP), height * width
    if tokens_NP.ndim != 2 or tokens_NP.shape[1] != cells or tokens_NP.dtype.kind not in "iu":
        got = f"{tokens_NP.dtype} {tokens_NP.shape}"
        raise UserError(f"tokens must be integers of shape (N, {cells}), got {got}")
    if vocab_size < 2 or ((tokens_NP < 0) | (tokens_NP >= vocab_size)).any():
        raise UserError(f"tokens must lie within 0..{vocab_size - 1} (at least two values)")
    gray_NP = np.rint(tokens_NP * (255.0 / (vocab_size - 1))).astype(np.uint8)
    return gray_NP.reshape(-1, height, width)
