"""Sampling as the benchmark runs it: compiled once, then timed whole; and its bound."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import numpy as np

from gen.api import Generator
from gen.bench.made_up import captions
from gen.bench.rates import Rates
from gen.bench.timing import Times
from gen.bench.work import Work, count
from gen.decoding.guidance import num_guided_steps
from gen.pixels import Pixels


class Sampler:
    """A batch of one size, sampled by one call.

    Attributes:
      rows: samples of a call.
      guidance: as published code counts it, or none.
      calls: of the network per sample.
      compile_s: seconds to trace and to compile, or to load from the compilation cache.
      temporary_bytes: what the program needs beside its arguments and results.
    """

    def __init__(
        self, generator: Generator, rows: int, settings: dict[str, Any], pixels: Pixels | None
    ):
        self.rows, self.guidance, self.pixels = rows, settings["guidance"], pixels
        start = time.perf_counter()
        given = captions(generator.family.condition, rows)
        traced, self._arguments = generator.traced(0, num=rows, captions=given, **settings)
        compiled = traced.lower().compile()
        self.compile_s = time.perf_counter() - start
        self._compiled, memory = compiled, compiled.memory_analysis()
        self.temporary_bytes = getattr(memory, "temp_size_in_bytes", None)
        scale_N = np.asarray(self._arguments[3])
        self.calls = len(scale_N)
        self._usage = generator.family.usage(num_guided_steps(scale_N), generator.dtype)
        num_weights = len(jax.tree.leaves(self._arguments[0]))
        self._work = count(traced.jaxpr, num_weights, tuple(self._usage))

    @property
    def name(self) -> str:
        guided = "unguided" if self.guidance is None else f"guidance {self.guidance:g}"
        return f"batch {self.rows}, {guided}" + (", pixels" if self.pixels else "")

    def __call__(self) -> None:
        drawn = jax.block_until_ready(self._compiled(*self._arguments))
        if self.pixels:
            # The answer is a NumPy array, so it is there.
            self.pixels({name: np.asarray(array) for name, array in drawn.items()})

    def bound(self, rates: Rates) -> float:
        """Seconds that no program of this model can beat: of each phase, whatever takes longer,
        reading its weights and the filled part of its caches, or the products of rows and slots
        that are no padding. The tokenizer is not in it."""
        seconds = 0.0
        for scope, work in self._work.items():
            usage = self._usage.get(scope)
            bytes_, flops = work.weight_bytes, work.weight_flops + work.other_flops
            if usage:
                rows = self.rows * (2 if usage.guided else 1)
                bytes_ += rows * usage.slots_read * usage.bytes_per_slot
                attended = work.other_flops * usage.filled
                flops = usage.useful * (work.weight_flops + attended)
            seconds += max(bytes_ / rates.bytes_per_s, flops / rates.flops_per_s)
        return seconds

    @property
    def total(self) -> Work:
        """All it reads and multiplies, padding included."""
        parts = self._work.values()
        return Work(*(sum(getattr(p, f.name) for p in parts) for f in dataclasses.fields(Work)))

    def record(self, times: Times, rates: Rates) -> dict[str, Any]:
        """What is reported of it; times in seconds, of a whole batch unless named otherwise."""
        bound, device = self.bound(rates), jax.local_devices()[0].memory_stats() or {}
        return {
            "batch": self.rows,
            "guidance": self.guidance,
            "pixels": self.pixels is not None,
            "calls_per_sample": self.calls,
            "compile_s": self.compile_s,
            "ms_per_call": 1e3 * times.median / self.calls,
            "samples_per_s": self.rows / times.median,
            "p50_s": times.median,
            "p95_s": times.percentile(95),
            "best_s": times.best,
            "seconds": list(times.seconds),
            "bound_s": bound,
            "bound_ms_per_call": 1e3 * bound / self.calls,
            "share_of_bound": bound / times.median,
            "temporary_bytes": self.temporary_bytes,
            "peak_bytes": device.get("peak_bytes_in_use"),
            "work": dataclasses.asdict(self.total),
        }
