"""Convolutional tokenizer with one codebook: LlamaGen's VQ-16 and VQ-8.

Axes: B images, H height, W width, P cells, C channels of a code, V codes.

Each cell of the encoder's lattice becomes the id of its nearest code; ids are in raster order.
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
from gen.models.convolution import PRECISION, Conv
from gen.models.vqgan import Decoder, Encoder, StackConfig
from gen.tokenizers.base import Tokenizer
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


class Codebook(nnx.Module):
    """The codes, and the search for the nearest.

    `normalise`: latents and codes have length 1 in the search, and codes at look-up, unless
    `raw_codes` are looked up.
    """

    def __init__(
        self, num: int, width: int, *, normalise: bool, rngs: nnx.Rngs, raw_codes: bool = False
    ):
        rows_VC = jax.random.uniform(rngs.params(), (num, width), minval=-1 / num, maxval=1 / num)
        self.embedding = nnx.Param(unit(rows_VC) if normalise else rows_VC)
        self.normalise = normalise
        self.raw_codes = raw_codes

    def codes(self) -> jax.Array:
        """The rows as they are looked up, `(V, C)`.

        Training moves the stored rows off the sphere, so they are normalised at each use.
        """
        rows_VC = self.embedding[...]
        return rows_VC if self.raw_codes else self.compared(rows_VC)

    def compared(self, z_BPC: jax.Array) -> jax.Array:
        """Latents as they are compared with codes: of length 1 if the codebook normalises."""
        return unit(z_BPC) if self.normalise else z_BPC

    def nearest(self, z_BPC: jax.Array) -> jax.Array:
        """Ids of the codes at the least squared distance, int32 `(B, P)`; the first on ties."""
        codes_VC, z_BPC = self.compared(self.embedding[...]), self.compared(z_BPC)
        lengths_BP1 = jnp.sum(jnp.square(z_BPC), axis=-1, keepdims=True)
        lengths_V = jnp.sum(jnp.square(codes_VC), axis=-1)
        dots_BPV = jnp.einsum("bpc,vc->bpv", z_BPC, codes_VC, precision=PRECISION)
        return jnp.argmin(lengths_BP1 + lengths_V - 2 * dots_BPV, axis=-1).astype(jnp.int32)

    def __call__(self, ids_BP: jax.Array) -> jax.Array:
        return self.codes()[ids_BP]


def unit(rows: jax.Array) -> jax.Array:
    """Vectors along the last axis scaled to length 1; shorter ones than 1e-12 less."""
    length = jnp.sqrt(jnp.sum(jnp.square(rows), axis=-1, keepdims=True))
    return rows / jnp.maximum(length, 1e-12)


class VQModel(nnx.Module):
    """Encoder, codebook and decoder; methods as in `gen.tokenizers.model.TokenizerModel`."""

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

    def encode(self, pixels_BHWC: jax.Array, layout: Layout) -> jax.Array:
        z_BHWC = self.latents(pixels_BHWC, layout)
        return self.codebook.nearest(z_BHWC.reshape(z_BHWC.shape[0], -1, z_BHWC.shape[-1]))

    def embed(self, tokens_BP: jax.Array, layout: Layout) -> jax.Array:
        _, rows, columns = layout.shapes[0]
        return self.codebook(tokens_BP.reshape(-1, rows, columns))

    def decode(self, tokens_BP: jax.Array, layout: Layout) -> jax.Array:
        return self.decode_latents(self.embed(tokens_BP, layout), layout)

    def decode_latents(self, z_BHWC: jax.Array, layout: Layout) -> jax.Array:
        return self.decoder(self.post_quant(z_BHWC)).astype(jnp.float32)

    def codes(self) -> jax.Array:
        return self.codebook.codes()


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
