"""The cached decoding loop: phases of equal width, each position committed once.

Axes: B samples, Q rows (samples, or twice as many while a null branch runs), N steps of a phase,
W slots fed in one step, R positions sampled in one step, T slots of the cache, V vocabulary.

A Python loop over phases, each one `lax.scan`: few programs to compile, static shapes
throughout. The loop knows steps, masks and caches; what a slot holds, what is drawn from hidden
states and where it goes is the family's.

`Family.sample` puts it together of a beginning and parts, which may also be programs of their own.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from gen.decoding import guidance, tokens, trace
from gen.decoding.laid_out import LaidOut
from gen.decoding.parts import Part, pieces
from gen.decoding.plan import Now, Phase, Plan
from gen.decoding.trace import Trace
from gen.layouts import Layout
from gen.models import backbone, conditioning
from gen.models.attention import LayerCache


class Drawing(NamedTuple):
    """How a step draws what it samples.

    `guided` says whether rows are [conditional; null], `scale` is the step's guidance scale (of a
    part, `(N,)`), `draws` where noise comes from and `options` the family's own.
    """

    guided: bool
    scale: Any
    sampling: tokens.TokenSampling
    draws: Any
    options: Any


class Sampled(NamedTuple):
    """What a step gives to commit.

    `tokens_BR` are ids, or latents `(B, R, C)`. Where they were drawn from logits, `logits_BRV`
    are these after guidance and `filtered_BRV` after temperature and filters too.
    """

    tokens_BR: jax.Array
    how: Drawing
    logits_BRV: jax.Array | None = None
    filtered_BRV: jax.Array | None = None


class Held(NamedTuple):
    """What all steps read, made once: `blocks` are unstacked, `modulations` theirs."""

    model: nnx.Module
    blocks: list[nnx.Module]
    prompt: conditioning.Prompt
    modulations: list[Any]


class Carry(NamedTuple):
    """What steps hand on; `logits_BPV` where they are kept."""

    caches: list[LayerCache]
    state: Any
    logits_BPV: jax.Array | None


class Sequential(Protocol):
    """What the loop asks of a family; `gen.families.base` says what each member means."""

    plan: Plan
    layout: Layout

    def begin(self, model: nnx.Module, batch: int) -> Any: ...

    def inputs_at(
        self, model: nnx.Module, state: Any, prompt: conditioning.Prompt, now: Now
    ) -> jax.Array: ...

    def draw_at(
        self,
        model: nnx.Module,
        hidden: list[jax.Array],
        prompt: conditioning.Prompt,
        now: Now,
        how: Drawing,
    ) -> Sampled: ...

    def commit(self, model: nnx.Module, state: Any, sampled: Sampled, now: Now) -> Any: ...


def draw_tokens(logits_QRV: jax.Array, now: Now, how: Drawing) -> Sampled:
    """Guidance at the logits, then one token per position."""
    logits_BRV = logits_QRV
    if how.guided:
        cond_BRV, null_BRV = jnp.split(logits_QRV, 2)
        logits_BRV = guidance.guide(cond_BRV, null_BRV, how.scale)
    noise = None
    if not how.sampling.greedy:
        noise = how.draws.gumbel("token", now.index, logits_BRV.shape[1:])
    chosen_BR, filtered_BRV = tokens.choose(logits_BRV, how.sampling, noise)
    return Sampled(chosen_BR, how, logits_BRV, filtered_BRV)


def with_validity(mask_WT: jax.Array, slots_W: jax.Array, valid_QT: jax.Array | None) -> jax.Array:
    """The mask with padded prompt slots hidden from everything but themselves.

    Args:
      mask_WT: what the fed slots see by step order.
      slots_W: their slot numbers.
      valid_QT: false on padding, for the prompt's slots; the rest count as valid.

    Returns:
      `(W, T)` unchanged without `valid_QT`, else `(Q, W, T)`.
    """
    if valid_QT is None:
        return mask_WT
    length = mask_WT.shape[1]
    rest = max(length - valid_QT.shape[1], 0)
    valid_QT = jnp.pad(valid_QT[:, :length], ((0, 0), (0, rest)), constant_values=True)
    own_WT = slots_W[:, None] == jnp.arange(length)
    return (mask_WT & valid_QT[:, None, :]) | own_WT


def cut(plan: Plan, num_guided: int, every: int | None = None) -> list[Part]:
    """The phases, guided and not, as parts of at most `every` steps; none: each whole."""
    parts = []
    for phase in plan.phases_cut_at(num_guided):
        # Alone, a step keeps its arrays as constants, and a family may build shapes on them.
        alone = phase.num_steps == 1
        parts += [
            Part(
                guided=phase.first_step < num_guided,
                slots=phase.cache_length,
                kind=(phase.contiguous, phase.first_step if alone else None),
                alone=alone,
                first=phase.first_step + start,
                values=_per_step(plan, phase.part(start, stop)),
                scope=phase.scope,
            )
            for start, stop in pieces(phase.num_steps, every)
        ]
    return parts


def begin(
    family: Sequential,
    laid_out: LaidOut,
    condition: dict[str, jax.Array],
    *,
    num_guided: int,
    keep_logits: bool = False,
) -> tuple[Held, Carry]:
    """What all parts read, and what the first is handed.

    Args:
      family: plan, inputs, predictions and commits.
      laid_out: the family's module, in the dtype to compute in.
      condition: `label` (B,), or `caption` and `caption_valid`.
      num_guided: steps up to the last guided one (static); later steps run one branch.
      keep_logits: make room for what each token is drawn from.
    """
    model, blocks = laid_out
    batch = next(iter(condition.values())).shape[0]
    rows, drop_Q = batch, None
    if num_guided:
        rows = 2 * batch
        condition, drop_Q = conditioning.with_null(condition)
    prompt = model.condition(condition, drop_Q)
    # What a condition makes of each block is the same at every step.
    modulations = [block.modulate(prompt.cond) for block in blocks]
    caches = model.backbone.empty_cache(rows, family.plan.phases[0].cache_length)
    logits_BPV = None
    if keep_logits:
        shape = (batch, family.layout.num_positions, family.layout.vocab_sizes[0])
        logits_BPV = jnp.zeros(shape)
    carry = Carry(caches, family.begin(model, batch), logits_BPV)
    return Held(model, blocks, prompt, modulations), carry


def fit(carry: Carry, part: Part) -> Carry:
    """The same with as many rows and slots of the caches as a part needs."""
    rows = _rows(carry, part)
    caches = jax.tree.map(lambda a: a[:rows], carry.caches)
    return carry._replace(caches=backbone.grow(caches, part.slots))


def _rows(carry: Carry, part: Part) -> int:
    """Q: the null half ends with the last guided step."""
    batch = carry.state.tokens.shape[0]
    return 2 * batch if part.guided else batch


def advance(
    family: Sequential,
    held: Held,
    carry: Carry,
    part: Part,
    how: Drawing,
    *,
    keep_trace: bool = False,
) -> tuple[Carry, Trace | None]:
    """All steps of a part, of a carry that fits it.

    Args:
      family: plan, inputs, predictions and commits.
      held, carry: from `begin`; the carry from the part before.
      part: of `cut`.
      how: noise, filters, options, and the guidance scale of each step of the part.
      keep_trace: also return what the steps did.
    """
    rows, (contiguous, _) = _rows(carry, part), part.kind
    prompt, modulations = jax.tree.map(lambda a: a[:rows], (held.prompt, held.modulations))
    blocks, plan = list(zip(held.blocks, modulations)), family.plan

    def one_step(caches_state: tuple, values: dict[str, Any]) -> tuple[tuple, tuple]:
        caches, state = caches_state
        now = Now(*(values[name] for name in Now._fields))
        hidden, caches = backbone.step(
            blocks,
            family.inputs_at(held.model, state, prompt, now),
            caches,
            mask=with_validity(jnp.asarray(values["mask_WT"]), now.feed_W, prompt.valid_BT),
            slots_S=now.feed_W,
            contiguous=contiguous,
            rope=values.get("rope_W2C"),
            taps=plan.taps,
        )
        drawing = how._replace(scale=values["scale"])
        sampled = family.draw_at(held.model, hidden, prompt, now, drawing)
        state = family.commit(held.model, state, sampled, now)
        kept = None if carry.logits_BPV is None else sampled.logits_BRV
        drawn_BR, logits_BRV = sampled.tokens_BR, sampled.logits_BRV
        made = (drawn_BR, trace.chance(logits_BRV, drawn_BR)) if keep_trace else None
        return (caches, state), (kept, made)

    values, before = part.values | {"scale": how.scale}, (carry.caches, carry.state)
    if part.alone:
        values = {name: array[0] for name, array in values.items()} | {"index": part.first}
        after, made = one_step(before, values)
        made = jax.tree.map(lambda a: a[None], made)
    else:
        after, made = jax.lax.scan(one_step, before, jax.tree.map(jnp.asarray, values))
    (logits_NBRV, traced), target_NR = made, part.values["target_R"]
    logits_BPV = carry.logits_BPV
    if logits_BPV is not None:
        logits_BPV = _scatter(logits_BPV, logits_NBRV, target_NR)
    if traced:
        traced = trace.placed(target_NR, *traced, family.layout.num_positions)
    return Carry(*after, logits_BPV), traced


def _scatter(
    all_BPV: jax.Array, logits_NBRV: jax.Array, target_NR: jax.Array | np.ndarray
) -> jax.Array:
    """Puts the logits of some steps where their targets are; padding targets are dropped."""
    rows_BTV = rearrange(logits_NBRV, "n b r v -> b (n r) v")
    return all_BPV.at[:, target_NR.reshape(-1)].set(rows_BTV, mode="drop")


def _per_step(plan: Plan, phase: Phase) -> dict[str, Any]:
    """What differs from step to step of a phase, each with the steps in front."""
    values = {
        "feed_W": phase.feed_NW,
        "read_R": phase.read_NR,
        "target_R": phase.target_NR,
        "index": phase.first_step + np.arange(phase.num_steps, dtype=np.int32),
        "mask_WT": plan.mask_rows(phase.feed_NW, phase.cache_length),
    }
    if plan.rope_S2C is not None:
        values["rope_W2C"] = plan.rope_S2C[phase.feed_NW]
    return values
