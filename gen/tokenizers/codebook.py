"""One codebook between an encoder and a decoder, which most kinds of tokenizers have.

Axes: B samples, P cells, C channels of a code, V codes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from gen.layouts import Layout
from gen.models.convolution import PRECISION


class Codebook(nnx.Module):
    """The codes, and the search for the nearest.

    `normalise`: latents and codes have length 1 in the search, and codes at look-up, unless
    `raw_codes` are looked up.
    """

    def __init__(
        self, num: int, width: int, *, normalise: bool, rngs: nnx.Rngs, raw_codes: bool = False
    ):
        rows_VC = jax.random.uniform(rngs.params(), (num, width), minval=-1 / num, maxval=1 / num)
        self.embedding = nnx.Param(unit(rows_VC) if normalise else rows_VC)
        self.normalise = normalise
        self.raw_codes = raw_codes

    def codes(self) -> jax.Array:
        """The rows as they are looked up, `(V, C)`.

        Training moves the stored rows off the sphere, so they are normalised at each use.
        """
        rows_VC = self.embedding[...]
        return rows_VC if self.raw_codes else self.compared(rows_VC)

    def compared(self, z_BPC: jax.Array) -> jax.Array:
        """Latents as they are compared with codes: of length 1 if the codebook normalises."""
        return unit(z_BPC) if self.normalise else z_BPC

    def nearest(self, z_BPC: jax.Array) -> jax.Array:
        """Ids of the codes at the least squared distance, int32 `(B, P)`; the first on ties."""
        codes_VC, z_BPC = self.compared(self.embedding[...]), self.compared(z_BPC)
        lengths_BP1 = jnp.sum(jnp.square(z_BPC), axis=-1, keepdims=True)
        lengths_V = jnp.sum(jnp.square(codes_VC), axis=-1)
        dots_BPV = jnp.einsum("bpc,vc->bpv", z_BPC, codes_VC, precision=PRECISION)
        return jnp.argmin(lengths_BP1 + lengths_V - 2 * dots_BPV, axis=-1).astype(jnp.int32)

    def __call__(self, ids_BP: jax.Array) -> jax.Array:
        return self.codes()[ids_BP]


def unit(rows: jax.Array) -> jax.Array:
    """Vectors along the last axis scaled to length 1; shorter ones than 1e-12 less."""
    length = jnp.sqrt(jnp.sum(jnp.square(rows), axis=-1, keepdims=True))
    return rows / jnp.maximum(length, 1e-12)


class CodebookModel(nnx.Module):
    """Each cell of the encoder's lattice becomes the id of its nearest code, in raster order.

    Methods as in `gen.tokenizers.model.TokenizerModel`. A subclass makes `encoder`, `codebook` and
    `decoder`, and says what else lies between them in `latents` and `decode_latents`.
    """

    encoder: nnx.Module
    codebook: Codebook
    decoder: nnx.Module

    def latents(self, pixels: jax.Array, layout: Layout) -> jax.Array:
        return self.encoder(pixels)

    def encode(self, pixels: jax.Array, layout: Layout) -> jax.Array:
        z = self.latents(pixels, layout)
        return self.codebook.nearest(z.reshape(z.shape[0], -1, z.shape[-1]))

    def embed(self, tokens_BP: jax.Array, layout: Layout) -> jax.Array:
        _, rows, columns = layout.shapes[0]
        return self.codebook(tokens_BP.reshape(-1, rows, columns))

    def decode(self, tokens_BP: jax.Array, layout: Layout) -> jax.Array:
        return self.decode_latents(self.embed(tokens_BP, layout), layout)

    def decode_latents(self, z: jax.Array, layout: Layout) -> jax.Array:
        return self.decoder(z).astype(jnp.float32)

    def codes(self) -> jax.Array:
        return self.codebook.codes()
