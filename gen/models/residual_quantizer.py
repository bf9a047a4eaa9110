"""Multi-scale residual quantiser: a latent as the sum of coarse to fine token maps.

Axes: B samples, H height and W width of the latent, P positions of all scales, R positions of one
scale, C channels, V codes, K mixers, S scales.

Each scale codes what the scales before it left over, averaged down to its own size. A code map
counts towards the latent after it has been enlarged (bicubic) and mixed by a 3x3 convolution that
several scales share. The latent has the size of the last scale. All float32: coarser products
flip codes. Source: FoundationVision/VAR, `models/quant.py` (VAR, Tian et al. 2024).
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gen.errors import UserError
from gen.models.convolution import PRECISION
from gen.models.resize import area_matrix, bicubic_matrix, resize


@dataclasses.dataclass(frozen=True)
class QuantizerConfig:
    """Sizes of the quantiser.

    Attributes:
      codebook_size: V, number of codes.
      codebook_dim: C, channels of a code.
      scales: (height, width) of each scale, coarse to fine; several may be of one size.
      mixing: r of x -> (1 - r) x + r conv(x), which a code map passes once it is enlarged; at 0
        there are no mixers.
      num_mixers: K, convolutions that the scales share; 0: one per scale.
      normalise_search: codes are found by their cosine; they are added at their own length.
    """

    codebook_size: int
    codebook_dim: int
    scales: tuple[tuple[int, int], ...]
    mixing: float = 0.5
    num_mixers: int = 4
    normalise_search: bool = False

    def __post_init__(self) -> None:
        if self.codebook_size < 2 or self.codebook_dim < 1:
            raise UserError(f"a quantiser needs 2 codes and 1 channel at least: {self}")
        if not self.scales or min(side for scale in self.scales for side in scale) < 1:
            raise UserError(f"scales are (height, width), at least one of them: {self.scales}")
        if any(a > b for scale in self.scales for a, b in zip(scale, self.scales[-1])):
            raise UserError(f"scales go from coarse to fine, the last is largest: {self.scales}")
        if self.mixing < 0 or self.num_mixers < 0:
            raise UserError(
                f"mixing and num_mixers are at least 0, not {self.mixing} and {self.num_mixers}"
            )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the latent."""
        return self.scales[-1]

    @property
    def bounds(self) -> tuple[int, ...]:
        """Where the positions of each scale begin, and where the last ends: S + 1 numbers."""
        return (0, *np.cumsum([math.prod(scale) for scale in self.scales]).tolist())

    @property
    def mixer_of_scale(self) -> tuple[int, ...]:
        """Which mixer serves each scale.

        Scale k stands at k / (S - 1) and takes the nearest of K ticks. Exact ties are decided by
        float64 rounding, so the sums are those of the source: 10 scales and 4 mixers give
        0, 0, 1, 1, 1, 2, 2, 3, 3, 3.
        """
        count = self.num_mixers or len(self.scales)
        margin = 1 / 3 / count if count == 4 else 1 / 2 / count
        ticks = np.linspace(margin, 1 - margin, count)
        last = max(len(self.scales) - 1, 1)
        return tuple(int(np.argmin(np.abs(ticks - k / last))) for k in range(len(self.scales)))


