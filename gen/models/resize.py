"""Resizing of feature maps as fixed matrices, one per side: exact, and the same on every device.

Axes: B batch, H height, W width, C channels; P and Q the new height and width.

The two rules are those of torch's `interpolate`, which published tokenizers are trained with.
`jax.image.resize` follows others: its cubic kernel has a = -0.5, and it smooths when shrinking.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from gen.models.convolution import PRECISION

CUBIC_A = -0.75


def area_matrix(n_in: int, n_out: int) -> np.ndarray:
    """Means over bins, float64 `(n_out, n_in)`: mode `area`, or adaptive average pooling.

    Cell i takes the mean of [floor(i n_in / n_out), ceil((i + 1) n_in / n_out)): bins overlap
    where the sizes do not divide.
    """
    cells, out = np.arange(n_in), np.arange(n_out)[:, None]
    start, stop = out * n_in // n_out, -(-(out + 1) * n_in // n_out)
    inside = (start <= cells) & (cells < stop)
    return inside / inside.sum(axis=1, keepdims=True)


def bicubic_matrix(n_in: int, n_out: int) -> np.ndarray:
    """Cubic convolution with a = -0.75, float64 `(n_out, n_in)`: mode `bicubic`.

    Pixels are squares (`align_corners=False`), taps beyond an edge fall on the edge, and nothing
    is smoothed when shrinking. Source: Keys 1981.
    """
    out = np.arange(n_out)
    centre = (out + 0.5) * n_in / n_out - 0.5
    first = np.floor(centre).astype(int)
    matrix = np.zeros((n_out, n_in))
    for tap in (first - 1, first, first + 1, first + 2):
        np.add.at(matrix, (out, np.clip(tap, 0, n_in - 1)), _cubic(np.abs(tap - centre)))
    return matrix


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Weight of a tap at a distance from 0 to 2."""
    a, d = CUBIC_A, distance
    near = ((a + 2) * d - (a + 3)) * d**2 + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, far)


def resize(x_BHWC: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
    """Feature maps under a matrix per side, float32.

    Args:
      x_BHWC: feature maps.
      rows: `(P, H)`, such as `area_matrix(H, P)`.
      columns: `(Q, W)`.

    Returns:
      `(B, P, Q, C)`.
    """
    rows_PH, columns_QW = np.float32(rows), np.float32(columns)
    x_BPWC = jnp.einsum("ph,bhwc->bpwc", rows_PH, x_BHWC.astype(jnp.float32), precision=PRECISION)
    return jnp.einsum("qw,bpwc->bpqc", columns_QW, x_BPWC, precision=PRECISION)
