"""Several pictures of each of many things, one above the other: originals and reconstructions.

Axes: N things, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gen.errors import UserError
from gen.pictures.base import PAPER
from gen.pictures.grids import save_grid, to_rgb
from gen.pictures.movies import to_strips

GAP = 1  # pixels between the pictures of a thing, before small ones are enlarged


def save_stacks(
    path: Any,
    kinds: Mapping[str, Any],
    *,
    labels: Sequence[str] | None = None,
    columns: int = 10,
    title: str = "",
    scale: int | None = None,
) -> None:
    """Saves a PNG that has, for each thing, its pictures of all kinds from top to bottom.

    Args:
      path: file to write, ending in .png; missing folders are made.
      kinds: name -> images (N, H, W[, 1 or 3]) or videos (N, T, H, W, 1 or 3), which become strips;
        the names are told in the title.
      labels, columns, scale: as in `save_grid`.
      title: line above, before the names.

    Raises:
      UserError: kinds of other shapes than the first, or as `save_grid`.
    """
    if not kinds:
        raise UserError("a stack needs a picture")
    flat = {name: _flat(images) for name, images in kinds.items()}
    shapes = {name: images.shape for name, images in flat.items()}
    if len(set(shapes.values())) > 1:
        raise UserError(f"pictures of one thing must have one shape, not {shapes}")
    count, _, width, _ = next(iter(shapes.values()))
    line = np.full((count, GAP, width, 3), PAPER, np.uint8)
    stacked = np.concatenate([part for images in flat.values() for part in (images, line)], axis=1)
    names = " / ".join(kinds)
    save_grid(
        path, stacked[:, :-GAP], labels=labels, columns=min(columns, count), scale=scale,
        title=f"{title}: {names} (top to bottom)" if title else f"{names} (top to bottom)",
    )  # fmt: skip


def _flat(images: Any) -> np.ndarray:
    images = np.asarray(images)
    return to_strips(images) if images.ndim == 5 else to_rgb(images)
