"""One pre-norm transformer block: attention, then SwiGLU (Shazeer 2020).

Axes: B batch, S slots, D width, F hidden width of the feed-forward.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol, Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from gen.errors import UserError
from gen.models.attention import Attention, LayerCache, Seen
from gen.models.layers import RMSNorm, drop_path, dropout, linear
from gen.sharding import constrain

Modulation = jax.Array | None


class StackConfig(Protocol):
    """What the backbone asks of a config of blocks, whatever the blocks are."""

    depth: int
    width: int
    heads: int
    drop_path: float
    token_dropout: float
    unroll: int
    remat: bool

    @property
    def num_kv_heads(self) -> int: ...

    @property
    def head_dim(self) -> int: ...

    def make_block(self, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Module:
        """A block: `modulate(cond)` and a call as that of `Block`."""


class OwnKeys:
    """Of a config whose heads have keys and values of their own each."""

    width: int
    heads: int

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def num_kv_heads(self) -> int:
        return self.heads


def check_stack(config: StackConfig, hidden_width: int, *probabilities: str) -> None:
    """Refuses sizes below 1, heads that do not divide the width, and improbable probabilities."""
    sizes = (config.depth, config.width, config.heads, config.unroll, hidden_width)
    if min(sizes) < 1:
        raise UserError(f"sizes of a backbone must be at least 1: {config}")
    if config.width % config.heads:
        raise UserError(f"width {config.width} is not divisible by {config.heads} heads")
    for name in probabilities:
        if not 0.0 <= getattr(config, name) < 1.0:
            raise UserError(f"{name} is a probability below 1, not {getattr(config, name)}")


@dataclasses.dataclass(frozen=True)
class BackboneConfig:
    """Sizes and regularisation of the shared transformer.

    Attributes:
      depth: number of blocks.
      width: D; a multiple of `heads`.
      heads: query heads.
      kv_heads: key and value heads, a divisor of `heads`; 0 means as many as `heads`.
      ffn_multiple: the hidden width is 8/3 of `width`, rounded up to a multiple of this
        (256 in every published size).
      ffn_width: the hidden width where that formula does not give it; 0 where it does.
      init_std: standard deviation of all weights at the start; 0.02 suits widths around 1000,
        narrow models start faster from about 1 / sqrt(width).
      norm_eps: added to the mean square before the root.
      rope_base: wavelength base of the rotary table.
      token_dropout: dropout on the embedded sequence.
      residual_dropout: dropout after the attention's output map.
      ffn_dropout: dropout after the feed-forward.
      drop_path: stochastic depth of the last block; rises linearly from 0 at the first.
      unroll: blocks in one turn of the training loop over blocks: more to compile, less overhead
        where blocks are small (15% of a step of the digits model on a CPU).
      remat: recompute blocks in the backward pass instead of storing their activations.
    """

    depth: int
    width: int
    heads: int
    kv_heads: int = 0
    ffn_multiple: int = 256
    ffn_width: int = 0
    init_std: float = 0.02
    norm_eps: float = 1e-5
    rope_base: float = 10000.0
    token_dropout: float = 0.1
    residual_dropout: float = 0.1
    ffn_dropout: float = 0.1
    drop_path: float = 0.0
    unroll: int = 1
    remat: bool = False

    def __post_init__(self) -> None:
        probabilities = ("token_dropout", "residual_dropout", "ffn_dropout", "drop_path")
        check_stack(self, self.ffn_multiple, *probabilities)
        if self.ffn_width < 0:
            raise UserError(f"ffn_width is at least 1, or 0 for the formula: {self.ffn_width}")
        if self.kv_heads < 0 or self.heads % (self.kv_heads or self.heads):
            raise UserError(f"{self.heads} heads are not divisible by {self.kv_heads} kv_heads")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def num_kv_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def hidden_width(self) -> int:
        """F: two thirds of four times the width, rounded up (LlamaGen `find_multiple`)."""
        if self.ffn_width:
            return self.ffn_width
        hidden = int(2 * 4 * self.width / 3)
        return -(-hidden // self.ffn_multiple) * self.ffn_multiple

    def shrunken(self, depth: int = 2) -> BackboneConfig:
        """The same kind of backbone, small enough to compile and run in seconds, for `:debug`."""
        small = {"width": 64, "heads": 4, "kv_heads": 0, "ffn_multiple": 32, "ffn_width": 0}
        return dataclasses.replace(self, depth=depth, **small)

    def make_block(self, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> Block:
        return Block(self, dtype=dtype, rngs=rngs)


def dropout_keys(key: jax.Array | None) -> Sequence[jax.Array | None]:
    """Of a block: after its attention, after its feed-forward, and of either's whole branch."""
    return (None,) * 4 if key is None else jax.random.split(key, 4)


class FeedForward(nnx.Module):
    """down(silu(gate(x)) * up(x)); LlamaGen calls the three maps w2, w1 and w3."""

    def __init__(self, config: BackboneConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        options = {"dtype": dtype, "rngs": rngs, "std": config.init_std}
        self.gate = linear(config.width, config.hidden_width, **options)
        self.up = linear(config.width, config.hidden_width, **options)
        self.down = linear(config.hidden_width, config.width, **options)
        self.dropout_rate = config.ffn_dropout

    def __call__(self, x_BSD: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        hidden_BSF = jax.nn.silu(self.gate(x_BSD)) * self.up(x_BSD)
        hidden_BSF = constrain(hidden_BSF, None, "tensor")
        return dropout(self.down(hidden_BSF), self.dropout_rate, key)


class Block(nnx.Module):
    """h = x + attention(norm(x)); y = h + feed_forward(norm(h))."""

    def __init__(self, config: BackboneConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(
            config.width,
            num_heads=config.heads,
            num_kv_heads=config.num_kv_heads,
            dropout_rate=config.residual_dropout,
            init_std=config.init_std,
            dtype=dtype,
            rngs=rngs,
        )
        self.ffn_norm = RMSNorm(config.width, eps=config.norm_eps)
        self.feed_forward = FeedForward(config, dtype=dtype, rngs=rngs)

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
        """One block; `key` switches its dropouts on, a cache among `seen` makes it a decoding step.

        Returns:
          The hidden states `(B, S, D)` and the written cache, or none.
        """
        keys = dropout_keys(key)
        mixed_BSD, cache = self.attention(self.attention_norm(x_BSD), key=keys[0], **seen)
        h_BSD = x_BSD + drop_path(mixed_BSD, drop_path_rate, keys[2])
        fed_BSD = self.feed_forward(self.ffn_norm(h_BSD), key=keys[1])
        return h_BSD + drop_path(fed_BSD, drop_path_rate, keys[3]), cache
