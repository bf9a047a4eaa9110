"""PNG pictures of samples and of training curves, drawn with Pillow alone.

Axes: N images, H height, W width, C channels (1 or 3), P = H * W tokens of an image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gen.errors import UserError

_INK, _GREY, _FAINT, _PAPER = (25, 25, 30), (110, 110, 118), (226, 226, 230), (255, 255, 255)
# Told apart by people with the common kinds of colour blindness (Okabe & Ito 2008).
_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# All in pixels; the first is the least size of an image, two are font sizes.
_CELL, _TEXT, _TITLE, _MARGIN, _GAP, _LARGEST_SIDE = 56, 13, 17, 16, 8, 16384
# Lines are drawn this many times larger and then shrunk, since Pillow's have no smooth edges.
_SMOOTH = 3


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size=size)


def _save_png(path: Any, picture: Any) -> None:
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UserError(f"a picture is saved as PNG; {path} should end in .png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, format="PNG")
    except OSError as error:
        raise UserError(f"cannot write the picture {path}: {error.strerror or error}") from error


def _to_rgb(images: Any) -> np.ndarray:
    """uint8 (N, H, W, 3) of any images that `save_grid` takes."""
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


def _blank(width: int, height: int) -> Any:
    from PIL import Image

    if max(width, height) > _LARGEST_SIDE:
        raise UserError(f"a picture of {width} x {height} pixels is too large; draw less of it")
    return Image.new("RGB", (width, height), _PAPER)


def _text_width(text: str, font: Any) -> int:
    return math.ceil(font.getlength(" ".join(str(text).split())))


def _fit_text(text: str, font: Any, width: int) -> str:
    """The text on one line, shortened to the width with dots where it is too long."""
    text = " ".join(str(text).split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def _write_title(picture: Any, title: str) -> None:
    from PIL import ImageDraw

    font = _font(_TITLE)
    text = _fit_text(title, font, picture.width - 2 * _MARGIN)
    ImageDraw.Draw(picture).text((_MARGIN, _MARGIN - 2), text, font=font, fill=_INK)


def _draw_cells(
    picture: Any, images: np.ndarray, labels: Any, columns: int, scale: int, cell: Any, top: int
) -> None:
    """Pastes the images from the line `top` on, each centred in its (width, height) cell."""
    from PIL import Image, ImageDraw

    draw, font = ImageDraw.Draw(picture), _font(_TEXT)
    height, width = images.shape[1] * scale, images.shape[2] * scale
    for index, image in enumerate(images):
        x = _MARGIN + (index % columns) * (cell[0] + _GAP) + (cell[0] - width) // 2
        y = top + (index // columns) * (cell[1] + _GAP)
        picture.paste(Image.fromarray(image.repeat(scale, 0).repeat(scale, 1)), (x, y))
        if labels is not None:
            text = _fit_text(labels[index], font, cell[0])
            draw.text((x + width / 2, y + height + 15), text, font=font, fill=_GREY, anchor="ms")


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
    images = _to_rgb(images_NHWC)
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
        widest = max(_text_width(text, _font(_TEXT)) for text in labels)
        cell = (max(cell[0], min(widest, 2 * _CELL)), cell[1] + _TEXT + 7)
    top = _MARGIN + (_TITLE + 14 if title else 0)
    full_width = 2 * _MARGIN + columns * (cell[0] + _GAP) - _GAP
    full_height = top + math.ceil(count / columns) * (cell[1] + _GAP) - _GAP + _MARGIN
    if title:
        # A grid of few columns is often narrower than its title.
        full_width = max(full_width, min(_text_width(title, _font(_TITLE)) + 2 * _MARGIN, 640))
    picture = _blank(full_width, full_height)
    _write_title(picture, title or "")
    _draw_cells(picture, images, labels, columns, scale, cell, top)
    _save_png(path, picture)


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


def _axis(values: np.ndarray, parts: int) -> tuple[np.ndarray, list[str]]:
    """Round ticks around all the values, about as many as `parts`, and their texts."""
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        pad = 0.5 * abs(low) or 0.5
        low, high = low - pad, high + pad
    rough = (high - low) / parts
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    # Adding 0.0 turns a negative zero into a plain one.
    ticks = step * np.arange(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1) + 0.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    form = ".6g" if step < 1e-5 or np.abs(ticks).max() >= 1e7 else f",.{decimals}f"
    return ticks, [f"{tick:{form}}" for tick in ticks]


def _check_curves(curves: Mapping[str, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """float64 x and y of each curve, NaN in both where either is not finite."""
    checked = {}
    for name, pair in curves.items():
        try:
            x, y = (np.asarray(part, dtype=np.float64) for part in pair)
        except (TypeError, ValueError) as error:
            raise UserError(f"curve {name!r} must be a pair (x, y) of number lists") from error
        if x.ndim != 1 or x.shape != y.shape:
            raise UserError(f"curve {name!r} needs x and y of one length, got {x.shape}, {y.shape}")
        finite = np.isfinite(x) & np.isfinite(y)
        checked[str(name)] = (np.where(finite, x, np.nan), np.where(finite, y, np.nan))
    if not any(np.isfinite(x).any() for x, _ in checked.values()):
        raise UserError("no curve holds a finite point; nothing to draw")
    return checked


def _stroke(pen: Any, points: Any, colour: Any, width: float) -> None:
    scaled = [(x * _SMOOTH, y * _SMOOTH) for x, y in points]
    pen.line(scaled, fill=colour, width=round(width * _SMOOTH), joint="curve")


def _draw_axes(pen: Any, box: tuple, x_ticks: np.ndarray, y_ticks: np.ndarray) -> None:
    left, right, bottom = box
    for y in y_ticks:
        _stroke(pen, [(left, y), (right, y)], _FAINT, 1)
    for x in x_ticks:
        _stroke(pen, [(x, bottom), (x, bottom + 5)], _GREY, 1)
    _stroke(pen, [(left, bottom), (right, bottom)], _GREY, 1)


def _draw_curve(pen: Any, x: np.ndarray, y: np.ndarray, colour: str) -> None:
    """Draws each unbroken stretch of a curve given in pixels; NaN breaks it."""
    breaks = np.flatnonzero(np.isnan(x))
    for part in np.split(np.stack([x, y], axis=1), breaks):
        part = part[~np.isnan(part[:, 0])]
        if len(part) > 1:
            _stroke(pen, part, colour, 2)
        if len(part) == 1 or len(x) <= 25:
            for centre in part:
                pen.ellipse([*((centre - 3) * _SMOOTH), *((centre + 3) * _SMOOTH)], fill=colour)


def save_curves(
    path: Any, curves: Mapping[str, tuple[Any, Any]], *, title: str, x_label: str, y_label: str
) -> None:
    """Saves a line chart of one or more named curves, with axes, ticks and legend, as PNG.

    A point with NaN or an infinity leaves a gap in its line. Short curves get dots.

    Args:
        path: file to write, ending in .png; missing folders are made.
        curves: name -> (x, y), two number lists of one length, in drawing order.
        title: line at the top.
        x_label, y_label: name and unit of the horizontal and of the vertical axis.

    Raises:
        UserError: no finite point, x and y of unequal lengths, or an unwritable path.
    """
    from PIL import Image, ImageDraw

    checked = _check_curves(curves)
    all_x, all_y = (np.concatenate(part) for part in zip(*checked.values()))
    x_ticks, x_texts = _axis(all_x[~np.isnan(all_x)], 7)
    y_ticks, y_texts = _axis(all_y[~np.isnan(all_y)], 5)
    font = _font(_TEXT)
    names = [_fit_text(name, font, 180) for name in checked]
    left = _MARGIN + max(_text_width(text, font) for text in y_texts) + 10
    top, right, bottom = _MARGIN + 62, left + 560, _MARGIN + 382
    width = right + 52 + max(_text_width(name, font) for name in names) + _MARGIN
    height = max(bottom + 58, top + 24 * len(names) + _MARGIN)

    def across(x: Any) -> Any:
        return left + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (right - left)

    def down(y: Any) -> Any:
        return bottom - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (bottom - top)

    large = _blank(width * _SMOOTH, height * _SMOOTH)
    pen = ImageDraw.Draw(large)
    _draw_axes(pen, (left, right, bottom), across(x_ticks), down(y_ticks))
    texts = [((left - 8, y), text, _INK, "rm") for y, text in zip(down(y_ticks), y_texts)]
    texts += [((x, bottom + 21), text, _INK, "ms") for x, text in zip(across(x_ticks), x_texts)]
    for index, (x, y) in enumerate(checked.values()):
        colour, row = _LINES[index % len(_LINES)], top + 8 + 24 * index
        _draw_curve(pen, across(x), down(y), colour)
        _stroke(pen, [(right + 22, row), (right + 44, row)], colour, 2.5)
        texts.append(((right + 52, row), names[index], _INK, "lm"))
    texts.append(((_MARGIN, top - 24), y_label, _GREY, "ls"))
    texts.append((((left + right) / 2, bottom + 44), x_label, _GREY, "ms"))

    picture = large.resize((width, height), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(picture)
    for at, text, colour, anchor in texts:
        draw.text(at, _fit_text(text, font, 560), font=font, fill=colour, anchor=anchor)
    _write_title(picture, title)
    _save_png(path, picture)
