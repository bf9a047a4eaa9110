"""When each position is decoded and what it may see, as static arrays.

Axes: S slots of the sequence, N steps of a phase, W slots fed in one step, R positions sampled
in one step, T slots of a cache, C channel pairs of a head.

One integer per slot decides: slot q may attend slot k iff `step[q] >= step[k]`. The training
mask, the rows of the cached decoding mask and the phases of the compiled loop all follow from it.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Step:
    """One call of the network.

    `feed_W` are the slots fed, `read_R` indices into `feed_W` of those whose output is used,
    `target_R` the positions sampled. The three may differ: a slot may be fed without being read,
    read for a position elsewhere, or fed again later.
    """

    feed_W: np.ndarray
    read_R: np.ndarray
    target_R: np.ndarray


@dataclasses.dataclass(frozen=True)
class Phase:
    """Consecutive steps of equal widths and one cache length, compiled as one scan."""

    feed_NW: np.ndarray
    read_NR: np.ndarray
    target_NR: np.ndarray
    cache_length: int
    first_step: int

    @property
    def num_steps(self) -> int:
        return len(self.feed_NW)

    @property
    def contiguous(self) -> bool:
        """Whether every step writes an ascending run of slots that fits the cache."""
        runs = np.diff(self.feed_NW, axis=1) == 1
        return bool(runs.all() and self.feed_NW.max() < self.cache_length)

    def part(self, start: int, stop: int) -> Phase:
        """Steps `start` to `stop`, counted inside this phase."""
        return Phase(
            self.feed_NW[start:stop],
            self.read_NR[start:stop],
            self.target_NR[start:stop],
            self.cache_length,
            self.first_step + start,
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """The static description of a family's sequence.

    Attributes:
      step_S: the decoding step at which each slot becomes visible.
      rope_S2C: rotary rows of the slots, or none.
      phases: the decoding steps in order, grouped.
      taps: block counts whose hidden states the heads read; the last block by default.
    """

    step_S: np.ndarray
    rope_S2C: np.ndarray | None
    phases: tuple[Phase, ...]
    taps: tuple[int, ...] = ()

    @property
    def num_steps(self) -> int:
        """Network calls per sample."""
        return sum(phase.num_steps for phase in self.phases)

    def mask_rows(self, slots: np.ndarray, length: int) -> np.ndarray:
        """True where the given slots see the first `length` slots: `slots.shape + (length,)`."""
        return self.step_S[slots][..., None] >= self.step_S[:length]

    @property
    def mask_SS(self) -> np.ndarray:
        """The training mask."""
        return self.mask_rows(np.arange(len(self.step_S)), len(self.step_S))

    def phases_cut_at(self, step: int) -> list[Phase]:
        """The phases, with one that contains `step` split so that a new phase starts there."""
        cut = []
        for phase in self.phases:
            inside = min(max(step - phase.first_step, 0), phase.num_steps)
            parts = [phase.part(0, inside), phase.part(inside, phase.num_steps)]
            cut.extend(part for part in parts if part.num_steps)
        return cut


def group(steps: list[Step], *, num_slots: int, max_lengths: int = 4) -> tuple[Phase, ...]:
    """Groups steps into phases; early ones get a shorter cache.

    Cache lengths are multiples of 64 slots, at most `max_lengths` different ones: a short cache
    saves reading (half of the step time at 32 rows on a CPU), each further length costs a
    compilation of the step and one copy of the cache.
    """
    quantum = max(64, -(-num_slots // (64 * max_lengths)) * 64)

    def cache_length(step: Step) -> int:
        needed = int(step.feed_W.max(initial=0)) + 1
        return min(-(-needed // quantum) * quantum, num_slots)

    reach = list(itertools.accumulate((cache_length(step) for step in steps), max))
    kinds = [
        (len(step.feed_W), len(step.target_R), length)
        for step, length in zip(steps, reach, strict=True)
    ]
    phases, first = [], 0
    for (_, _, length), members in itertools.groupby(range(len(steps)), kinds.__getitem__):
        run = [steps[i] for i in members]
        phases.append(
            Phase(
                np.stack([step.feed_W for step in run]).astype(np.int32),
                np.stack([step.read_R for step in run]).astype(np.int32),
                np.stack([step.target_R for step in run]).astype(np.int32),
                length,
                first,
            )
        )
        first += len(run)
    return tuple(phases)
