"""A transformer block with its norms after the sums, as in BERT (Devlin et al. 2019).

Axes: B batch, S slots, D width, F hidden width of the feed-forward, V rows of a vocabulary.

Source: google-research/maskgit, `nets/maskgit_transformer.py`.
"""

from __future__ import annotations

import dataclasses
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from gen.models.attention import Attention, LayerCache, Seen
from gen.models.block import Modulation, OwnKeys, check_stack, dropout_keys
from gen.models.layers import drop_path, dropout, layer_norm
from gen.models.linear import Linear
from gen.sharding import constrain


@dataclasses.dataclass(frozen=True)
class PostNormConfig(OwnKeys):
    """Sizes and regularisation of a transformer of such blocks.

    Attributes:
      depth: number of blocks.
      width: D; a multiple of `heads`.
      heads: attention heads.
      ffn_width: F.
      norm_eps: added to the variance before the root.
      init_std: weights start at a normal of this deviation, cut off at two of them.
      token_dropout: dropout on the embedded sequence.
      attention_dropout: dropout on the weights of attention.
      residual_dropout: dropout after the attention's output map and after the feed-forward.
      drop_path: stochastic depth of the last block; rises linearly from 0 at the first.
      unroll: blocks in one turn of the loop over blocks.
      remat: recompute blocks in the backward pass instead of storing their activations.
    """

    depth: int
    width: int
    heads: int
    ffn_width: int
    norm_eps: float = 1e-12
    init_std: float = 0.02
    token_dropout: float = 0.1
    attention_dropout: float = 0.1
    residual_dropout: float = 0.1
    drop_path: float = 0.0
    unroll: int = 1
    remat: bool = False

    def __post_init__(self) -> None:
        probabilities = ("token_dropout", "attention_dropout", "residual_dropout", "drop_path")
        check_stack(self, self.ffn_width, *probabilities)

    def shrunken(self, depth: int = 2) -> PostNormConfig:
        """The same kind of backbone, small enough to compile and run in seconds, for `:debug`."""
        return dataclasses.replace(self, depth=depth, width=64, heads=4, ffn_width=128)

    def make_block(self, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> PostNormBlock:
        return PostNormBlock(self, dtype=dtype, rngs=rngs)


def truncated(std: float) -> nnx.initializers.Initializer:
    """Normal, cut off at two deviations; the true deviation is then 0.88 `std`, as published."""
    return nnx.initializers.truncated_normal(std, lower=-2.0, upper=2.0)


def table(
    num: int, width: int, *, std: float, dtype: jnp.dtype = jnp.float32, rngs: nnx.Rngs
) -> nnx.Embed:
    """A table of `num` rows with the starting values of these models."""
    return nnx.Embed(num, width, embedding_init=truncated(std), dtype=dtype, rngs=rngs)


def dense(fan_in: int, fan_out: int, *, std: float, dtype: jnp.dtype, rngs: nnx.Rngs) -> Linear:
    """A linear map with a bias, with the starting values of these models."""
    return Linear(fan_in, fan_out, kernel_init=truncated(std), dtype=dtype, rngs=rngs)


class LayerNorm(nnx.Module):
    """(x - mean) / sqrt(var + eps) * scale + bias, normalised in float32."""

    def __init__(self, width: int, *, eps: float):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))
        self.eps = eps

    def __call__(self, x_BSD: jax.Array) -> jax.Array:
        unit_BSD = layer_norm(x_BSD, eps=self.eps)
        return unit_BSD * self.scale[...].astype(x_BSD.dtype) + self.bias[...].astype(x_BSD.dtype)


class FeedForward(nnx.Module):
    """down(gelu(up(x))), the GELU by its tanh formula."""

    def __init__(self, config: PostNormConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        options = {"std": config.init_std, "dtype": dtype, "rngs": rngs}
        self.up = dense(config.width, config.ffn_width, **options)
        self.down = dense(config.ffn_width, config.width, **options)
        self.dropout_rate = config.residual_dropout

    def __call__(self, x_BSD: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        hidden_BSF = constrain(jax.nn.gelu(self.up(x_BSD), approximate=True), None, "tensor")
        return dropout(self.down(hidden_BSF), self.dropout_rate, key)


class PostNormBlock(nnx.Module):
    """h = norm(x + attention(x)); y = norm(h + feed_forward(h))."""

    def __init__(self, config: PostNormConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.attention = Attention(
            config.width,
            num_heads=config.heads,
            num_kv_heads=config.heads,
            dropout_rate=config.residual_dropout,
            init_std=config.init_std,
            dtype=dtype,
            rngs=rngs,
            bias=True,
            key_bias=True,  # which changes nothing, but the published weights have it
            weights_dropout=config.attention_dropout,
        )
        for name in ("query", "key", "value", "out"):
            kernel = getattr(self.attention, name).kernel
            kernel[...] = truncated(config.init_std)(rngs.params(), kernel.shape)
        self.attention_norm = LayerNorm(config.width, eps=config.norm_eps)
        self.feed_forward = FeedForward(config, dtype=dtype, rngs=rngs)
        self.ffn_norm = LayerNorm(config.width, eps=config.norm_eps)

    def modulate(self, cond: jax.Array | None) -> Modulation:
        """Nothing: what this block does depends on its input alone."""
        return None

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
        mixed_BSD, cache = self.attention(x_BSD, key=keys[0], **seen)
        h_BSD = self.attention_norm(x_BSD + drop_path(mixed_BSD, drop_path_rate, keys[2]))
        fed_BSD = drop_path(self.feed_forward(h_BSD, key=keys[1]), drop_path_rate, keys[3])
        return self.ffn_norm(h_BSD + fed_BSD), cache


class TiedHead(nnx.Module):
    """norm(gelu(map(x))) against rows of the table that the inputs came from, and a bias each."""

    def __init__(self, config: PostNormConfig, rows: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.map = dense(config.width, config.width, std=config.init_std, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(config.width, eps=config.norm_eps)
        self.bias = nnx.Param(jnp.zeros((rows,), jnp.float32))

    def __call__(self, x_BSD: jax.Array, rows_VD: jax.Array) -> jax.Array:
        """float32 `(B, S, V)` for the first V rows of the vocabulary, given in `rows_VD`."""
        x_BSD = self.norm(jax.nn.gelu(self.map(x_BSD), approximate=True))
        logits_BSV = jnp.einsum(
            "bsd,vd->bsv", x_BSD, rows_VD.astype(x_BSD.dtype), preferred_element_type=jnp.float32
        )
        return logits_BSV + self.bias[...][: rows_VD.shape[0]]
