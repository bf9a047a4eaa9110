"""From logits to one token per position.

Axes: V vocabulary; logits may carry any leading axes.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from gen.errors import UserError

NEVER = -1e30  # finite, so that masked logits never meet inf - inf


@struct.dataclass
class TokenSampling:
    """How a token is drawn; made by `token_sampling`.

    Temperature and top-p are values, so changing them compiles nothing; top-k and the two
    switches decide the program.
    """

    temperature: jax.Array | float
    top_p: jax.Array | float
    top_k: int = struct.field(pytree_node=False, default=0)
    greedy: bool = struct.field(pytree_node=False, default=False)
    nucleus: bool = struct.field(pytree_node=False, default=False)


def token_sampling(
    temperature: float = 1.0, *, top_k: int = 0, top_p: float = 1.0
) -> TokenSampling:
    """Checked settings for drawing tokens.

    Args:
      temperature: divides the logits; 0 takes the most likely token.
      top_k: keep the k most likely tokens (all that tie with the k-th); 0 keeps all.
      top_p: then keep the smallest set whose probability reaches p; 1 keeps all.

    Raises:
      UserError: a value is out of its range.
    """
    if not 0.0 <= temperature < float("inf"):
        raise UserError(f"temperature is at least 0, not {temperature}")
    if top_k < 0 or top_k != int(top_k):
        raise UserError(f"top_k is a whole number of at least 0, not {top_k}")
    if not 0.0 < top_p <= 1.0:
        raise UserError(f"top_p lies in (0, 1], not {top_p}")
    return TokenSampling(temperature, top_p, int(top_k), temperature == 0, top_p < 1.0)


def keep_top_k(logits: jax.Array, top_k: int) -> jax.Array:
    """Logits below the k-th largest become `NEVER`; ties with it stay."""
    if top_k == 0 or top_k >= logits.shape[-1]:
        return logits
    ranks = _ranks(logits)
    least = _largest(lambda rank: jnp.sum(ranks >= rank, axis=-1, keepdims=True) >= top_k, ranks)
    return jnp.where(ranks < least, NEVER, logits)


def keep_top_p(logits: jax.Array, top_p: jax.Array | float) -> jax.Array:
    """Nucleus filter (Holtzman et al. 2020): a token goes if those before it already exceed p.

    The most likely token always stays. Equal logits are in the order of their ids, as in a stable
    sort, which published code makes; here a threshold does, and ties at it are counted.
    """
    ranks, probs = _ranks(logits), jax.nn.softmax(logits, axis=-1)

    def mass(kept: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(kept, probs, 0.0), axis=-1, keepdims=True)

    least = _largest(lambda rank: mass(ranks >= rank) > top_p, ranks)
    tied = ranks == least
    before = mass(ranks > least) + probs * (jnp.cumsum(tied, axis=-1) - 1)
    return jnp.where((ranks > least) | (tied & (before <= top_p)), logits, NEVER)


def _ranks(logits: jax.Array) -> jax.Array:
    """uint32 in the order of float32 logits."""
    # Adding 0 makes one of the two zeros, whose bits differ.
    bits = jax.lax.bitcast_convert_type(logits.astype(jnp.float32) + 0.0, jnp.uint32)
    negative = bits >> 31 == 1
    return jnp.where(negative, ~bits, bits | jnp.uint32(1 << 31))


def _largest(holds: Callable[[jax.Array], jax.Array], ranks: jax.Array) -> jax.Array:
    """The largest uint32 of each row, `(..., 1)`, for which `holds`; it must hold up to there.

    Found bit by bit: 32 passes over a row, against a sort's V log V.
    """
    found = jnp.zeros((*ranks.shape[:-1], 1), jnp.uint32)

    def with_bit(number: jax.Array, found: jax.Array) -> jax.Array:
        more = found | (jnp.uint32(1 << 31) >> number.astype(jnp.uint32))
        return jnp.where(holds(more), more, found)

    return jax.lax.fori_loop(0, 32, with_bit, found)


def filter_logits(logits: jax.Array, sampling: TokenSampling) -> jax.Array:
    """Temperature, then top-k, then top-p on what is left.

    Source: FoundationVision/LlamaGen, `top_k_top_p_filtering` and `sample`.
    """
    logits = logits.astype(jnp.float32) / jnp.maximum(sampling.temperature, 1e-5)
    logits = keep_top_k(logits, sampling.top_k)
    return keep_top_p(logits, sampling.top_p) if sampling.nucleus else logits


def choose(
    logits: jax.Array, sampling: TokenSampling, gumbel: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Draws one token per position: the argmax of filtered logits plus Gumbel noise.

    Args:
      logits: `(..., V)`.
      sampling: temperature and filters.
      gumbel: noise of the shape of the logits; may be none when greedy.

    Returns:
      int32 ids, and the filtered logits they were drawn from.
    """
    if sampling.greedy:
        return most_likely(logits), logits
    filtered = filter_logits(logits, sampling)
    return most_likely(filtered + gumbel), filtered


def most_likely(scores: jax.Array) -> jax.Array:
    """The first of the largest entries of each row, int32: `argmax` by two passes.

    XLA's CPU backend walks through entries and indices of an argmax without vectors, which takes
    three to four times as long.
    """
    ids_V = jnp.arange(scores.shape[-1], dtype=jnp.int32)
    # Without the barrier both passes become one loop again.
    largest = jax.lax.optimization_barrier(jnp.max(scores, axis=-1, keepdims=True))
    return jnp.min(jnp.where(scores == largest, ids_V, ids_V[-1]), axis=-1)
