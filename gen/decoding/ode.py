"""Flow matching's ordinary differential equation, by Euler steps from noise to data.

Axes: N steps, B samples, Q rows (samples, or [conditional; null]), R positions, C channels.

x = (1 - t) data + t noise, so time falls from 1 to 0. Times are worked out on the host in float64
and reach the device as arrays; the state is float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen.decoding import guidance
from gen.errors import UserError


@dataclasses.dataclass(frozen=True)
class EulerOptions:
    """Options of sampling.

    `num_steps` is the published number (see `time_grid`); steps that begin at a time of at most
    `guided_below` are guided.
    """

    num_steps: int = 25
    guided_below: float = 0.9

    def __post_init__(self) -> None:
        if self.num_steps < 2 or not 0.0 <= self.guided_below <= 1.0:
            raise UserError(f"num_steps is at least 2, guided_below lies in [0, 1]: {self}")


def time_grid(num_steps: int) -> np.ndarray:
    """The published times, float64, falling from 1 to 0.

    `num_steps` counts times, not steps: 25 gives 25 of them, 12 down to 0.3 and 13 from 0.25.
    An even number gives one more, and 50 gives 51 at equal distances.
    Source: wangqiang9/FlowAR, `euler_sampler`.
    """
    if num_steps == 50:
        return evenly(1.0, 0.0, 51)
    early, late = num_steps // 2, num_steps // 2 + 1
    return np.concatenate([evenly(1.0, 0.3, early), evenly(0.25, 0.0, late)])


def evenly(first: float, last: float, count: int) -> np.ndarray:
    """torch's float64 `linspace` to the last bit.

    Each value is counted from the nearer end and rounded once. A bit can decide whether a time
    lies within a bound, and at which whole number it is cut.
    """
    gap = Fraction((last - first) / max(count - 1, 1))
    near = [float(Fraction(first) + gap * number) for number in range(max(count // 2, 1))]
    far = [float(Fraction(last) - gap * number) for number in range(count - len(near))]
    return np.array(near + far[::-1])


def euler(
    velocity: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, times: np.ndarray
) -> jax.Array:
    """The state at the last of the times, from that at the first.

    Args:
      velocity: of a state and a time, a float32 scalar.
      x: state at `times[0]`, float32.
      times: float64; without a second one there is nothing to do.
    """
    if len(times) < 2:
        return x
    steps_N = np.diff(times).astype(np.float32)

    def one(x: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        step, time = now
        return x + step * velocity(x, time), None

    begins_N = times[:-1].astype(np.float32)
    return jax.lax.scan(one, x, (jnp.asarray(steps_N), jnp.asarray(begins_N)))[0]


def guided_euler(
    velocity: Callable[[jax.Array, jax.Array, Any], jax.Array],
    x_BRC: jax.Array,
    told_Q: jax.Array,
    *,
    scale: jax.Array | None,
    options: EulerOptions,
) -> jax.Array:
    """Data from noise, guided at the velocity; both branches share the state.

    Args:
      velocity: of a state, a time and what the network is told of each row.
      x_BRC: noise.
      told_Q: rows of the samples, then, if guided, those of the null branch, which is computed in
        guided steps alone.
      scale: of guidance; none: unguided, Q is B.
      options: steps, and which of them are guided.
    """
    told_B, times = told_Q[: x_BRC.shape[0]], time_grid(options.num_steps)
    early = np.count_nonzero(times > options.guided_below)
    first = len(times) - 1 if scale is None else int(early)
    x_BRC = euler(lambda x, time: velocity(x, time, told_B), x_BRC, times[: first + 1])

    def guided(x_BRC: jax.Array, time: jax.Array) -> jax.Array:
        both_QRC = velocity(jnp.concatenate([x_BRC, x_BRC]), time, told_Q)
        return guidance.guide(*jnp.split(both_QRC, 2), scale)

    return euler(guided, x_BRC, times[first:])
