"""MaskGIT's tokenizer: a VQGAN without attention and one codebook.

Axes: B images, H height, W width, P cells, C channels of a code, V codes.

Each cell of the encoder's lattice becomes the id of its nearest code; ids are in raster order.
Source: google-research/maskgit, `nets/vqgan_tokenizer.py`.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from flax import nnx

from gen.errors import UserError
from gen.models.maskgit_vqgan import Decoder, Encoder
from gen.models.vqgan import StackConfig
from gen.tokenizers.codebook import Codebook, CodebookModel
from gen.tokenizers.vq import VQTokenizer


@dataclasses.dataclass(frozen=True)
class MaskGITVQConfig:
    """Sizes of the tokenizer.

    Attributes:
      codebook_size: V, number of codes.
      codebook_dim: C, channels of a code; the stacks work on codes without a map in between.
      width: channels of a level of multiplier 1.
      multipliers: of the width at each level of both stacks, from the highest resolution to the
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

    def __post_init__(self) -> None:
        if self.codebook_size < 2 or self.codebook_dim < 1:
            raise UserError(f"a tokenizer needs 2 codes and 1 channel at least: {self}")
        self.stack  # noqa: B018 (checks its sizes)

    def shrunken(self) -> MaskGITVQConfig:
        """The same tokenizer small enough to compile and run in seconds, for `:debug`."""
        levels = {"multipliers": (1,) * len(self.multipliers), "blocks_per_level": 1}
        size = min(self.codebook_size, 32)
        return dataclasses.replace(self, codebook_size=size, width=8, norm_groups=4, **levels)

    @property
    def stack(self) -> StackConfig:
        """Sizes of the encoder, and of the decoder."""
        return StackConfig(
            self.width, self.multipliers, self.blocks_per_level, self.norm_groups, self.norm_eps
        )

    @property
    def cell(self) -> int:
        """Side of a cell in pixels."""
        return 2 ** (len(self.multipliers) - 1)


class MaskGITVQModel(CodebookModel):
    """Encoder, codebook and decoder, which works on the codes as they are."""

    def __init__(self, config: MaskGITVQConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        size, dim = config.codebook_size, config.codebook_dim
        exact = jnp.dtype(jnp.float32)
        self.encoder = Encoder(config.stack, dim, dtype=exact, rngs=rngs)
        self.codebook = Codebook(size, dim, normalise=False, rngs=rngs)
        self.decoder = Decoder(config.stack, dim, dtype=dtype, rngs=rngs)


class MaskGITVQTokenizer(VQTokenizer):
    """Images in [0, 1] and a grid of ids of one codebook."""

    kind = "maskgit_vq"
    Config = MaskGITVQConfig
    pixel_range = (0.0, 1.0)

    @classmethod
    def build(cls, config: MaskGITVQConfig, rngs: nnx.Rngs, *, dtype: jnp.dtype) -> MaskGITVQModel:
        return MaskGITVQModel(config, dtype=dtype, rngs=rngs)
