"""Line charts of training curves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gen.errors import UserError
from gen.pictures.base import (
    FAINT,
    GREY,
    INK,
    MARGIN,
    TEXT,
    blank,
    fit_text,
    font_of,
    save,
    text_width,
    write_title,
)

# Told apart by people with the common kinds of colour blindness (Okabe & Ito 2008).
_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Lines are drawn this many times larger and then shrunk, since Pillow's have no smooth edges.
_SMOOTH = 3


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
        _stroke(pen, [(left, y), (right, y)], FAINT, 1)
    for x in x_ticks:
        _stroke(pen, [(x, bottom), (x, bottom + 5)], GREY, 1)
    _stroke(pen, [(left, bottom), (right, bottom)], GREY, 1)


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
    font = font_of(TEXT)
    names = [fit_text(name, font, 180) for name in checked]
    left = MARGIN + max(text_width(text, font) for text in y_texts) + 10
    top, right, bottom = MARGIN + 62, left + 560, MARGIN + 382
    width = right + 52 + max(text_width(name, font) for name in names) + MARGIN
    height = max(bottom + 58, top + 24 * len(names) + MARGIN)

    def across(x: Any) -> Any:
        return left + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (right - left)

    def down(y: Any) -> Any:
        return bottom - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (bottom - top)

    large = blank(width * _SMOOTH, height * _SMOOTH)
    pen = ImageDraw.Draw(large)
    _draw_axes(pen, (left, right, bottom), across(x_ticks), down(y_ticks))
    texts = [((left - 8, y), text, INK, "rm") for y, text in zip(down(y_ticks), y_texts)]
    texts += [((x, bottom + 21), text, INK, "ms") for x, text in zip(across(x_ticks), x_texts)]
    for index, (x, y) in enumerate(checked.values()):
        colour, row = _LINES[index % len(_LINES)], top + 8 + 24 * index
        _draw_curve(pen, across(x), down(y), colour)
        _stroke(pen, [(right + 22, row), (right + 44, row)], colour, 2.5)
        texts.append(((right + 52, row), names[index], INK, "lm"))
    texts.append(((MARGIN, top - 24), y_label, GREY, "ls"))
    texts.append((((left + right) / 2, bottom + 44), x_label, GREY, "ms"))

    picture = large.resize((width, height), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(picture)
    for at, text, colour, anchor in texts:
        draw.text(at, fit_text(text, font, 560), font=font, fill=colour, anchor=anchor)
    write_title(picture, title)
    save(path, picture)
