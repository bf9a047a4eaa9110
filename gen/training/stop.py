"""Stopping on a signal: the run saves first, and all its processes stop after the same step."""

from __future__ import annotations

import collections
import os
import signal
from typing import Any

import jax

from gen import distributed

RESTART = 42  # exit code of a run that was told to stop and can be started again
# Steps between a flag and its answer: the devices always have the next steps queued meanwhile.
DELAY = 2


class StopSignal:
    """Remembers SIGTERM and SIGINT, so that a run can save before it goes. A second one kills.

    With several processes, each step carries a tiny reduction of all flags over all devices,
    whose answer is read `DELAY` steps later. It is then mostly there already, and since all
    processes read the answers of the same steps, they agree on the step to stop after.
    """

    def __enter__(self) -> StopSignal:
        self.received = False
        self._answers: collections.deque[Any] = collections.deque()
        numbers = (signal.SIGTERM, signal.SIGINT)
        self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        if self.received:
            if jax.process_count() > 1:
                os._exit(128 + number)  # a clean exit would wait for the other processes
            raise SystemExit(128 + number)
        self.received = True

    def agreed(self) -> bool:
        """Whether to stop after this step, the same in all processes; asked once per step."""
        self._answers.append(distributed.ask(self.received))
        delay = DELAY if jax.process_count() > 1 else 0
        return len(self._answers) > delay and bool(self._answers.popleft())
