"""What a sampler did at each step, in one format for all families.

Axes: B samples, N steps, R entries of a step, P positions, V vocabulary, C channels.

An entry is a token that a step drew. `positions_BNR` says where it was placed, -1 where nowhere:
it was not kept (a masked family draws everywhere and keeps the surest) or is padding. So what was
known before the first step and the entries in order give the canvas after any step (`canvases`).
What was drawn and not kept has its token and its confidence all the same. Where a masked family
feeds what is known already, the entry has that token, nowhere to go and no confidence.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

UNKNOWN = -1  # of ids; latents have NaN


class Trace(NamedTuple):
    """The entries of some steps.

    `positions_BNR` is int32; `tokens_BNR` int32, or float32 latents `(B, N, R, C)`;
    `confidence_BNR`, float32, the probability of a token under the guided distribution before
    temperature and filters, NaN where it was not drawn from one.
    """

    positions_BNR: jax.Array
    tokens_BNR: jax.Array
    confidence_BNR: jax.Array


def unknown(shape: tuple[int, ...], *, continuous: bool) -> np.ndarray:
    """A canvas on which nothing is known, int32 or float32."""
    return np.full(shape, np.nan, np.float32) if continuous else np.full(shape, UNKNOWN, np.int32)


def chance(logits: jax.Array | None, tokens: jax.Array) -> jax.Array:
    """The probability of each token, float32 `tokens.shape`; NaN of latents, which have no logits.

    Args:
      logits: `(..., R, V)`, or none.
      tokens: `(..., R)`, or latents `(..., R, C)`.
    """
    if logits is None:
        return jnp.full(tokens.shape[:-1], jnp.nan)
    log_p = jax.nn.log_softmax(logits)
    return jnp.exp(jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0])


def placed(
    target_NR: jax.Array | np.ndarray,
    tokens_NBR: jax.Array,
    confidence_NBR: jax.Array,
    num_positions: int,
) -> Trace:
    """The trace of steps that keep all they draw, at the same positions of all samples.

    Args:
      target_NR: positions; `num_positions` is padding.
      tokens_NBR: what was drawn for them.
      confidence_NBR: as `chance` gives it.
      num_positions: P.
    """
    padding_N1R = jnp.asarray(target_NR)[:, None] >= num_positions
    positions_NBR = jnp.where(padding_N1R, UNKNOWN, jnp.asarray(target_NR)[:, None])
    blank = jnp.nan if jnp.issubdtype(tokens_NBR.dtype, jnp.floating) else UNKNOWN
    hidden = padding_N1R.reshape(*padding_N1R.shape, *(1,) * (tokens_NBR.ndim - 3))
    return rows_first(
        Trace(
            jnp.broadcast_to(positions_NBR, confidence_NBR.shape).astype(jnp.int32),
            jnp.where(hidden, blank, tokens_NBR),
            jnp.where(padding_N1R, jnp.nan, confidence_NBR),
        )
    )


def rows_first(steps_first: Trace) -> Trace:
    """A trace as a scan stacks it, steps before samples, the other way round."""
    return Trace(*(array.swapaxes(0, 1) for array in steps_first))


def join(parts: list[Trace]) -> Trace:
    """One trace of the steps of all, as wide as the widest; the rest is padding."""
    widest = max(part.positions_BNR.shape[2] for part in parts)

    def wide(array: jax.Array) -> jax.Array:
        blank = jnp.nan if jnp.issubdtype(array.dtype, jnp.floating) else UNKNOWN
        pad = [(0, 0), (0, 0), (0, widest - array.shape[2]), (0, 0)][: array.ndim]
        return jnp.pad(array, pad, constant_values=blank)

    return Trace(*(jnp.concatenate(list(map(wide, arrays)), axis=1) for arrays in zip(*parts)))


def named(parts: Trace) -> dict[str, jax.Array]:
    """A trace by the names that samplers return it under."""
    names = (name.partition("_")[0] for name in Trace._fields)
    return {f"trace_{name}": array for name, array in zip(names, parts)}


def place(canvas_BP: np.ndarray, positions_BNR: np.ndarray, values_BNR: np.ndarray) -> None:
    """Writes the entries of some steps onto a canvas, in place.

    Args:
      canvas_BP: values so far, `(B, P)` or `(B, P, C)`.
      positions_BNR: of a trace.
      values_BNR: its tokens, its confidence, or anything of each entry.
    """
    row, step, entry = np.nonzero(positions_BNR >= 0)
    canvas_BP[row, positions_BNR[row, step, entry]] = values_BNR[row, step, entry]


def canvases(start_BP: np.ndarray, positions_BNR: np.ndarray, values_BNR: np.ndarray) -> np.ndarray:
    """The canvas before the first step and after each, `(B, N + 1, P)` or `(B, N + 1, P, C)`.

    Args:
      start_BP: what is known before the first step, as `unknown` gives it where nothing is.
      positions_BNR: `trace_positions` of `Generator.draw`.
      values_BNR: `trace_tokens`, or anything of each entry.
    """
    found = [np.array(start_BP)]
    for step in range(positions_BNR.shape[1]):
        found.append(found[-1].copy())
        place(found[-1], positions_BNR[:, step : step + 1], values_BNR[:, step : step + 1])
    return np.stack(found, axis=1)
