"""Gaussian posteriors of continuous tokenizers, as moments: mean and log variance.

Axes: C channels of a latent; any axes before it.

Generators over continuous latents are trained on fresh draws: datasets and caches hold moments
`(..., 2C)`, the means in the first C channels. Log variances are held as the encoder gave them and
clamped where they are used. Source: CompVis/latent-diffusion, `DiagonalGaussianDistribution`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

LOG_VARIANCE = (-30.0, 20.0)  # least and greatest


def mean_of(moments: jax.Array, scale: float) -> jax.Array:
    """The most likely latents, `(..., C)`: the means times the scale."""
    return jnp.split(moments, 2, axis=-1)[0] * scale


def draw(moments: jax.Array, noise: jax.Array, scale: float) -> jax.Array:
    """Latents drawn from their posterior.

    Args:
      moments: `(..., 2C)`, float32.
      noise: standard Gaussian, `(..., C)`.
      scale: what latents are multiplied by, so that their deviation is about 1.

    Returns:
      `(..., C)`.
    """
    mean, log_variance = jnp.split(moments, 2, axis=-1)
    deviation = jnp.exp(0.5 * jnp.clip(log_variance, *LOG_VARIANCE))
    return (mean + deviation * noise) * scale
