"""TiTok: an image of one size as a short row of ids, which stand for no place of it.

Axes: B images, H height, W width, K tokens, C channels of a code, V codes.

Latents and embedded tokens are `(B, 1, K, C)`. Source: bytedance/1d-tokenizer,
`modeling/titok.py`.
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
from gen.models.titok import Decoder, Encoder, PatchHead, ProxyHead
from gen.models.vit import ViTConfig
from gen.models.vqgan import StackConfig
from gen.tokenizers.base import Tokenizer
from gen.tokenizers.codebook import Codebook, CodebookModel


@dataclasses.dataclass(frozen=True)
class ProxyConfig:
    """Sizes of the tokenizer whose codes and decoder make the pixels.

    Attributes:
      codebook_size: number of its codes.
      codebook_dim: their channels.
      width: channels of a level of multiplier 1.
      multipliers: of the width at each level of the decoder, from the highest resolution to the
        lowest; n levels make cells of 2^(n-1) pixels.
      blocks_per_level: residual blocks of a level, and of the middle.
      norm_groups: groups of the group norms.
      norm_eps: added to the variance before the root.
    """

    codebook_size: int
    codebook_dim: int
    width: int
    multipliers: tuple[int, ...]
    blocks_per_level: int
    norm_groups: int = 32
    norm_eps: float = 1e-6

    @property
    def stack(self) -> StackConfig:
        """Sizes of the decoder."""
        return StackConfig(
            self.width, self.multipliers, self.blocks_per_level, self.norm_groups, self.norm_eps
        )


@dataclasses.dataclass(frozen=True)
class TiTokConfig:
    """Sizes of the tokenizer.

    Attributes:
      codebook_size: V, number of codes.
      codebook_dim: C, channels of a code.
      num_tokens: K, tokens of an image.
      image_size: height and width of the images in pixels.
      encoder_patch: side of the patches that the encoder reads, in pixels.
      decoder_patch: side of the patches that the decoder makes, in pixels.
      encoder: sizes of the encoder.
      decoder: sizes of the decoder.
      normalise_codes: latents and codes have length 1, in the search and at look-up.
      proxy: the tokenizer by way of which the first published models ("legacy") make pixels;
        these also scramble the encoder's output. None: the decoder makes pixels itself.
    """

    codebook_size: int
    codebook_dim: int
    num_tokens: int
    image_size: int
    encoder_patch: int
    decoder_patch: int
    encoder: ViTConfig
    decoder: ViTConfig
    normalise_codes: bool
    proxy: ProxyConfig | None = None

    def __post_init__(self) -> None:
        if self.codebook_size < 2 or min(self.codebook_dim, self.num_tokens) < 1:
            raise UserError(f"a tokenizer needs 2 codes, 1 channel and 1 token at least: {self}")
        for patch in (self.encoder_patch, self.decoder_patch):
            if self.image_size < 1 or patch < 1 or self.image_size % patch:
                raise UserError(f"images of {self.image_size} pixels have no patches of {patch}")
        if self.proxy is None:
            return
        if self.proxy.codebook_size < 1 or self.proxy.codebook_dim < 1:
            raise UserError(f"a proxy needs 1 code and 1 channel at least: {self.proxy}")
        cell = 2 ** (len(self.proxy.stack.multipliers) - 1)
        if cell != self.decoder_patch:
            raise UserError(
                f"the pixel decoder makes cells of {cell} pixels, the patches have "
                f"{self.decoder_patch}"
            )

    @property
    def image(self) -> tuple[int, int]:
        """(height, width) of the images in pixels."""
        return self.image_size, self.image_size


class TiTokModel(CodebookModel):
    """Encoder, codebook and decoder; the lattice is one row of K tokens."""

    def __init__(self, config: TiTokConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        exact = {"dtype": jnp.dtype(jnp.float32), "rngs": rngs}
        options = {"dtype": dtype, "rngs": rngs}
        count, dim, proxy = config.num_tokens, config.codebook_dim, config.proxy
        self.encoder = Encoder(
            config.encoder,
            config.encoder_patch,
            config.image_size // config.encoder_patch,
            *(count, dim),
            scrambled=proxy is not None,
            **exact,
        )
        self.codebook = Codebook(
            config.codebook_size, dim, normalise=config.normalise_codes, rngs=rngs
        )
        side = config.image_size // config.decoder_patch
        self.decoder = Decoder(config.decoder, side, count, dim, **options)
        width = config.decoder.width
        if proxy is None:
            self.head = PatchHead(width, config.decoder_patch, **options)
        else:
            sizes = (proxy.codebook_size, proxy.codebook_dim, proxy.stack)
            self.head = ProxyHead(width, *sizes, **options)

    def decode_latents(self, z_B1KC: jax.Array, layout: Layout) -> jax.Array:
        return self.head(self.decoder(z_B1KC)).astype(jnp.float32)


class TiTokTokenizer(Tokenizer):
    """Images in [0, 1] of one size, and a line of ids of one codebook."""

    kind = "titok"
    Config = TiTokConfig
    pixel_range = (0.0, 1.0)

    @classmethod
    def build(cls, config: TiTokConfig, rngs: nnx.Rngs, *, dtype: jnp.dtype) -> TiTokModel:
        return TiTokModel(config, dtype=dtype, rngs=rngs)

    @property
    def downsample(self) -> tuple[int, int, int]:
        return 1, *self.config.image  # every token stands for the whole image

    def layout(self, shape: Sequence[int]) -> Layout:
        sizes = tuple(shape) if np.ndim(shape) == 1 else (shape,)
        if sizes != self.config.image:
            raise UserError(
                f"this tokenizer takes images of (height, width) {self.config.image}, not {sizes}"
            )
        return Layout("line", ((1, 1, self.config.num_tokens),), (self.config.codebook_size,))

    def default_shape(self, num_positions: int) -> tuple[int, int]:
        return self.config.image

    def pixel_shape(self, lattice: Sequence[int]) -> tuple[int, int]:
        return self.config.image
