"""What the machine can do: bytes read and products made per second, as XLA itself reaches them.

Axes: M rows, D and F sides of a weight.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from gen.bench.timing import Times, interleave

# Rows of a product wide enough to be limited by arithmetic.
MANY_ROWS = 512
PROBE_BYTES = 400e6


@dataclasses.dataclass(frozen=True)
class Rates:
    """Bytes and floating-point operations per second, the best seen."""

    bytes_per_s: float
    flops_per_s: float


@dataclasses.dataclass(frozen=True)
class Probe:
    """Something of known size to time: `call` does `amount` bytes or operations."""

    kind: str
    amount: float
    call: Callable[[], Any]


def probes(shapes: Iterable[tuple[int, int]], dtype: jnp.dtype) -> dict[str, Probe]:
    """Reads of a large array in several ways, and products at the shapes of the weights.

    Args:
      shapes: (D, F) of weights; the four largest count.
      dtype: of weights and activations.
    """
    width = 4096
    rows = int(PROBE_BYTES / width / jnp.dtype(dtype).itemsize)
    big = jnp.ones((rows, width), dtype)
    one = jnp.ones((width,), dtype)
    amount = big.size * big.dtype.itemsize
    found = {
        "sum": Probe("bytes", amount, _ready(jax.jit(jnp.sum), big)),
        "sum of rows": Probe("bytes", amount, _ready(jax.jit(lambda a: a.sum(axis=1)), big)),
        "matrix by vector": Probe("bytes", amount, _ready(jax.jit(jnp.matmul), big, one)),
    }
    largest = sorted(set(shapes), key=lambda shape: shape[0] * shape[1])[-4:]
    for depth, width in largest:
        x_MD, w_DF = jnp.ones((MANY_ROWS, depth), dtype), jnp.ones((depth, width), dtype)
        name = f"{MANY_ROWS} x {depth} x {width}"
        flops = 2.0 * MANY_ROWS * depth * width
        found[name] = Probe("flops", flops, _ready(jax.jit(jnp.matmul), x_MD, w_DF))
    return found


def _ready(function: Callable, *arguments: Any) -> Callable[[], Any]:
    jax.block_until_ready(function(*arguments))  # compiled here, not when timed
    return lambda: jax.block_until_ready(function(*arguments))


def best(probes_: dict[str, Probe], times: dict[str, Times]) -> Rates:
    """The best rates of all probes and rounds."""
    rates = {"bytes": 0.0, "flops": 0.0}
    for name, probe in probes_.items():
        rates[probe.kind] = max(rates[probe.kind], probe.amount / times[name].best)
    return Rates(rates["bytes"], rates["flops"])


def measure(probes_: dict[str, Probe], *, rounds: int) -> dict[str, Times]:
    """Times of the probes alone."""
    return interleave({name: probe.call for name, probe in probes_.items()}, rounds=rounds)
