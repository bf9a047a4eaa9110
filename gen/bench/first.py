"""Seconds from the start of a process to the tokens of its first batch, and where they go.

Each is a process of its own: one that finds an empty compilation cache, then some that find what it
left there. `python -m gen.bench.first` is such a process.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from gen.bench import report
from gen.command_line import split_overrides
from gen.errors import UserError, exit_on_user_error, note
from gen.runtime import CACHE

WARM = 3  # processes that find the cache full
# What a process does, in order: the time until each is done.
STAGES = ("imports", "weights", "traced", "lowered", "compiled", "sampled")


def bench_first(
    target: str, overrides: Sequence[tuple[str, str]], *, guidance: str | None, dtype: str
) -> dict[str, Any]:
    """Times one cold process and `WARM` warm ones, and prints what each stage takes.

    Raises:
      UserError: a process failed; it has told why.
    """
    fields = [f"--config.{name}={value}" for name, value in overrides]
    arguments = [target, guidance or "", dtype, *fields]
    found = []
    with tempfile.TemporaryDirectory(prefix="gen-first-") as cache:
        ours = {n: v for n, v in os.environ.items() if n != "JAX_COMPILATION_CACHE_DIR"}
        for number in range(1 + WARM):
            note("a process with an empty cache" if not number else f"warm {number} of {WARM}")
            done = subprocess.run(
                [sys.executable, "-m", "gen.bench.first", str(time.time()), *arguments],
                env=ours | {CACHE: cache}, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            if done.returncode == 2:
                raise SystemExit(2)  # a mistake, of which it has told
            if done.returncode:
                raise UserError(f"a process failed with exit code {done.returncode}")
            found.append(json.loads(done.stdout.splitlines()[-1]))
    print(table(found))
    cold, warm = found[0]["until"], [record["until"]["sampled"] for record in found[1:]]
    print(
        f"first batch after {cold['sampled']:.1f} s cold, {statistics.median(warm):.1f} s warm "
        f"({min(warm):.1f}-{max(warm):.1f}); batch 1, {dtype}"
    )
    return {"first": {"cold": found[0], "warm": found[1:]}}


def table(found: Sequence[dict[str, Any]]) -> str:
    """Seconds of each stage, a row for each process."""
    rows = [["cache", *(f"{name} s" for name in STAGES), "total s", "loaded"]]
    for number, record in enumerate(found):
        until = [0.0, *(record["until"][name] for name in STAGES)]
        taken = [f"{after - before:.2f}" for before, after in itertools.pairwise(until)]
        rows.append(["warm" if number else "empty", *taken, f"{until[-1]:.2f}"])
        rows[-1].append(f"{record['loaded']} of {record['compiled']}")
    return report.aligned(rows)


@exit_on_user_error
def main(argv: Sequence[str]) -> None:
    """The process that is timed, which prints one line of JSON."""
    started, target, guidance, dtype, *fields = argv
    until: dict[str, float] = {}

    def reached(stage: str) -> None:
        until[stage] = time.time() - float(started)

    import jax  # what follows is part of what is timed

    from gen import runtime
    from gen.bench.made_up import captions
    from gen.bench.target import guidances_of, open_generator

    runtime.start()
    events: list[str] = []
    jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
    reached("imports")
    generator = open_generator(target, split_overrides(fields), dtype)
    jax.block_until_ready(generator.params)
    reached("weights")
    settings = generator.config.sample.settings()
    del settings["batch_size"]
    if guidance:
        settings["guidance"] = guidances_of(guidance, generator)[0]
    given = captions(generator.family.condition, 1)
    traced, arguments = generator.traced(0, num=1, captions=given, **settings)
    reached("traced")
    lowered = traced.lower()
    reached("lowered")
    compiled = lowered.compile()
    reached("compiled")
    jax.block_until_ready(compiled(*arguments))
    reached("sampled")
    hits = sum(name.endswith("/cache_hits") for name in events)
    asked = sum(name.endswith("/compile_requests_use_cache") for name in events)
    print(json.dumps({"until": until, "loaded": hits, "compiled": asked}))


if __name__ == "__main__":
    main(sys.argv[1:])
