"""Convolutional tokenizer with one codebook: LlamaGen's VQ-16 and VQ-8.

Axes: B images, H height, W width, C channels of a code, V codes.

Source: FoundationVision/LlamaGen, `tokenizer/tokenizer_image/vq_model.py`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from gen.errors import UserError
from gen.layouts import Layout, grid
from gen.models.convolution import Conv
from gen.models.vqgan import Decoder, Encoder, StackConfig
from gen.tokenizers.base import Tokenizer
from gen.tokenizers.codebook import Codebook, CodebookModel
from gen.tokenizers.pixels import image_cells


@dataclasses.dataclass(frozen=True)
class VQConfig:
    """Sizes of the tokenizer.

    Attributes:
      codebook_size: V, number of codes.
      codebook_dim: C, channels of a code.
      width: channels of a level of multiplier 1.
      encoder_multipliers: of the width at each level, from the highest resolution to the lowest;
        n levels make cells of 2^(n-1) pixels.
      decoder_multipliers: the same for the decoder, in the same order.
      blocks_per_level: residual blocks of a level of the encoder; the decoder has one more.
      z_channels: channels between the stacks and the maps to and from the codes.
      normalise_codes: latents and codes have length 1, in the search and at look-up.
      norm_groups: groups of the group norms.
      norm_eps: added to the variance before the root.
    """

    codebook_size: int
    codebook_dim: int
    width: int
    encoder_multipliers: tuple[int, ...]
    decoder_multipliers: tuple[int, ...]
    blocks_per_level: int
    z_channels: int
    normalise_codes: bool
    norm_groups: int = 32
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.codebook_size < 2 or min(self.codebook_dim, self.z_channels) < 1:
            raise UserError(f"a tokenizer needs 2 codes and 1 channel at least: {self}")
        if len(self.encoder_multipliers) != len(self.decoder_multipliers):
            raise UserError(
                f"the encoder has {len(self.encoder_multipliers)} levels, "
                f"the decoder {len(self.decoder_multipliers)}: they must have as many"
            )
        for multipliers in (self.encoder_multipliers, self.decoder_multipliers):
            self._stack(multipliers)  # checks its sizes

    def shrunken(self) -> VQConfig:
        """The same tokenizer small enough to compile and run in seconds, for `:debug`."""
        ones = (1,) * len(self.encoder_multipliers)
        levels = {"encoder_multipliers": ones, "decoder_multipliers": ones, "blocks_per_level": 1}
        small = {"width": 8, "norm_groups": 4, "z_channels": 8}
        size = min(self.codebook_size, 32)
        return dataclasses.replace(self, codebook_size=size, **small, **levels)

    @property
    def encoder(self) -> StackConfig:
        return self._stack(self.encoder_multipliers)

    @property
    def decoder(self) -> StackConfig:
        return self._stack(self.decoder_multipliers)

    @property
    def cell(self) -> int:
        """Side of a cell in pixels."""
        return 2 ** (len(self.encoder_multipliers) - 1)

    def _stack(self, multipliers: tuple[int, ...]) -> StackConfig:
        return StackConfig(
            self.width, multipliers, self.blocks_per_level, self.norm_groups, self.norm_eps
        )


class VQModel(CodebookModel):
    """Encoder, codebook and decoder, with a map before and after the codes."""

    def __init__(self, config: VQConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        exact = {"dtype": jnp.dtype(jnp.float32), "rngs": rngs}
        options = {"dtype": dtype, "rngs": rngs}
        self.encoder = Encoder(config.encoder, config.z_channels, **exact)
        self.quant = Conv(config.z_channels, config.codebook_dim, 1, **exact)
        self.codebook = Codebook(
            config.codebook_size,
            config.codebook_dim,
            normalise=config.normalise_codes,
            rngs=rngs,
        )
        self.post_quant = Conv(config.codebook_dim, config.z_channels, 1, **options)
        self.decoder = Decoder(config.decoder, config.z_channels, **options)

    def latents(self, pixels_BHWC: jax.Array, layout: Layout) -> jax.Array:
        return self.quant(self.encoder(pixels_BHWC))

    def decode_latents(self, z_BHWC: jax.Array, layout: Layout) -> jax.Array:
        return self.decoder(self.post_quant(z_BHWC)).astype(jnp.float32)


class VQTokenizer(Tokenizer):
    """Images in [-1, 1] and a grid of ids of one codebook."""

    kind = "vq"
    Config = VQConfig
    pixel_range = (-1.0, 1.0)

    @classmethod
    def build(cls, config: VQConfig, rngs: nnx.Rngs, *, dtype: jnp.dtype) -> VQModel:
        return VQModel(config, dtype=dtype, rngs=rngs)

    @property
    def downsample(self) -> tuple[int, int, int]:
        return 1, self.config.cell, self.config.cell

    def layout(self, shape: Sequence[int]) -> Layout:
        return grid(*image_cells(shape, self.downsample), self.config.codebook_size)

    def default_shape(self, num_positions: int) -> tuple[int, int]:
        side = math.isqrt(num_positions)
        if side < 1 or side * side != num_positions:
            raise UserError(
                f"{num_positions} tokens make no square: give the (height, width) in pixels"
            )
        return side * self.config.cell, side * self.config.cell
