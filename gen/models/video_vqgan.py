"""The encoder and decoder of MAGVIT's tokenizer: a 3-D VQGAN without attention.

Axes: B batch, T frames, H height, W width, C channels (I in, O out).

Levels differ in resolution by factors of two, in height and width, and in time where the config
says so. Beside its dimensions it differs from `gen.models.maskgit_vqgan` in that the shortcut of a
block that changes the width starts from its input. Levels of a module are numbered in order of
execution. Source: google-research/magvit, `videogvt/models/enc_dec_3dcnn.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from gen.errors import UserError
from gen.models.convolution import GroupNorm
from gen.models.layers import Series
from gen.models.post_norm import LayerNorm
from gen.models.video_convolution import PADDINGS, TransposedConv, VideoConv, averaged
from gen.models.vqgan import PIXEL_CHANNELS, StackConfig

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "swish": jax.nn.silu,
    "relu": jax.nn.relu,
}


@dataclasses.dataclass(frozen=True)
class VideoStackConfig(StackConfig):
    """Sizes of an encoder or a decoder; a decoder has as many blocks per level as it says.

    Attributes:
      halve_frames: for each level but the lowest resolution, counted from the highest, whether
        the step to the next one halves the frames with the sides.
      learned_resize: resolutions change by convolutions of 4x4x4, strided or transposed; else by
        means in the encoder, and by repeats with 3x3x3 behind them in the decoder.
      padding: beyond the edges, one of `PADDINGS`; zeros by default.
      activation: one of `ACTIVATIONS`.
      layer_norm: norms are over the channels of each position, not over groups of channels.
    """

    halve_frames: tuple[bool, ...] = ()
    learned_resize: bool = False
    padding: str = "constant"
    activation: str = "swish"
    layer_norm: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.halve_frames) != len(self.multipliers) - 1:
            raise UserError(
                f"{len(self.multipliers)} levels have {len(self.multipliers) - 1} steps between "
                f"them, halve_frames tells of {len(self.halve_frames)}"
            )
        for name, known in (("padding", PADDINGS), ("activation", ACTIVATIONS)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} is one of {', '.join(known)}, not {getattr(self, name)}")

    @property
    def factors(self) -> tuple[tuple[int, int, int], ...]:
        """(frames, height, width) of each step between levels, from the highest resolution."""
        return tuple((2 if halves else 1, 2, 2) for halves in self.halve_frames)

    def make_norm(self, width: int) -> nnx.Module:
        if self.layer_norm:
            return LayerNorm(width, eps=self.norm_eps)
        return GroupNorm(width, **self.norm)

    def activate(self, x: jax.Array) -> jax.Array:
        return ACTIVATIONS[self.activation](x)


class ResBlock(nnx.Module):
    """x + conv2(act(norm2(conv1(act(norm1(x)))))), with x through a 1x1x1 map if widths differ."""

    def __init__(
        self,
        fan_in: int,
        width: int,
        config: VideoStackConfig,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        conv = {"bias": False, "padding": config.padding, "dtype": dtype, "rngs": rngs}
        self.norm1 = config.make_norm(fan_in)
        self.conv1 = VideoConv(fan_in, width, 3, **conv)
        self.norm2 = config.make_norm(width)
        self.conv2 = VideoConv(width, width, 3, **conv)
        self.shortcut = None if fan_in == width else VideoConv(fan_in, width, 1, **conv)
        self.config = config

    def __call__(self, x_BTHWC: jax.Array) -> jax.Array:
        h_BTHWC = self.conv1(self.config.activate(self.norm1(x_BTHWC)))
        h_BTHWC = self.conv2(self.config.activate(self.norm2(h_BTHWC)))
        return h_BTHWC + (x_BTHWC if self.shortcut is None else self.shortcut(x_BTHWC))


class Blocks(nnx.Module):
    """Residual blocks of one resolution."""

    def __init__(
        self,
        fan_in: int,
        width: int,
        config: VideoStackConfig,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        fans = (fan_in,) + (width,) * (config.blocks_per_level - 1)
        options = {"dtype": dtype, "rngs": rngs}
        self.blocks = Series(ResBlock(fan, width, config, **options) for fan in fans)

    def __call__(self, x_BTHWC: jax.Array) -> jax.Array:
        for block in self.blocks:
            x_BTHWC = block(x_BTHWC)
        return x_BTHWC


class DownLevel(Blocks):
    """A level of the encoder; all but the lowest resolution end by a step down."""

    def __init__(
        self,
        fan_in: int,
        width: int,
        config: VideoStackConfig,
        factor: tuple[int, int, int] | None,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "rngs": rngs}
        super().__init__(fan_in, width, config, **options)
        self.factor = factor
        strided = {"stride": factor, "padding": config.padding} | options
        learned = factor and config.learned_resize
        self.downsample = VideoConv(width, width, 4, **strided) if learned else None

    def __call__(self, x_BTHWC: jax.Array) -> jax.Array:
        x_BTHWC = super().__call__(x_BTHWC)
        if self.downsample is not None:
            return self.downsample(x_BTHWC)
        return averaged(x_BTHWC, self.factor) if self.factor else x_BTHWC


class UpLevel(Blocks):
    """A level of the decoder; all but the highest resolution end by a step up."""

    def __init__(
        self,
        fan_in: int,
        width: int,
        config: VideoStackConfig,
        factor: tuple[int, int, int] | None,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "rngs": rngs}
        super().__init__(fan_in, width, config, **options)
        self.factor = None if config.learned_resize else factor
        if factor is None:
            self.upsample = None
        elif config.learned_resize:
            self.upsample = TransposedConv(width, width, 4, stride=factor, **options)
        else:
            self.upsample = VideoConv(width, width, 3, padding=config.padding, **options)

    def __call__(self, x_BTHWC: jax.Array) -> jax.Array:
        x_BTHWC = super().__call__(x_BTHWC)
        for axis, times in enumerate(self.factor or (), start=1):
            x_BTHWC = jnp.repeat(x_BTHWC, times, axis=axis)
        return x_BTHWC if self.upsample is None else self.upsample(x_BTHWC)


class Encoder(nnx.Module):
    """Pixels `(B, T, H, W, 3)` to features, each size divided by the product of its factors."""

    def __init__(
        self, config: VideoStackConfig, out_channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        options = {"dtype": dtype, "rngs": rngs}
        conv = options | {"padding": config.padding}
        widths = config.widths
        self.conv_in = VideoConv(PIXEL_CHANNELS, config.width, 3, bias=False, **conv)
        self.levels = Series(
            DownLevel(fan_in, width, config, factor, **options)
            for fan_in, width, factor in zip(
                (config.width, *widths), widths, (*config.factors, None)
            )
        )
        self.middle = Blocks(widths[-1], widths[-1], config, **options)
        self.norm_out = config.make_norm(widths[-1])
        self.conv_out = VideoConv(widths[-1], out_channels, 1, **conv)
        self.config = config

    def __call__(self, x_BTHWC: jax.Array) -> jax.Array:
        x_BTHWC = self.conv_in(x_BTHWC)
        for stage in (*self.levels, self.middle):
            x_BTHWC = stage(x_BTHWC)
        return self.conv_out(self.config.activate(self.norm_out(x_BTHWC)))


class Decoder(nnx.Module):
    """Features to pixels `(B, T, H, W, 3)`, each size multiplied by the product of its factors."""

    def __init__(
        self, config: VideoStackConfig, in_channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        options = {"dtype": dtype, "rngs": rngs}
        conv = options | {"padding": config.padding}
        widths = config.widths[::-1]
        self.conv_in = VideoConv(in_channels, widths[0], 3, **conv)
        self.middle = Blocks(widths[0], widths[0], config, **options)
        self.levels = Series(
            UpLevel(fan_in, width, config, factor, **options)
            for fan_in, width, factor in zip(
                (widths[0], *widths), widths, (*config.factors[::-1], None)
            )
        )
        self.norm_out = config.make_norm(widths[-1])
        self.conv_out = VideoConv(widths[-1], PIXEL_CHANNELS, 3, **conv)
        self.config = config

    def __call__(self, x_BTHWC: jax.Array) -> jax.Array:
        x_BTHWC = self.conv_in(x_BTHWC)
        for stage in (self.middle, *self.levels):
            x_BTHWC = stage(x_BTHWC)
        return self.conv_out(self.config.activate(self.norm_out(x_BTHWC)))
