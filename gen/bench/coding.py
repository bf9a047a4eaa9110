"""A tokenizer as the benchmark runs it: whole batches to tokens and to pixels; and the bound."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from gen import tokenizers
from gen.bench import rates, report, timing
from gen.bench.work import Work, count
from gen.errors import UserError, note
from gen.tokenizers import Tokenizer
from gen.tokenizers.pixels import scale

DIRECTIONS = ("encode", "decode")
SHAPE = (256, 256)  # of images, in pixels, where neither the user nor the tokenizer says more


@dataclasses.dataclass(frozen=True)
class Request:
    """What to time.

    Attributes:
      directions: of `DIRECTIONS`.
      batches: sizes.
      shape: (height, width) or (frames, height, width) in pixels; none: the tokenizer's own.
      rounds: timed batches of each.
      budget_s: sizes whose rounds would take longer are left out.
      dtype: that decoding computes in; encoding is always float32.
    """

    directions: tuple[str, ...]
    batches: Sequence[int]
    shape: tuple[int, ...] | None
    rounds: int
    budget_s: float
    dtype: str


class Coder:
    """A batch of one size that is encoded or decoded by one call, from and to the host's memory.

    Attributes:
      direction: `encode` or `decode`.
      rows: samples of a call.
      compile_s: seconds to trace and to compile, or to load from the compilation cache.
    """

    def __init__(self, tokenizer: Tokenizer, direction: str, rows: int, shape: Sequence[int]):
        self.direction, self.rows = direction, rows
        self._tokenizer, layout = tokenizer, tokenizer.layout(shape)
        self._rows = _made_up(tokenizer, direction, (rows, *shape), layout)
        start = time.perf_counter()
        program = tokenizer.program(direction, layout)
        traced = program.trace(tokenizer.params, self._given())
        self._compiled = traced.lower().compile()
        self.compile_s = time.perf_counter() - start
        memory = self._compiled.memory_analysis()
        self.temporary_bytes = getattr(memory, "temp_size_in_bytes", None)
        self.work: Work = count(traced.jaxpr, len(jax.tree.leaves(tokenizer.params)))[""]

    @property
    def name(self) -> str:
        return f"{self.direction} batch {self.rows}"

    def _given(self) -> np.ndarray:
        if self.direction == "encode":
            return scale(self._rows, self._tokenizer.pixel_range)
        return self._rows

    def __call__(self) -> None:
        np.asarray(self._compiled(self._tokenizer.params, self._given()))

    def bound(self, reached: rates.Rates) -> float:
        """Seconds that no program of this tokenizer can beat: its products at the matmul rate, or
        one reading of its weights, whatever takes longer."""
        flops = self.work.weight_flops + self.work.other_flops
        weights = sum(leaf.nbytes for leaf in jax.tree.leaves(self._tokenizer.params))
        return max(flops / reached.flops_per_s, weights / reached.bytes_per_s)

    def record(self, times: timing.Times, reached: rates.Rates) -> dict[str, Any]:
        """What is reported of it; times in seconds, of a whole batch unless named otherwise."""
        bound, device = self.bound(reached), jax.local_devices()[0].memory_stats() or {}
        return {
            "direction": self.direction,
            "batch": self.rows,
            "compile_s": self.compile_s,
            "ms_per_sample": 1e3 * times.median / self.rows,
            "samples_per_s": self.rows / times.median,
            "p50_s": times.median,
            "p95_s": times.percentile(95),
            "seconds": list(times.seconds),
            "bound_s": bound,
            "bound_ms_per_sample": 1e3 * bound / self.rows,
            "share_of_bound": bound / times.median,
            "flops": self.work.weight_flops + self.work.other_flops,
            "temporary_bytes": self.temporary_bytes,
            "peak_bytes": device.get("peak_bytes_in_use"),
        }


def _made_up(tokenizer: Tokenizer, direction: str, shape: Sequence[int], layout: Any) -> np.ndarray:
    """Random uint8 pixels, or random tokens."""
    rng = np.random.default_rng(0)
    if direction == "encode":
        return rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    tokens = (shape[0], *layout.sample_shape)
    if layout.is_continuous:
        return rng.normal(size=tokens).astype(np.float32)
    return rng.integers(0, min(layout.vocab_sizes), tokens).astype(np.int32)


def product_shapes(params: Any) -> set[tuple[int, int]]:
    """Of each kernel the (summed, made) sides of the product that it amounts to."""
    kernels = [leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim >= 2]
    return {(int(np.prod(shape[:-1])), shape[-1]) for shape in kernels}


def shape_of(tokenizer: Tokenizer, asked: tuple[int, ...] | None) -> tuple[int, ...]:
    """What was asked for, or the one size of a tokenizer that has one, or 256 x 256 pixels.

    Raises:
      UserError: the tokenizer takes no such pixels.
    """
    if asked is None:
        try:
            asked = tuple(tokenizer.default_shape(0))  # tells only where it is always the same
        except UserError:
            asked = SHAPE
    try:
        tokenizer.layout(asked)
    except UserError as error:
        raise UserError(f"{error} (--size)") from None
    return asked


def make_coders(
    tokenizer: Tokenizer, request: Request, shape: Sequence[int]
) -> tuple[list[Coder], list[str]]:
    """Those whose rounds stay within the budget, and what is said of the others."""
    made, skipped = [], []
    for direction in request.directions:
        per_row = 0.0
        for rows in sorted(request.batches):
            predicted = per_row * rows * request.rounds
            if predicted > request.budget_s:
                skipped.append(f"{direction} batch {rows}: would take {predicted:.0f} s")
                continue
            note(f"compiling {direction} of batch {rows}")
            coder = Coder(tokenizer, direction, rows, shape)
            per_row = timing.interleave({"": coder}, rounds=1)[""].best / rows
            made.append(coder)
    return made, skipped


def bench_tokenizer(
    path: str, request: Request, against: tuple[str, Callable[[], Any]] | None
) -> dict[str, Any]:
    """Times a tokenizer, prints the table and returns all figures.

    Raises:
      UserError: the file is no tokenizer, or it takes no such pixels.
    """
    tokenizer = tokenizers.load(path, dtype=request.dtype)
    shape = shape_of(tokenizer, request.shape)
    coders, skipped = make_coders(tokenizer, request, shape)
    probes = rates.probes(product_shapes(tokenizer.params), jnp.dtype(request.dtype))
    calls: dict[str, Callable] = {coder.name: coder for coder in coders}
    calls |= {name: probe.call for name, probe in probes.items()}
    if against:
        against[1]()
        calls[against[0]] = against[1]
    with tqdm(total=request.rounds * len(calls), unit="call", desc="timing", delay=0.5) as bar:
        times = timing.interleave(calls, rounds=request.rounds, done=lambda name: bar.update())
    reached = rates.best(probes, times)
    records = [coder.record(times[coder.name], reached) for coder in coders]
    sides = " x ".join(map(str, shape))
    print(report.coding_table(records))
    print(
        f"{tokenizer.kind}, {sides} pixels; bound: {reached.flops_per_s / 1e9:.0f} GF/s in "
        f"products, {reached.bytes_per_s / 1e9:.1f} GB/s read, measured in turn; {request.dtype}, "
        f"{request.rounds} rounds"
    )
    for line in skipped:
        print(f"skipped {line} (--budget-s)")
    found: dict[str, Any] = {"rates": vars(reached), "coding": records, "skipped": skipped}
    if against and coders:
        found["against"] = timing.compared(against[0], times[against[0]], times[coders[0].name])
    return found
