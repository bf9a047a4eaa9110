"""Samples as a labelled picture: pixels, or tokens of a grid as gray levels.

Axes: N samples, T frames, H height, W width, P positions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gen.errors import UserError, note
from gen.layouts import Layout
from gen.pictures.grids import save_grid, tokens_to_gray
from gen.pictures.movies import save_gif, save_mp4, save_strips

# Frames in one row of strips: ten strips of the shortest videos, one of the longer ones.
STRIP_FRAMES = 30


def gray_images(tokens_NP: np.ndarray, layout: Layout) -> np.ndarray:
    """Tokens of a grid as gray levels, where no pixels are at hand.

    Returns:
      uint8 `(N, H, W)`, or `(N, T, H, W)` of a grid of several frames.
    """
    frames, height, width = layout.shapes[0]
    if layout.geometry != "grid":
        raise UserError(f"only tokens of a grid can be shown as gray levels, not {layout}")
    gray = tokens_to_gray(
        tokens_NP, height=frames * height, width=width, vocab_size=layout.vocab_sizes[0]
    )
    return gray if frames == 1 else gray.reshape(-1, frames, height, width)


def has_gray(layout: Layout) -> bool:
    """Whether tokens can be shown as gray levels."""
    return layout.geometry == "grid" and not layout.is_continuous


def strip_columns(frames: int) -> int:
    """Strips in a row, of videos of so many frames."""
    return max(1, STRIP_FRAMES // frames)


def save_samples(
    path: Path,
    tokens_NP: np.ndarray,
    *,
    layout: Layout,
    labels: list[str] | None,
    title: str,
    images: np.ndarray | None = None,
    mp4: bool = False,
) -> list[Path]:
    """Writes the labelled grid, ten to a row, so that class-balanced digits form columns.

    `images` are the pixels, uint8 `(N, H, W, 3)` or `(N, T, H, W, 3)`; without them tokens are
    shown as gray levels. Of several frames, the PNG has strips, and a GIF beside it moves, and if
    asked for an MP4.

    Returns:
      The files; none, and a note, where nothing can be shown.
    """
    if images is None and not has_gray(layout):
        note("no picture: latents, and tokens that are no grid, need --tokenizer FILE to be seen")
        return []
    if images is None:
        images = gray_images(tokens_NP, layout)
        if layout.vocab_sizes[0] > 256:
            title += " (token ids as gray levels: pixels need the tokenizer)"
    columns = min(10, len(images))
    frames = images.shape[1] if images.ndim == 5 else layout.shapes[-1][0]
    if frames == 1:
        save_grid(path, images, labels=labels, columns=columns, title=title)
        return [path]
    gif = path.with_suffix(".gif")
    save_gif(gif, images, labels=labels, columns=columns, title=title)
    files = [path, gif]
    if mp4:
        files.append(path.with_suffix(".mp4"))
        save_mp4(files[-1], images, labels=labels, columns=columns, title=title)
    columns = strip_columns(frames)
    shown, labels = images[: 10 * columns], labels and labels[: 10 * columns]
    save_strips(path, shown, labels=labels, columns=columns, title=title)
    return files
