"""Several labelled grids on one sheet, such as samples of several models beside real images.

Axes: N images or clips, T frames (1 of an image), H height, W width, K columns of a grid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from gen.errors import UserError
from gen.pictures.base import (
    GREY,
    INK,
    MARGIN,
    TEXT,
    TITLE,
    blank,
    fit_text,
    font_of,
    save,
    write_title,
)
from gen.pictures.grids import draw_grid

# In pixels: the least width of an image, and the height of a panel's two lines of text.
_CELL, _HEADER = 32, TITLE + TEXT + 18


@dataclasses.dataclass(frozen=True)
class Panel:
    """One grid of the sheet.

    Attributes:
      title, caption: two lines above it.
      clips_NTHW: uint8 gray images (T = 1) or clips, row by row; N is a multiple of K.
      labels: one text for each of the K columns, written below it.
    """

    title: str
    caption: str
    clips_NTHW: np.ndarray
    labels: Sequence[str]


def _columns(panel: Panel) -> np.ndarray:
    """Each column as one tall image, uint8 (K, rows, W).

    Clips have two white lines between them, frames of a clip one.

    Raises:
      UserError: wrong shape or dtype, or rows of unequal lengths.
    """
    clips_NTHW, count = np.asarray(panel.clips_NTHW), len(panel.labels)
    if clips_NTHW.ndim != 4 or clips_NTHW.size == 0 or clips_NTHW.dtype != np.uint8:
        got = f"{clips_NTHW.dtype} {clips_NTHW.shape}"
        raise UserError(f"clips of a panel must be uint8 (N, T, H, W) and not empty, got {got}")
    if not count or len(clips_NTHW) % count:
        raise UserError(f"{len(clips_NTHW)} clips do not fill rows of {count} columns")
    _, frames, height, width = clips_NTHW.shape
    rows = len(clips_NTHW) // count
    sheet = np.full((rows, frames * (height + 1) + 1, count, width), 255, np.uint8)
    for frame in range(frames):
        start = frame * (height + 1)
        images = clips_NTHW[:, frame].reshape(rows, count, height, width)
        sheet[:, start : start + height] = images.transpose(0, 2, 1, 3)
    return sheet.reshape(-1, count, width).transpose(1, 0, 2)[:, :-2]


def _draw_panel(panel: Panel) -> Any:
    """The panel as a Pillow picture, with margins on all sides."""
    from PIL import ImageDraw

    columns = _columns(panel)
    scale = -(-_CELL // columns.shape[-1])
    grid = draw_grid(columns, labels=list(panel.labels), columns=len(columns), scale=scale)
    picture = blank(grid.width, grid.height + _HEADER)
    picture.paste(grid, (0, _HEADER))
    draw, top = ImageDraw.Draw(picture), MARGIN
    for text, size, colour in ((panel.title, TITLE, INK), (panel.caption, TEXT, GREY)):
        font = font_of(size)
        text = fit_text(text, font, picture.width - 2 * MARGIN)
        draw.text((MARGIN, top), text, font=font, fill=colour)
        top += size + 7
    return picture


def save_panels(
    path: Any, groups: Sequence[Sequence[Panel]], *, columns: int = 3, title: str | None = None
) -> None:
    """Saves groups of panels as one PNG, row by row, each panel the width of the widest.

    Args:
      path: file to write, ending in .png; missing folders are made.
      groups: panels, at least one; each group starts a new row.
      columns: most panels in a row.
      title: line above them all.

    Raises:
      UserError: no panel, clips of a wrong shape or dtype, as `save_grid`, or a path that cannot
        be written.
    """
    if not any(groups) or columns < 1:
        raise UserError(f"a sheet needs a panel and a column, not {groups} and {columns}")
    rows = [
        [_draw_panel(panel) for panel in group[start : start + columns]]
        for group in groups
        for start in range(0, len(group), columns)
    ]
    drawn = [picture for row in rows for picture in row]
    width = max(picture.width for picture in drawn)
    heights = [max(picture.height for picture in row) for row in rows]
    top = MARGIN + TITLE + 6 if title else 0
    sheet = blank(width * max(map(len, rows)), top + sum(heights))
    write_title(sheet, title or "")
    for row, height in zip(rows, heights):
        for column, picture in enumerate(row):
            sheet.paste(picture, (column * width, top))
        top += height
    save(path, sheet)
