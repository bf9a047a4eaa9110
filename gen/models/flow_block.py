"""The transformer of the flow families: modulated blocks in two stacks with a bridge between.

Axes: B batch, S slots, D width, F hidden width of the feed-forward, C channel pairs of a head.

A block is that of `gen.models.adaln` with RMS norms without weight, a gated feed-forward and
biases on all maps. Source: wangqiang9/FlowAR, `models/flowar.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gen.errors import UserError
from gen.models.adaln import AdaLN, AdaLNBlock
from gen.models.attention import Attention, LayerCache
from gen.models.backbone import Backbone
from gen.models.block import OwnKeys, StackConfig, check_stack
from gen.models.conditioning import ClassCondition, Prompt
from gen.models.layers import RMSNorm, dropout, linear
from gen.sharding import constrain


@dataclasses.dataclass(frozen=True)
class FlowStackConfig(OwnKeys):
    """Sizes and regularisation of one of the two stacks.

    Attributes:
      depth: number of blocks.
      width: D; a multiple of `heads`.
      heads: attention heads.
      mlp_ratio: the hidden width is two thirds of so many times `width`, rounded down.
      norm_eps: added to the mean square before the root.
      attention_dropout: dropout of attention weights.
      dropout: after the attention's output map, and twice in the feed-forward.
      unroll: blocks in one turn of the training loop over blocks.
      remat: recompute blocks in the backward pass instead of storing their activations.
    """

    depth: int
    width: int
    heads: int
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    dropout: float = 0.0
    unroll: int = 1
    remat: bool = False

    # What a stack may have and these have not.
    token_dropout: ClassVar[float] = 0.0
    drop_path: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        check_stack(self, self.hidden_width, "attention_dropout", "dropout")
        if self.width % (4 * self.heads):
            raise UserError(
                f"{self.heads} heads of width {self.width} are no multiples of 4 channels, "
                "which 2-D rotary positions need"
            )

    @property
    def hidden_width(self) -> int:
        """F, rounded as the source does."""
        return int(self.width * self.mlp_ratio * 2 / 3.0)

    def shrunken(self) -> FlowStackConfig:
        """The same kind of stack, small enough to compile and run in seconds, for `:debug`."""
        return dataclasses.replace(self, depth=2, width=64, heads=4)

    def make_block(self, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> FlowBlock:
        return FlowBlock(self, dtype=dtype, rngs=rngs)


def xavier(fan_in: int, fan_out: int) -> float:
    """Standard deviation of weights at the start (Glorot & Bengio 2010)."""
    return float(np.sqrt(2 / (fan_in + fan_out)))


def rms_norm(x_BSD: jax.Array, *, eps: float) -> jax.Array:
    """x / sqrt(mean(x^2) + eps) without a weight, in float32, back to the dtype of `x`."""
    x32_BSD = x_BSD.astype(jnp.float32)
    mean_BS1 = jnp.mean(jnp.square(x32_BSD), axis=-1, keepdims=True)
    return (x32_BSD * jax.lax.rsqrt(mean_BS1 + eps)).astype(x_BSD.dtype)


class GEGLU(nnx.Module):
    """down(gelu(gate(x)) * up(x)) with the exact GELU and biases (Shazeer 2020)."""

    def __init__(
        self, width: int, hidden: int, *, rate: float = 0.0, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        options = {"dtype": dtype, "rngs": rngs, "bias": True, "std": xavier(width, hidden)}
        self.gate = linear(width, hidden, **options)
        self.up = linear(width, hidden, **options)
        self.down = linear(hidden, width, **options)
        self.dropout_rate = rate

    def __call__(self, x_BSD: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        keys = (None, None) if key is None else jax.random.split(key)
        hidden_BSF = jax.nn.gelu(self.gate(x_BSD), approximate=False) * self.up(x_BSD)
        hidden_BSF = dropout(constrain(hidden_BSF, None, "tensor"), self.dropout_rate, keys[0])
        return dropout(self.down(hidden_BSF), self.dropout_rate, keys[1])


def attention(width: int, heads: int, **options: Any) -> Attention:
    """Attention whose maps start as one fused map to queries, keys and values does."""
    made = Attention(
        width, num_heads=heads, num_kv_heads=heads, init_std=xavier(width, 3 * width), **options
    )
    made.out.kernel[...] = made.out.kernel[...] * np.float32(np.sqrt(2))  # width to width
    return made


class FlowBlock(AdaLNBlock):
    """h = x + gate attention(norm(x)); y = h + gate feed_forward(norm(h)), norms modulated."""

    def __init__(
        self, config: FlowStackConfig, *, biases: bool = True, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        """`biases`: whether queries, keys and values have some."""
        width, options = config.width, {"dtype": dtype, "rngs": rngs}
        self.config = config
        self.modulation = AdaLN(width, 6, std=xavier(width, 6 * width), **options)
        self.attention = attention(
            width, config.heads, bias=biases, key_bias=biases, out_bias=True,
            dropout_rate=config.dropout, weights_dropout=config.attention_dropout, **options,
        )  # fmt: skip
        self.feed_forward = GEGLU(width, config.hidden_width, rate=config.dropout, **options)

    def modulate(self, cond: jax.Array) -> jax.Array:
        """The six vectors `(B, 6, D)` from a condition `(B, D)`."""
        return self.modulation(cond)

    def norm(self, x_BSD: jax.Array) -> jax.Array:
        return rms_norm(x_BSD, eps=self.config.norm_eps)


class ModulatingClass(ClassCondition):
    """One slot holding the row of a table, which also modulates the blocks."""

    def __call__(self, batch: dict[str, jax.Array], drop_B: jax.Array | None = None) -> Prompt:
        x_BTD = super().__call__(batch, drop_B).x_BTD
        return Prompt(x_BTD, cond=x_BTD[:, 0])


class Bridge(nnx.Module):
    """From the first stack to the second: norm, linear map, positions. Stands in as a block."""

    def __init__(
        self, width: int, slots: int, *, eps: float, std: float, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        self.norm = RMSNorm(width, eps=eps)
        self.map = linear(width, width, std=xavier(width, width), bias=True, dtype=dtype, rngs=rngs)
        self.positions = nnx.Param(std * jax.random.normal(rngs.params(), (slots, width)))

    def modulate(self, cond: jax.Array) -> None:
        """Nothing."""

    def __call__(
        self,
        x_BSD: jax.Array,
        *,
        cache: LayerCache | None = None,
        slots_S: jax.Array | None = None,
        **_: Any,
    ) -> tuple[jax.Array, LayerCache | None]:
        """The slots fed now, all of them without `slots_S`; the cache stays as it is."""
        place_SD = self.positions[...] if slots_S is None else self.positions[...][slots_S]
        return self.map(self.norm(x_BSD)) + place_SD.astype(x_BSD.dtype), cache


class OwnRope(nnx.Module):
    """A block that takes its own channel pairs of a table made for heads of several widths."""

    def __init__(self, block: nnx.Module, own: tuple[int, int]):
        self.block, self.own = block, own

    def modulate(self, cond: Any) -> Any:
        """As the block's."""
        return self.block.modulate(cond)

    def __call__(self, x_BSD: jax.Array, *, rope: jax.Array, **arguments: Any) -> tuple:
        return self.block(x_BSD, rope=rope[..., slice(*self.own)], **arguments)


