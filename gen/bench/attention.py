"""Ways to compute attention, timed at the sizes that a config calls it with.

Axes: B batch, S slots fed now, T slots attended, H query heads, K key heads, E channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from gen.api import Generator
from gen.bench import report, timing
from gen.bench.made_up import captions, training_batch
from gen.families.base import abstract_model
from gen.models import attention_kinds as kinds
from gen.models.attention import attend

# Calls in a row in one program: one of them takes a GPU less time than it takes to start it.
REPEATS = 8
# Of the largest entry, against the plain products in float32.
TOLERANCE = {"float32": 5e-3, "bfloat16": 4e-2}


def sampling_cases(generator: Generator, sizes: Sequence[int]) -> list[kinds.Case]:
    """The calls of a sampler at batches of these sizes, at the config's settings."""
    settings = generator.config.sample.settings()
    del settings["batch_size"]
    with kinds.watched() as seen:
        for rows in sizes:
            given = captions(generator.family.condition, rows)
            generator.traced(0, num=rows, captions=given, **settings)
    return list(seen)


def training_cases(generator: Generator) -> list[kinds.Case]:
    """The calls of a training step, at the rows that one device has in one pass."""
    config, family = generator.config, generator.family
    rows = config.train.batch_size // config.optim.accumulate // jax.device_count() or 1
    graphdef = nnx.split(abstract_model(family, dtype=generator.dtype))[0]

    def loss(params, batch):
        return family.loss(nnx.merge(graphdef, params), batch, jax.random.key(0))

    with kinds.watched() as seen:
        jax.eval_shape(loss, generator.params, training_batch(family, rows))
    return list(seen)


def arrays(case: kinds.Case, dtype: str) -> list[jax.Array]:
    """Random queries, keys and values; keys and values lie as a cache does, `(B, K, T, E)`."""
    shapes = (case.B, case.S, case.H, case.E), (case.B, case.K, case.T, case.E)
    rng = np.random.default_rng(0)
    drawn = [rng.normal(size=shape) for shape in (shapes[0], shapes[1], shapes[1])]
    return [jnp.asarray(array, dtype) for array in drawn]


def one_call(case: kinds.Case, kind: str, gradient: bool) -> Callable:
    """A function of queries, keys and values: what comes out, or the gradients of all three."""
    # As in decoding by steps: the last queries see all slots.
    mask_ST = np.tril(np.ones((case.S, case.T), bool), case.T - case.S)

    def forward(q_BSHE, k_BKTE, v_BKTE):
        with kinds.only(kind):
            keys, values = (jnp.swapaxes(a, 1, 2) for a in (k_BKTE, v_BKTE))
            return (attend(q_BSHE, keys, values, jnp.asarray(mask_ST)),)

    def loss(*qkv):
        return jnp.sum(jnp.square(forward(*qkv)[0].astype(jnp.float32)))

    return jax.grad(loss, (0, 1, 2)) if gradient else forward


def in_a_row(call: Callable) -> Callable:
    """`REPEATS` calls in one program, each fed what the one before made."""

    def body(_, qkv):
        # Else what the keys alone decide would move out of the loop.
        qkv = jax.lax.optimization_barrier(qkv)
        fed = [(old + 1e-3 * new).astype(old.dtype) for old, new in zip(qkv, call(*qkv))]
        return (*fed, *qkv[len(fed) :])

    return lambda *qkv: jax.lax.fori_loop(0, REPEATS, body, qkv)


def differs(found: Any, expected: Any, tolerance: float) -> float | None:
    """The largest difference of the results of one call, if it is too large."""
    pairs = [(np.float32(a), np.float32(b)) for a, b in zip(found, expected)]
    worst = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
    return None if worst <= tolerance else worst


def measure(case: kinds.Case, gradient: bool, *, rounds: int, budget_s: float) -> dict[str, Any]:
    """Seconds of a call of each kind that this machine has, in turn, and those that failed."""
    qkv, calls, failed = tuple(arrays(case, case.dtype)), {}, {}
    exact = jax.jit(one_call(case, kinds.PLAIN, gradient))(*arrays(case, "float32"))
    for kind in kinds.available(case, jax.default_backend()):
        try:
            call = one_call(case, kind, gradient)
            if worst := differs(jax.jit(call)(*qkv), exact, TOLERANCE[case.dtype]):
                failed[kind] = f"results differ by {worst:.2g} of the largest"
                continue
            run = jax.jit(in_a_row(call))
            calls[kind] = lambda run=run: jax.block_until_ready(run(*qkv))
            first = timing.interleave({kind: calls[kind]}, rounds=2)[kind].best
            if first * rounds > budget_s:
                failed[kind] = f"takes {first / REPEATS:.1f} s a call (--budget-s)"
                del calls[kind]
        except Exception as error:  # of the kind's own types: what counts is that it can't
            failed[kind] = " ".join(f"{type(error).__name__}: {error}".split())[:160]
    times = timing.interleave(calls, rounds=rounds)
    return {
        **case._asdict(),
        "gradient": gradient,
        "chosen": kinds.choose(case),
        "seconds": {kind: [s / REPEATS for s in t.seconds] for kind, t in times.items()},
        "failed": failed,
    }


def bench_attention(
    generator: Generator, *, sizes: Sequence[int], rounds: int, budget_s: float
) -> dict[str, Any]:
    """Times each kind at all the sizes, prints them and which to put into the table of choices."""
    trained = training_cases(generator)
    todo = [(case, False) for case in sampling_cases(generator, sizes)]
    todo += [(case, gradient) for case in trained for gradient in (False, True)]
    todo = [(case._replace(dropped=False), gradient) for case, gradient in todo]
    records = []
    for case, gradient in tqdm(list(dict.fromkeys(todo)), unit="case", desc="attention"):
        records.append(measure(case, gradient, rounds=rounds, budget_s=budget_s))
    print(report.attention_table(records))
    for line in dict.fromkeys(f"{n}: {why}" for r in records for n, why in r["failed"].items()):
        print(f"left out {line}")
    if any(case.dropped for case in trained):
        print("this config drops attention weights when it trains: only the plain way can")
    advice = advise(records, jax.default_backend())
    print("\n".join(advice))
    return {"attention": records, "advice": advice}


def advise(records: Sequence[dict[str, Any]], platform: str) -> list[str]:
    """What is fastest for one, some and all queries, over all calls that every kind could do."""
    lines = []
    for dtype, count in sorted({(r["dtype"], kinds.count(_case(r))) for r in records}):
        of = [r for r in records if (r["dtype"], kinds.count(_case(r))) == (dtype, count)]
        common = set.intersection(*(set(r["seconds"]) for r in of))
        total = {k: sum(np.median(r["seconds"][k]) for r in of) for k in common}
        if not total:
            continue
        chosen = kinds.CHOICES.get((platform, dtype, count), kinds.PLAIN)
        if not any(chosen in kinds.available(_case(record), platform) for record in of):
            chosen = kinds.PLAIN
        best = min(total, key=total.get)
        told = "which is chosen"
        if best != chosen and chosen not in total:
            told = f"but {chosen} is chosen, which could not be timed"
        elif best != chosen:
            told = f"{total[chosen] / total[best]:.2f} times as fast as {chosen}, which is chosen"
        lines.append(f'("{platform}", "{dtype}", "{count}"): fastest is {best}, {told}')
    return lines


def _case(record: dict[str, Any]) -> kinds.Case:
    return kinds.Case(**{name: record.get(name, False) for name in kinds.Case._fields})
