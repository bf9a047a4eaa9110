"""Classifier-free guidance (Ho & Salimans 2022), normalised to one formula.

Axes: N decoding steps.

Every published variant becomes `null + scale * (cond - null)` with a scale per step; a family
converts the number that its published code takes. Scale 1 is the condition alone.
"""

from __future__ import annotations

import jax
import numpy as np


def constant(scale: float, num_steps: int, *, last_step: int | None = None) -> np.ndarray:
    """The same scale at every step, 1 after `last_step`: float32 `(N,)`."""
    scale_N = np.full((num_steps,), scale, np.float32)
    if last_step is not None:
        scale_N[last_step + 1 :] = 1.0
    return scale_N


def num_guided_steps(scale_N: np.ndarray) -> int:
    """Steps up to the last guided one; after it the null branch is not computed at all."""
    guided = np.flatnonzero(scale_N != 1.0)
    return int(guided[-1]) + 1 if guided.size else 0


def guide(cond: jax.Array, null: jax.Array, scale: jax.Array) -> jax.Array:
    """null + scale * (cond - null)."""
    return null + scale * (cond - null)
