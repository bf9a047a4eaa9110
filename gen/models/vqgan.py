"""The encoder and decoder that most image tokenizers share (VQGAN, Esser et al. 2021).

Axes: B batch, H height, W width, C channels.

Levels differ in resolution by factors of two. Multipliers are given from the highest resolution
to the lowest, for both stacks; the levels of a module are numbered in order of execution, so
level 0 of the decoder is the lowest resolution. Source: FoundationVision/LlamaGen, `vq_model.py`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gen.errors import UserError
from gen.models.convolution import (
    AttentionBlock,
    Conv,
    Downsample,
    GroupNorm,
    ResBlock,
    Upsample,
)
from gen.models.layers import Series

PIXEL_CHANNELS = 3


@dataclasses.dataclass(frozen=True)
class StackConfig:
    """Sizes of an encoder or a decoder.

    Attributes:
      width: channels of a level of multiplier 1.
      multipliers: of the width at each level, from the highest resolution to the lowest.
      blocks_per_level: residual blocks of a level; a decoder has one more.
      norm_groups: groups of the group norms; a divisor of every level's width.
      norm_eps: added to the variance before the root.
      attention_levels: levels, counted from the highest resolution, whose residual blocks are
        each followed by attention; by default the lowest resolution alone.
    """

    width: int
    multipliers: tuple[int, ...]
    blocks_per_level: int
    norm_groups: int
    norm_eps: float
    attention_levels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        sizes = (self.width, self.blocks_per_level, self.norm_groups, *self.multipliers)
        if not self.multipliers or min(sizes) < 1 or self.norm_eps < 0:
            raise UserError(f"sizes of a convolutional stack must be at least 1: {self}")
        for width in self.widths:
            if width % self.norm_groups:
                raise UserError(f"width {width} is not divisible by {self.norm_groups} norm_groups")
        if not set(self.attended) <= set(range(len(self.multipliers))):
            raise UserError(
                f"attention at levels {self.attended} of 0 to {len(self.multipliers) - 1}"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, from the highest resolution to the lowest."""
        return tuple(self.width * multiplier for multiplier in self.multipliers)

    @property
    def attended(self) -> tuple[int, ...]:
        """The levels with attention, counted from the highest resolution."""
        lowest = (len(self.multipliers) - 1,)
        return lowest if self.attention_levels is None else self.attention_levels

    @property
    def norm(self) -> dict[str, Any]:
        """Arguments of every group norm."""
        return {"groups": self.norm_groups, "eps": self.norm_eps}


class Level(nnx.Module):
    """Residual blocks of one resolution, each followed by attention where the level has it."""

    def __init__(self, fan_in: int, width: int, num_blocks: int, attends: bool, **options: Any):
        fans = (fan_in,) + (width,) * (num_blocks - 1)
        self.blocks = Series(ResBlock(fan, width, **options) for fan in fans)
        attention = (AttentionBlock(width, **options) for _ in fans)
        self.attention = Series(attention) if attends else None

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        for number, block in enumerate(self.blocks):
            x_BHWC = block(x_BHWC)
            if self.attention is not None:
                x_BHWC = self.attention[number](x_BHWC)
        return x_BHWC


class DownLevel(Level):
    """A level of the encoder; all but the lowest resolution end by halving it."""

    def __init__(
        self, fan_in: int, width: int, num_blocks: int, attends: bool, last: bool, **options: Any
    ):
        super().__init__(fan_in, width, num_blocks, attends, **options)
        conv = {name: options[name] for name in ("dtype", "rngs")}
        self.downsample = None if last else Downsample(width, **conv)

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        x_BHWC = super().__call__(x_BHWC)
        return x_BHWC if self.downsample is None else self.downsample(x_BHWC)


class UpLevel(Level):
    """A level of the decoder; all but the highest resolution end by doubling it."""

    def __init__(
        self, fan_in: int, width: int, num_blocks: int, attends: bool, last: bool, **options: Any
    ):
        super().__init__(fan_in, width, num_blocks, attends, **options)
        conv = {name: options[name] for name in ("dtype", "rngs")}
        self.upsample = None if last else Upsample(width, **conv)

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        x_BHWC = super().__call__(x_BHWC)
        return x_BHWC if self.upsample is None else self.upsample(x_BHWC)


def middle(width: int, **options: Any) -> Series:
    """The blocks at the lowest resolution: residual, attention, residual."""
    return Series(
        (
            ResBlock(width, width, **options),
            AttentionBlock(width, **options),
            ResBlock(width, width, **options),
        )
    )


class Encoder(nnx.Module):
    """Pixels `(B, H, W, 3)` to features, each side halved once per level but the last."""

    def __init__(self, config: StackConfig, out_channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        conv = {"dtype": dtype, "rngs": rngs}
        options = config.norm | conv
        widths, bottom = config.widths, len(config.widths) - 1
        self.conv_in = Conv(PIXEL_CHANNELS, config.width, 3, **conv)
        self.levels = Series(
            DownLevel(
                fan_in,
                width,
                config.blocks_per_level,
                attends=number in config.attended,
                last=number == bottom,
                **options,
            )
            for number, (fan_in, width) in enumerate(zip((config.width, *widths), widths))
        )
        self.middle = middle(widths[-1], **options)
        self.norm_out = GroupNorm(widths[-1], **config.norm)
        self.conv_out = Conv(widths[-1], out_channels, 3, **conv)

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        x_BHWC = self.conv_in(x_BHWC)
        for stage in (*self.levels, *self.middle):
            x_BHWC = stage(x_BHWC)
        return self.conv_out(jax.nn.silu(self.norm_out(x_BHWC)))


class Decoder(nnx.Module):
    """Features to pixels `(B, H, W, 3)`, each side doubled once per level but the last."""

    def __init__(self, config: StackConfig, in_channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        conv = {"dtype": dtype, "rngs": rngs}
        options = config.norm | conv
        widths, top = config.widths[::-1], len(config.widths) - 1
        self.conv_in = Conv(in_channels, widths[0], 3, **conv)
        self.middle = middle(widths[0], **options)
        self.levels = Series(
            UpLevel(
                fan_in,
                width,
                config.blocks_per_level + 1,
                attends=top - number in config.attended,
                last=number == top,
                **options,
            )
            for number, (fan_in, width) in enumerate(zip((widths[0], *widths), widths))
        )
        self.norm_out = GroupNorm(widths[-1], **config.norm)
        self.conv_out = Conv(widths[-1], PIXEL_CHANNELS, 3, **conv)

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        x_BHWC = self.conv_in(x_BHWC)
        for stage in (*self.middle, *self.levels):
            x_BHWC = stage(x_BHWC)
        return self.conv_out(jax.nn.silu(self.norm_out(x_BHWC)))
