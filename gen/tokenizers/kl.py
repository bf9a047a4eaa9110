"""Convolutional tokenizer with continuous latents: the KL-regularised VAE of latent diffusion.

Axes: B images, H height, W width, P cells, C channels of a latent.

The encoder gives each cell a Gaussian, as moments `(B, h, w, 2C)`. Latents are its mean, or a draw
from it, times a scale; tokens are the same latents in raster order, float32 `(B, P, C)`. Sources:
CompVis/latent-diffusion, `ldm/models/autoencoder.py`; LTH14/mar, `models/vae.py`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gen.decoding import draws as drawing
from gen.errors import UserError
from gen.layouts import Layout
from gen.models import posterior
from gen.models.convolution import Conv
from gen.models.vqgan import Decoder, Encoder, StackConfig
from gen.tokenizers.base import Tokenizer
from gen.tokenizers.pixels import image_cells


@dataclasses.dataclass(frozen=True)
class KLConfig:
    """Sizes of the tokenizer.

    Attributes:
      channels: C, channels of a latent.
      z_channels: channels between the stacks and the maps to and from the latents.
      width: channels of a level of multiplier 1.
      multipliers: of the width at each level of both stacks, from the highest resolution to the
        lowest; n levels make cells of 2^(n-1) pixels.
      blocks_per_level: residual blocks of a level of the encoder; the decoder has one more.
      scale: what latents are multiplied by: 1 over their standard deviation.
      encoder_attention: levels of the encoder with attention, counted from the highest resolution.
      decoder_attention: levels of the decoder with attention, counted alike.
      norm_groups: groups of the group norms.
      norm_eps: added to the variance before the root.
    """

    channels: int
    z_channels: int
    width: int
    multipliers: tuple[int, ...]
    blocks_per_level: int
    scale: float
    encoder_attention: tuple[int, ...] = ()
    decoder_attention: tuple[int, ...] = ()
    norm_groups: int = 32
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if min(self.channels, self.z_channels) < 1:
            raise UserError(f"a tokenizer needs 1 channel at least: {self}")
        if not 0 < self.scale < math.inf:
            raise UserError(f"the scale of latents is a number above 0, not {self.scale}")
        for levels in (self.encoder_attention, self.decoder_attention):
            self._stack(levels)  # checks its sizes

    @property
    def encoder(self) -> StackConfig:
        return self._stack(self.encoder_attention)

    @property
    def decoder(self) -> StackConfig:
        return self._stack(self.decoder_attention)

    @property
    def cell(self) -> int:
        """Side of a cell in pixels."""
        return 2 ** (len(self.multipliers) - 1)

    def _stack(self, attention_levels: tuple[int, ...]) -> StackConfig:
        sizes = (self.width, self.multipliers, self.blocks_per_level)
        return StackConfig(*sizes, self.norm_groups, self.norm_eps, attention_levels)


class KLModel(nnx.Module):
    """Encoder and decoder; methods as in `gen.tokenizers.model.TokenizerModel`, but no codes."""

    def __init__(self, config: KLConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        exact = {"dtype": jnp.dtype(jnp.float32), "rngs": rngs}
        options = {"dtype": dtype, "rngs": rngs}
        self.encoder = Encoder(config.encoder, 2 * config.z_channels, **exact)
        self.quant = Conv(2 * config.z_channels, 2 * config.channels, 1, **exact)
        self.post_quant = Conv(config.channels, config.z_channels, 1, **options)
        self.decoder = Decoder(config.decoder, config.z_channels, **options)
        self.scale = config.scale

    def moments(self, pixels_BHWC: jax.Array, layout: Layout) -> jax.Array:
        """Means and then log variances, not scaled, `(B, h, w, 2C)`."""
        return self.quant(self.encoder(pixels_BHWC))

    def latents(self, pixels_BHWC: jax.Array, layout: Layout) -> jax.Array:
        return posterior.mean_of(self.moments(pixels_BHWC, layout), self.scale)

    def encode(self, pixels_BHWC: jax.Array, layout: Layout) -> jax.Array:
        return self.latents(pixels_BHWC, layout).reshape(-1, *layout.sample_shape)

    def embed(self, tokens_BPC: jax.Array, layout: Layout) -> jax.Array:
        _, rows, columns = layout.shapes[0]
        return tokens_BPC.reshape(-1, rows, columns, layout.channels)

    def decode(self, tokens_BPC: jax.Array, layout: Layout) -> jax.Array:
        return self.decode_latents(self.embed(tokens_BPC, layout), layout)

    def decode_latents(self, z_BHWC: jax.Array, layout: Layout) -> jax.Array:
        return self.decoder(self.post_quant(z_BHWC / self.scale)).astype(jnp.float32)


class KLTokenizer(Tokenizer):
    """Images in [-1, 1] and a grid of continuous latents."""

    kind = "kl"
    Config = KLConfig
    pixel_range = (-1.0, 1.0)
    # Generators draw their latents from these anew at each visit.
    stored = ("moments", "moments")

    @classmethod
    def build(cls, config: KLConfig, rngs: nnx.Rngs, *, dtype: jnp.dtype) -> KLModel:
        return KLModel(config, dtype=dtype, rngs=rngs)

    @property
    def downsample(self) -> tuple[int, int, int]:
        return 1, self.config.cell, self.config.cell

    @property
    def codebook(self) -> np.ndarray:
        raise UserError("this tokenizer has no codebook: its latents are continuous")

    def layout(self, shape: Sequence[int]) -> Layout:
        lattice = (1, *image_cells(shape, self.downsample))
        return Layout("grid", (lattice,), channels=self.config.channels)

    def default_shape(self, num_positions: int) -> tuple[int, int]:
        side = math.isqrt(num_positions)
        if side < 1 or side * side != num_positions:
            raise UserError(
                f"{num_positions} latents make no square: give the (height, width) in pixels"
            )
        return side * self.config.cell, side * self.config.cell

    def moments(self, pixels: np.ndarray, *, batch_size: int = 16) -> np.ndarray:
        """The posterior of each cell: means and log variances, float32 `(B, h, w, 2C)`.

        They are not scaled, and the log variances not clamped: what caches of moments hold.
        Arguments and errors as `encode`.
        """
        return self._from_pixels("moments", pixels, batch_size)

    def draw(self, moments: np.ndarray, seed: int, *, first: int = 0) -> np.ndarray:
        """Latents drawn from their posterior, where `encode` takes its mean.

        Args:
          moments: as `moments` gives them, `(B, ..., 2C)`.
          seed: key of the noise.
          first: number of the first sample: sample i of a set has the same noise in any batch.

        Returns:
          float32 `(B, ..., C)`, scaled.

        Raises:
          UserError: the moments are not finite floats of 2C channels.
        """
        moments = np.asarray(moments)
        wanted = 2 * self.config.channels
        if moments.ndim < 2 or moments.shape[-1] != wanted or moments.dtype.kind != "f":
            raise UserError(
                f"moments are floats of {wanted} channels, not {moments.dtype} of {moments.shape}"
            )
        if not np.isfinite(moments).all():
            raise UserError("moments hold values that are no numbers")
        draws = drawing.keyed(seed, first + np.arange(len(moments)))
        noise = draws.normal("posterior", 0, (*moments.shape[1:-1], self.config.channels))
        moments = jnp.asarray(moments, jnp.float32)
        return np.asarray(posterior.draw(moments, noise, self.config.scale))
