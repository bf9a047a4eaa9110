"""Which steps share a program: widths and cache lengths from what steps and phases cost.

Axes: S slots of the sequence, N steps of a phase, W slots fed in one step, R positions sampled in
one step, T slots of a cache, A heads that vote for a position.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from gen.decoding.plan import Phase, Step

ROUND = 64  # cache lengths are multiples of so many slots, or the whole sequence


class Costs(NamedTuple):
    """What a phase is charged, in readings of the weights.

    All steps of a phase are as wide as the widest and read a cache as long as the longest: one more
    phase saves padding, and costs a compilation and a copy of the caches.

    `width`: slots fed in a step whose products take as long as reading the weights; `length`: slots
    of the caches that do; `phase`: one phase more. The defaults are those of 8 rows (4 guided
    samples) on a CPU. There a phase compiles as long as 150 readings take, so one more of them is
    worth it from 50 batches on.
    """

    width: float = 2.0
    length: float = 512.0
    phase: float = 3.0

    def of(self, num_steps: int, width: int, length: int) -> float:
        """A phase of so many steps."""
        return self.phase + num_steps * (1.0 + width / self.width + length / self.length)


COSTS = Costs()


class Alike(NamedTuple):
    """Consecutive steps `start` to `stop` that differ in nothing that costs."""

    start: int
    stop: int
    feeds: int
    reads: int
    first_slot: int
    widens: bool

    def length(self, width: int, num_slots: int) -> int:
        """T that the steps need where each feeds so many slots."""
        end = min(self.first_slot + width, num_slots)
        return min(-(-end // ROUND) * ROUND, num_slots)


def group(
    steps: list[Step],
    *,
    num_slots: int,
    num_positions: int,
    costs: Costs = COSTS,
) -> tuple[Phase, ...]:
    """Groups steps into phases at the least cost.

    A step that is narrower than others of its phase feeds more slots than it has to. Where these
    are of later steps, nobody sees them until they are fed in turn; where the sequence ends before,
    earlier slots are fed again, which changes nothing.

    Args:
      steps: in order, each as narrow as it can be.
      num_slots: S.
      num_positions: what stands for no position where fewer are sampled than in other steps.
      costs: of steps and phases.
    """
    phases = []
    for run in _cheapest(_alike(steps, num_slots), num_slots, costs):
        feeds, reads = max(part.feeds for part in run), max(part.reads for part in run)
        members = [
            _widened(step, feeds, reads, num_slots, num_positions)
            for step in steps[run[0].start : run[-1].stop]
        ]
        length = max(part.length(feeds, num_slots) for part in run)
        phases.append(_phase(members, length, run[0].start))
    return tuple(phases)


def alone(steps: list[Step]) -> tuple[Phase, ...]:
    """Every step as a phase of its own, whose cache ends with its slots.

    For few and wide steps, each unlike the others.
    """
    ends = itertools.accumulate((int(step.feed_W.max(initial=0)) + 1 for step in steps), max)
    return tuple(_phase([step], end, n) for n, (step, end) in enumerate(zip(steps, ends)))


def _phase(steps: list[Step], cache_length: int, first: int) -> Phase:
    stacked = (np.stack(arrays).astype(np.int32) for arrays in zip(*map(_arrays, steps)))
    return Phase(*stacked, cache_length, first)


def _arrays(step: Step) -> tuple[np.ndarray, ...]:
    return step.feed_W, step.read_R, step.target_R


def _alike(steps: list[Step], num_slots: int) -> list[Alike]:
    """Runs of steps of the same widths and the same need of cache."""
    found: list[Alike] = []
    for number, step in enumerate(steps):
        feeds, first = len(step.feed_W), int(step.feed_W[0])
        widens = bool((np.diff(step.feed_W) == 1).all())
        one = Alike(number, number + 1, feeds, len(step.target_R), first, widens)
        last = found[-1] if found else None
        if last and _kind(last, num_slots) == _kind(one, num_slots):
            found[-1] = one._replace(start=last.start)
        else:
            found.append(one)
    return found


def _kind(part: Alike, num_slots: int) -> tuple:
    return part.feeds, part.reads, part.widens, part.length(part.feeds, num_slots)


def _cheapest(parts: list[Alike], num_slots: int, costs: Costs) -> list[list[Alike]]:
    """Runs of parts, a phase each, of the least sum of costs."""
    best: list[tuple[float, int]] = [(0.0, 0)]  # cost of the first n parts, start of the last run
    for stop in range(1, len(parts) + 1):
        options = []
        for start in range(stop - 1, -1, -1):
            run = parts[start:stop]
            width = max(part.feeds for part in run)
            if not all(part.widens or part.feeds == width for part in run):
                break
            length = max(part.length(width, num_slots) for part in run)
            cost = costs.of(run[-1].stop - run[0].start, width, length)
            options.append((best[start][0] + cost, start))
        best.append(min(options))
    runs, stop = [], len(parts)
    while stop:
        start = best[stop][1]
        runs.append(parts[start:stop])
        stop = start
    return runs[::-1]


def _widened(step: Step, feeds: int, reads: int, num_slots: int, num_positions: int) -> Step:
    """A step that feeds and samples as many as others do."""
    first, extra = int(step.feed_W[0]), reads - len(step.target_R)
    feed_W = step.feed_W
    if len(feed_W) < feeds:
        feed_W = min(first, num_slots - feeds) + np.arange(feeds)
    read_R = np.where(step.read_R < 0, -1, step.read_R + first - feed_W[0])
    padding = [(0, extra)] + [(0, 0)] * (read_R.ndim - 1)
    # No vote where heads vote; else any row, whose token goes nowhere.
    nothing = -1 if read_R.ndim > 1 else 0
    return Step(
        feed_W,
        np.pad(read_R, padding, constant_values=nothing),
        np.pad(step.target_R, (0, extra), constant_values=num_positions),
    )
