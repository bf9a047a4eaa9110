"""Originals beside their reconstructions: what a tokenizer keeps, before hours go into encoding.

Axes: N pictures, T frames, H height, W width.
"""

from __future__ import annotations

import os

import numpy as np

from gen.encoding.job import Job
from gen.errors import UserError
from gen.images import BadImage
from gen.pictures.grids import save_grid

SHOWN = 16  # pictures
FRAMES = 4  # of a video


def save_preview(job: Job, path: str | os.PathLike[str]) -> float:
    """Writes a grid of originals, each with its reconstruction and their PSNR to the right.

    Args:
      job: its items are read, evenly spread over all; unreadable ones are left out.
      path: the picture, `.png`.

    Returns:
      The mean of the PSNRs in dB, of pixels rounded to 0..255.

    Raises:
      UserError: no item can be read, or the picture cannot be written.
    """
    numbers = np.unique(np.linspace(0, job.num - 1, SHOWN).round().astype(int)).tolist()
    read = {number: job.read(number) for number in numbers}
    shown = {n: each for n, each in read.items() if not isinstance(each, BadImage)}
    if not shown:
        raise UserError(f"nothing to show: {read[numbers[0]]}")
    originals = np.stack([each.versions[0] for each in shown.values()])
    size = job.batch_size * (job.tokenizer.mesh.size if job.tokenizer.mesh else 1)
    tokens = job.tokenizer.encode(originals, batch_size=size)
    pixels = job.tokenizer.decode(tokens, job.shape, batch_size=size)
    made = job.tokenizer.to_uint8(pixels)
    scores = [psnr(*pair) for pair in zip(originals, made)]
    names = job.condition.get("names")
    labels = [names[each.label] if names else job.key(n) for n, each in shown.items()]
    mean = float(np.mean(scores))
    save_grid(
        path,
        [strip(picture) for pair in zip(originals, made) for picture in pair],
        labels=[text for pair in zip(labels, (f"{s:.1f} dB" for s in scores)) for text in pair],
        columns=2 if originals.ndim == 5 else 8,
        title=f"Originals and what {job.tokenizer.meta['id']} makes of them: {mean:.1f} dB",
    )
    return mean


def psnr(original: np.ndarray, made: np.ndarray) -> float:
    """Peak signal-to-noise ratio of uint8 pixels in dB; 99 of equal ones."""
    error = np.square(original.astype(np.float64) - made).mean()
    return min(99.0, 10 * np.log10(255**2 / error)) if error else 99.0


def strip(pixels: np.ndarray) -> np.ndarray:
    """An image as it is; of a video, evenly spread frames side by side, `(H, n * W, 3)`."""
    if pixels.ndim == 3:
        return pixels
    chosen = np.linspace(0, len(pixels) - 1, min(FRAMES, len(pixels))).round().astype(int)
    return np.concatenate(pixels[chosen], axis=1)
