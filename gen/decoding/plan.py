"""When each position is decoded and what it may see, as static arrays.

Axes: S slots of the sequence, N steps of a phase, W slots fed in one step, R positions sampled
in one step, T slots of a cache, C channel pairs of a head.

A step's arrays are NumPy's where its phase has one step alone, so that a family may build shapes
on them; in longer phases they are traced.

One integer per slot decides: slot q may attend slot k iff `step[q] >= step[k]`. The training
mask, the rows of the cached decoding mask and the phases of the compiled loop all follow from it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Step:
    """One call of the network.

    `feed_W` are the slots fed, `read_R` indices into `feed_W` of those whose output is used (or
    `(R, A)`, where A heads vote for a position; -1 where one has no vote), `target_R` the
    positions sampled, padded beyond the last. The three may differ: a slot may be fed without
    being read, read for a position elsewhere, or fed again later.
    """

    feed_W: np.ndarray
    read_R: np.ndarray
    target_R: np.ndarray


class Now(NamedTuple):
    """The step that the loop is at: its arrays, and its number `index` among all steps.

    `index` is an int where the phase has one step alone, else traced like the arrays.
    """

    feed_W: Any
    read_R: Any
    target_R: Any
    index: Any


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
    def scope(self) -> str:
        """What the loop calls its part of the program (`jax.named_scope`)."""
        return f"phase_{self.first_step}"

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


class Usage(NamedTuple):
    """What a part of a sampler uses of what it computes.

    `guided`: whether there is a row for the null branch; `useful`: share of the fed rows that are
    no padding; `slots_read`: of the cache, filled ones, summed over steps; `filled`: their share
    of all slots; `bytes_per_slot`: of the caches of all layers, for one row.
    """

    guided: bool
    useful: float
    slots_read: int
    filled: float
    bytes_per_slot: float


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

    @property
    def waste(self) -> float:
        """Share of the rows fed that are padding: each slot needs to be fed once."""
        fed = sum(phase.feed_NW.size for phase in self.phases)
        return 1.0 - len(self.step_S) / fed

    def mask_rows(self, slots: np.ndarray, length: int) -> np.ndarray:
        """True where the given slots see the first `length` slots: `slots.shape + (length,)`."""
        return self.step_S[slots][..., None] >= self.step_S[:length]

    @property
    def mask_SS(self) -> np.ndarray:
        """The training mask."""
        return self.mask_rows(np.arange(len(self.step_S)), len(self.step_S))

    def usage(self, num_guided: int, bytes_per_slot: float) -> dict[str, Usage]:
        """What each phase of a guided sampler uses of what it computes, by its scope.

        Args:
          num_guided: steps up to the last guided one.
          bytes_per_slot: of the caches of all layers, for one row.
        """
        found, fed = {}, np.zeros(len(self.step_S), bool)
        for phase in self.phases_cut_at(num_guided):
            before, seen_N = int(fed.sum()), []
            for slots_W in phase.feed_NW:
                fed[slots_W[slots_W < len(fed)]] = True
                seen_N.append(int(fed.sum()))
            found[phase.scope] = Usage(
                guided=phase.first_step < num_guided,
                useful=(seen_N[-1] - before) / phase.feed_NW.size,
                slots_read=sum(seen_N),
                filled=sum(seen_N) / (phase.num_steps * phase.cache_length),
                bytes_per_slot=bytes_per_slot,
            )
        return found

    def phases_cut_at(self, step: int) -> list[Phase]:
        """The phases, with one that contains `step` split so that a new phase starts there."""
        cut = []
        for phase in self.phases:
            inside = min(max(step - phase.first_step, 0), phase.num_steps)
            parts = [phase.part(0, inside), phase.part(inside, phase.num_steps)]
            cut.extend(part for part in parts if part.num_steps)
        return cut
