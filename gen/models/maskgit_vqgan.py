"""The encoder and decoder of MaskGIT's tokenizer: a VQGAN without attention.

Axes: B batch, H height, W width, C channels (I in, O out).

Beside attention it differs from `gen.models.vqgan` in these: convolutions within residual blocks
have no bias, a block that changes the width maps what it made where others map its input, halving
is an average, and a decoder has as many blocks per level as an encoder. Levels of a module are
numbered in order of execution. Source: google-research/maskgit, `nets/vqgan_tokenizer.py`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gen.models.convolution import Conv, GroupNorm, Upsample
from gen.models.layers import Series
from gen.models.vqgan import PIXEL_CHANNELS, StackConfig


class ResBlock(nnx.Module):
    """h + x for h = conv2(silu(norm2(conv1(silu(norm1(x)))))); h + shortcut(h) if widths differ.

    That the shortcut starts from h, not from x, is how the published weights were trained.
    """

    def __init__(
        self,
        fan_in: int,
        width: int,
        *,
        groups: int,
        eps: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        conv = {"dtype": dtype, "rngs": rngs}
        self.norm1 = GroupNorm(fan_in, groups=groups, eps=eps)
        self.conv1 = Conv(fan_in, width, 3, bias=False, **conv)
        self.norm2 = GroupNorm(width, groups=groups, eps=eps)
        self.conv2 = Conv(width, width, 3, bias=False, **conv)
        self.shortcut = None if fan_in == width else Conv(width, width, 1, bias=False, **conv)

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        h_BHWC = self.conv1(jax.nn.silu(self.norm1(x_BHWC)))
        h_BHWC = self.conv2(jax.nn.silu(self.norm2(h_BHWC)))
        return h_BHWC + (x_BHWC if self.shortcut is None else self.shortcut(h_BHWC))


def res_blocks(fan_in: int, width: int, count: int, **options: Any) -> Series:
    """Residual blocks of one resolution."""
    fans = (fan_in,) + (width,) * (count - 1)
    return Series(ResBlock(fan, width, **options) for fan in fans)


class DownLevel(nnx.Module):
    """A level of the encoder; all but the lowest resolution end by averaging cells of 2x2."""

    def __init__(self, fan_in: int, width: int, num_blocks: int, last: bool, **options: Any):
        self.blocks = res_blocks(fan_in, width, num_blocks, **options)
        self.last = last

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        for block in self.blocks:
            x_BHWC = block(x_BHWC)
        return x_BHWC if self.last else halved(x_BHWC)


class UpLevel(nnx.Module):
    """A level of the decoder; all but the highest resolution end by doubling it."""

    def __init__(self, fan_in: int, width: int, num_blocks: int, last: bool, **options: Any):
        self.blocks = res_blocks(fan_in, width, num_blocks, **options)
        conv = {name: options[name] for name in ("dtype", "rngs")}
        self.upsample = None if last else Upsample(width, **conv)

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        for block in self.blocks:
            x_BHWC = block(x_BHWC)
        return x_BHWC if self.upsample is None else self.upsample(x_BHWC)


def halved(x_BHWC: jax.Array) -> jax.Array:
    """The mean of each 2x2 cells; both sides must be even."""
    batch, height, width, channels = x_BHWC.shape
    cells = x_BHWC.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return cells.mean(axis=(2, 4), dtype=jnp.float32).astype(x_BHWC.dtype)


class Encoder(nnx.Module):
    """Pixels `(B, H, W, 3)` to features, each side halved once per level but the last."""

    def __init__(self, config: StackConfig, out_channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        conv = {"dtype": dtype, "rngs": rngs}
        options = config.norm | conv
        widths, bottom = config.widths, len(config.widths) - 1
        self.conv_in = Conv(PIXEL_CHANNELS, config.width, 3, bias=False, **conv)
        self.levels = Series(
            DownLevel(fan_in, width, config.blocks_per_level, last=number == bottom, **options)
            for number, (fan_in, width) in enumerate(zip((config.width, *widths), widths))
        )
        self.middle = res_blocks(widths[-1], widths[-1], config.blocks_per_level, **options)
        self.norm_out = GroupNorm(widths[-1], **config.norm)
        self.conv_out = Conv(widths[-1], out_channels, 1, **conv)

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
        self.middle = res_blocks(widths[0], widths[0], config.blocks_per_level, **options)
        self.levels = Series(
            UpLevel(fan_in, width, config.blocks_per_level, last=number == top, **options)
            for number, (fan_in, width) in enumerate(zip((widths[0], *widths), widths))
        )
        self.norm_out = GroupNorm(widths[-1], **config.norm)
        self.conv_out = Conv(widths[-1], PIXEL_CHANNELS, 3, **conv)

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        x_BHWC = self.conv_in(x_BHWC)
        for stage in (*self.middle, *self.levels):
            x_BHWC = stage(x_BHWC)
        return self.conv_out(jax.nn.silu(self.norm_out(x_BHWC)))
