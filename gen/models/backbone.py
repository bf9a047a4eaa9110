"""The transformer that every family shares: blocks stacked for training, a list for decoding.

Axes: L layers, B batch, S slots fed now, T slots attended, K key heads, E channels of a head,
D width.

Training scans over blocks stacked on a leading axis (few leaves, short compile). Decoding wants
the opposite: `unstack` cuts the stack once, outside the token loop, and `step` runs the layers
unrolled with a cache per layer. Both return the hidden states after the block counts in `taps`,
which is how several heads read at different depths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gen.models.attention import LayerCache
from gen.models.attention_kinds import computes_in
from gen.models.block import Modulation, StackConfig
from gen.models.layers import dropout
from gen.sharding import constrain


def stack(make: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs) -> nnx.Module:
    """A module whose parameters are those of `count` fresh ones on a leading axis."""
    graphdef = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))[0]
    keys_L = jax.random.split(rngs.params(), count)
    return nnx.merge(graphdef, jax.vmap(lambda key: nnx.state(make(nnx.Rngs(key))))(keys_L))


class Backbone(nnx.Module):
    """Blocks between the embedded sequence and the heads; final norms belong to the heads."""

    def __init__(self, config: StackConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.config = config
        self.dtype = dtype
        self.blocks = stack(
            lambda inner: config.make_block(dtype=dtype, rngs=inner), config.depth, rngs
        )

    def __call__(
        self,
        x_BSD: jax.Array,
        *,
        mask: jax.Array,
        rope: jax.Array | None = None,
        cond: jax.Array | None = None,
        key: jax.Array | None = None,
        taps: Sequence[int] = (),
    ) -> list[jax.Array]:
        """All slots at once, as in training.

        Args:
          x_BSD: embedded slots.
          mask: `(S, S)` or `(B, S, S)`, true where the row's slot sees the column's.
          rope: rotary rows of the slots, or none.
          cond: what modulates the blocks, as their `modulate` takes it, or none.
          key: switches dropout and drop path on.
          taps: ascending block counts; the last block by default.

        Returns:
          The hidden states `(B, S, D)` after each of `taps` blocks.
        """
        depth = self.config.depth
        graphdef, stacked = nnx.split(self.blocks)
        paths_L = np.linspace(0.0, self.config.drop_path, depth, dtype=np.float32)
        keys_L = None
        if key is not None:
            token_key, layer_key = jax.random.split(key)
            keys_L = jax.random.split(layer_key, depth)
            x_BSD = dropout(x_BSD, self.config.token_dropout, token_key)

        def body(x_BSD: jax.Array, layer) -> tuple[jax.Array, None]:
            params, layer_key, path_rate = layer
            block = nnx.merge(graphdef, params)
            rate = path_rate if self.config.drop_path else None
            y_BSD, _ = block(
                x_BSD, mask=mask, rope=rope, modulation=block.modulate(cond),
                key=layer_key, drop_path_rate=rate,
            )  # fmt: skip
            return constrain(y_BSD, None, None), None

        if self.config.remat:
            body = jax.checkpoint(body, prevent_cse=False)
        x_BSD, hidden, start = constrain(x_BSD, None, None), [], 0
        for stop in taps or (depth,):
            part = jax.tree.map(lambda a, s=start, e=stop: a[s:e], (stacked, keys_L, paths_L))
            x_BSD, _ = jax.lax.scan(body, x_BSD, part, unroll=self.config.unroll)
            hidden.append(x_BSD)
            start = stop
        return hidden

    def unstack(self) -> list[nnx.Module]:
        """The blocks as a list, for `step`."""
        graphdef, stacked = nnx.split(self.blocks)
        return [
            nnx.merge(graphdef, jax.tree.map(lambda a, i=i: a[i], stacked))
            for i in range(self.config.depth)
        ]

    def empty_cache(self, batch: int, length: int) -> list[LayerCache]:
        """Zeroed caches of `length` slots, one per layer, in the dtype attention computes in."""
        config, dtype = self.config, computes_in(self.dtype)
        shape = (batch, config.num_kv_heads, length, config.head_dim)
        # Keys and values are arrays of their own: donating one buffer twice is an error.
        return [
            LayerCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
            for _ in range(config.depth)
        ]


def step(
    blocks: Sequence[tuple[nnx.Module, Modulation]],
    x_BSD: jax.Array,
    caches: Sequence[LayerCache],
    *,
    mask: jax.Array,
    slots_S: jax.Array,
    contiguous: bool,
    rope: jax.Array | None = None,
    taps: Sequence[int] = (),
) -> tuple[list[jax.Array], list[LayerCache]]:
    """Feeds some slots through unstacked blocks against their caches.

    Args:
      blocks: from `Backbone.unstack`, each with its modulation or none.
      x_BSD: embedded slots fed now.
      caches: one per layer, `(B, K, T, E)`.
      mask: `(S, T)` or `(B, S, T)`.
      slots_S: where in the cache the fed slots are written; T or more means nowhere.
      contiguous: whether `slots_S` is an ascending run, known when the program is built.
      rope: rotary rows of the fed slots.
      taps: as in `Backbone.__call__`.

    Returns:
      The hidden states after each tap, and the new caches.
    """
    hidden, written = [], []
    taps = taps or (len(blocks),)
    for number, ((block, modulation), cache) in enumerate(zip(blocks, caches, strict=True), 1):
        x_BSD, cache = block(
            x_BSD, mask=mask, rope=rope, modulation=modulation,
            cache=cache, slots_S=slots_S, contiguous=contiguous,
        )  # fmt: skip
        written.append(cache)
        if number in taps:
            hidden.append(x_BSD)
    return hidden, written


def grow(caches: Sequence[LayerCache], length: int) -> list[LayerCache]:
    """Caches of a longer phase: a new array, the old slots copied once."""

    def longer(old_BKTE: jax.Array) -> jax.Array:
        extra = length - old_BKTE.shape[2]
        return jnp.pad(old_BKTE, ((0, 0), (0, 0), (0, extra), (0, 0))) if extra else old_BKTE

    return [LayerCache(*(longer(array) for array in cache)) for cache in caches]
