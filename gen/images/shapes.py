"""Coloured shapes on shaded ground: small pictures with classes that anybody can tell.

Axes: H height, W width, C colour channels.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

SHAPES = ("circle", "cross", "ring", "square", "triangle")
FINE = 4  # samples of a pixel in each direction, whose mean makes smooth edges


def draw(name: str, size: int, *, seed: int | Sequence[int]) -> np.ndarray:
    """One shape of random place, size, turn and colour: uint8 `(size, size, 3)`.

    Args:
      name: one of `SHAPES`.
      size: side of the picture in pixels.
      seed: of everything that is random.
    """
    rng = np.random.default_rng(seed)
    radius = rng.uniform(0.22, 0.34)
    centre = rng.uniform(radius + 0.04, 0.96 - radius, 2)
    turn, hue = rng.uniform(0, 2 * np.pi), rng.uniform()
    grid = (np.arange(size * FINE) + 0.5) / (size * FINE)
    y_HW, x_HW = np.meshgrid(grid, grid, indexing="ij")
    u_HW, v_HW = (x_HW - centre[0]) / radius, (y_HW - centre[1]) / radius
    u_HW, v_HW = (
        np.cos(turn) * u_HW - np.sin(turn) * v_HW,
        np.sin(turn) * u_HW + np.cos(turn) * v_HW,
    )
    inside_HW = _inside(name, u_HW, v_HW).reshape(size, FINE, size, FINE).mean(axis=(1, 3))
    slope = rng.uniform(-0.5, 0.5, 2)
    shade_HW = 1 + slope[0] * (x_HW - 0.5) + slope[1] * (y_HW - 0.5)
    shade_HW1 = shade_HW.reshape(size, FINE, size, FINE).mean(axis=(1, 3))[..., None]
    ground = np.array(colorsys.hsv_to_rgb((hue + 0.5) % 1, 0.35, rng.uniform(0.25, 0.55)))
    colour = np.array(colorsys.hsv_to_rgb(hue, 0.75, 0.95))
    mixed_HWC = ground * shade_HW1 + inside_HW[..., None] * (colour - ground * shade_HW1)
    return np.rint(255 * mixed_HWC.clip(0, 1)).astype(np.uint8)


def _inside(name: str, u_HW: np.ndarray, v_HW: np.ndarray) -> np.ndarray:
    """Where a shape around 0 that reaches to 1 is, bool `(H, W)`."""
    far_HW = np.hypot(u_HW, v_HW)
    across_HW, along_HW = np.abs(u_HW), np.abs(v_HW)
    return {
        "circle": far_HW < 0.9,
        "cross": (np.minimum(across_HW, along_HW) < 0.28) & (np.maximum(across_HW, along_HW) < 1),
        "ring": (far_HW < 1) & (far_HW > 0.55),
        "square": np.maximum(across_HW, along_HW) < 0.75,
        "triangle": (v_HW > -0.5) & (np.sqrt(3) * across_HW + v_HW < 1),
    }[name]
