"""Continuous latents, and the data that a model makes them of: gray levels, moments or latents.

Axes: B samples, H height and W width of the latent, P = H * W positions, C channels.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from gen.errors import UserError
from gen.layouts import Layout, grid
from gen.models import posterior


def from_gray(levels: jax.Array, count: int) -> jax.Array:
    """Whole gray levels 0 to count - 1 as float32 from -1 to 1."""
    return 2 * levels.astype(jnp.float32) / (count - 1) - 1


def to_gray(z: jax.Array, count: int) -> jax.Array:
    """The nearest gray level of each value, int32."""
    last = count - 1
    return jnp.clip(jnp.rint((z + 1) / 2 * last), 0, last).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class LatentConfig:
    """What the data are. Latents have about unit range.

    Attributes:
      channels: C of a latent.
      gray_levels: the data are images of so many gray levels, which become latents from -1 to 1.
      moments: the data are means and log variances of a posterior, `(P, 2 C)`, of which a sample
        is drawn at each visit. With neither, the data are latents `(P, C)`.
      scale: what latents of the data are multiplied by.
    """

    channels: int
    gray_levels: int = 0
    moments: bool = False
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.channels < 1 or not self.scale > 0:
            raise UserError(f"latents have 1 channel or more, and a scale above 0: {self}")
        if self.gray_levels and (self.gray_levels < 2 or self.channels != 1 or self.moments):
            raise UserError(f"gray levels are 2 or more, of one channel, without moments: {self}")

    def layout(self, size: tuple[int, int]) -> Layout:
        """Layout of the data of a latent of (height, width)."""
        if self.gray_levels:
            return grid(*size, self.gray_levels)
        return Layout("grid", ((1, *size),), channels=self.channels * (2 if self.moments else 1))

    def from_data(
        self, data: jax.Array, size: tuple[int, int], key: jax.Array | None = None
    ) -> jax.Array:
        """Latents, float32 `(B, H, W, C)`; means of moments without a key."""
        z = data.reshape(len(data), *size, -1).astype(jnp.float32)
        if self.gray_levels:
            z = from_gray(z, self.gray_levels)
        if self.moments:
            if key is None:
                return posterior.mean_of(z, self.scale)
            noise_BHWC = jax.random.normal(key, (*z.shape[:-1], self.channels))
            return posterior.draw(z, noise_BHWC, self.scale)
        return z * self.scale

    def to_data(self, z_BPC: jax.Array) -> jax.Array:
        """Gray levels, latents, or moments without spread, of latents in raster order."""
        z_BPC = z_BPC / self.scale
        if self.gray_levels:
            return to_gray(z_BPC[..., 0], self.gray_levels)
        if not self.moments:
            return z_BPC
        return jnp.concatenate([z_BPC, jnp.full_like(z_BPC, posterior.LOG_VARIANCE[0])], axis=-1)
