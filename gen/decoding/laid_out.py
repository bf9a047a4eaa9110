"""A model as the cached loop reads it."""

from __future__ import annotations

from typing import NamedTuple

from flax import nnx

from gen.decoding.plan import Plan
from gen.models.linear import Storage, flip


class LaidOut(NamedTuple):
    """A model, and its blocks apart instead of stacked."""

    model: nnx.Module
    blocks: list[nnx.Module]


def widest(plan: Plan, batch: int, num_guided: int) -> int:
    """Rows of the widest step of so many samples."""
    rows = max(phase.feed_NW.shape[1] for phase in plan.phases)
    return (2 * batch if num_guided else batch) * rows


def lay_out(model: nnx.Module, storage: Storage) -> LaidOut:
    """The model, which is changed, with its blocks apart and its weights in a storage."""
    blocks = model.backbone.unstack()
    for module in (model, *blocks):
        flip(module, storage)
    return LaidOut(model, blocks)
