"""A transformer block whose norms are set by the condition (AdaLN), as in VAR and its kin.

Axes: B batch, S slots, D width, F hidden width of the feed-forward.

Six vectors per sample, in the order of VAR: two gates, two scales, two shifts.
Source: FoundationVision/VAR, `models/basic_var.py`.
"""

from __future__ import annotations

import dataclasses
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gen.models.attention import Attention, LayerCache, Seen
from gen.models.block import Modulation, OwnKeys, check_stack, dropout_keys
from gen.models.layers import drop_path, dropout, layer_norm, linear
from gen.sharding import constrain


@dataclasses.dataclass(frozen=True)
class AdaLNConfig(OwnKeys):
    """Sizes and regularisation of a transformer of such blocks.

    Attributes:
      depth: number of blocks.
      width: D; a multiple of `heads`.
      heads: attention heads.
      mlp_ratio: F / D.
      shared: one map from the condition to the six vectors serves all blocks, and each adds its
        own offsets; else each block has a map.
      unit_heads: queries and keys of length 1 and a learnt sharpness (`attn_l2_norm`); else
        products are scaled by 0.25 / sqrt(E).
      norm_eps: added to the variance before the root.
      init_std: standard deviation of weights at the start; 0 takes sqrt(1 / (3 D)).
      gate_init: factor on the gates' part of the map at the start (`alng`).
      token_dropout: dropout on the embedded sequence.
      dropout: after the attention's output map and after the feed-forward.
      drop_path: stochastic depth of the last block; rises linearly from 0 at the first.
      unroll: blocks in one turn of the training loop over blocks.
      remat: recompute blocks in the backward pass instead of storing their activations.
    """

    depth: int
    width: int
    heads: int
    mlp_ratio: float = 4.0
    shared: bool = False
    unit_heads: bool = True
    norm_eps: float = 1e-6
    init_std: float = 0.0
    gate_init: float = 1e-3
    token_dropout: float = 0.0
    dropout: float = 0.0
    drop_path: float = 0.0
    unroll: int = 1
    remat: bool = False

    def __post_init__(self) -> None:
        check_stack(self, self.hidden_width, "token_dropout", "dropout", "drop_path")

    @property
    def hidden_width(self) -> int:
        return round(self.width * self.mlp_ratio)

    @property
    def std(self) -> float:
        """Standard deviation of weights at the start."""
        return self.init_std or float(np.sqrt(1 / 3 / self.width))

    def shrunken(self, depth: int = 2) -> AdaLNConfig:
        """The same kind of backbone, small enough to compile and run in seconds, for `:debug`."""
        return dataclasses.replace(self, depth=depth, width=64, heads=4)

    def make_block(self, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> AdaLNBlock:
        return AdaLNBlock(self, dtype=dtype, rngs=rngs)


class AdaLN(nnx.Module):
    """SiLU, then a linear map from a condition `(B, D)` to `(B, count, D)`.

    A condition per slot, `(B, S, D)`, gives `(B, S, count, D)`.
    """

    def __init__(self, width: int, count: int, *, std: float, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.map = linear(width, count * width, dtype=dtype, rngs=rngs, std=std, bias=True)
        self.count = count

    def __call__(self, cond_BD: jax.Array) -> jax.Array:
        # Cut along its width too, a condition per slot gets wrong gradients on meshes of all axes.
        cond_BD = constrain(cond_BD, *(None,) * (cond_BD.ndim - 1))
        return self.map(jax.nn.silu(cond_BD)).reshape(*cond_BD.shape[:-1], self.count, -1)


def vectors(modulation: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """What `AdaLN` gives, with its vectors in front: `(count, B, S, D)`, S 1 if all slots share."""
    rows = jnp.moveaxis(modulation.astype(dtype), -2, 0)
    return rows[:, :, None] if modulation.ndim == 3 else rows


def block_map(config: AdaLNConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> AdaLN:
    """The map to the six vectors of a block, with nearly closed gates at the start."""
    made = AdaLN(config.width, 6, std=config.std, dtype=dtype, rngs=rngs)
    made.map.kernel[...] = made.map.kernel[...] * jnp.repeat(start_factors(config), config.width)
    return made


def shared_map(config: AdaLNConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> AdaLN:
    """The map to the six vectors that all blocks share; their own offsets close the gates."""
    return AdaLN(config.width, 6, std=config.std, dtype=dtype, rngs=rngs)


def start_factors(config: AdaLNConfig) -> jax.Array:
    """What the parts for gates, scales and shifts are multiplied by at the start, `(6,)`.

    Source: FoundationVision/VAR, `init_weights`.
    """
    return jnp.asarray([config.gate_init] * 2 + [0.5] * 4, jnp.float32)


class FeedForward(nnx.Module):
    """down(gelu(up(x))), the GELU by its tanh formula."""

    def __init__(self, config: AdaLNConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        options = {"dtype": dtype, "rngs": rngs, "bias": True}
        self.up = linear(config.width, config.hidden_width, std=config.std, **options)
        last = config.std / float(np.sqrt(2 * config.depth))
        self.down = linear(config.hidden_width, config.width, std=last, **options)
        self.dropout_rate = config.dropout

    def __call__(self, x_BSD: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        hidden_BSF = constrain(jax.nn.gelu(self.up(x_BSD), approximate=True), None, "tensor")
        return dropout(self.down(hidden_BSF), self.dropout_rate, key)


class AdaLNBlock(nnx.Module):
    """h = x + gate attention(norm(x)); y = h + gate feed_forward(norm(h)), norms modulated."""

    def __init__(self, config: AdaLNConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.config = config
        if config.shared:
            drawn = jax.random.normal(rngs.params(), (6, config.width)) / np.sqrt(config.width)
            self.offsets = nnx.Param(drawn * start_factors(config)[:, None])
        else:
            self.modulation = block_map(config, dtype=dtype, rngs=rngs)
        self.attention = Attention(
            config.width,
            num_heads=config.heads,
            num_kv_heads=config.heads,
            dropout_rate=config.dropout,
            init_std=config.std,
            dtype=dtype,
            rngs=rngs,
            bias=True,
            unit_heads=config.unit_heads,
            scale=0.25 / float(np.sqrt(config.head_dim)),
        )
        out = self.attention.out.kernel
        out[...] = out[...] / np.float32(np.sqrt(2 * config.depth))
        self.feed_forward = FeedForward(config, dtype=dtype, rngs=rngs)

    def modulate(self, cond: jax.Array | None) -> Modulation:
        """The six vectors `(B, 6, D)` from a condition `(B, D)`, or `(B, 6, D)` if shared."""
        if self.config.shared:
            return cond + self.offsets[...].astype(cond.dtype)
        return self.modulation(cond)

    def norm(self, x_BSD: jax.Array) -> jax.Array:
        """What comes before each modulation."""
        return layer_norm(x_BSD, eps=self.config.norm_eps)

    def __call__(
        self,
        x_BSD: jax.Array,
        *,
        modulation: Modulation = None,
        key: jax.Array | None = None,
        drop_path_rate: jax.Array | float | None = None,
        **seen: Unpack[Seen],
    ) -> tuple[jax.Array, LayerCache | None]:
        """One block; arguments as of `gen.models.block.Block`."""
        keys = dropout_keys(key)
        gate1, gate2, scale1, scale2, shift1, shift2 = vectors(modulation, x_BSD.dtype)
        mixed_BSD, cache = self.attention(
            self.norm(x_BSD) * (1 + scale1) + shift1, key=keys[0], **seen
        )
        h_BSD = x_BSD + drop_path(gate1 * mixed_BSD, drop_path_rate, keys[2])
        fed_BSD = self.feed_forward(self.norm(h_BSD) * (1 + scale2) + shift2, key=keys[1])
        return h_BSD + drop_path(gate2 * fed_BSD, drop_path_rate, keys[3]), cache


class AdaLNHead(nnx.Module):
    """A modulated norm (scale, then shift) and a linear map to float32 logits."""

    def __init__(self, width: int, vocab_size: int, *, eps: float, std: float, **options):
        self.modulation = AdaLN(width, 2, std=0.5 * std, **options)
        self.logits = linear(width, vocab_size, std=0.02 * std, bias=True, **options)
        self.eps = eps

    def __call__(self, x_BSD: jax.Array, cond_BD: jax.Array) -> jax.Array:
        """float32 `(B, S, V)`; products in the compute dtype, sums in float32."""
        scale, shift = vectors(self.modulation(cond_BD), x_BSD.dtype)
        x_BSD = layer_norm(x_BSD, eps=self.eps) * (1 + scale) + shift
        return self.logits.product(x_BSD, preferred=jnp.float32) + self.logits.bias[...]
