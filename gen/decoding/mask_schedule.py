"""How many positions stay masked after each step of the masked loop; worked out on the host.

Axes: B samples, N steps.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np

from gen.errors import UserError

SCHEDULES = ("uniform", "pow2", "cosine", "log", "exp")
ORDERS = ("confidence", "random")


@dataclasses.dataclass(frozen=True)
class MaskOptions:
    """How the masks of a sample shrink.

    Attributes:
      num_steps: steps of the schedule.
      schedule: share of masked positions as a function of progress, see `mask_ratio`.
      order: which tokens stay: those of highest `confidence`, or `random` ones.
      choice_temperature: noise on the confidence at the start; it falls to 0 in the end.
      start_step: steps left out at the start, for editing what is known (2 of 12, as published).
      schedule_dtype: `float32` or `float64`, see `mask_lengths`.
    """

    num_steps: int = 16
    schedule: str = "cosine"
    order: str = "confidence"
    choice_temperature: float = 4.5
    start_step: int = 0
    schedule_dtype: str = "float32"

    def __post_init__(self) -> None:
        check_schedule(self.schedule)
        if self.num_steps < 1:
            raise UserError(f"num_steps is at least 1, not {self.num_steps}")
        if not 0 <= self.start_step < self.num_steps:
            raise UserError(
                f"start_step {self.start_step} must lie in [0, num_steps {self.num_steps})"
            )
        if self.order not in ORDERS:
            raise UserError(f'order is one of {", ".join(ORDERS)}, not "{self.order}"')
        if self.schedule_dtype not in ("float32", "float64"):
            raise UserError(f'schedule_dtype is float32 or float64, not "{self.schedule_dtype}"')
        if not 0.0 <= self.choice_temperature < float("inf"):
            raise UserError(f"choice_temperature is at least 0, not {self.choice_temperature}")


def check_schedule(name: str) -> None:
    """Raises `UserError` unless it is one of `SCHEDULES`, or `pow` with another exponent."""
    if name not in SCHEDULES and not re.fullmatch(r"pow\d+(\.\d+)?", name):
        raise UserError(f'schedule "{name}" is unknown: {", ".join(SCHEDULES)} (pow takes any)')


def mask_ratio(schedule: str, progress: np.ndarray, total: np.ndarray | float) -> np.ndarray:
    """Share of positions masked at a progress in (0, 1], in the dtype of `progress`.

    `uniform` 1 - r, `powX` 1 - r^X, `cosine` cos(pi r / 2), `log` -log2(r) / log2(n), `exp`
    1 - 2^(-(1 - r) log2 n), each cut to [1e-6, 1]. Source: google-research/maskgit,
    `libml/mask_schedule.py`.

    Args:
      schedule: its name.
      progress: r, of any shape.
      total: n, positions unknown at the start; broadcasts against `progress`.
    """
    number = progress.dtype.type

    def rounded(function: Any, *values: Any) -> np.ndarray:
        # NumPy's own functions of float32 are an ulp off, differently from machine to machine.
        return function(*(np.float64(value) for value in values)).astype(number)

    bits = rounded(np.log2, np.maximum(total, 2))  # where one is unknown, its ratio has no effect
    if schedule == "uniform":
        ratio = number(1) - progress
    elif schedule == "cosine":
        ratio = rounded(np.cos, number(np.pi / 2) * progress)
    elif schedule == "log":
        ratio = -rounded(np.log2, progress) / bits
    elif schedule == "exp":
        ratio = number(1) - rounded(np.exp2, -bits * (number(1) - progress))
    else:
        ratio = number(1) - rounded(np.power, progress, number(schedule.removeprefix("pow")))
    return np.clip(ratio, number(1e-6), number(1))


def mask_lengths(unknown_B: np.ndarray, options: MaskOptions) -> np.ndarray:
    """Positions of each sample that are masked after each step, int32 `(B, N)`.

    floor(n ratio), below what was masked before and at least 1: the last step masks one more, of
    a result that was taken before. Published code in JAX rounds in float32, other in float64; at
    step counts divisible by 3 the two differ by one position (cos of 60 degrees). Source:
    google-research/maskgit, `libml/parallel_decode.py`.

    Args:
      unknown_B: n, masked positions of each sample at the start.
      options: steps, schedule and dtype; steps before `start_step` are taken as done by whoever
        made what is known.
    """
    number = np.dtype(options.schedule_dtype).type
    index_N = np.arange(options.start_step, options.num_steps)
    progress_N = (index_N + 1).astype(number) / number(options.num_steps)
    total_B1 = unknown_B[:, None].astype(number)
    wanted_BN = np.floor(total_B1 * mask_ratio(options.schedule, progress_N, total_B1))
    lengths_BN, left_B = np.empty(wanted_BN.shape, np.int32), unknown_B
    for step, wanted_B in enumerate(wanted_BN.T):
        left_B = np.maximum(1, np.minimum(left_B - 1, wanted_B))
        lengths_BN[:, step] = left_B
    return lengths_BN
