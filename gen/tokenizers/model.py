"""The contract of a module that holds a tokenizer's weights.

Axes: B samples, P positions, C channels of a code, V codes.
"""

from __future__ import annotations

from typing import Protocol

import jax

from gen.layouts import Layout


class TokenizerModel(Protocol):
    """What a kind's module offers: pure functions of arrays and of a static layout.

    Pixels are float32 in `pixel_range`. Latents are `(B, h, w, C)`, with frames in front of h
    for videos.
    """

    def latents(self, pixels: jax.Array, layout: Layout) -> jax.Array:
        """What the encoder gives, before it is quantised; float32."""

    def encode(self, pixels: jax.Array, layout: Layout) -> jax.Array:
        """Tokens."""

    def embed(self, tokens: jax.Array, layout: Layout) -> jax.Array:
        """What the tokens stand for, as the decoder takes it; float32."""

    def decode(self, tokens: jax.Array, layout: Layout) -> jax.Array:
        """Pixels, float32, not clamped."""

    def decode_latents(self, latents: jax.Array, layout: Layout) -> jax.Array:
        """Pixels of what `embed` gives, float32, not clamped."""

    def codes(self) -> jax.Array:
        """The rows that `embed` looks up, `(V, C)`; kinds of continuous latents have none."""
