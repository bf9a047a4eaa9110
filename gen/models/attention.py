"""Multi-head attention with grouped keys, with or without a cache.

Axes: B batch, S slots fed now, T slots attended, H query heads, K key heads, E channels of a
head, D width, M width of a memory.
"""

from __future__ import annotations

from typing import NamedTuple, Required, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gen.models import attention_kinds as kinds
from gen.models import rope as rotary
from gen.models.layers import dropout, linear
from gen.sharding import constrain

HIDDEN = -1e30  # added to logits; finite, so that a row that sees nothing gives no NaN


class LayerCache(NamedTuple):
    """Keys and values of one layer for all slots of a phase: each `(B, K, T, E)`.

    In this order the products of a head read its slots in a row. With the slots before the heads,
    XLA's CPU backend transposed both arrays at each step.
    """

    keys_BKTE: jax.Array
    values_BKTE: jax.Array


class Seen(TypedDict, total=False):
    """Where attention looks: arguments of `Attention` that blocks pass on as they are.

    Attributes:
      mask: `(S, T)` or `(B, S, T)`, true where the row's slot sees the column's.
      rope: rotary rows of the fed slots, or none.
      cache: makes it a decoding step: the fed slots are written, and it is attended over.
      slots_S: where in the cache the fed slots are written; T or more means nowhere.
      contiguous: whether `slots_S` is an ascending run, known when the program is built.
    """

    mask: Required[jax.Array]
    rope: jax.Array | None
    cache: LayerCache | None
    slots_S: jax.Array | None
    contiguous: bool


