"""From hidden states to logits.

Axes: B batch, S slots, D width, V vocabulary.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from gen.models.layers import RMSNorm, linear


class TokenHead(nnx.Module):
    """Final norm and an untied linear map, N(0, std^2) at the start; logits are float32."""

    def __init__(
        self,
        width: int,
        vocab_size: int,
        *,
        eps: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        std: float = 0.0,
    ):
        self.norm = RMSNorm(width, eps=eps)
        self.logits = linear(width, vocab_size, dtype=dtype, rngs=rngs, std=std)

    def __call__(self, x_BSD: jax.Array) -> jax.Array:
        """float32 `(B, S, V)`; products in the compute dtype, sums in float32."""
        return self.logits.product(self.norm(x_BSD), preferred=jnp.float32)
