"""How the kinds of tokenizers quantise in training: codes forward, straight through backward.

Axes: B images, H height and W width of the latent, R positions of one scale, N coded vectors, C
channels of a code.
"""

from __future__ import annotations

import abc

import jax
import jax.numpy as jnp
from flax import nnx, struct

from gen.autoencoding.losses import per_image

stopped = jax.lax.stop_gradient


@struct.dataclass
class Quantised:
    """What comes out of quantising a batch.

    Attributes:
      latents: `(B, H, W, C)`, the value of the codes with the gradient of the encoder's latents.
      commitment: mean squared distance to the codes, whose gradient moves the encoder.
      codebook: the same number, whose gradient moves the codes.
      rows: `(N, C)`, every vector that was coded, with the encoder's gradient.
      ids: int32 `(N,)`, its code.
    """

    latents: jax.Array
    commitment: jax.Array
    codebook: jax.Array
    rows: jax.Array
    ids: jax.Array


class Quantisation(abc.ABC):
    """One kind's way to quantise.

    Attributes:
      codebook: path of the stored codes in the tokenizer's module.
    """

    codebook: tuple[str, str]

    @abc.abstractmethod
    def __call__(self, model: nnx.Module, z_BHWC: jax.Array) -> Quantised:
        """Quantises what `model.latents` gave."""

    @abc.abstractmethod
    def by_direction(self, model: nnx.Module) -> bool:
        """Whether codes are found by direction alone: vectors are compared at length 1."""


class OneCodebook(Quantisation):
    """Each cell takes its nearest code (VQ-VAE, van den Oord et al. 2017)."""

    codebook = ("codebook", "embedding")

    def __call__(self, model: nnx.Module, z_BHWC: jax.Array) -> Quantised:
        z_BRC = z_BHWC.reshape(z_BHWC.shape[0], -1, z_BHWC.shape[-1])
        z_BRC = model.codebook.compared(z_BRC)
        ids_BR = model.codebook.nearest(stopped(z_BRC))
        codes_BRC = model.codebook(ids_BR)
        return Quantised(
            latents=(z_BRC + stopped(codes_BRC - z_BRC)).reshape(z_BHWC.shape),
            commitment=per_image(jnp.square(z_BRC - stopped(codes_BRC))),
            codebook=per_image(jnp.square(stopped(z_BRC) - codes_BRC)),
            rows=z_BRC.reshape(-1, z_BRC.shape[-1]),
            ids=ids_BR.reshape(-1),
        )

    def by_direction(self, model: nnx.Module) -> bool:
        return model.codebook.normalise


class ManyScales(Quantisation):
    """Each scale codes what those before it left over (VAR, Tian et al. 2024).

    Both terms are means over the scales, of the distance between the latent and what the scales
    so far add up to. Source: FoundationVision/VAR, `forward` of models/quant.py.
    """

    codebook = ("quantizer", "codebook")

    def __call__(self, model: nnx.Module, z_BHWC: jax.Array) -> Quantised:
        quantizer, count = model.quantizer, len(model.quantizer.config.scales)
        rest_BHWC, sum_BHWC = z_BHWC, jnp.zeros_like(z_BHWC)
        commitment = codebook = jnp.float32(0)
        rows, ids = [], []
        for scale in range(count):
            rows_BRC, ids_BR = quantizer.code_scale(rest_BHWC, scale)
            part_BHWC = quantizer.embed_scale(ids_BR, scale)
            rest_BHWC, sum_BHWC = rest_BHWC - stopped(part_BHWC), sum_BHWC + part_BHWC
            commitment += per_image(jnp.square(z_BHWC - stopped(sum_BHWC))) / count
            codebook += per_image(jnp.square(stopped(z_BHWC) - sum_BHWC)) / count
            rows.append(rows_BRC)
            ids.append(ids_BR)
        rows_BPC = jnp.concatenate(rows, axis=1)
        return Quantised(
            latents=z_BHWC + stopped(sum_BHWC - z_BHWC),
            commitment=commitment,
            codebook=codebook,
            rows=rows_BPC.reshape(-1, rows_BPC.shape[-1]),
            ids=jnp.concatenate(ids, axis=1).reshape(-1),
        )

    def by_direction(self, model: nnx.Module) -> bool:
        return model.quantizer.config.normalise_search


TRAINABLE: dict[str, Quantisation] = {
    "vq": OneCodebook(),
    "maskgit_vq": OneCodebook(),
    "msvq": ManyScales(),
}
