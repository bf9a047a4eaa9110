"""The masked decoding loop: all positions at every step, and what was drawn may be masked again.

Axes: B samples, Q rows (samples, or twice as many while a null branch runs), N steps, P positions,
V vocabulary.

A step feeds the canvas, in which `MASKED` stands for what is unknown, draws a token for each masked
position, and masks some of them again. How many is known before the first step: lengths are worked
out on the host, per sample, and reach the program as values. So one program serves whatever is
known in advance, and no sample depends on its batch. There is no cache. The loop knows steps,
branches and the canvas; what goes in, what is drawn and what is masked again is the family's.
`Family.sample` puts it together of a beginning and parts, as it does the cached one.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct

from gen.decoding import guidance, tokens, trace
from gen.decoding.cached import Drawing
from gen.decoding.mask_schedule import MaskOptions
from gen.decoding.parts import Part, pieces
from gen.decoding.trace import Trace
from gen.layouts import Layout
from gen.models import conditioning

MASKED = trace.UNKNOWN


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


class Held(NamedTuple):
    """What all steps read, made once."""

    model: nnx.Module
    prompt: conditioning.Prompt
    lengths_NB: jax.Array


class Carry(NamedTuple):
    """What steps hand on; `logits_BPV` where they are kept, 0 where a token was known."""

    state: Canvas
    logits_BPV: jax.Array | None


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


def cut(options: MaskOptions, num_guided: int, every: int | None = None) -> list[Part]:
    """The guided steps, then the others, as parts of at most `every`; none: each whole."""
    index_N = np.arange(options.start_step, options.num_steps, dtype=np.int32)
    values = {
        "step": np.arange(len(index_N), dtype=np.int32),
        "index": index_N,
        "progress": (index_N + 1).astype(np.float32) / np.float32(options.num_steps),
    }
    return [
        Part(
            guided=first < num_guided,
            slots=0,
            kind=None,
            alone=False,
            first=first + start,
            values={name: array[first + start : first + stop] for name, array in values.items()},
            scope=f"phase_{first}",
        )
        for first, count in ((0, num_guided), (num_guided, len(index_N) - num_guided))
        for start, stop in pieces(count, every)
    ]


def begin(
    family: Refining,
    model: nnx.Module,
    batch: dict[str, jax.Array],
    condition: dict[str, jax.Array],
    *,
    num_guided: int,
    keep_logits: bool = False,
) -> tuple[Held, Carry]:
    """What all parts read, and what the first is handed.

    Args:
      family: inputs, draws and masks.
      model: the family's module, in the dtype to compute in.
      batch: what the family's `begin` takes, and `mask_lengths` `(B, N)`.
      condition: `label` (B,), or `caption` and `caption_valid`.
      num_guided: steps up to the last guided one (static); later steps run one branch.
      keep_logits: make room for what each token is drawn from.
    """
    drop_Q = None
    if num_guided:
        condition, drop_Q = conditioning.with_null(condition)
    prompt = model.condition(condition, drop_Q)
    state, logits_BPV = family.begin(model, batch), None
    if keep_logits:
        logits_BPV = jnp.zeros((*state.canvas_BP.shape, family.layout.vocab_sizes[0]))
    return Held(model, prompt, batch["mask_lengths"].T), Carry(state, logits_BPV)


def advance(
    family: Refining,
    held: Held,
    carry: Carry,
    part: Part,
    how: Drawing,
    *,
    keep_trace: bool = False,
) -> tuple[Carry, Trace | None]:
    """All steps of a part, one scan.

    Args:
      family: inputs, draws and masks.
      held, carry: from `begin`; the carry from the part before.
      part: of `cut`.
      how: noise, filters, options, and the guidance scale of each step of the part.
      keep_trace: also return what the steps did.
    """
    rows = held.lengths_NB.shape[1]
    # The null half ends with the last guided step.
    prompt = jax.tree.map(lambda a: a[: 2 * rows if part.guided else rows], held.prompt)
    values = jax.tree.map(jnp.asarray, part.values)
    now = Now(values["index"], values["progress"], held.lengths_NB[values["step"]])
    one_step = functools.partial(_one_step, family, held.model, prompt, how, keep_trace)
    carry, traced = jax.lax.scan(one_step, carry, (now, jnp.asarray(how.scale)))
    return carry, traced and trace.rows_first(traced)


def _one_step(
    family: Refining,
    model: nnx.Module,
    prompt: conditioning.Prompt,
    how: Drawing,
    keep_trace: bool,
    carry: Carry,
    values: tuple[Now, jax.Array],
) -> tuple[Carry, Trace | None]:
    """The state after a step with any logits kept, and what it drew, if asked for."""
    (state, kept_BPV), (now, scale) = carry, values
    how, fed_BP = how._replace(scale=scale), state.canvas_BP
    logits_BPV, state = family.logits_at(model, state, prompt, now)
    if how.guided:
        cond_BPV, null_BPV = jnp.split(logits_BPV, 2)
        logits_BPV = guidance.guide(cond_BPV, null_BPV, scale)
    masked_BP = fed_BP == MASKED
    if kept_BPV is not None:
        kept_BPV = jnp.where(masked_BP[..., None], logits_BPV, kept_BPV)
    drawn_BP, confidence_BP = family.draw_at(logits_BPV, state, now, how)
    tokens_BP = jnp.where(masked_BP, drawn_BP, fed_BP)
    again_BP = family.remask(state, confidence_BP, now, how)
    state = state.replace(canvas_BP=jnp.where(again_BP, MASKED, tokens_BP), tokens_BP=tokens_BP)
    if not keep_trace:
        return Carry(state, kept_BPV), None
    # The result is taken before the last step masks one more.
    placed_BP = masked_BP & (~again_BP | (now.index == how.options.num_steps - 1))
    positions_BP = jnp.where(placed_BP, jnp.arange(placed_BP.shape[1], dtype=jnp.int32), MASKED)
    chance_BP = jnp.where(masked_BP, trace.chance(logits_BPV, drawn_BP), jnp.nan)
    return Carry(state, kept_BPV), Trace(positions_BP, tokens_BP, chance_BP)
