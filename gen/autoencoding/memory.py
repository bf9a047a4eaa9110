"""What a codebook remembers between updates: which codes are used, and running means.

Axes: A passes of a batch, N coded vectors of a pass, C channels of a code, V codes.

The memory is arrays beside the parameters, so it is sharded, checkpointed and resumed with them;
`updated` is a pure function of it, of what the loss noted of each pass, and of nothing else.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from gen.models.layers import Buffer

Notes = dict[str, jax.Array]
# Below this share of all vectors a mean is lost in rounding: its code stays where it is.
LEAST_SHARE = 1e-12


class Memory(nnx.Module):
    """Stored arrays; all are float32 or int32.

    Attributes:
      updates: `()`, how many there have been.
      idle: `(V,)`, updates since a code was last chosen; `revive_after` before the first.
      share, total: `(V,)` and `(V, C)`, running means of each code's share of the vectors and of
        the sum of its vectors over the number of all; only where codes are running means.
    """

    def __init__(self, codes_VC: jax.Array, *, revive_after: int, is_ema: bool):
        num = len(codes_VC)
        self.updates = Buffer(jnp.zeros((), jnp.int32))
        self.idle = Buffer(jnp.full((num,), revive_after, jnp.int32))
        if is_ema:
            # As if all codes had been chosen alike, each by vectors equal to it.
            self.share = Buffer(jnp.full((num,), 1 / num, jnp.float32))
            self.total = Buffer(codes_VC / num)


def noted(rows_NC: jax.Array, ids_N: jax.Array, num: int, key: jax.Array) -> Notes:
    """What `updated` needs to know of one pass.

    Returns:
      `share` `(V,)` and `total` `(V, C)`: of the vectors that chose each code, their number and
      their sum, over N; `candidates` `(V, C)`: vectors drawn at random, one for each code.
    """
    rows_NC, count = jax.lax.stop_gradient(rows_NC), len(rows_NC)
    drawn_V = jax.random.randint(key, (num,), 0, count)
    return {
        "share": jnp.zeros((num,)).at[ids_N].add(1.0) / count,
        "total": jnp.zeros((num, rows_NC.shape[1])).at[ids_N].add(rows_NC) / count,
        "candidates": rows_NC[drawn_V],
    }


def updated(
    memory: Notes, codes_VC: jax.Array, notes: Notes, *, decay: float, revive_after: int
) -> tuple[Notes, jax.Array]:
    """The memory and the codes after an update.

    Running means (van den Oord et al. 2017, appendix A.1): N' = d N + (1 - d) n, m' = d m +
    (1 - d) s, and a code is m' / N'. A code that was idle for too long becomes a candidate.

    Args:
      memory: arrays of `Memory`.
      codes_VC: the stored codes.
      notes: of `noted`, with a leading axis A.
      decay: d.
      revive_after: updates after which a code that was not chosen is replaced; 0: never.
    """
    share_V, total_VC = jnp.mean(notes["share"], axis=0), jnp.mean(notes["total"], axis=0)
    new = {
        "updates": memory["updates"] + 1,
        "idle": jnp.where(share_V > 0, 0, memory["idle"] + 1),
    }
    if "share" in memory:
        new["share"] = decay * memory["share"] + (1 - decay) * share_V
        new["total"] = decay * memory["total"] + (1 - decay) * total_VC
        known_V1 = new["share"][:, None] > LEAST_SHARE
        means_VC = new["total"] / jnp.maximum(new["share"], LEAST_SHARE)[:, None]
        codes_VC = jnp.where(known_V1, means_VC, codes_VC)
    if revive_after:
        num, passes = len(codes_VC), len(notes["candidates"])
        fresh_VC = notes["candidates"][jnp.arange(num) % passes, jnp.arange(num)]
        dead_V = new["idle"] >= revive_after
        codes_VC = jnp.where(dead_V[:, None], fresh_VC, codes_VC)
        new["idle"] = jnp.where(dead_V, 0, new["idle"])
        if "share" in memory:
            new["share"] = jnp.where(dead_V, 1 / num, new["share"])
            new["total"] = jnp.where(dead_V[:, None], fresh_VC / num, new["total"])
    return new, codes_VC
