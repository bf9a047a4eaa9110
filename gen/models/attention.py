"""Multi-head attention with grouped keys, with or without a cache.

Axes: B batch, S slots fed now, T slots attended, H query heads, K key heads, E channels of a
head, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from gen.models import rope as rotary
from gen.models.layers import dropout, linear
from gen.sharding import constrain


class LayerCache(NamedTuple):
    """Keys and values of one layer for all slots of a phase: each `(B, T, K, E)`."""

    keys_BTKE: jax.Array
    values_BTKE: jax.Array


def attend(q_BSHE: jax.Array, k_BTKE: jax.Array, v_BTKE: jax.Array, mask: jax.Array) -> jax.Array:
    """softmax(q k^T / sqrt(E)) v with logits and softmax in float32.

    `mask` is `(S, T)` or `(B, S, T)`, true where a query may look. A query that sees nothing
    would get the mean of all values, so masks always leave a slot its own key.
    """
    mask = mask[None, None] if mask.ndim == 2 else mask[:, None]
    return jax.nn.dot_product_attention(q_BSHE, k_BTKE, v_BTKE, mask=mask, implementation="xla")


def write(
    cache: LayerCache, k_BSKE: jax.Array, v_BSKE: jax.Array, slots_S: jax.Array, contiguous: bool
) -> LayerCache:
    """The cache with the rows of the given slots replaced.

    One unconditional update per array: a `where` over the whole cache would copy it. Slots at
    or beyond the length of the cache are padding and are dropped. `contiguous` (known when the
    program is built) selects the cheaper slice update.
    """

    def put(old: jax.Array, new: jax.Array) -> jax.Array:
        new = new.astype(old.dtype)
        if contiguous:
            return jax.lax.dynamic_update_slice_in_dim(old, new, slots_S[0], axis=1)
        return old.at[:, slots_S].set(new, mode="drop", unique_indices=True)

    return LayerCache(put(cache.keys_BTKE, k_BSKE), put(cache.values_BTKE, v_BSKE))


class Attention(nnx.Module):
    """Self-attention without biases; `num_kv_heads` below `num_heads` shares keys (GQA)."""

    def __init__(
        self,
        width: int,
        *,
        num_heads: int,
        num_kv_heads: int,
        dropout_rate: float,
        init_std: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.head_dim = width // num_heads
        self.dropout_rate = dropout_rate
        kv_width = num_kv_heads * self.head_dim
        options = {"dtype": dtype, "rngs": rngs, "std": init_std}
        self.query = linear(width, width, **options)
        self.key = linear(width, kv_width, **options)
        self.value = linear(width, kv_width, **options)
        self.out = linear(width, width, **options)

    def __call__(
        self,
        x_BSD: jax.Array,
        *,
        mask: jax.Array,
        rope: jax.Array | None = None,
        cache: LayerCache | None = None,
        slots_S: jax.Array | None = None,
        contiguous: bool = False,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, LayerCache | None]:
        """Attends among the fed slots, or, given a cache, writes them and attends over it.

        A caller that wants to look without committing drops the returned cache.
        """
        heads = x_BSD.shape[:2] + (-1, self.head_dim)
        q_BSHE = constrain(self.query(x_BSD).reshape(heads), None, "tensor")
        k_BSKE = constrain(self.key(x_BSD).reshape(heads), None, "tensor")
        v_BSKE = constrain(self.value(x_BSD).reshape(heads), None, "tensor")
        if rope is not None:
            q_BSHE, k_BSKE = rotary.rotate(q_BSHE, rope), rotary.rotate(k_BSKE, rope)
        if cache is None:
            keys, values = k_BSKE, v_BSKE
        else:
            cache = write(cache, k_BSKE, v_BSKE, slots_S, contiguous)
            keys, values = (
                cache.keys_BTKE.astype(q_BSHE.dtype),
                cache.values_BTKE.astype(q_BSHE.dtype),
            )
        mixed_BSHE = attend(q_BSHE, keys, values, mask)
        out_BSD = self.out(mixed_BSHE.reshape(x_BSD.shape))
        return dropout(out_BSD, self.dropout_rate, key), cache
