"""MAGVIT's tokenizer: videos as a grid of ids of one codebook, by 3-D convolutions.

Axes: B videos, T frames, H height, W width, P cells, C channels of a code, V codes.

Each cell of the encoder's lattice becomes the id of its nearest code; ids are in raster order,
frame by frame. No frame is special, so one frame alone can be coded where no step halves the
frames. Source: google-research/magvit, `videogvt/models/vqvae.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from gen.errors import UserError
from gen.layouts import Layout, grid
from gen.models.video_vqgan import Decoder, Encoder, VideoStackConfig
from gen.tokenizers.base import Tokenizer
from gen.tokenizers.codebook import Codebook, CodebookModel
from gen.tokenizers.pixels import video_cells


@dataclasses.dataclass(frozen=True)
class MAGVITConfig:
    """Sizes of the tokenizer.

    Attributes:
      codebook_size: V, number of codes.
      codebook_dim: C, channels of a code; the stacks work on codes without a map in between.
      width: channels of a level of multiplier 1.
      multipliers: of the width at each level of both stacks, from the highest resolution to the
        lowest; n levels make cells of 2^(n-1) pixels a side.
      halve_frames: for each step between levels, whether it halves the frames too.
      encoder_blocks: residual blocks of a level of the encoder, and of its middle.
      decoder_blocks: the same of the decoder.
      strided: the encoder's resolutions change by strided convolutions, else by means.
      transposed: the decoder's change by transposed convolutions, else by repeats and convolutions.
      padding: beyond the edges, one of `gen.models.video_convolution.PADDINGS`; "constant": zeros.
      activation: "swish" or "relu".
      normalise_search: latents and codes have length 1 in the search; codes are looked up as
        they are.
      layer_norm: norms are over the channels of each position, not over groups.
      norm_groups: groups of the group norms.
      norm_eps: added to the variance before the root.
    """

    codebook_size: int
    codebook_dim: int
    width: int
    multipliers: tuple[int, ...]
    halve_frames: tuple[bool, ...]
    encoder_blocks: int
    decoder_blocks: int
    strided: bool = False
    transposed: bool = False
    padding: str = "constant"
    activation: str = "swish"
    normalise_search: bool = False
    layer_norm: bool = False
    norm_groups: int = 32
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.codebook_size < 2 or self.codebook_dim < 1:
            raise UserError(f"a tokenizer needs 2 codes and 1 channel at least: {self}")
        if self.transposed and self.padding != "constant":
            raise UserError("transposed convolutions are defined for padding constant alone")
        (self.encoder, self.decoder)  # noqa: B018 (checks their sizes)

    @property
    def encoder(self) -> VideoStackConfig:
        return self._stack(self.encoder_blocks, self.strided)

    @property
    def decoder(self) -> VideoStackConfig:
        return self._stack(self.decoder_blocks, self.transposed)

    @property
    def cell(self) -> tuple[int, int, int]:
        """(frames, height, width) of a cell in pixels."""
        side = 2 ** (len(self.multipliers) - 1)
        return 2 ** sum(self.halve_frames), side, side

    def _stack(self, blocks: int, learned_resize: bool) -> VideoStackConfig:
        return VideoStackConfig(
            width=self.width,
            multipliers=self.multipliers,
            blocks_per_level=blocks,
            norm_groups=1 if self.layer_norm else self.norm_groups,
            norm_eps=self.norm_eps,
            halve_frames=self.halve_frames,
            learned_resize=learned_resize,
            padding=self.padding,
            activation=self.activation,
            layer_norm=self.layer_norm,
        )


class MAGVITModel(CodebookModel):
    """Encoder, codebook and decoder of videos."""

    def __init__(self, config: MAGVITConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        size, dim = config.codebook_size, config.codebook_dim
        exact = jnp.dtype(jnp.float32)
        self.encoder = Encoder(config.encoder, dim, dtype=exact, rngs=rngs)
        self.codebook = Codebook(
            size, dim, normalise=config.normalise_search, raw_codes=True, rngs=rngs
        )
        self.decoder = Decoder(config.decoder, dim, dtype=dtype, rngs=rngs)

    def embed(self, tokens_BP: jax.Array, layout: Layout) -> jax.Array:
        return self.codebook(tokens_BP.reshape(-1, *layout.shapes[0]))


class MAGVITTokenizer(Tokenizer):
    """Videos in [0, 1] and a grid of ids of one codebook."""

    kind = "vq3d"
    Config = MAGVITConfig
    pixel_range = (0.0, 1.0)

    @classmethod
    def build(cls, config: MAGVITConfig, rngs: nnx.Rngs, *, dtype: jnp.dtype) -> MAGVITModel:
        return MAGVITModel(config, dtype=dtype, rngs=rngs)

    @property
    def downsample(self) -> tuple[int, int, int]:
        return self.config.cell

    def layout(self, shape: Sequence[int]) -> Layout:
        frames, height, width = video_cells(shape, self.downsample)
        return grid(height, width, self.config.codebook_size, frames=frames)

    def default_shape(self, num_positions: int) -> tuple[int, int, int]:
        raise UserError(
            f"{num_positions} tokens may be videos of several shapes: give the "
            "(frames, height, width) in pixels"
        )

    def pixel_shape(self, lattice: Sequence[int]) -> tuple[int, ...]:
        return tuple(int(n * cell) for n, cell in zip(lattice, self.downsample))
