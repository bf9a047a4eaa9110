"""Weights of 8 bits: rounded once, and multiplied by few rows without being raised again.

Axes: M rows, D inputs, F outputs.

An output's weights are whole multiples, up to 127, of its scale. To raise them at each step would
gain nothing: XLA does it once outside the loop and reads float32 again. So the rows are split
instead, into two numbers of 8 bits that together hold 15: the products of integers are exact, and
weights are read as they are, a quarter of the bytes. Two rows of LlamaGen-B take 0.6 of the time
of float32 so, eight the same (two CPU cores, jax 0.10).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

STEPS = 127
SPLIT = 128  # the second number of a row counts these parts of a step of the first
ROWS = 4  # the most for which it measured faster


def scales(kernel: jax.Array) -> jax.Array:
    """`(..., D, F)` -> `(..., 1, F)`: what a step of each output's weights is worth."""
    largest = jnp.max(jnp.abs(kernel), axis=-2, keepdims=True)
    return jnp.where(largest > 0, largest / STEPS, 1.0)


def rounded(kernel: jax.Array) -> jax.Array:
    """Weights `(..., D, F)` of the same dtype, as 8 bits hold them."""
    scale = scales(kernel)
    return jnp.round(kernel / scale) * scale


def stored(kernel_DF: jax.Array) -> tuple[jax.Array, jax.Array]:
    """int8 `(F, D)` and the scale `(F,)` of each output; exact for weights that are `rounded`."""
    scale_1F = scales(kernel_DF)
    return jnp.round(kernel_DF / scale_1F).astype(jnp.int8).T, scale_1F[0]


def product(x_MD: jax.Array, kernel_FD: jax.Array, scale_F: jax.Array) -> jax.Array:
    """float32 `(M, F)`; the rows are rounded to 2^-15 of the largest entry of each."""
    x_MD = x_MD.astype(jnp.float32)
    largest_M1 = jnp.max(jnp.abs(x_MD), axis=-1, keepdims=True)
    step_M1 = jnp.where(largest_M1 == 0, 1.0, largest_M1) / (STEPS * SPLIT)  # NaN stays
    whole_MD = jnp.round(x_MD / step_M1).astype(jnp.int32)
    high_MD = (whole_MD + SPLIT // 2) // SPLIT
    parts = jnp.concatenate([high_MD, whole_MD - high_MD * SPLIT]).astype(jnp.int8)
    # Made once, not in every product that takes them; and the transpose is not folded into it.
    parts = jax.lax.optimization_barrier(parts)
    made = jnp.einsum("md,fd->fm", parts, kernel_FD, preferred_element_type=jnp.int32)
    high_MF, low_MF = jnp.split(jax.lax.optimization_barrier(made).T.astype(jnp.float32), 2)
    return (high_MF * SPLIT + low_MF) * step_M1 * scale_F
