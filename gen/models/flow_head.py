"""The flow head: a small transformer that gives the velocity of the positions of one scale.

Axes: B batch, R positions, L scales, C channels of a latent, D width of the head, M width of the
condition that the autoregressive model hands over for each position.

Noise and data mix as x = (1 - t) data + t noise; the head learns noise - data (flow matching,
Lipman et al. 2023). Time and condition modulate every position by itself. In heads of kind
`cross` blocks also attend to the conditions. Source: wangqiang9/FlowAR, `models/flowmodel.py`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gen.errors import UserError
from gen.models.adaln import AdaLN, vectors
from gen.models.backbone import Backbone
from gen.models.flow_block import (
    GEGLU,
    FlowBlock,
    FlowStackConfig,
    attention,
    rms_norm,
    xavier,
)
from gen.models.layers import RMSNorm, linear
from gen.sharding import constrain

KINDS = ("adaptive", "cross")
TIME_CHANNELS = 256


@dataclasses.dataclass(frozen=True)
class FlowHeadConfig(FlowStackConfig):
    """Sizes and regularisation of a flow head; published heads have 64 channels and no dropout.

    `kind` is `adaptive` (self-attention, feed-forward) or `cross` (cross-attention in between).
    """

    kind: str = "adaptive"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in KINDS:
            raise UserError(f'a flow head is of kind "adaptive" or "cross", not "{self.kind}"')


@dataclasses.dataclass(frozen=True)
class Blocks(FlowHeadConfig):
    """A head's config as its blocks need it: with M, the width of the conditions."""

    memory_width: int = 0

    def make_block(self, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Module:
        if self.kind == "cross":
            return CrossBlock(self, dtype=dtype, rngs=rngs)
        return AdaptiveBlock(self, biases=False, dtype=dtype, rngs=rngs)


class FlowCondition(NamedTuple):
    """What the blocks of a head take: of time `(B, L, D)`, of time and condition together
    `(B, R, D)`, the conditions `(B, R, M)`, and the scale of each position (none: L is 1)."""

    time_BLD: jax.Array
    both_BRD: jax.Array
    memory_BRM: jax.Array
    scale_R: np.ndarray | None


def per_position(rows_BL: jax.Array, scale_R: np.ndarray | None) -> jax.Array:
    """What is given per scale, `(B, L, ...)`, for each position, or for all together."""
    return rows_BL if scale_R is None else rows_BL[:, scale_R]


class AdaptiveBlock(FlowBlock):
    """A block of the stacks, modulated position by position."""

    def modulate(self, cond: FlowCondition) -> jax.Array:
        return self.modulation(cond.both_BRD)


class CrossBlock(nnx.Module):
    """Self-attention modulated by time, attention to the conditions, a feed-forward modulated by
    both."""

    def __init__(self, config: Blocks, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        width, options = config.width, {"dtype": dtype, "rngs": rngs}
        three = {"std": xavier(width, 3 * width), **options}
        attending = {
            "out_bias": True,
            "dropout_rate": config.dropout,
            "weights_dropout": config.attention_dropout,
            **options,
        }
        self.time_modulation = AdaLN(width, 3, **three)
        self.attention = attention(width, config.heads, **attending)
        self.cross_norm = RMSNorm(width, eps=config.norm_eps)
        self.memory_norm = RMSNorm(config.memory_width, eps=config.norm_eps)
        self.cross_attention = attention(
            width, config.heads, memory_width=config.memory_width, **attending
        )
        self.modulation = AdaLN(width, 3, **three)
        self.feed_forward = GEGLU(width, config.hidden_width, rate=config.dropout, **options)
        self.eps = config.norm_eps

    def modulate(self, cond: FlowCondition) -> tuple[jax.Array, ...]:
        """Gate, scale and shift by time and by both, and the conditions."""
        by_time = per_position(self.time_modulation(cond.time_BLD), cond.scale_R)
        return by_time, self.modulation(cond.both_BRD), self.memory_norm(cond.memory_BRM)

    def __call__(
        self,
        x_BRD: jax.Array,
        *,
        mask: jax.Array,
        rope: jax.Array,
        modulation: tuple[jax.Array, ...],
        key: jax.Array | None = None,
        **_: Any,
    ) -> tuple[jax.Array, None]:
        """One block; `key` switches its dropouts on."""
        keys = (None,) * 3 if key is None else tuple(jax.random.split(key, 3))
        by_time, by_both, memory_BRM = modulation
        seen = {"mask": mask, "rope": rope}
        gate, scale, shift = vectors(by_time, x_BRD.dtype)
        normed_BRD = rms_norm(x_BRD, eps=self.eps) * (1 + scale) + shift
        x_BRD = x_BRD + gate * self.attention(normed_BRD, key=keys[0], **seen)[0]
        x_BRD = x_BRD + self.cross_attention(
            self.cross_norm(x_BRD), memory_BSM=memory_BRM, key=keys[1], **seen
        )[0]  # fmt: skip
        gate, scale, shift = vectors(by_both, x_BRD.dtype)
        normed_BRD = rms_norm(x_BRD, eps=self.eps) * (1 + scale) + shift
        return x_BRD + gate * self.feed_forward(normed_BRD, key=keys[2]), None


class TimeEmbedding(nnx.Module):
    """Cosines and sines of a thousand times the time, cut to a whole number; two linear maps."""

    def __init__(self, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        options = {"bias": True, "dtype": dtype, "rngs": rngs}
        self.first = linear(TIME_CHANNELS, width, std=xavier(TIME_CHANNELS, width), **options)
        self.second = linear(width, width, std=xavier(width, width), **options)

    def __call__(self, time_BL: jax.Array) -> jax.Array:
        """`(B, L, D)`; the product is cut in float32, as the source does."""
        half = TIME_CHANNELS // 2
        exponents = np.float32(-math.log(10000.0)) * np.arange(half, dtype=np.float32) / half
        whole_BL = jnp.trunc(time_BL.astype(jnp.float32) * 1000)
        angles = whole_BL[..., None] * np.exp(exponents)
        waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        # Without the hint the gradient of the first map is wrong on meshes of all axes.
        return self.second(jax.nn.silu(constrain(self.first(waves), None, None)))


class FlowHead(nnx.Module):
    """Velocity of noisy latents at a time, given the autoregressive model's output."""

    def __init__(
        self, config: FlowHeadConfig, *, channels: int, memory_width: int,
        dtype: jnp.dtype, rngs: nnx.Rngs,
    ):  # fmt: skip
        width, options = config.width, {"dtype": dtype, "rngs": rngs}
        biased = {"bias": True, **options}
        self.time = TimeEmbedding(width, **options)
        self.condition = linear(memory_width, width, std=xavier(memory_width, width), **biased)
        self.latents = linear(channels, width, std=xavier(channels, width), **biased)
        blocks = Blocks(**dataclasses.asdict(config), memory_width=memory_width)
        self.backbone = Backbone(blocks, **options)
        self.modulation = AdaLN(width, 2, std=xavier(width, 2 * width), **options)
        self.velocity = linear(width, channels, std=xavier(width, channels), **biased)
        self.eps = config.norm_eps

    def __call__(
        self,
        x_BRC: jax.Array,
        time_BL: jax.Array,
        memory_BRM: jax.Array,
        *,
        rope: jax.Array,
        scale_R: np.ndarray | None = None,
        blocks: list[nnx.Module] | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Velocity, float32 `(B, R, C)`.

        Args:
          x_BRC: noisy latents.
          time_BL: time of each scale, from 0 to 1; `(1, 1)` if all share it.
          memory_BRM: what the autoregressive model gave for each position.
          rope: rotary rows of the positions.
          scale_R: scale of each position, which sees those of its own; none: L is 1.
          blocks: `backbone.unstack()`, for calls within a loop; else the blocks are scanned.
          key: switches dropouts on, where the blocks are scanned.
        """
        time_BLD = self.time(time_BL)
        both_BRD = per_position(time_BLD, scale_R) + self.condition(memory_BRM)
        cond = FlowCondition(time_BLD, both_BRD, memory_BRM, scale_R)
        scale_R = np.zeros(x_BRC.shape[1]) if scale_R is None else scale_R
        seen = {"mask": jnp.asarray(scale_R[:, None] == scale_R), "rope": rope}
        x_BRD = self.latents(x_BRC)
        if blocks is None:
            x_BRD = self.backbone(x_BRD, cond=cond, key=key, **seen)[-1]
        else:
            for block in blocks:
                x_BRD, _ = block(x_BRD, modulation=block.modulate(cond), **seen)
        shift, scale = vectors(self.modulation(both_BRD), x_BRD.dtype)
        x_BRD = rms_norm(x_BRD, eps=self.eps) * (1 + scale) + shift
        return self.velocity.product(x_BRD, preferred=jnp.float32) + self.velocity.bias[...]

    def between(
        self,
        data_BRC: jax.Array,
        memory_BRM: jax.Array,
        *,
        noise_BRC: jax.Array,
        time_BL: jax.Array,
        scale_R: np.ndarray,
        **arguments: Any,
    ) -> jax.Array:
        """Velocity between data and noise at a time of each scale; the rest as in `__call__`."""
        time_BR1 = per_position(time_BL, scale_R)[..., None]
        x_BRC = (1 - time_BR1) * data_BRC + time_BR1 * noise_BRC
        return self(x_BRC, time_BL, memory_BRM, scale_R=scale_R, **arguments)
