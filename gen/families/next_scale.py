"""Next-scale generation: all tokens of a scale at once, coarse to fine (VAR, Tian et al. 2024).

Axes: B samples, Q rows, P positions of all scales (= S slots), R positions of one scale, H height
and W width of the latent, C channels of a code, D width, V vocabulary.

A slot's input is the latent that the scales before its own add up to, averaged down to the size of
its scale; the slots of the first scale hold the class. A slot predicts its own token and sees all
slots of its scale and of those before. The condition also modulates every block.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct

from gen.decoding.cached import Sampled
from gen.decoding.phases import alone
from gen.decoding.plan import Now, Plan, Step
from gen.errors import UserError
from gen.families.base import DecodeState
from gen.families.cached import CachedFamily
from gen.layouts import Layout, grid
from gen.models import latents
from gen.models.adaln import AdaLNConfig, AdaLNHead, shared_map
from gen.models.backbone import Backbone
from gen.models.conditioning import ConditionConfig, Prompt
from gen.models.layers import Buffer, embedding, linear
from gen.models.residual_quantizer import QuantizerConfig, ResidualQuantizer

# Codes for gray levels, whose latents differ by 2 at most, reach a quarter further: enlarging
# overshoots. A little less than that, so that codes one level apart lie just below one apart and
# nothing lies half-way between two: for 17 levels, 41 codes.
CODE_REACH = 2.4999


@dataclasses.dataclass(frozen=True)
class NextScaleConfig:
    """A VAR model.

    Attributes:
      quantizer: what its tokens come from.
      condition: classes.
      backbone: blocks.
      gray_levels: the data are images of so many gray levels, of which the model makes the tokens
        itself: levels become latents from -1 to 1, and fixed codes lie evenly over their
        differences. 0: the data are tokens.
    """

    quantizer: QuantizerConfig
    condition: ConditionConfig
    backbone: AdaLNConfig
    gray_levels: int = 0

    def __post_init__(self) -> None:
        if self.gray_levels and (self.quantizer.codebook_dim != 1 or self.quantizer.mixing):
            raise UserError("gray levels need a quantizer with codebook_dim 1 and mixing 0")
        if self.gray_levels and self.code_gap >= 1:
            raise UserError(
                f"{self.quantizer.codebook_size} codes are too few for {self.gray_levels} gray "
                "levels: images could not be told from their tokens"
            )
        if self.condition.kind != "class":
            raise UserError("this family is conditioned on classes: condition.kind must be class")

    @property
    def code_gap(self) -> float:
        """Distance of two codes in gray levels; below 1, rounding gives the image back."""
        return CODE_REACH * (self.gray_levels - 1) / (self.quantizer.codebook_size - 1)

    def shrunken(self) -> NextScaleConfig:
        """The same model small enough to compile and run in seconds, for `:debug`."""
        scales = tuple(s for s in self.quantizer.scales if max(s) <= 4) or ((1, 1), (2, 2))
        return dataclasses.replace(
            self,
            quantizer=dataclasses.replace(self.quantizer, scales=scales),
            backbone=self.backbone.shrunken(),
        )


@struct.dataclass
class ScaleState(DecodeState):
    """The tokens so far, and the latent `(B, H, W, C)` that they add up to."""

    latent: jax.Array


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """`more_smooth`: add soft mixtures of codes to the latent instead of the tokens drawn.

    Smoother pictures, as the reference uses for show; the tokens returned are still those drawn.
    """

    more_smooth: bool = False


class ScaleCondition(nnx.Module):
    """The slots of the first scale: the class and a place; the class modulates the blocks."""

    def __init__(self, config: NextScaleConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        backbone, condition = config.backbone, config.condition
        self.null_label = condition.num_classes
        options = {"dtype": dtype, "rngs": rngs}
        rows = condition.num_classes + int(condition.has_null)
        self.table = embedding(rows, backbone.width, std=backbone.std, **options)
        first = int(np.prod(config.quantizer.scales[0]))
        drawn_RD = jax.random.normal(rngs.params(), (first, backbone.width))
        self.start = nnx.Param(backbone.std * drawn_RD)
        self.shared = shared_map(backbone, **options) if backbone.shared else None

    def __call__(self, batch: dict[str, jax.Array], drop_B: jax.Array | None = None) -> Prompt:
        label_B = batch["label"]
        if drop_B is not None:
            label_B = jnp.where(drop_B, self.null_label, label_B)
        class_BD = self.table(label_B)
        cond = class_BD if self.shared is None else self.shared(class_BD)
        x_BRD = class_BD[:, None] + self.start[...].astype(class_BD.dtype)
        return Prompt(x_BRD, cond=cond, vector_BD=class_BD)


class NextScaleModel(nnx.Module):
    """Parameters of a VAR model; the quantiser's are stored with it and never trained."""

    def __init__(self, config: NextScaleConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        backbone, quantizer = config.backbone, config.quantizer
        width, std = backbone.width, backbone.std
        options = {"dtype": dtype, "rngs": rngs}
        self.condition = ScaleCondition(config, **options)
        self.quantizer = ResidualQuantizer(quantizer, variable=Buffer, rngs=rngs)
        if config.gray_levels:
            codes_V = jnp.linspace(-CODE_REACH, CODE_REACH, quantizer.codebook_size)
            self.quantizer.codebook[...] = codes_V[:, None]
        self.latents = linear(quantizer.codebook_dim, width, std=std, bias=True, **options)
        self.levels = embedding(len(quantizer.scales), width, std=std, **options)
        slots = quantizer.bounds[-1]
        self.positions = nnx.Param(std * jax.random.normal(rngs.params(), (slots, width)))
        self.backbone = Backbone(backbone, **options)
        self.head = AdaLNHead(
            width, quantizer.codebook_size, eps=backbone.norm_eps, std=std, **options
        )


class NextScale(CachedFamily):
    """One call of the network per scale."""

    Config = NextScaleConfig
    Options = SampleOptions

    def __init__(self, config: NextScaleConfig):
        super().__init__(config)
        self.condition, quantizer = config.condition, config.quantizer
        lattices = tuple((1, *scale) for scale in quantizer.scales)
        self.layout = Layout("scales", lattices, (quantizer.codebook_size,))
        self.bounds = quantizer.bounds
        self.level_P = np.repeat(np.arange(len(lattices)), np.diff(self.bounds))
        self.groups = {
            f"scale_{scale:02d}": np.flatnonzero(self.level_P == scale)
            for scale in range(len(lattices))
        }
        steps = [
            Step(slots := np.flatnonzero(self.level_P == scale), slots - slots[0], slots)
            for scale in range(len(lattices))
        ]
        phases = alone(steps)
        self.plan = Plan(self.level_P, None, phases)

    def build(self, rngs: nnx.Rngs, *, dtype: jnp.dtype = jnp.float32) -> NextScaleModel:
        return NextScaleModel(self.config, dtype=dtype, rngs=rngs)

    @property
    def tokenizer_parts(self) -> tuple[str, ...]:
        return () if self.config.gray_levels else ("quantizer",)

    @property
    def data_layout(self) -> Layout:
        if not self.config.gray_levels:
            return self.layout
        return grid(*self.config.quantizer.size, self.config.gray_levels)

    def from_data(
        self, model: NextScaleModel, data: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        if not self.config.gray_levels:
            return data
        levels_BHWC = data.reshape(-1, *self.config.quantizer.size, 1)
        return model.quantizer.encode(latents.from_gray(levels_BHWC, self.config.gray_levels))

    def to_data(self, model: NextScaleModel, tokens_BP: jax.Array) -> jax.Array:
        if not self.config.gray_levels:
            return tokens_BP
        return self.latents_to_data(model, model.quantizer.accumulate(tokens_BP))

    def latents_to_data(self, model: NextScaleModel, latents_BHWC: jax.Array) -> jax.Array:
        levels_BHWC = latents.to_gray(latents_BHWC, self.config.gray_levels)
        return levels_BHWC.reshape(latents_BHWC.shape[0], -1)

    def inputs(self, model: NextScaleModel, tokens_BP: jax.Array, prompt: Prompt) -> jax.Array:
        x_BSD = model.latents(model.quantizer.inputs(tokens_BP))
        x_BPD = jnp.concatenate([prompt.x_BTD, x_BSD.astype(prompt.x_BTD.dtype)], axis=1)
        return self._placed(model, x_BPD, slice(0, None))

    def inputs_at(
        self, model: NextScaleModel, state: ScaleState, prompt: Prompt, now: Now
    ) -> jax.Array:
        slots = slice(self.bounds[now.index], self.bounds[now.index + 1])
        if now.index == 0:
            return self._placed(model, prompt.x_BTD, slots)
        x_BRD = model.latents(model.quantizer.next_input(state.latent, now.index - 1))
        branches = prompt.x_BTD.shape[0] // x_BRD.shape[0]
        return self._placed(model, jnp.tile(x_BRD, (branches, 1, 1)), slots)

    def _placed(self, model: NextScaleModel, x_BSD: jax.Array, slots: slice) -> jax.Array:
        """Inputs with the embeddings of their scales and positions."""
        place_SD = model.levels(self.level_P[slots]) + model.positions[...][slots]
        return x_BSD + place_SD.astype(x_BSD.dtype)

    def predict(self, model: NextScaleModel, hidden: list[jax.Array], prompt: Prompt) -> jax.Array:
        return model.head(hidden[-1], prompt.vector_BD)

    def predict_at(
        self, model: NextScaleModel, hidden: list[jax.Array], prompt: Prompt, now: Now
    ) -> jax.Array:
        return model.head(hidden[-1], prompt.vector_BD)

    def guidance(self, number: float, interval: int, options: Any) -> np.ndarray:
        """1 + number * k / (S - 1) at scale k; 1 after scale `interval` + 1.

        Source: FoundationVision/VAR, `autoregressive_infer_cfg`; the interval is ours.
        """
        scales_N = np.arange(self.plan.num_steps)
        scale_N = 1.0 + number * scales_N / max(len(scales_N) - 1, 1)
        off_N = (interval >= 0) & (scales_N > interval + 1)
        return np.where(off_N, 1.0, scale_N).astype(np.float32)

    def begin(self, model: NextScaleModel, batch: int) -> ScaleState:
        quantizer = self.config.quantizer
        latent_BHWC = jnp.zeros((batch, *quantizer.size, quantizer.codebook_dim))
        return ScaleState(super().begin(model, batch).tokens, latent_BHWC)

    def commit(
        self, model: NextScaleModel, state: ScaleState, sampled: Sampled, now: Now
    ) -> ScaleState:
        state = super().commit(model, state, sampled, now)
        if sampled.how.options.more_smooth:
            rows_BRC = self._soft_rows(model, sampled, now)
            part_BHWC = model.quantizer.contribution(rows_BRC, now.index)
        else:
            part_BHWC = model.quantizer.embed_scale(sampled.tokens_BR, now.index)
        return state.replace(latent=state.latent + part_BHWC)

    def _soft_rows(self, model: NextScaleModel, sampled: Sampled, now: Now) -> jax.Array:
        """Means of codes under a Gumbel softmax that sharpens from scale to scale, `(B, R, C)`.

        Source: FoundationVision/VAR, `autoregressive_infer_cfg` and `gumbel_softmax_with_rng`.
        """
        progress = now.index / max(self.plan.num_steps - 1, 1)
        temperature = max(0.27 * (1 - 0.95 * progress), 0.005)
        noise_BRV = sampled.how.draws.gumbel("smooth", now.index, sampled.filtered_BRV.shape[1:])
        logits_BRV = sampled.filtered_BRV * (1 + progress) + noise_BRV
        share_BRV = jax.nn.softmax(logits_BRV / temperature, axis=-1)
        return share_BRV @ model.quantizer.codebook[...]

    def latents_at(self, model: NextScaleModel, state: ScaleState, last: Any) -> jax.Array:
        return state.latent
