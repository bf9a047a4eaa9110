"""Next-token generation in raster order (LlamaGen, Sun et al. 2024).

Axes: B samples, Q rows, P positions, S slots, T condition slots, W slots fed in one step,
D width, V vocabulary.

Slots 0..T-1 hold the condition, slot T + i the token of position i. The last token is never fed,
so S = T + P - 1. Slot T - 1 + i predicts position i.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gen import layouts
from gen.decoding import guidance
from gen.decoding.phases import group
from gen.decoding.plan import Now, Plan, Step
from gen.errors import UserError
from gen.families.base import DecodeState
from gen.families.cached import CachedFamily, with_prompt
from gen.models import conditioning, heads, rope
from gen.models.backbone import Backbone
from gen.models.block import BackboneConfig
from gen.models.conditioning import ConditionConfig, Prompt
from gen.models.layers import embedding


@dataclasses.dataclass(frozen=True)
class NextTokenConfig:
    """A LlamaGen model: grid of tokens, vocabulary, condition and backbone."""

    grid: tuple[int, int]
    vocab_size: int
    condition: ConditionConfig
    backbone: BackboneConfig

    def __post_init__(self) -> None:
        if len(self.grid) != 2 or min(self.grid) < 1 or self.vocab_size < 2:
            raise UserError(f"a grid is (height, width), a vocabulary has 2 ids or more: {self}")

    def shrunken(self) -> NextTokenConfig:
        """The same model small enough to compile and run in seconds, for `:debug`."""
        return dataclasses.replace(
            self,
            grid=(min(self.grid[0], 8), min(self.grid[1], 8)),
            condition=self.condition.shrunken(),
            backbone=self.backbone.shrunken(),
        )


class NextTokenModel(nnx.Module):
    """Parameters of a LlamaGen model."""

    def __init__(self, config: NextTokenConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        width = config.backbone.width
        options = {"dtype": dtype, "rngs": rngs, "std": config.backbone.init_std}
        self.condition = conditioning.build(config.condition, width, **options)
        self.tokens = embedding(config.vocab_size, width, **options)
        self.backbone = Backbone(config.backbone, dtype=dtype, rngs=rngs)
        self.head = heads.TokenHead(
            width, config.vocab_size, eps=config.backbone.norm_eps, dtype=dtype, rngs=rngs
        )


class NextToken(CachedFamily):
    """One token a step, each seeing the condition and all tokens before it."""

    Config = NextTokenConfig

    def __init__(self, config: NextTokenConfig):
        super().__init__(config)
        self.condition = config.condition
        self.layout = layouts.grid(*config.grid, config.vocab_size)
        self.plan = make_plan(config)

    def build(self, rngs: nnx.Rngs, *, dtype: jnp.dtype = jnp.float32) -> NextTokenModel:
        return NextTokenModel(self.config, dtype=dtype, rngs=rngs)

    def inputs(self, model: NextTokenModel, tokens_BP: jax.Array, prompt: Prompt) -> jax.Array:
        return jnp.concatenate([prompt.x_BTD, model.tokens(tokens_BP[:, :-1])], axis=1)

    def inputs_at(
        self, model: NextTokenModel, state: DecodeState, prompt: Prompt, now: Now
    ) -> jax.Array:
        before = now.feed_W - self.condition.num_slots
        x_BWD = model.tokens(state.tokens[:, jnp.maximum(before, 0)])
        return with_prompt(prompt, x_BWD, now.feed_W)

    def predict(self, model: NextTokenModel, hidden: list[jax.Array], prompt: Prompt) -> jax.Array:
        return model.head(hidden[-1][:, self.condition.num_slots - 1 :])

    def predict_at(
        self, model: NextTokenModel, hidden: list[jax.Array], prompt: Prompt, now: Now
    ) -> jax.Array:
        return model.head(hidden[-1][:, now.read_R])

    def guidance(self, number: float, interval: int, options: Any) -> np.ndarray:
        """Scale `number` where it exceeds 1, else none; off after step `interval` + 1.

        The published loop counts `interval` from the step after the prefill; negative means
        never off. Source: FoundationVision/LlamaGen, `generate` and `decode_n_tokens`.
        """
        last_step = None if interval < 0 else interval + 1
        return guidance.constant(max(number, 1.0), self.plan.num_steps, last_step=last_step)


def make_plan(config: NextTokenConfig) -> Plan:
    """Raster order: the condition in one call, then one token a call; P calls in all."""
    num_cond, num_positions = config.condition.num_slots, int(np.prod(config.grid))
    num_slots = num_cond + num_positions - 1
    head_dim = config.backbone.head_dim
    rope_S2C = np.concatenate(
        [
            rope.zero_rows(num_cond, head_dim),
            rope.grid_2d(*config.grid, head_dim, base=config.backbone.rope_base),
        ]
    )[:num_slots]
    feeds = [np.arange(num_cond)] + [np.array([slot]) for slot in range(num_cond, num_slots)]
    steps = [
        Step(feed_W=feed, read_R=np.array([len(feed) - 1]), target_R=np.array([position]))
        for position, feed in enumerate(feeds)
    ]
    phases = group(steps, num_slots=num_slots, num_positions=num_positions)
    return Plan(np.arange(num_slots), rope_S2C, phases)
