"""Next-neighbour generation: a token of distance d from the corner at step d (NAR, He et al. 2025).

Axes: B samples, Q rows, P positions, S slots, T condition slots, W slots fed in one step,
R positions sampled in one step, A axes of the grid, D width, V vocabulary.

Slots 0..T-1 hold the condition; then come the tokens by distance (the sum of a cell's
coordinates), so that a step feeds a run of slots. The last cell is never fed: S = T + P - 1. Each
axis has a head that predicts the next cell along it, each at its own depth: the last axis (to the
right) first, `head_blocks` blocks further the one before it (below), then the next frame. The
logits of a cell are the mean of what its neighbours before it say.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gen.decoding import guidance
from gen.decoding.phases import group
from gen.decoding.plan import Now, Plan, Step
from gen.errors import UserError
from gen.families.base import DecodeState
from gen.families.cached import CachedFamily, with_prompt
from gen.layouts import Layout
from gen.models import conditioning, rope
from gen.models.backbone import Backbone
from gen.models.block import BackboneConfig
from gen.models.conditioning import ConditionConfig, Prompt
from gen.models.heads import TokenHead
from gen.models.layers import Buffer, Series, embedding

POSITIONS = ("rotary", "learned", "fixed")


@dataclasses.dataclass(frozen=True)
class NextNeighbourConfig:
    """A NAR model.

    Attributes:
      grid: (height, width) of images or (frames, height, width) of videos.
      vocab_size: V.
      condition: classes or captions.
      backbone: blocks; its depth counts those between the heads.
      head_blocks: blocks from one head to the next.
      positions: `rotary` (images), or a table added to the inputs, `learned` or `fixed`.
    """

    grid: tuple[int, ...]
    vocab_size: int
    condition: ConditionConfig
    backbone: BackboneConfig
    head_blocks: int = 1
    positions: str = "rotary"

    def __post_init__(self) -> None:
        if len(self.grid) not in (2, 3) or min(self.grid) < 1 or self.vocab_size < 2:
            raise UserError(
                f"a grid is (height, width) or (frames, height, width), "
                f"a vocabulary has 2 ids or more: {self}"
            )
        if self.positions not in POSITIONS:
            raise UserError(f'positions "{self.positions}" is not one of {", ".join(POSITIONS)}')
        if self.positions == "rotary" and len(self.grid) == 3:
            raise UserError("rotary positions are two-dimensional: a video needs learned or fixed")
        if self.head_blocks < 1 or min(self.taps) < 1:
            raise UserError(
                f"a depth of {self.backbone.depth} leaves no block before the first of "
                f"{len(self.grid)} heads that are {self.head_blocks} blocks apart"
            )

    @property
    def taps(self) -> tuple[int, ...]:
        """Block counts after which the heads read, first head first."""
        last = self.backbone.depth
        return tuple(last - self.head_blocks * i for i in reversed(range(len(self.grid))))

    def shrunken(self) -> NextNeighbourConfig:
        """The same model small enough to compile and run in seconds, for `:debug`."""
        return dataclasses.replace(
            self,
            grid=tuple(min(side, 8 if len(self.grid) == 2 else 4) for side in self.grid),
            condition=self.condition.shrunken(),
            backbone=self.backbone.shrunken(depth=1 + len(self.grid)),
            head_blocks=1,
        )


class NextNeighbourModel(nnx.Module):
    """Parameters of a NAR model; `heads[a]` belongs to the a-th axis from the last."""

    def __init__(self, config: NextNeighbourConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        width, std = config.backbone.width, config.backbone.init_std
        options = {"dtype": dtype, "rngs": rngs, "std": std}
        self.condition = conditioning.build(config.condition, width, **options)
        self.tokens = embedding(config.vocab_size, width, **options)
        self.positions = position_table(config, rngs)
        self.backbone = Backbone(config.backbone, dtype=dtype, rngs=rngs)
        # Images: only the first head starts at zero, as published.
        stds = (0.0, std) if len(config.grid) == 2 else (0.0,) * 3
        eps = config.backbone.norm_eps
        self.heads = Series(
            TokenHead(width, config.vocab_size, eps=eps, std=s, dtype=dtype, rngs=rngs)
            for s in stds
        )


def position_table(config: NextNeighbourConfig, rngs: nnx.Rngs) -> nnx.Variable | None:
    """A row for each condition slot and each cell in raster order, where positions are added."""
    if config.positions == "rotary":
        return None
    count = config.condition.num_slots + int(np.prod(config.grid))
    width = config.backbone.width
    if config.positions == "fixed":
        return Buffer(jnp.asarray(rope.sinusoids(count, width)))
    return nnx.Param(config.backbone.init_std * jax.random.normal(rngs.params(), (count, width)))


class NextNeighbour(CachedFamily):
    """All cells of one distance from the corner at once, in as many steps as distances."""

    Config = NextNeighbourConfig

    def __init__(self, config: NextNeighbourConfig):
        super().__init__(config)
        self.condition = config.condition
        frames_first = (1,) * (3 - len(config.grid)) + config.grid
        self.layout = Layout("grid", (frames_first,), (config.vocab_size,))
        self.distance_P = np.indices(config.grid).reshape(len(config.grid), -1).sum(axis=0)
        self.order_P = np.argsort(self.distance_P, kind="stable")  # positions in order of slots
        self.rank_P = np.argsort(self.order_P)
        self.before_PA = neighbours(config.grid)
        self.plan = self._plan()
        self.groups = {
            f"distance_{d:02d}": np.flatnonzero(self.distance_P == d)
            for d in range(self.distance_P.max() + 1)
        }

    def build(self, rngs: nnx.Rngs, *, dtype: jnp.dtype = jnp.float32) -> NextNeighbourModel:
        return NextNeighbourModel(self.config, dtype=dtype, rngs=rngs)

    def inputs(self, model: NextNeighbourModel, tokens_BP: jax.Array, prompt: Prompt) -> jax.Array:
        x_BPD = model.tokens(tokens_BP[:, self.order_P[:-1]])
        x_BSD = jnp.concatenate([prompt.x_BTD, x_BPD], axis=1)
        return self._placed(model, x_BSD, np.arange(x_BSD.shape[1]))

    def inputs_at(
        self, model: NextNeighbourModel, state: DecodeState, prompt: Prompt, now: Now
    ) -> jax.Array:
        before = jnp.maximum(now.feed_W - self.condition.num_slots, 0)
        x_BWD = model.tokens(state.tokens[:, jnp.asarray(self.order_P)[before]])
        return self._placed(model, with_prompt(prompt, x_BWD, now.feed_W), now.feed_W)

    def _placed(self, model: NextNeighbourModel, x_BWD: jax.Array, slots_W) -> jax.Array:
        """Inputs with their positions; a table has the condition's rows, then raster order."""
        if model.positions is None:
            return x_BWD
        num_cond = self.condition.num_slots
        rows_S = np.concatenate([np.arange(num_cond), num_cond + self.order_P])
        return x_BWD + model.positions[...][jnp.asarray(rows_S)[slots_W]].astype(x_BWD.dtype)

    def predict(
        self, model: NextNeighbourModel, hidden: list[jax.Array], prompt: Prompt
    ) -> jax.Array:
        # Row 0 is the last condition slot, row 1 + r the r-th token.
        rows_PA = np.where(self.before_PA < 0, -1, 1 + self.rank_P[self.before_PA])
        rows_PA[0] = 0  # for the corner every head reads the condition
        first = self.condition.num_slots - 1
        return vote(model.heads, [h_BSD[:, first:] for h_BSD in hidden], rows_PA)

    def predict_at(
        self, model: NextNeighbourModel, hidden: list[jax.Array], prompt: Prompt, now: Now
    ) -> jax.Array:
        return vote(model.heads, hidden, now.read_R)

    def guidance(self, number: float, interval: int, options: Any) -> np.ndarray:
        """Scale `number` where it exceeds 1; off once more than `interval` tokens are there.

        Source: ThisisBillhe/NAR, `generate` of both halves: the first step is always guided.
        """
        scale_N = guidance.constant(max(number, 1.0), self.plan.num_steps)
        made_N = np.searchsorted(np.sort(self.distance_P), np.arange(len(scale_N)))
        off_N = (made_N > interval) & (np.arange(len(scale_N)) > 0) & (interval > -1)
        return np.where(off_N, np.float32(1.0), scale_N)

    def _plan(self) -> Plan:
        """The condition in one call, then a call per distance: the last distance + 1 in all."""
        num_cond, num_positions = self.condition.num_slots, len(self.order_P)
        num_slots = num_cond + num_positions - 1
        sizes_N = np.bincount(self.distance_P)
        axes = self.before_PA.shape[1]
        start = Step(np.arange(num_cond), np.full((1, axes), num_cond - 1), np.zeros(1, np.int32))
        steps = [start]
        for distance, count in enumerate(sizes_N[:-1], start=1):
            first = num_cond + int(sizes_N[: distance - 1].sum())
            target_R = self.order_P[self.distance_P[self.order_P] == distance]
            slots_RA = num_cond + self.rank_P[self.before_PA[target_R]]
            read_RA = np.where(self.before_PA[target_R] < 0, -1, slots_RA - first)
            steps.append(Step(first + np.arange(count), read_RA, target_R))
        step_S = np.concatenate([np.arange(num_cond), num_cond + np.sort(self.distance_P)[:-1]])
        phases = group(steps, num_slots=num_slots, num_positions=num_positions)
        return Plan(step_S, self._rope(), phases, self.config.taps)

    def _rope(self) -> np.ndarray | None:
        if self.config.positions != "rotary":
            return None
        head_dim = self.config.backbone.head_dim
        table = rope.grid_2d(*self.config.grid, head_dim, base=self.config.backbone.rope_base)
        zeros = rope.zero_rows(self.condition.num_slots, head_dim)
        return np.concatenate([zeros, table[self.order_P[:-1]]])


def neighbours(grid: tuple[int, ...]) -> np.ndarray:
    """The cell before each along each axis, last axis first; -1 at the edge: `(P, A)`."""
    index = np.arange(np.prod(grid)).reshape(grid)
    before = []
    for axis in reversed(range(len(grid))):
        shifted = np.roll(index, 1, axis=axis)
        np.moveaxis(shifted, axis, 0)[0] = -1
        before.append(shifted.reshape(-1))
    return np.stack(before, axis=1)


def vote(heads_A: Series, hidden: list[jax.Array], rows_RA: np.ndarray | jax.Array) -> jax.Array:
    """The mean of the heads' logits, each read at its own row; -1 is no vote: `(B, R, V)`."""
    total = 0.0
    for axis, (head, h_BSD) in enumerate(zip(heads_A, hidden, strict=True)):
        rows_R = jnp.asarray(rows_RA)[:, axis]
        logits_BRV = head(h_BSD)[:, jnp.maximum(rows_R, 0)]
        total += jnp.where((rows_R >= 0)[:, None], logits_BRV, 0.0)
    count_R = jnp.maximum(jnp.sum(jnp.asarray(rows_RA) >= 0, axis=1), 1)
    return total / count_R[:, None]
