"""Sampling batch by batch, and step by step: what is behind `Generator.draw` and `stream`.

Axes: B samples, P positions, N steps of a part, H height and W width of a latent, C channels.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gen import sharding
from gen.asked import Asked
from gen.data.pipeline import padded_batches
from gen.decoding import trace
from gen.decoding.parts import Part
from gen.errors import UserError
from gen.families import Family
from gen.programs import Programs

STEP = "trace_step"


@dataclasses.dataclass(frozen=True)
class Moment:
    """Samples in the making; arrays are NumPy's and the caller's.

    Attributes:
      step: steps taken so far.
      num_steps: steps there are.
      tokens: the canvas, `(B, P)` int32 with -1 where nothing is yet, or `(B, P, C)` float32 with
        NaN.
      confidence: of each token, `(B, P)`, see `gen.decoding.trace`; NaN where nothing is yet.
      latents: `(B, H, W, C)` that the samples amount to so far, where there are any.
      trace: what the steps since the last moment did, by the names of `Generator.draw`.
    """

    step: int
    num_steps: int
    tokens: np.ndarray
    confidence: np.ndarray
    latents: np.ndarray | None
    trace: dict[str, np.ndarray]


def at_once(
    run: Callable,
    asked: Asked,
    noise: Callable[[np.ndarray], Any],
    batch_size: int,
    mesh: Mesh | None,
    progress: Callable[[int], None] | None,
) -> dict[str, np.ndarray]:
    """All samples, batch by batch.

    Args:
      run: the compiled sampler, of batch, noise, scales and token sampling.
      asked: what to sample.
      noise: of the rows of these numbers.
      batch_size: rows decoded together.
      mesh: devices to spread batches over; one device by default.
      progress: called with the number of samples done after each batch.
    """
    done = []
    for rows_B, part in padded_batches(asked.batch, batch_size):
        part = sharding.put_batch(part, mesh)
        done.append(run(part, noise(rows_B), asked.scale_N, asked.sampling))
        if progress:
            jax.block_until_ready(done[-1])
            progress(min(int(rows_B[-1]) + 1, asked.rows))
    found = {n: np.concatenate([np.asarray(d[n]) for d in done])[: asked.rows] for n in done[0]}
    if any(name.startswith("trace_") for name in found):
        found[STEP] = np.arange(len(asked.scale_N), dtype=np.int32)
    return found


def stream(
    family: Family,
    programs: Programs,
    laid_out: Any,
    asked: Asked,
    noise: Any,
    every: int | None,
) -> Iterator[Moment]:
    """Samples one batch part by part.

    Args:
      family: what kind of generator it is.
      programs: its own.
      laid_out: weights as they read them.
      asked: what to sample, its batch on the device.
      noise: see `gen.decoding.draws`.
      every: the most steps of a part; none: as many as are alike.

    Raises:
      UserError: `every` is below 1, or what tracing the first programs finds; at the call.
    """
    if every is not None and (every != int(every) or every < 1):
        raise UserError(f"every is a whole number of at least 1, or none, not {every}")
    parts = family.parts(asked.static["num_guided"], asked.options, every)
    start = programs.compiled("start", num_guided=asked.static["num_guided"])

    def advance(part: Part, carry: Any, held: Any) -> tuple:
        program = programs.compiled("advance", part=part, options=asked.options)
        values = {} if part.alone else part.values
        scale_N = asked.scale_N[part.first : part.stop]
        return program(carry, held, values, noise, scale_N, asked.sampling)

    def moments() -> Iterator[Moment]:
        shape, continuous = (asked.rows, *family.layout.sample_shape), family.layout.is_continuous
        canvas_BP = trace.unknown(shape, continuous=continuous)
        if asked.known is not None:
            canvas_BP = asked.known.copy()
        confidence_BP = np.full(shape[:2], np.nan, np.float32)
        (held, carry), room = start(laid_out, asked.batch), parts[0].room
        for part in parts:
            if part.room != room:
                carry, room = programs.compiled("fit", part=part)(carry), part.room
            carry, made, latents = advance(part, carry, held)
            made = trace.Trace(*map(np.array, made))
            trace.place(canvas_BP, made.positions_BNR, made.tokens_BNR)
            trace.place(confidence_BP, made.positions_BNR, made.confidence_BNR)
            yield Moment(
                step=part.stop,
                num_steps=len(asked.scale_N),
                tokens=canvas_BP.copy(),
                confidence=confidence_BP.copy(),
                latents=None if latents is None else np.array(latents),
                trace={STEP: np.arange(part.first, part.stop, dtype=np.int32)} | trace.named(made),
            )

    # Tracing refuses what does not fit; it is not done again when the programs run.
    held, carry = jax.eval_shape(start, laid_out, asked.batch)
    jax.eval_shape(functools.partial(advance, parts[0]), carry, held)
    return moments()


def whole(moments: Sequence[Moment]) -> dict[str, np.ndarray]:
    """What `Generator.draw` with `keep_trace` returns, of all moments of a stream."""
    last, names = moments[-1], [name for name in moments[0].trace if name != STEP]
    parts = [trace.Trace(*(moment.trace[name] for name in names)) for moment in moments]
    found = {name: np.asarray(a) for name, a in trace.named(trace.join(parts)).items()}
    found[STEP] = np.concatenate([moment.trace[STEP] for moment in moments])
    latents = {} if last.latents is None else {"latents": last.latents}
    return {"tokens": last.tokens} | latents | found
