"""Times of several things in turn, so that a noisy machine is noisy for all of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of repeated calls."""

    seconds: tuple[float, ...]

    def percentile(self, percent: float) -> float:
        return float(np.percentile(self.seconds, percent))

    @property
    def median(self) -> float:
        return self.percentile(50)

    @property
    def best(self) -> float:
        return min(self.seconds)


def interleave(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    done: Callable[[str], None] = lambda name: None,
) -> dict[str, Times]:
    """Calls each in turn (A B C A B C ...), `rounds` times; each must end when its work has.

    Args:
      calls: name -> what to time.
      rounds: calls of each.
      clock: seconds.
      done: told the name after each call.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = clock()
            call()
            seconds[name].append(clock() - start)
            done(name)
    return {name: Times(tuple(values)) for name, values in seconds.items()}


def ratios(slow: Times, fast: Times) -> tuple[float, float, float]:
    """How many times as long `slow` takes in the same round: median, least and most."""
    pairs = [a / b for a, b in zip(slow.seconds, fast.seconds, strict=True)]
    return float(np.median(pairs)), min(pairs), max(pairs)


def compared(name: str, theirs: Times, ours: Times) -> dict[str, Any]:
    """Prints how much longer another implementation takes, and returns the figures."""
    middle, least, most = ratios(theirs, ours)
    print(f"{name}: {theirs.median:.3g} s, {middle:.2f} times ours ({least:.2f}-{most:.2f})")
    return {
        "name": name,
        "seconds": list(theirs.seconds),
        "ratio": middle,
        "least": least,
        "most": most,
    }
