"""Rotary position tables (Su et al. 2021), as the published image generators build them.

Axes: S slots, C channel pairs of a head, B batch, H heads, E channels of a head (E = 2C).

A table is float32 `(S, 2, C)`: cosines in row 0, sines in row 1. Channels are rotated in
interleaved pairs (2i, 2i+1). A row of zeros is not the identity: it sets queries and keys to
zero, so that a slot is attended with logit 0. LlamaGen's condition slots are made that way.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from gen.errors import UserError


def grid_2d(
    height: int, width: int, head_dim: int, *, base: float = 10000.0, reach: float | None = None
) -> np.ndarray:
    """Table of a raster grid: half of the pairs turn with the row, the rest with the column.

    Args:
      height: rows of the grid.
      width: columns of the grid.
      head_dim: E, divisible by 4.
      base: wavelength base; pair j of a half turns by `base**(-2j / (E/2))` per cell.
      reach: cells that each side stands for, whatever its own number; by default that number.

    Returns:
      float32 `(height * width, 2, E / 2)`, raster order.

    Raises:
      UserError: `head_dim` is not divisible by 4.

    Source: FoundationVision/LlamaGen, `precompute_freqs_cis_2d`; with a reach, wangqiang9/FlowAR
    `VisionRotaryEmbeddingFast`.
    """
    if head_dim % 4:
        raise UserError(f"2-D rotary positions need a head width divisible by 4, not {head_dim}")
    half = head_dim // 2
    exponents = np.arange(0, half, 2, dtype=np.float32) / np.float32(half)
    frequencies = (1.0 / np.float32(base) ** exponents).astype(np.float32)
    rows, columns = (
        axis.astype(np.float32) for axis in np.divmod(np.arange(height * width), width)
    )
    if reach is not None:
        rows, columns = (
            axis / np.float32(size) * np.float32(reach)
            for axis, size in ((rows, height), (columns, width))
        )
    angles_SC = np.concatenate([np.outer(axis, frequencies) for axis in (rows, columns)], axis=1)
    return np.stack([np.cos(angles_SC), np.sin(angles_SC)], axis=1).astype(np.float32)


def zero_rows(count: int, head_dim: int) -> np.ndarray:
    """`count` rows that null queries and keys, for condition slots: `(count, 2, E / 2)`."""
    return np.zeros((count, 2, head_dim // 2), np.float32)


def sinusoids(count: int, width: int) -> np.ndarray:
    """A table to add to inputs, float32 `(count, width)`: sines in its first half, then cosines.

    Pair k turns by `10000**(-2k / width)` per row. Source: hywang66/LARP, `use_fixed_pe`.

    Raises:
      UserError: the width is odd.
    """
    if width % 2:
        raise UserError(f"a table of sines and cosines needs an even width, not {width}")
    frequencies = 10000.0 ** (-np.arange(0, width, 2) / width)
    angles = np.outer(np.arange(count), frequencies)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def rotate(x_BSHE: jax.Array, rope: jax.Array) -> jax.Array:
    """Rotates the channel pairs of each head, in float32, back to the dtype of `x`.

    Args:
      x_BSHE: queries or keys.
      rope: table rows of these slots, `(S, 2, C)`, or `(B, S, 2, C)` where positions differ
        from row to row.
    """
    cos, sin = rope[..., None, 0, :], rope[..., None, 1, :]
    x32_BSHC2 = x_BSHE.astype(jnp.float32).reshape(*x_BSHE.shape[:-1], -1, 2)
    even_BSHC, odd_BSHC = x32_BSHC2[..., 0], x32_BSHC2[..., 1]
    turned = jnp.stack(
        [even_BSHC * cos - odd_BSHC * sin, odd_BSHC * cos + even_BSHC * sin], axis=-1
    )
    return turned.reshape(x_BSHE.shape).astype(x_BSHE.dtype)
