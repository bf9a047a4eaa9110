"""A latent averaged down to several sizes, and what each size starts from.

Axes: B samples, H height and W width of the latent, P positions of all scales, R positions of one
scale, L scales, C channels, E channels of a head.

Positions of all scales stand one after the other, each scale in raster order. Scales are counted
from 0 and static. Source: wangqiang9/FlowAR, `FlowAR.forward`.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from gen.models import rope
from gen.models.resize import area_matrix, bicubic_matrix, resize


@dataclasses.dataclass(frozen=True)
class Pyramid:
    """(height, width) of each scale, coarse to fine; the last is the latent's."""

    scales: tuple[tuple[int, int], ...]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the latent."""
        return self.scales[-1]

    @property
    def bounds(self) -> tuple[int, ...]:
        """Where the positions of each scale begin, and where the last ends: L + 1 numbers."""
        return (0, *np.cumsum([math.prod(scale) for scale in self.scales]).tolist())

    @property
    def scale_P(self) -> np.ndarray:
        """The scale of each position."""
        return np.repeat(np.arange(len(self.scales)), np.diff(self.bounds))

    def slots(self, scale: int) -> slice:
        """The positions of a scale; -1 is the last."""
        scale %= len(self.scales)
        return slice(self.bounds[scale], self.bounds[scale + 1])

    def averaged(self, z_BHWC: jax.Array) -> jax.Array:
        """The latent at each scale, float32 `(B, P, C)`."""
        parts = (
            resize(z_BHWC, *(area_matrix(n, m) for n, m in zip(self.size, scale)))
            for scale in self.scales
        )
        return jnp.concatenate([part.reshape(len(part), -1, part.shape[-1]) for part in parts], 1)

    def start(self, z_BPC: jax.Array, scale: int) -> jax.Array:
        """What a scale from the second on starts from, `(B, R, C)`.

        The scale before it, enlarged (bicubic) to the size of the latent and averaged down.
        """
        height, width = self.scales[scale - 1]
        x_BHWC = z_BPC[:, self.slots(scale - 1)].reshape(z_BPC.shape[0], height, width, -1)
        sides = zip(self.scales[scale - 1], self.size, self.scales[scale])
        matrices = (area_matrix(n, new) @ bicubic_matrix(old, n) for old, n, new in sides)
        return resize(x_BHWC, *matrices).reshape(z_BPC.shape[0], -1, z_BPC.shape[-1])

    def starts(self, z_BPC: jax.Array) -> jax.Array:
        """`start` of all scales but the first, `(B, P - R, C)`, R those of the first."""
        parts = [self.start(z_BPC, scale) for scale in range(1, len(self.scales))]
        return jnp.concatenate([z_BPC[:, :0], *parts], axis=1)

    def rope(self, head_dim: int, reach: float) -> np.ndarray:
        """Rotary rows of all positions, `(P, 2, E / 2)`; each scale spans `reach` cells a side."""
        tables = [rope.grid_2d(*scale, head_dim, reach=reach) for scale in self.scales]
        return np.concatenate(tables)
