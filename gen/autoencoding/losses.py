"""What a tokenizer is trained for: the terms of its loss, and their settings.

Axes: B images, H height, W width, N coded vectors, C channels of a code, V codes.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from gen.errors import UserError, nearest
from gen.models.convolution import PRECISION

RECONSTRUCTIONS = {"l1": jnp.abs, "l2": jnp.square}
CODEBOOKS = ("gradient", "ema")


@dataclasses.dataclass(frozen=True)
class EntropyConfig:
    """The entropy term: certain about each vector, undecided over all (see `entropy`)."""

    weight: float = 0.0
    temperature: float = 0.01

    def __post_init__(self) -> None:
        if self.weight < 0 or not self.temperature > 0:
            raise UserError(f"config.loss.entropy: weight from 0, temperature above 0, not {self}")


@dataclasses.dataclass(frozen=True)
class PerceptualConfig:
    """The perceptual term (LPIPS), in force if its weight is above 0.

    `files` hold VGG16 as torchvision saves it and, in the same file or another, the five linear
    maps of LPIPS; without these all channels count alike. They are read when a run starts.
    """

    weight: float = 0.0
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise UserError(f"config.loss.perceptual.weight is at least 0, not {self.weight}")
        if bool(self.weight) != bool(self.files):
            raise UserError("config.loss.perceptual: give a weight and files, or neither")


@dataclasses.dataclass(frozen=True)
class AdversarialConfig:
    """The adversarial term, in force if its weight is above 0: a PatchGAN and hinge losses.

    The tokenizer minds it, and the discriminator learns, from step `start` on. `width` is that of
    the discriminator's first layer, after which come `layers` more.
    """

    weight: float = 0.0
    start: int = 0
    width: int = 64
    layers: int = 3

    def __post_init__(self) -> None:
        if self.weight < 0 or self.start < 0 or min(self.width, self.layers) < 1:
            raise UserError(f"config.loss.adversarial: sizes and weights below their least: {self}")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the terms, and how codes are learnt.

    Attributes:
      reconstruction: `l1` or `l2`, the mean over pixels, which lie in the tokenizer's range; its
        weight is 1.
      codebook: codes follow the `gradient` of the codebook term, or are running means of the
        vectors that they stand for (`ema`; van den Oord et al. 2017, appendix A.1).
      codebook_weight: of the codebook term, which draws codes (and the mixers of a multi-scale
        quantiser) to the encoder's vectors.
      commitment: weight of the term that draws the encoder's vectors to their codes.
      ema_decay: of the running means.
      quantise_after: updates in which the decoder still sees the encoder's latents as they are, and
        nothing draws these to codes; the codes follow. Drawn to a codebook that is worth nothing
        yet, latents collapse: all but a few of their directions are never used again.
      revive_after: a code that no vector chose in so many updates becomes a random vector of the
        batch; before the first update none was chosen, so the first batch makes the codebook. 0:
        codes stay where they were started.
      entropy, perceptual, adversarial: further terms, off by default.
    """

    reconstruction: str = "l2"
    codebook: str = "ema"
    codebook_weight: float = 1.0
    commitment: float = 0.25
    ema_decay: float = 0.99
    quantise_after: int = 0
    revive_after: int = 100
    entropy: EntropyConfig = EntropyConfig()
    perceptual: PerceptualConfig = PerceptualConfig()
    adversarial: AdversarialConfig = AdversarialConfig()

    def __post_init__(self) -> None:
        for name, valid in (("reconstruction", RECONSTRUCTIONS), ("codebook", CODEBOOKS)):
            value = getattr(self, name)
            if value not in valid:
                raise UserError(f'config.loss.{name} "{value}" is unknown{nearest(value, valid)}')
        counts = (self.quantise_after, self.revive_after)
        if min(self.codebook_weight, self.commitment, *counts) < 0:
            raise UserError(f"config.loss: weights and numbers of updates are at least 0: {self}")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"config.loss.ema_decay lies in [0, 1), not {self.ema_decay}")

    def shrunken(self) -> LossConfig:
        """The loss without what a few steps on small pictures have no use for."""
        return dataclasses.replace(
            self,
            quantise_after=min(self.quantise_after, 1),
            perceptual=PerceptualConfig(),
            adversarial=AdversarialConfig(),
        )


def per_image(rows: jax.Array) -> jax.Array:
    """Mean over all, image by image first: one long float32 sum differs between meshes."""
    return jnp.mean(jnp.mean(rows.reshape(rows.shape[0], -1), axis=1))


def reconstruction(name: str, wanted_BHWC: jax.Array, made_BHWC: jax.Array) -> jax.Array:
    """Mean error of pixels, absolute (`l1`) or squared (`l2`)."""
    return per_image(RECONSTRUCTIONS[name](wanted_BHWC - made_BHWC))


def entropy(rows_NC: jax.Array, codes_VC: jax.Array, temperature: float) -> jax.Array:
    """Mean entropy of each vector's choice less the entropy of the mean choice, in nats.

    A vector chooses by the softmax of its negative squared distances over the temperature. The
    least is -log V: each vector is certain, and all codes are chosen alike. Source: MaskGIT
    (Chang et al. 2022), `entropy_loss` of nets/vqgan_tokenizer.py; Yu et al. 2023 (MAGVIT-v2).
    """
    lengths_N1 = jnp.sum(jnp.square(rows_NC), axis=1, keepdims=True)
    lengths_V = jnp.sum(jnp.square(codes_VC), axis=1)
    dots_NV = jnp.einsum("nc,vc->nv", rows_NC, codes_VC, precision=PRECISION)
    log_NV = jax.nn.log_softmax((2 * dots_NV - lengths_N1 - lengths_V) / temperature)
    share_NV = jnp.exp(log_NV)
    share_V = jnp.mean(share_NV, axis=0)
    each = -jnp.mean(jnp.sum(share_NV * log_NV, axis=1))
    # The least normal number: a code that is out of reach of all counts nothing.
    return each + jnp.sum(share_V * jnp.log(jnp.maximum(share_V, jnp.finfo(jnp.float32).tiny)))
