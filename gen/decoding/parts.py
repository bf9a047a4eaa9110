"""Parts of a sampler: consecutive steps that one program takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Part:
    """Consecutive steps of one kind.

    Two parts are equal where one program serves both, the shapes of `values` aside.

    Attributes:
      guided: whether there are rows for the null branch.
      slots: of the caches; 0 where there are none.
      kind: what else decides the program.
      alone: `values` are constants of the program, not arguments.
      first: number of the first step among all.
      values: name -> what differs from step to step, with the steps in front.
      scope: what the whole sampler calls this part (`jax.named_scope`).
    """

    guided: bool
    slots: int
    kind: Hashable
    alone: bool
    first: int = dataclasses.field(compare=False)
    values: dict[str, Any] = dataclasses.field(compare=False)
    scope: str = dataclasses.field(compare=False)

    @property
    def num_steps(self) -> int:
        return len(self.values["index"])

    @property
    def stop(self) -> int:
        """Number of the step after the last."""
        return self.first + self.num_steps

    @property
    def last(self) -> Any:
        """The last step as the loop counts it: an int, or traced like the values."""
        last = self.values["index"][-1]
        return int(last) if isinstance(last, np.integer) else last

    @property
    def room(self) -> tuple[bool, int]:
        """What decides the shapes of what a loop carries."""
        return self.guided, self.slots


def pieces(count: int, every: int | None) -> Iterator[tuple[int, int]]:
    """(start, stop) of runs of at most `every` of so many steps; none: one run of all."""
    every = every or max(count, 1)
    return ((start, min(start + every, count)) for start in range(0, count, every))
