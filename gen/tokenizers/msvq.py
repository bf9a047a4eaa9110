"""Convolutional tokenizer with a multi-scale residual quantiser: VAR's VQVAE.

Axes: B images, H height, W width, P positions of all scales, S scales, C channels of a code.

Ids of all scales stand one after the other, coarse to fine, each scale in raster order. The
scales fix the size of the images. Source: FoundationVision/VAR, `models/vqvae.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gen.errors import UserError
from gen.layouts import Layout
from gen.models.convolution import Conv
from gen.models.residual_quantizer import QuantizerConfig, ResidualQuantizer
from gen.models.vqgan import Decoder, Encoder, StackConfig
from gen.tokenizers.base import Tokenizer
from gen.tokenizers.pixels import image_cells


@dataclasses.dataclass(frozen=True)
class MSVQConfig:
    """Sizes of the tokenizer.

    Attributes:
      quantizer: codes and scales; its channels are those between the stacks.
      width: channels of a level of multiplier 1.
      multipliers: of the width at each level of both stacks, from the highest resolution to the
        lowest; n levels make cells of 2^(n-1) pixels.
      blocks_per_level: residual blocks of a level of the encoder; the decoder has one more.
      kernel_size: of the convolutions before and after the quantiser; odd.
      norm_groups: groups of the group norms.
      norm_eps: added to the variance before the root.
    """

    quantizer: QuantizerConfig
    width: int
    multipliers: tuple[int, ...]
    blocks_per_level: int
    kernel_size: int = 3
    norm_groups: int = 32
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise UserError(f"kernel_size must be odd, not {self.kernel_size}")
        self.stack  # noqa: B018 (checks its sizes)

    def shrunken(self) -> MSVQConfig:
        """The same tokenizer small enough to compile and run in seconds, for `:debug`."""
        quantizer = self.quantizer
        scales = tuple(s for s in quantizer.scales if max(s) <= 4) or ((1, 1), (2, 2))
        size = min(quantizer.codebook_size, 32)
        quantizer = dataclasses.replace(quantizer, codebook_size=size, scales=scales)
        levels = {"multipliers": (1,) * len(self.multipliers), "blocks_per_level": 1}
        return dataclasses.replace(self, quantizer=quantizer, width=8, norm_groups=4, **levels)

    @property
    def stack(self) -> StackConfig:
        """Sizes of the encoder, and of the decoder."""
        return StackConfig(
            self.width, self.multipliers, self.blocks_per_level, self.norm_groups, self.norm_eps
        )

    @property
    def cell(self) -> int:
        """Side of a cell of the last scale in pixels."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def image(self) -> tuple[int, int]:
        """(height, width) of the images in pixels."""
        height, width = self.quantizer.size
        return height * self.cell, width * self.cell


class MSVQModel(nnx.Module):
    """Encoder, quantiser and decoder; methods as in `gen.tokenizers.model.TokenizerModel`."""

    def __init__(self, config: MSVQConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        width, size = config.quantizer.codebook_dim, config.kernel_size
        exact = {"dtype": jnp.dtype(jnp.float32), "rngs": rngs}
        options = {"dtype": dtype, "rngs": rngs}
        self.encoder = Encoder(config.stack, width, **exact)
        self.quant = Conv(width, width, size, **exact)
        self.quantizer = ResidualQuantizer(config.quantizer, rngs=rngs)
        self.post_quant = Conv(width, width, size, **options)
        self.decoder = Decoder(config.stack, width, **options)

    def latents(self, pixels_BHWC: jax.Array, layout: Layout) -> jax.Array:
        return self.quant(self.encoder(pixels_BHWC))

    def encode(self, pixels_BHWC: jax.Array, layout: Layout) -> jax.Array:
        return self.quantizer.encode(self.latents(pixels_BHWC, layout))

    def embed(self, tokens_BP: jax.Array, layout: Layout) -> jax.Array:
        return self.quantizer.accumulate(tokens_BP)

    def embed_scales(self, tokens_BP: jax.Array, layout: Layout) -> jax.Array:
        """The latent after each scale, `(B, S, H, W, C)`."""
        return jnp.stack(self.quantizer.partial_sums(tokens_BP), axis=1)

    def inputs(self, tokens_BP: jax.Array, layout: Layout) -> jax.Array:
        """What a generator is fed to predict every scale but the first, `(B, P - R, C)`."""
        return self.quantizer.inputs(tokens_BP)

    def decode(self, tokens_BP: jax.Array, layout: Layout) -> jax.Array:
        return self.decode_latents(self.embed(tokens_BP, layout), layout)

    def decode_latents(self, z_BHWC: jax.Array, layout: Layout) -> jax.Array:
        return self.decoder(self.post_quant(z_BHWC)).astype(jnp.float32)

    def decode_scales(self, tokens_BP: jax.Array, layout: Layout) -> jax.Array:
        """Pixels after each scale, `(B, S, H, W, 3)`."""
        z_SBHWC = jnp.moveaxis(self.embed_scales(tokens_BP, layout), 1, 0)
        # One scale after the other: all at once would take S times the memory of `decode`.
        pixels_SBHWC = jax.lax.map(lambda z_BHWC: self.decode_latents(z_BHWC, layout), z_SBHWC)
        return jnp.moveaxis(pixels_SBHWC, 0, 1)

    def codes(self) -> jax.Array:
        return self.quantizer.codebook[...]


class MSVQTokenizer(Tokenizer):
    """Images in [-1, 1] of one size, and grids of ids from coarse to fine."""

    kind = "msvq"
    Config = MSVQConfig
    pixel_range = (-1.0, 1.0)

    @classmethod
    def build(cls, config: MSVQConfig, rngs: nnx.Rngs, *, dtype: jnp.dtype) -> MSVQModel:
        return MSVQModel(config, dtype=dtype, rngs=rngs)

    @property
    def downsample(self) -> tuple[int, int, int]:
        return 1, self.config.cell, self.config.cell

    def layout(self, shape: Sequence[int]) -> Layout:
        quantizer = self.config.quantizer
        if image_cells(shape, self.downsample) != quantizer.size:
            raise UserError(
                f"the scales of this tokenizer are those of images of (height, width) "
                f"{self.config.image}, not {tuple(shape)}"
            )
        scales = tuple((1, *scale) for scale in quantizer.scales)
        return Layout("scales", scales, (quantizer.codebook_size,))

    def default_shape(self, num_positions: int) -> tuple[int, int]:
        return self.config.image

    def decode_scales(self, tokens: np.ndarray, *, batch_size: int = 16) -> np.ndarray:
        """Pixels after each scale, not clamped: the last are those of `decode`.

        Args:
          tokens: int `(B, P)`.
          batch_size: samples decoded together.

        Returns:
          float32 `(B, S, H, W, 3)`.

        Raises:
          UserError: an id lies outside of the codebook, or there are not P of them.
        """
        return self._from_tokens("decode_scales", tokens, None, batch_size)