class ResidualQuantizer(nnx.Module):
    """Codes and mixers, and the maps between latents `(B, H, W, C)` and token ids `(B, P)`.

    Ids of all scales stand one after the other, each scale in raster order. Scales are counted
    from 0. Every method may be called within a compiled loop; scales are static.
    """

    def __init__(
        self,
        config: QuantizerConfig,
        *,
        variable: type[nnx.Variable] = nnx.Param,
        rngs: nnx.Rngs,
    ):
        """`variable`: what the weights are to their holder, such as a buffer of a generator."""
        num, width = config.codebook_size, config.codebook_dim
        rows_VC = jax.random.uniform(rngs.params(), (num, width), minval=-1 / num, maxval=1 / num)
        self.codebook = variable(rows_VC)
        if config.mixing:
            count = config.num_mixers or len(config.scales)
            init = nnx.initializers.lecun_normal(batch_axis=0)
            self.mixer_kernels = variable(init(rngs.params(), (count, 3, 3, width, width)))
            self.mixer_biases = variable(jnp.zeros((count, width)))
        self.config = config

    def encode(self, z_BHWC: jax.Array) -> jax.Array:
        """Ids of all scales, int32 `(B, P)`."""
        rest_BHWC, found = z_BHWC.astype(jnp.float32), []
        for scale in range(len(self.config.scales)):
            found.append(self.code_scale(rest_BHWC, scale)[1])
            rest_BHWC = rest_BHWC - self.embed_scale(found[-1], scale)
        return jnp.concatenate(found, axis=1)

    def code_scale(self, rest_BHWC: jax.Array, scale: int) -> tuple[jax.Array, jax.Array]:
        """The vectors that a scale codes of what was left over, `(B, R, C)`, and their ids."""
        rows_BRC = self._shrunken(rest_BHWC, scale)
        return rows_BRC, self._nearest(jax.lax.stop_gradient(rows_BRC))

    def embed_scale(self, ids_BR: jax.Array, scale: int) -> jax.Array:
        """What the ids of one scale add to the latent, `(B, H, W, C)`."""
        return self.contribution(self.codebook[...][ids_BR], scale)

    def contribution(self, rows_BRC: jax.Array, scale: int) -> jax.Array:
        """What code vectors of one scale, or means of several codes, add to the latent."""
        height, width = self.config.scales[scale]
        x_BHWC = rows_BRC.astype(jnp.float32).reshape(-1, height, width, rows_BRC.shape[-1])
        if scale < len(self.config.scales) - 1:
            rows, columns = self.config.size
            x_BHWC = resize(x_BHWC, bicubic_matrix(height, rows), bicubic_matrix(width, columns))
        return self._mixed(x_BHWC, scale)

    def partial_sums(self, ids_BP: jax.Array, upto: int | None = None) -> list[jax.Array]:
        """The latent after each scale, up to so many of them; all by default."""
        sums, bounds = [], self.config.bounds
        for scale in range(len(self.config.scales))[:upto]:
            part_BHWC = self.embed_scale(ids_BP[:, bounds[scale] : bounds[scale + 1]], scale)
            sums.append(part_BHWC + sums[-1] if sums else part_BHWC)
        return sums

    def accumulate(self, ids_BP: jax.Array, upto: int | None = None) -> jax.Array:
        """The latent of the ids, `(B, H, W, C)`; of the first `upto` scales alone if given."""
        return self.partial_sums(ids_BP, upto)[-1]

    def next_input(self, f_hat_BHWC: jax.Array, scale: int) -> jax.Array:
        """What the scale after this one starts from, `(B, R, C)`: the latent so far, averaged."""
        return self._shrunken(f_hat_BHWC, scale + 1)

    def inputs(self, ids_BP: jax.Array) -> jax.Array:
        """`next_input` of every scale but the last: `(B, P - R, C)`, R those of the first."""
        sums = self.partial_sums(ids_BP)[:-1]
        nothing_B0C = jnp.zeros((ids_BP.shape[0], 0, self.config.codebook_dim))
        parts = (self.next_input(f_hat_BHWC, scale) for scale, f_hat_BHWC in enumerate(sums))
        return jnp.concatenate([nothing_B0C, *parts], axis=1)

    def _shrunken(self, x_BHWC: jax.Array, scale: int) -> jax.Array:
        """Averages of a latent over the cells of a scale, `(B, R, C)`."""
        if scale < len(self.config.scales) - 1:
            (height, width), (rows, columns) = self.config.size, self.config.scales[scale]
            x_BHWC = resize(x_BHWC, area_matrix(height, rows), area_matrix(width, columns))
        return x_BHWC.reshape(x_BHWC.shape[0], -1, x_BHWC.shape[-1])

    def _nearest(self, z_BRC: jax.Array) -> jax.Array:
        """Ids of the codes at the least distance or largest cosine; the first on ties."""
        codes_VC = self.codebook[...]
        if self.config.normalise_search:
            dots_BRV = _dots(_unit(z_BRC), _unit(codes_VC))
            return jnp.argmax(dots_BRV, axis=-1).astype(jnp.int32)
        lengths_BR1 = jnp.sum(jnp.square(z_BRC), axis=-1, keepdims=True)
        lengths_V = jnp.sum(jnp.square(codes_VC), axis=-1)
        distances_BRV = lengths_BR1 + lengths_V - 2 * _dots(z_BRC, codes_VC)
        return jnp.argmin(distances_BRV, axis=-1).astype(jnp.int32)

    def _mixed(self, x_BHWC: jax.Array, scale: int) -> jax.Array:
        """The enlarged code map of a scale, mixed with its neighbours."""
        if not self.config.mixing:
            return x_BHWC
        mixer, share = self.config.mixer_of_scale[scale], self.config.mixing
        y_BHWC = jax.lax.conv_general_dilated(
            x_BHWC,
            self.mixer_kernels[...][mixer],
            window_strides=(1, 1),
            padding=((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=PRECISION,
        )
        return (1 - share) * x_BHWC + share * (y_BHWC + self.mixer_biases[...][mixer])


def _dots(z_BRC: jax.Array, codes_VC: jax.Array) -> jax.Array:
    return jnp.einsum("brc,vc->brv", z_BRC, codes_VC, precision=PRECISION)


def _unit(rows: jax.Array) -> jax.Array:
    """Vectors along the last axis scaled to length 1; shorter ones than 1e-12 less."""
    length = jnp.sqrt(jnp.sum(jnp.square(rows), axis=-1, keepdims=True))
    return rows / jnp.maximum(length, 1e-12)