class TwoStacks(nnx.Module):
    """Encoder, bridge and decoder; serves as a `gen.models.backbone.Backbone`.

    Rotary rows hold the pairs of the encoder's heads and, where their width is another, those of
    the decoder's after them.
    """

    def __init__(
        self, encoder: StackConfig, decoder: StackConfig, *, slots: int, std: float,
        dtype: jnp.dtype, rngs: nnx.Rngs,
    ):  # fmt: skip
        options = {"dtype": dtype, "rngs": rngs}
        self.encoder = Backbone(encoder, **options)
        self.bridge = Bridge(encoder.width, slots, eps=encoder.norm_eps, std=std, **options)
        self.decoder = Backbone(decoder, **options)
        pairs = (encoder.head_dim // 2, decoder.head_dim // 2)
        first = 0 if pairs[0] == pairs[1] else pairs[0]
        self.encoder_pairs = (0, pairs[0])
        self.decoder_pairs = (first, first + pairs[1])

    def __call__(
        self,
        x_BSD: jax.Array,
        *,
        mask: jax.Array,
        rope: jax.Array,
        cond: jax.Array,
        key: jax.Array | None = None,
        taps: Sequence[int] = (),
    ) -> list[jax.Array]:
        """All slots at once: the hidden states after the last block, alone in a list."""
        if taps:
            raise ValueError("two stacks have no taps between their blocks")
        keys = (None, None) if key is None else jax.random.split(key)
        shared = {"mask": mask, "cond": cond}
        (x_BSD,) = self.encoder(
            x_BSD, rope=rope[..., slice(*self.encoder_pairs)], key=keys[0], **shared
        )
        x_BSD, _ = self.bridge(x_BSD)
        return self.decoder(
            x_BSD, rope=rope[..., slice(*self.decoder_pairs)], key=keys[1], **shared
        )

    def unstack(self) -> list[Any]:
        """The blocks of both stacks and the bridge between, for decoding."""
        return [
            *(OwnRope(block, self.encoder_pairs) for block in self.encoder.unstack()),
            self.bridge,
            *(OwnRope(block, self.decoder_pairs) for block in self.decoder.unstack()),
        ]

    def empty_cache(self, batch: int, length: int) -> list[LayerCache]:
        """A cache for each of `unstack`; the bridge's has no heads."""
        nothing = jnp.zeros((batch, 0, length, 0), self.encoder.dtype)
        return [
            *self.encoder.empty_cache(batch, length),
            LayerCache(nothing, nothing),
            *self.decoder.empty_cache(batch, length),
        ]
