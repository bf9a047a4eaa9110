"""A model as the cached loop reads it."""

from __future__ import annotations

from typing import NamedTuple

from flax import nnx

from gen.decoding.plan import Plan
from gen.models.linear import NARROW_ROWS, flip


class LaidOut(NamedTuple):
    """A model, and its blocks apart instead of stacked."""

    model: nnx.Module
    blocks: list[nnx.Module]


def is_narrow(plan: Plan, batch: int, num_guided: int) -> bool:
    """Whether the widest step of so many samples has few rows, for which `flip` is."""
    widest = max(phase.feed_NW.shape[1] for phase in plan.phases)
    return (2 * batch if num_guided else batch) * widest <= NARROW_ROWS


def lay_out(model: nnx.Module, *, narrow: bool) -> LaidOut:
    """The model, which is changed, with its blocks apart and laid out for few rows or many."""
    blocks = model.backbone.unstack()
    if narrow:
        for module in (model, *blocks):
            flip(module)
    return LaidOut(model, blocks)
