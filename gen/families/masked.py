"""Masked generation: all positions at every step, the surest kept (MaskGIT, Chang et al. 2022).

Axes: B samples, Q rows, P positions, S slots (the class, then the positions), N steps, K draws,
D width, V vocabulary.

Slot 0 holds the class, slot 1 + i the token of position i or the mask; every slot sees every other,
and slot 1 + i predicts position i. Sampling is the loop of `gen.decoding.masked`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gen import layouts
from gen.decoding import draws, guidance, mask_schedule, masked
from gen.decoding.cached import Drawing
from gen.decoding.mask_schedule import MaskOptions
from gen.decoding.masked import MASKED, Canvas, Now
from gen.decoding.parts import Part
from gen.decoding.trace import Trace
from gen.errors import UserError
from gen.families.base import Family
from gen.models import conditioning
from gen.models.backbone import Backbone
from gen.models.conditioning import ConditionConfig, Prompt
from gen.models.post_norm import LayerNorm, PostNormConfig, TiedHead, table, truncated

BUCKETS = ("00_25", "25_50", "50_75", "75_100")  # percent masked
RATIOS = 4096  # a training sample takes one of so many evenly spaced points of the schedule


@dataclasses.dataclass(frozen=True)
class MaskedConfig:
    """A MaskGIT model and its training objective.

    Attributes:
      grid: (height, width) of the tokens.
      vocab_size: V.
      condition: classes. The published models have no null class: `drop_rate` 0.
      backbone: blocks.
      label_smoothing: share of the target that is spread over all tokens.
      mask_schedule: in training, gives the share of masked positions at a uniform progress.
      min_mask_ratio: least share of masked positions in training.
      num_draws: masks per sample by which the likelihood is bounded; a multiple of 4.
    """

    grid: tuple[int, int]
    vocab_size: int
    condition: ConditionConfig
    backbone: PostNormConfig
    label_smoothing: float = 0.1
    mask_schedule: str = "cosine"
    min_mask_ratio: float = 0.0
    num_draws: int = 16

    def __post_init__(self) -> None:
        if len(self.grid) != 2 or min(self.grid) < 1 or self.vocab_size < 2:
            raise UserError(f"a grid is (height, width), a vocabulary has 2 ids or more: {self}")
        if self.condition.kind != "class":
            raise UserError("this family is conditioned on classes: condition.kind must be class")
        mask_schedule.check_schedule(self.mask_schedule)
        for name in ("label_smoothing", "min_mask_ratio"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(f"{name} lies in [0, 1), not {getattr(self, name)}")
        if self.num_draws < 1 or self.num_draws % len(BUCKETS):
            raise UserError(f"num_draws is a multiple of {len(BUCKETS)}, not {self.num_draws}")

    def shrunken(self) -> MaskedConfig:
        """The same model small enough to compile and run in seconds, for `:debug`."""
        return dataclasses.replace(
            self,
            grid=(min(self.grid[0], 8), min(self.grid[1], 8)),
            condition=self.condition.shrunken(),
            backbone=self.backbone.shrunken(),
            num_draws=len(BUCKETS),
        )


class MaskedModel(nnx.Module):
    """Parameters of a MaskGIT model.

    The reference's table of words is that of the tokens, that of the classes and the mask, in this
    order; the head has a bias for each row, of which sampling and training use those of tokens.
    """

    def __init__(self, config: MaskedConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        backbone = config.backbone
        width, options = backbone.width, {"dtype": dtype, "rngs": rngs}
        start = {"std": backbone.init_std, **options}
        self.condition = conditioning.build(config.condition, width, **start)
        classes = self.condition.table.num_embeddings
        self.condition.table = table(classes, width, **start)
        self.tokens = table(config.vocab_size, width, **start)
        draw = truncated(backbone.init_std)
        self.mask = nnx.Param(draw(rngs.params(), (width,)))
        slots = 1 + config.grid[0] * config.grid[1]
        self.positions = nnx.Param(draw(rngs.params(), (slots, width)))
        self.norm = LayerNorm(width, eps=backbone.norm_eps)
        self.backbone = Backbone(backbone, **options)
        self.head = TiedHead(backbone, config.vocab_size + classes + 1, **options)

    def hidden(
        self, canvas_BP: jax.Array, prompt: Prompt, key: jax.Array | None = None
    ) -> jax.Array:
        """Hidden states `(Q, S, D)` of a canvas that serves each branch of the prompt."""
        x_BPD = self.tokens(jnp.maximum(canvas_BP, 0))
        x_BPD = jnp.where(
            (canvas_BP == MASKED)[..., None], self.mask[...].astype(x_BPD.dtype), x_BPD
        )
        x_QPD = jnp.tile(x_BPD, (prompt.x_BTD.shape[0] // canvas_BP.shape[0], 1, 1))
        x_QSD = jnp.concatenate([prompt.x_BTD, x_QPD], axis=1)
        x_QSD = self.norm(x_QSD + self.positions[...].astype(x_QSD.dtype))
        every = jnp.ones((x_QSD.shape[1],) * 2, bool)
        return self.backbone(x_QSD, mask=every, key=key)[-1]

    def logits(
        self, canvas_BP: jax.Array, prompt: Prompt, key: jax.Array | None = None
    ) -> jax.Array:
        """Logits of the tokens at all positions, float32 `(Q, P, V)`."""
        return self.head(self.hidden(canvas_BP, prompt, key)[:, 1:], self.tokens.embedding[...])


class Masked(Family):
    """All tokens at every step, from a canvas of masks."""

    Config = MaskedConfig
    Options = MaskOptions
    is_bound = True

    def __init__(self, config: MaskedConfig):
        super().__init__(config)
        self.condition = config.condition
        self.layout = layouts.grid(*config.grid, config.vocab_size)
        count = self.layout.num_positions
        progress_T = (np.arange(RATIOS) + 0.5) / RATIOS
        ratio_T = mask_schedule.mask_ratio(config.mask_schedule, progress_T, count)
        ratio_T = np.maximum(ratio_T, config.min_mask_ratio)
        self.lengths_T = np.ceil(ratio_T * count).astype(np.int32)

    def build(self, rngs: nnx.Rngs, *, dtype: jnp.dtype = jnp.float32) -> MaskedModel:
        return MaskedModel(self.config, dtype=dtype, rngs=rngs)

    def loss(
        self, model: MaskedModel, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Cross entropy with label smoothing at masked positions, mean over those of the batch.

        ceil(P ratio) random positions are masked, the ratio drawn per sample from the schedule.
        Published: the paper's section 3.1; the loss, its smoothing (`losses.py`) and its values
        in the configs. The training loop is not: that the logits are those of tokens alone, as
        in decoding, that `min_masking_rate` is a lower limit, and the null class are ours.
        """
        drop_key, ratio_key, order_key, noise_key = jax.random.split(key, 4)
        tokens_BP, epsilon = batch["tokens"], self.config.label_smoothing
        rows, count = tokens_BP.shape
        length_B = jax.random.choice(ratio_key, jnp.asarray(self.lengths_T), (rows,))
        masked_BP = random_mask(jax.random.uniform(order_key, (rows, count)), length_B)
        prompt = model.condition(batch, self.null_rows(drop_key, rows))
        canvas_BP = jnp.where(masked_BP, MASKED, tokens_BP)
        log_p_BPV = jax.nn.log_softmax(model.logits(canvas_BP, prompt, noise_key))
        nll_BP = -jnp.take_along_axis(log_p_BPV, tokens_BP[..., None], axis=-1)[..., 0]
        smooth_BP = (1 - epsilon) * nll_BP - epsilon * jnp.mean(log_p_BPV, axis=-1)

        def mean(values_BP: jax.Array) -> jax.Array:
            # Per sample first: one long float32 sum would lose digits that depend on the mesh.
            return jnp.sum(jnp.sum(values_BP * masked_BP, axis=1)) / jnp.sum(length_B)

        return mean(smooth_BP), {"nll/masked": mean(nll_BP)}

    def held_out(
        self,
        model: MaskedModel,
        tokens_BP: jax.Array,
        condition: dict[str, jax.Array],
        *,
        draws: draws.KeyedDraws | Any,
        drop_B: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """An unbiased estimate of the bound of models of any order (Uria et al. 2014).

        -log p <= P E[mean nll of k random masked positions given the others], k uniform in 1..P.
        The draws of k are stratified; each position gets P / k of its nll where masked, so that
        sums over positions estimate the bound. `nll/ratio_A_B` is the mean of a masked position
        where A to B percent are masked.
        """
        count, num_draws = tokens_BP.shape[1], self.config.num_draws
        prompt = model.condition(condition, drop_B)

        def one_draw(draw: jax.Array) -> tuple[jax.Array, jax.Array]:
            level_B = (draw + draws.uniform("length", draw, ())) / num_draws
            length_B = jnp.minimum((level_B * count).astype(jnp.int32) + 1, count)
            masked_BP = random_mask(draws.uniform("order", draw, (count,)), length_B)
            logits_BPV = model.logits(jnp.where(masked_BP, MASKED, tokens_BP), prompt)
            log_p_BPV = jax.nn.log_softmax(logits_BPV)
            log_p_BP = jnp.take_along_axis(log_p_BPV, tokens_BP[..., None], axis=-1)[..., 0]
            return jnp.where(masked_BP, -log_p_BP, 0.0) / length_B[:, None]

        # One draw after another: all at once would take their number times the memory.
        share_KBP = jax.lax.map(one_draw, jnp.arange(num_draws))
        mean_JB = share_KBP.sum(axis=2).reshape(len(BUCKETS), -1, len(tokens_BP)).mean(axis=1)
        buckets = {f"nll/ratio_{name}": mean_B for name, mean_B in zip(BUCKETS, mean_JB)}
        return {"nll": count * share_KBP.mean(axis=0)} | buckets

    def num_steps(self, options: MaskOptions) -> int:
        return options.num_steps - options.start_step

    def guidance(self, number: float, interval: int, options: MaskOptions) -> np.ndarray:
        """Scale `number` at every step, off after step `interval` + 1: ours, like null classes."""
        last_step = None if interval < 0 else interval + 1
        return guidance.constant(number, self.num_steps(options), last_step=last_step)

    def prepare(
        self, rows: int, known: np.ndarray | None, options: MaskOptions
    ) -> dict[str, np.ndarray]:
        """The canvas to start from, `known` `(B, P)`, and `mask_lengths` `(B, N)`, both int32."""
        if known is None:
            known = np.full((rows, self.layout.num_positions), MASKED, np.int32)
        lengths_BN = mask_schedule.mask_lengths((known == MASKED).sum(axis=1), options)
        return {"known": known, "mask_lengths": lengths_BN}

    def parts(self, num_guided: int, options: MaskOptions, every: int | None = None) -> list[Part]:
        return masked.cut(options, num_guided, every)

    def start(
        self,
        laid_out: MaskedModel,
        batch: dict[str, jax.Array],
        *,
        num_guided: int,
        keep_logits: bool = False,
    ) -> tuple[masked.Held, masked.Carry]:
        condition = {name: batch[name] for name in self.condition_fields}
        settings = {"num_guided": num_guided, "keep_logits": keep_logits}
        return masked.begin(self, laid_out, batch, condition, **settings)

    def advance(
        self,
        held: masked.Held,
        carry: masked.Carry,
        part: Part,
        how: Drawing,
        *,
        keep_trace: bool = False,
    ) -> tuple[masked.Carry, Trace | None]:
        return masked.advance(self, held, carry, part, how, keep_trace=keep_trace)

    def finish(self, held: masked.Held, carry: masked.Carry, last: Any) -> dict[str, jax.Array]:
        logits_BPV = carry.logits_BPV
        kept = {} if logits_BPV is None else {"logits": logits_BPV}
        return {"tokens": carry.state.tokens_BP} | kept

    # What the loop asks for (`gen.decoding.masked.Refining`).

    def begin(self, model: MaskedModel, batch: dict[str, jax.Array]) -> Canvas:
        return Canvas(batch["known"], batch["known"])

    def logits_at(
        self, model: MaskedModel, state: Canvas, prompt: Prompt, now: Now
    ) -> tuple[jax.Array, Canvas]:
        return model.logits(state.canvas_BP, prompt), state

    def draw_at(
        self, logits_BPV: jax.Array, state: Canvas, now: Now, how: Drawing
    ) -> tuple[jax.Array, jax.Array]:
        return masked.draw_tokens(logits_BPV, now, how)

    def remask(self, state: Canvas, confidence_BP: jax.Array, now: Now, how: Drawing) -> jax.Array:
        """The least sure of the masked positions; noise on log p, or noise alone."""
        noise_BP = how.draws.gumbel("confidence", now.index, confidence_BP.shape[1:])
        if how.options.order == "random":
            return masked.least_sure(state.canvas_BP, noise_BP, now.length_B)
        warmth = np.float32(how.options.choice_temperature) * (1.0 - now.progress)
        return masked.least_sure(state.canvas_BP, confidence_BP + warmth * noise_BP, now.length_B)


def random_mask(noise_BP: jax.Array, length_B: jax.Array) -> jax.Array:
    """True at `length_B` positions of each sample, at random by noise without an order."""
    rank_BP = jnp.argsort(jnp.argsort(noise_BP, axis=1), axis=1)
    return rank_BP < length_B[:, None]