def attend(
    q_BSHE: jax.Array,
    k_BTKE: jax.Array,
    v_BTKE: jax.Array,
    mask: jax.Array,
    scale: float | None = None,
    *,
    rate: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """softmax(scale q k^T) v with logits and softmax in float32; the scale is 1 / sqrt(E).

    Plain products, which every platform lowers and differentiates well, unless `attention_kinds`
    chooses another way for this platform and these sizes.

    Args:
      q_BSHE: queries; head h looks at key head h // (H / K).
      k_BTKE: keys.
      v_BTKE: values.
      mask: `(S, T)` or `(B, S, T)`, true where a query may look. A query that sees nothing would
        get the mean of all values, so masks always leave a slot its own key.
      scale: of the products.
      rate: share of the attention weights that is dropped, given a key (torch's
        `scaled_dot_product_attention`, whose `dropout_p` published recipes use).
      key: switches the dropout on.
    """
    if (raised := kinds.computes_in(q_BSHE.dtype)) != q_BSHE.dtype:
        parts = (a.astype(raised) for a in (q_BSHE, k_BTKE, v_BTKE))
        return attend(*parts, mask, scale, rate=rate, key=key).astype(q_BSHE.dtype)
    rows, queries, heads, head_dim = q_BSHE.shape
    slots, kv_heads = k_BTKE.shape[1:3]
    scale = head_dim**-0.5 if scale is None else scale
    mask = mask[None, None] if mask.ndim == 2 else mask[:, None]
    dropped = bool(rate) and key is not None
    sizes = (rows, queries, slots, heads, kv_heads, head_dim)
    kind = kinds.choose(kinds.Case(*sizes, str(q_BSHE.dtype), dropped))
    if kind != kinds.PLAIN:
        return kinds.KINDS[kind].call(q_BSHE, k_BTKE, v_BTKE, jnp.asarray(mask), scale)
    if kv_heads != heads:
        k_BTKE, v_BTKE = (jnp.repeat(a, heads // kv_heads, axis=2) for a in (k_BTKE, v_BTKE))
    logits_BHST = jnp.einsum("bshe,bthe->bhst", q_BSHE, k_BTKE, preferred_element_type=jnp.float32)
    logits_BHST = logits_BHST * scale + jnp.where(mask, 0.0, HIDDEN)
    weights_BHST = dropout(jax.nn.softmax(logits_BHST, axis=-1), rate, key)
    return jnp.einsum("bhst,bthe->bshe", weights_BHST.astype(v_BTKE.dtype), v_BTKE)


def unit(x_BSHE: jax.Array) -> jax.Array:
    """Vectors of the last axis at length 1, in float32, back to the dtype of `x`."""
    x32_BSHE = x_BSHE.astype(jnp.float32)
    length = jnp.sqrt(jnp.sum(jnp.square(x32_BSHE), axis=-1, keepdims=True))
    return (x32_BSHE / jnp.maximum(length, 1e-12)).astype(x_BSHE.dtype)


def write(
    cache: LayerCache, k_BSKE: jax.Array, v_BSKE: jax.Array, slots_S: jax.Array, contiguous: bool
) -> LayerCache:
    """The cache with the rows of the given slots replaced.

    One unconditional update per array: a `where` over the whole cache would copy it. Slots at
    or beyond the length of the cache are padding and are dropped. `contiguous` (known when the
    program is built) selects the cheaper slice update.
    """

    def put(old: jax.Array, new: jax.Array) -> jax.Array:
        new = jnp.swapaxes(new, 1, 2).astype(old.dtype)
        if contiguous:
            return jax.lax.dynamic_update_slice_in_dim(old, new, slots_S[0], axis=2)
        return old.at[:, :, slots_S].set(new, mode="drop", unique_indices=True)

    return LayerCache(put(cache.keys_BKTE, k_BSKE), put(cache.values_BKTE, v_BSKE))


class Attention(nnx.Module):
    """Attention to the slots themselves or to a memory; `num_kv_heads` below `num_heads` (GQA).

    `bias` adds biases to all maps but the keys', where one would change nothing unless keys are
    rotated: `key_bias` adds it. `out_bias` says otherwise for the output's. `unit_heads` gives
    queries and keys length 1 and learns how sharp each head is, at most 100 (Swin v2, Liu et al.
    2022); else `scale` multiplies the products, 1 / sqrt(E) by default. `memory_width` is that of
    a memory, which keys and values come from (cross-attention). `weights_dropout` drops weights
    of the attention, `dropout_rate` parts of what comes out.
    """

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
        bias: bool = False,
        unit_heads: bool = False,
        scale: float | None = None,
        key_bias: bool = False,
        out_bias: bool | None = None,
        memory_width: int | None = None,
        weights_dropout: float = 0.0,
    ):
        self.head_dim = width // num_heads
        self.dropout_rate = dropout_rate
        self.weights_dropout = weights_dropout
        kv_width = num_kv_heads * self.head_dim
        source = memory_width or width
        options = {"dtype": dtype, "rngs": rngs, "std": init_std}
        self.query = linear(width, width, bias=bias, **options)
        self.key = linear(source, kv_width, bias=key_bias, **options)
        self.value = linear(source, kv_width, bias=bias, **options)
        self.out = linear(width, width, bias=bias if out_bias is None else out_bias, **options)
        self.scale = 1.0 if unit_heads else scale
        self.unit_heads = unit_heads
        if unit_heads:
            self.log_scale = nnx.Param(jnp.full((num_heads,), np.log(4.0), jnp.float32))

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
        memory_BSM: jax.Array | None = None,
    ) -> tuple[jax.Array, LayerCache | None]:
        """Attends among the fed slots, or, given a cache, writes them and attends over it.

        A caller that wants to look without committing drops the returned cache. A memory has a
        row for each slot, at the slot's rotary position.
        """
        heads = x_BSD.shape[:2] + (-1, self.head_dim)
        source = x_BSD if memory_BSM is None else memory_BSM
        q_BSHE = constrain(self.query(x_BSD).reshape(heads), None, "tensor")
        k_BSKE = constrain(self.key(source).reshape(heads), None, "tensor")
        v_BSKE = constrain(self.value(source).reshape(heads), None, "tensor")
        if self.unit_heads:
            sharpness_H1 = jnp.exp(jnp.minimum(self.log_scale[...], np.log(100.0)))[:, None]
            q_BSHE, k_BSKE = unit(q_BSHE) * sharpness_H1.astype(q_BSHE.dtype), unit(k_BSKE)
        if rope is not None:
            q_BSHE, k_BSKE = rotary.rotate(q_BSHE, rope), rotary.rotate(k_BSKE, rope)
        if cache is None:
            keys, values = k_BSKE, v_BSKE
        else:
            cache = write(cache, k_BSKE, v_BSKE, slots_S, contiguous)
            # The products take the axes as they lie: nothing is moved.
            keys, values = (jnp.swapaxes(a, 1, 2) for a in cache)
        weights_key = None
        if self.weights_dropout and key is not None:
            weights_key, key = jax.random.split(key)
        mixed_BSHE = attend(
            q_BSHE, keys, values, mask, self.scale, rate=self.weights_dropout, key=weights_key
        )
        out_BSD = self.out(mixed_BSHE.reshape(x_BSD.shape))
        return dropout(out_BSD, self.dropout_rate, key), cache
