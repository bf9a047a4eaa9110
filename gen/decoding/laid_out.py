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


def usual_rows(plan: Plan, batch: int, num_guided: int) -> int:
    """Rows of the widest step of so many samples that is one of several alike.

    A step alone in its phase, such as that of a text's prompt, is once as slow as it may be; it
    counts where all are alone.
    """
    widths = [phase.feed_NW.shape for phase in plan.phases]
    alike = [width for steps, width in widths if steps > 1]
    return (2 * batch if num_guided else batch) * max(alike or [width for _, width in widths])


def lay_out(model: nnx.Module, storage: Storage) -> LaidOut:
    """The model, which is changed, with its blocks apart and its weights in a storage."""
    blocks = model.backbone.unstack()
    for module in (model, *blocks):
        flip(module, storage)
    return LaidOut(model, blocks)
