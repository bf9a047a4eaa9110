"""The masked decoding loop: all positions at every step, and what was drawn may be masked again.

Axes: B samples, Q rows (samples, or twice as many while a null branch runs), N steps, P positions,
V vocabulary.

A step feeds the canvas, in which `MASKED` stands for what is unknown, draws a token for each masked
position, and masks some of them again. How many is known before the first step: lengths are worked
out on the host, per sample, and reach the program as values. So one program serves whatever is
known in advance, and no sample depends on its batch. There is no cache. The loop knows steps,
branches and the canvas; what goes in, what is drawn and what is masked again is the family's.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct

from gen.decoding import guidance, tokens
from gen.decoding.cached import Drawing
from gen.layouts import Layout
from gen.models import conditioning

MASKED = -1


class Now(NamedTuple):
    """The step that the loop is at.

    `index` is its number in the whole schedule, `progress` is (index + 1) / steps as float32 and
    `length_B` how many positions of each sample are to be masked when it ends.
    """

    index: jax.Array
    progress: jax.Array
    length_B: jax.Array


@struct.dataclass
class Canvas:
    """What the loop carries; a family may add fields.

    `canvas_BP` is what the next step is fed, int32 with `MASKED` where unknown; `tokens_BP` what
    it was before the last step masked some of it again: what sampling gives in the end.
    """

    canvas_BP: jax.Array
    tokens_BP: jax.Array


class Refining(Protocol):
    """What the loop asks of a family."""

    layout: Layout

    def begin(self, model: nnx.Module, batch: dict[str, jax.Array]) -> Canvas:
        """The state before the first step."""

    def logits_at(
        self, model: nnx.Module, state: Any, prompt: conditioning.Prompt, now: Now
    ) -> tuple[jax.Array, Any]:
        """Logits `(Q, P, V)` of all positions, [conditional; null] where the prompt has 2B rows.

        And the state, with whatever the family keeps from this call for the next.
        """

    def draw_at(
        self, logits_BPV: jax.Array, state: Any, now: Now, how: Drawing
    ) -> tuple[jax.Array, jax.Array]:
        """A token for each position, and how sure it is: int32 and float32, `(B, P)`."""

    def remask(self, state: Any, confidence_BP: jax.Array, now: Now, how: Drawing) -> jax.Array:
        """Positions to mask again, bool `(B, P)`; `state` is as it was fed."""


def draw_tokens(logits_BPV: jax.Array, now: Now, how: Drawing) -> tuple[jax.Array, jax.Array]:
    """A token for each position, and its log p before temperature and filters."""
    noise = None
    if not how.sampling.greedy:
        noise = how.draws.gumbel("token", now.index, logits_BPV.shape[1:])
    chosen_BP, _ = tokens.choose(logits_BPV, how.sampling, noise)
    log_p_BPV = jax.nn.log_softmax(logits_BPV)
    return chosen_BP, jnp.take_along_axis(log_p_BPV, chosen_BP[..., None], axis=-1)[..., 0]


def least_sure(canvas_BP: jax.Array, confidence_BP: jax.Array, length_B: jax.Array) -> jax.Array:
    """The `length_B` masked positions of lowest confidence, bool `(B, P)`; fewer where some tie.

    Those below the entry of rank m, as google-research/maskgit has it. What is known stays.
    """
    confidence_BP = jnp.where(canvas_BP == MASKED, confidence_BP, jnp.inf)
    ranked_BP = jnp.pad(jnp.sort(confidence_BP), ((0, 0), (0, 1)), constant_values=jnp.inf)
    return confidence_BP < jnp.take_along_axis(ranked_BP, length_B[:, None], axis=1)


def refine(
    family: Refining,
    model: nnx.Module,
    batch: dict[str, jax.Array],
    condition: dict[str, jax.Array],
    *,
    draws: Any,
    scale_N: jax.Array,
    num_guided: int,
    sampling: tokens.TokenSampling,
    options: Any,
    keep_logits: bool = False,
) -> dict[str, jax.Array]:
    """Decodes a batch; a scan over the guided steps, then one over the others.

    Args:
      family: inputs, draws and masks.
      model: the family's module, in the dtype to compute in.
      batch: what the family's `begin` takes, and `mask_lengths` `(B, N)`.
      condition: `label` (B,), or `caption` and `caption_valid`.
      draws: noise, see `gen.decoding.draws`.
      scale_N: guidance scale of each step; may be traced.
      num_guided: steps up to the last guided one (static); later steps run one branch.
      sampling: temperature and filters.
      options: the family's own, with `num_steps` and `start_step` (static).
      keep_logits: also return what each token was drawn from, after guidance.

    Returns:
      `tokens` `(B, P)`; `fed_steps` and `token_steps` `(B, N, P)`, the canvas and the tokens of
      each step; and `logits` float32 `(B, P, V)` if asked for, 0 where the token was known.
    """
    lengths_NB = batch["mask_lengths"].T
    count, rows = lengths_NB.shape
    drop_Q = None
    if num_guided:
        condition, drop_Q = conditioning.with_null(condition)
    prompt = model.condition(condition, drop_Q)
    index_N = np.arange(options.start_step, options.num_steps, dtype=np.int32)
    progress_N = (index_N + 1).astype(np.float32) / np.float32(options.num_steps)
    steps = Now(jnp.asarray(index_N), jnp.asarray(progress_N), lengths_NB), jnp.asarray(scale_N)
    state, logits_BPV, parts = family.begin(model, batch), None, []
    if keep_logits:
        logits_BPV = jnp.zeros((*state.canvas_BP.shape, family.layout.vocab_sizes[0]))
    for start, stop in ((0, num_guided), (num_guided, count)):
        if start == stop:
            continue
        guided = start < num_guided
        how = Drawing(guided, None, sampling, draws, options)
        # The null half ends with the last guided step.
        own = jax.tree.map(lambda a, n=2 * rows if guided else rows: a[:n], prompt)
        (state, logits_BPV), made = jax.lax.scan(
            functools.partial(_one_step, family, model, own, how),
            (state, logits_BPV),
            jax.tree.map(lambda a, s=start, e=stop: a[s:e], steps),
        )
        parts.append(made)
    fed_BNP, token_BNP = (jnp.concatenate(a).swapaxes(0, 1) for a in zip(*parts, strict=True))
    found = {"tokens": state.tokens_BP, "fed_steps": fed_BNP, "token_steps": token_BNP}
    return found | ({"logits": logits_BPV} if keep_logits else {})


def _one_step(
    family: Refining,
    model: nnx.Module,
    prompt: conditioning.Prompt,
    how: Drawing,
    carry: tuple[Any, jax.Array | None],
    values: tuple[Now, jax.Array],
) -> tuple[tuple, tuple]:
    """The state after a step with any logits kept, and what the step was fed and made."""
    (state, kept_BPV), (now, scale) = carry, values
    how, fed_BP = how._replace(scale=scale), state.canvas_BP
    logits_BPV, state = family.logits_at(model, state, prompt, now)
    if how.guided:
        cond_BPV, null_BPV = jnp.split(logits_BPV, 2)
        logits_BPV = guidance.guide(cond_BPV, null_BPV, scale)
    if kept_BPV is not None:
        kept_BPV = jnp.where((fed_BP == MASKED)[..., None], logits_BPV, kept_BPV)
    drawn_BP, confidence_BP = family.draw_at(logits_BPV, state, now, how)
    tokens_BP = jnp.where(fed_BP == MASKED, drawn_BP, fed_BP)
    again_BP = family.remask(state, confidence_BP, now, how)
    state = state.replace(canvas_BP=jnp.where(again_BP, MASKED, tokens_BP), tokens_BP=tokens_BP)
    return (state, kept_BPV), (fed_BP, tokens_BP)
