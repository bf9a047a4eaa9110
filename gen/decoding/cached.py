"""The cached decoding loop: phases of equal width, each position committed once.

Axes: B samples, Q rows (samples, or twice as many while a null branch runs), N steps of a phase,
W slots fed in one step, R positions sampled in one step, T slots of the cache, V vocabulary.

A Python loop over phases, each one `lax.scan`: few programs to compile, static shapes
throughout. The loop knows steps, masks and caches; what a slot holds, what is drawn from hidden
states and where it goes is the family's.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from gen.decoding import guidance, tokens
from gen.decoding.plan import Now, Phase, Plan
from gen.layouts import Layout
from gen.models import backbone, conditioning
from gen.models.linear import NARROW_ROWS, flip


class Drawing(NamedTuple):
    """How a step draws what it samples.

    `guided` says whether rows are [conditional; null], `scale` is the step's guidance scale,
    `draws` where noise comes from and `options` the family's own.
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


def sample(
    family: Sequential,
    model: nnx.Module,
    condition: dict[str, jax.Array],
    *,
    draws: Any,
    scale_N: jax.Array,
    num_guided: int,
    sampling: tokens.TokenSampling,
    options: Any = None,
    keep_logits: bool = False,
) -> tuple[Any, jax.Array | None]:
    """Decodes a batch from nothing.

    Args:
      family: plan, inputs, predictions and commits.
      model: the family's module, in the dtype to compute in.
      condition: `label` (B,), or `caption` and `caption_valid`.
      draws: noise, see `gen.decoding.draws`.
      scale_N: guidance scale of each step; may be traced.
      num_guided: steps up to the last guided one (static); later steps run one branch.
      sampling: temperature and filters.
      options: the family's own, handed to its `commit` (static).
      keep_logits: also return what each token was drawn from, after guidance.

    Returns:
      The family's state after the last step, its `tokens` int32 of the family's layout, and
      float32 logits `(B, P, V)` if asked for.
    """
    batch = next(iter(condition.values())).shape[0]
    drop_Q = None
    if num_guided:
        condition, drop_Q = conditioning.with_null(condition)
    phases = family.plan.phases_cut_at(num_guided)
    blocks = _laid_out(model, phases, 2 * batch if num_guided else batch)
    prompt = model.condition(condition, drop_Q)
    # What a condition makes of each block is the same at every step.
    modulations = [block.modulate(prompt.cond) for block in blocks]
    caches, state, logits_BPV = None, family.begin(model, batch), None
    for phase in phases:
        guided = phase.first_step < num_guided
        rows = 2 * batch if guided else batch
        if caches is None:
            caches = model.backbone.empty_cache(rows, phase.cache_length)
        # The null half ends with the last guided step.
        prompt, caches, modulations = jax.tree.map(
            lambda a, n=rows: a[:n], (prompt, caches, modulations)
        )
        caches = backbone.grow(caches, phase.cache_length)
        stop = phase.first_step + phase.num_steps
        with jax.named_scope(phase.scope):
            caches, state, logits_NBRV = _run_phase(
                family, model, list(zip(blocks, modulations)), phase, prompt, caches, state,
                draws=draws, scale_N=scale_N[phase.first_step : stop], guided=guided,
                sampling=sampling, options=options, keep_logits=keep_logits,
            )  # fmt: skip
        if keep_logits:
            logits_BPV = _scatter(logits_BPV, logits_NBRV, phase, family.layout.num_positions)
    return state, logits_BPV


def _laid_out(model: nnx.Module, phases: list[Phase], rows: int) -> list[nnx.Module]:
    """The unstacked blocks; with the model, laid out for the widest step of so many rows."""
    blocks, widest = model.backbone.unstack(), max(phase.feed_NW.shape[1] for phase in phases)
    # Of a program for any number of rows, none is known when it is made.
    if isinstance(rows, int) and rows * widest <= NARROW_ROWS:
        for module in (model, *blocks):
            flip(module)
    return blocks


def _scatter(
    all_BPV: jax.Array | None, logits_NBRV: jax.Array, phase: Phase, num_positions: int
) -> jax.Array:
    """Puts the logits of a phase where their targets are; padding targets are dropped."""
    _, batch, _, vocab = logits_NBRV.shape
    if all_BPV is None:
        all_BPV = jnp.zeros((batch, num_positions, vocab), logits_NBRV.dtype)
    rows_BTV = rearrange(logits_NBRV, "n b r v -> b (n r) v")
    return all_BPV.at[:, phase.target_NR.reshape(-1)].set(rows_BTV, mode="drop")


def _per_step(plan: Plan, phase: Phase, scale_N: jax.Array) -> dict[str, Any]:
    """What differs from step to step of a phase, each with the steps in front."""
    values = {
        "feed_W": phase.feed_NW,
        "read_R": phase.read_NR,
        "target_R": phase.target_NR,
        "index": phase.first_step + np.arange(phase.num_steps, dtype=np.int32),
        "mask_WT": plan.mask_rows(phase.feed_NW, phase.cache_length),
        "scale": scale_N,
    }
    if plan.rope_S2C is not None:
        values["rope_W2C"] = plan.rope_S2C[phase.feed_NW]
    return values


def _run_phase(
    family: Sequential,
    model: nnx.Module,
    blocks: list[tuple[nnx.Module, Any]],
    phase: Phase,
    prompt: conditioning.Prompt,
    caches: list,
    state: Any,
    *,
    draws: Any,
    scale_N: jax.Array,
    guided: bool,
    sampling: tokens.TokenSampling,
    options: Any,
    keep_logits: bool,
) -> tuple[list, Any, jax.Array | None]:
    """All steps of one phase; returns the caches, the family's state and any logits kept."""
    plan, per_step = family.plan, _per_step(family.plan, phase, scale_N)

    def one_step(carry: tuple, values: dict[str, Any]) -> tuple[tuple, jax.Array | None]:
        caches, state = carry
        now = Now(*(values[name] for name in Now._fields))
        hidden, caches = backbone.step(
            blocks,
            family.inputs_at(model, state, prompt, now),
            caches,
            mask=with_validity(jnp.asarray(values["mask_WT"]), now.feed_W, prompt.valid_BT),
            slots_S=now.feed_W,
            contiguous=phase.contiguous,
            rope=values.get("rope_W2C"),
            taps=plan.taps,
        )
        how = Drawing(guided, values["scale"], sampling, draws, options)
        sampled = family.draw_at(model, hidden, prompt, now, how)
        state = family.commit(model, state, sampled, now)
        return (caches, state), sampled.logits_BRV if keep_logits else None

    if phase.num_steps == 1:
        # Alone, a step keeps its arrays as constants, and a family may build shapes on them.
        alone = {name: array[0] for name, array in per_step.items()} | {"index": phase.first_step}
        (caches, state), logits_BRV = one_step((caches, state), alone)
        return caches, state, logits_BRV[None] if keep_logits else None
    per_step = jax.tree.map(jnp.asarray, per_step)
    (caches, state), logits_NBRV = jax.lax.scan(one_step, (caches, state), per_step)
    return caches, state, logits_NBRV
