"""A tokenizer in training: its module, its loss, and what is updated beside the gradient.

Axes: B images, H height, W width, C channels, V codes, A passes of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from gen.autoencoding import discriminator, memory, perceptual
from gen.autoencoding.losses import LossConfig, entropy, reconstruction
from gen.autoencoding.quantised import TRAINABLE
from gen.errors import UserError
from gen.learner import Learner
from gen.models.convolution import compiler_options
from gen.models.layers import Buffer
from gen.tokenizers import Tokenizer
from gen.tokenizers.codebook import unit


class Training(nnx.Module):
    """The tokenizer, and what only its training needs."""

    def __init__(
        self, kind: type[Tokenizer], config: Any, loss: LossConfig, *, dtype: jnp.dtype, rngs: Any
    ):
        self.tokenizer = kind.build(config, rngs, dtype=dtype)
        holder, name = TRAINABLE[kind.kind].codebook
        holder, is_ema = getattr(self.tokenizer, holder), loss.codebook == "ema"
        codes_VC = getattr(holder, name)[...]
        if is_ema:
            setattr(holder, name, Buffer(codes_VC))  # no gradient moves it
        self.memory = memory.Memory(codes_VC, revive_after=loss.revive_after, is_ema=is_ema)
        self.perceptual = perceptual.Perceptual() if loss.perceptual.weight else None
        against, options = loss.adversarial, {"dtype": dtype, "rngs": rngs}
        sizes = (against.width, against.layers)
        self.discriminator = (
            discriminator.Discriminator(*sizes, **options) if against.weight else None
        )


class TokenizerLearner(Learner):
    """What a run of a tokenizer trains.

    Attributes:
      kind: class of the tokenizer.
      config: an instance of its `Config`.
      size: (height, width) of the crops.
      layout: of their tokens.
    """

    def __init__(
        self, kind: type[Tokenizer], config: Any, loss: LossConfig, size: Sequence[int]
    ) -> None:
        """Raises `UserError` where crops of that size cannot be cut into cells, or judged."""
        self.kind, self.config, self.loss_config, self.size = kind, config, loss, tuple(size)
        self.layout = blank(kind, config).layout(self.size)
        self.quantise = TRAINABLE[kind.kind]
        if loss.adversarial.weight:
            discriminator.check_size(self.size, loss.adversarial.layers)
        if loss.perceptual.weight and min(self.size) < perceptual.LEAST_SIDE:
            raise UserError(f"the perceptual term needs crops of {perceptual.LEAST_SIDE} pixels")

    def build(self, rngs: nnx.Rngs, *, dtype: jnp.dtype = jnp.float32) -> Training:
        """A module with `tokenizer` and what its training needs."""
        return Training(self.kind, self.config, self.loss_config, dtype=dtype, rngs=rngs)

    def compiler_options(self) -> dict[str, str] | None:
        return compiler_options()

    def scaled(self, pixels_BHWC: jax.Array) -> jax.Array:
        """uint8 pixels as float32 in the tokenizer's range."""
        low, high = self.kind.pixel_range
        return low + (high - low) * (pixels_BHWC.astype(jnp.float32) / 255)

    def loss(
        self, model: Training, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The weighted sum of all terms of `pixels`, uint8 `(B, H, W, 3)`; what was seen by name.

        The terms, `psnr` (dB, not clipped), and `usage` and `perplexity` of the batch's codes are
        numbers; arrays are notes for `updated`.
        """
        settings, tokenizer = self.loss_config, model.tokenizer
        wanted_BHWC = self.scaled(batch["pixels"])
        z_BHWC = tokenizer.latents(wanted_BHWC, self.layout)
        found = self.quantise(tokenizer, z_BHWC)
        begun = model.memory.updates[...] >= settings.quantise_after
        z_BHWC = jnp.where(begun, found.latents, z_BHWC)
        made_BHWC = tokenizer.decode_latents(z_BHWC, self.layout)
        error = reconstruction(settings.reconstruction, wanted_BHWC, made_BHWC)
        terms = {
            "reconstruction": (1.0, error),
            "commitment": (settings.commitment * begun, found.commitment),
            "codebook": (settings.codebook_weight, found.codebook),
            **self._further_terms(model, wanted_BHWC, made_BHWC, found),
        }
        low, high = self.kind.pixel_range
        squared = reconstruction("l2", wanted_BHWC, made_BHWC) / (high - low) ** 2
        notes = memory.noted(found.rows, found.ids, len(tokenizer.codes()), key)
        share_V = notes["share"]
        choice = -jnp.sum(share_V * jnp.log(jnp.maximum(share_V, 1e-12)))
        seen = {
            "psnr": -10 * jnp.log10(jnp.maximum(squared, 1e-10)),
            "usage": jnp.mean(share_V > 0),
            "perplexity": jnp.exp(choice),
        }
        total = sum(weight * term for weight, term in terms.values())
        return total, {name: term for name, (_, term) in terms.items()} | seen | notes

    def _further_terms(
        self, model: Training, wanted_BHWC: jax.Array, made_BHWC: jax.Array, found: Any
    ) -> dict[str, tuple[Any, jax.Array]]:
        """Those that are off by default: name -> (weight, term)."""
        settings, terms = self.loss_config, {}
        if settings.entropy.weight:
            rows_NC, codes_VC = found.rows, model.tokenizer.codes()
            if self.quantise.by_direction(model.tokenizer):
                rows_NC, codes_VC = unit(rows_NC), unit(codes_VC)
            term = entropy(rows_NC, codes_VC, settings.entropy.temperature)
            terms["entropy"] = (settings.entropy.weight, term)
        if model.perceptual is not None:
            low, high = self.kind.pixel_range
            pair = (2 * (image - low) / (high - low) - 1 for image in (wanted_BHWC, made_BHWC))
            terms["perceptual"] = (settings.perceptual.weight, model.perceptual(*pair))
        if model.discriminator is not None:
            against = settings.adversarial
            pair = (wanted_BHWC, made_BHWC)
            fooling, telling = discriminator.adversarial(model.discriminator, *pair)
            begun = model.memory.updates[...] >= against.start
            terms["adversarial"] = (against.weight * begun, fooling)
            terms["discriminator"] = (1.0 * begun, telling)
        return terms

    def started(self, params: dict[str, Any], tokenizer: dict[str, Any]) -> dict[str, Any]:
        """Fresh parameters with those of a trained tokenizer, whose codes all count as used."""
        holder, name = self.quantise.codebook
        codes_VC, memory = tokenizer[holder][name], dict(params["memory"])
        memory["idle"] = jnp.zeros_like(memory["idle"])
        if "total" in memory:
            memory["total"] = codes_VC * memory["share"][:, None]
        return params | {"tokenizer": tokenizer, "memory": memory}

    def updated(self, params: dict[str, Any], notes: dict[str, jax.Array]) -> dict[str, Any]:
        """The parameters after what no gradient does: see `gen.autoencoding.memory`."""
        settings = self.loss_config
        flat = traverse_util.flatten_dict(params, sep="/")
        path = "/".join(("tokenizer", *self.quantise.codebook))
        new, codes_VC = memory.updated(
            params["memory"], flat[path], notes,
            decay=settings.ema_decay, revive_after=settings.revive_after,
        )  # fmt: skip
        flat |= {path: codes_VC} | {f"memory/{name}": array for name, array in new.items()}
        return traverse_util.unflatten_dict(flat, sep="/")


def blank(kind: type[Tokenizer], config: Any) -> Tokenizer:
    """A tokenizer of zeros, to ask for layouts or to put weights into."""
    zeros = {path: np.zeros(shape, np.float32) for path, shape in kind.shapes(config).items()}
    return kind(config, traverse_util.unflatten_dict(zeros, sep="/"))
