"""The runs of a comparison: checked, trained where they are not yet, and measured.

Axes: N samples, P positions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from gen import config as configs
from gen import train
from gen.api import Generator, load
from gen.decoding.guidance import num_guided_steps
from gen.errors import UserError, note
from gen.families import Family
from gen.layouts import Layout
from gen.schema import differences
from gen.training import checkpoint

# Fields in which a stored result may differ. After other settings of sampling or evaluation, the
# run goes on from its last step and is scored again.
FREE = tuple(name for name in train.FREE if name not in ("sample", "eval"))
REPEATS = 3
CLASSES, ROWS = 10, 5  # of the pictured grids


@dataclasses.dataclass(frozen=True)
class Entry:
    """A run to compare: its name, the arguments that train it, and the run, checked."""

    name: str
    arguments: list[str]
    run: train.Run

    @property
    def family(self) -> Family:
        return self.run.trainer.learner

    @property
    def data(self) -> tuple[str, Layout]:
        """Runs of equal data share their real samples."""
        return self.run.config.data.name, self.family.data_layout


def prepare(specs: list[str], runs: Path, overrides: list[str]) -> list[Entry]:
    """All runs, checked, before the first is trained.

    Raises:
      UserError: naming the config in which anything can be refused.
    """
    entries: dict[str, Entry] = {}
    for spec in specs:
        name = train.run_name(spec)
        if name in entries:
            raise UserError(f"two configs are called {name}: each needs a run's folder of its own")
        arguments = ["--config", spec, "--workdir", str(runs / name), *overrides]
        try:
            entries[name] = entry = Entry(name, arguments, train.prepare(arguments))
        except UserError as error:
            raise UserError(f"{spec}: {error}") from None
        configs.of_generator(entry.run.config)
        if entry.family.condition.kind != "class":
            raise UserError(f"{spec}: only models that are conditioned on classes are compared")
        if entry.run.config.data.test is None:
            raise UserError(f"{spec}: config.data.test names no split to compare on")
    return list(entries.values())


def finished(run: train.Run) -> dict[str, Any] | None:
    """What `result.json` of a finished run of this config holds, if there is one."""
    try:
        result = json.loads((run.workdir / "result.json").read_text())
    except (OSError, ValueError):
        return None
    wanted = {"config", "parameters", "held_out", *run.config.eval.scores}
    if not isinstance(result, dict) or wanted - result.keys():
        return None
    # Through JSON, which makes lists of tuples.
    now = json.loads(json.dumps(run.config.to_json()))
    changed = [p for p in differences(result["config"], now) if not p.startswith(FREE)]
    whole = run.config.train.steps in checkpoint.steps_in(run.checkpoints)
    return result if whole and not changed else None


def result_of(entry: Entry, position: str) -> dict[str, Any]:
    """The stored result of a run, which is trained (or goes on) if it has none.

    Raises:
      SystemExit: the run was told to stop; it has said so.
    """
    result, workdir = finished(entry.run), entry.run.workdir
    if result is not None:
        note(f"{position}: {entry.name} is there, in {workdir}")
        return result
    note(f"{position}: {entry.name} is trained in {workdir}")
    with contextlib.redirect_stdout(io.StringIO()):  # its summary, which is in result.json
        train.main(entry.arguments)
    return json.loads((workdir / "result.json").read_text())


def measure_of(family: Family) -> tuple[str, str]:
    """What a model's held-out figure is called here, and in `result.json`.

    A likelihood of tokens that the model makes of the data bounds that of the data: there may be
    other tokens of the same data.
    """
    if family.measure != "nll":
        return family.measure.replace("_", " "), family.measure
    is_bound = family.is_bound or family.layout != family.data_layout
    return "bits/dim (bound)" if is_bound else "bits/dim", "bits_per_dim"


def draw(entry: Entry, batch_size: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Samples for the picture, and how fast they are drawn.

    Unguided, at temperature 1 without filters, with the config's options, on one device. Tokens
    made into data are not timed.

    Returns:
      samples `(N, P)` as the data has them, rows of one sample of each class; the figures.
    """
    run, family = entry.run, entry.family
    generator = load(run.workdir, dtype=run.config.train.dtype)
    options = run.config.sample.options or family.Options()
    settings = {"batch_size": batch_size, **dataclasses.asdict(options)}
    shown_N = grid_labels(family)
    labels_N = np.resize(shown_N, max(batch_size, len(shown_N)))
    seed = run.config.train.seed
    # The first call compiles; of the others each draws one batch.
    tokens_NP = generator.sample(seed, labels=labels_N, **settings)[: len(shown_N)]
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        generator.sample(seed, labels=labels_N[:batch_size], **settings)
        seconds.append(time.perf_counter() - began)
    speed = {
        "samples_per_second": batch_size / min(seconds),
        "samples_per_second_median": batch_size / float(np.median(seconds)),
        "batch_size": batch_size,
        "repeats": REPEATS,
    }
    return generator.to_data(tokens_NP), {"speed": speed, "network": calls(generator, options)}


def calls(generator: Generator, options: Any) -> dict[str, Any]:
    """How often the network is called for a sample.

    A guided call has two branches, with and without the class, and costs two unguided ones.
    """
    family, sample = generator.family, generator.config.sample
    scale_N = family.scales(sample.guidance, sample.guidance_interval, options)
    guided = num_guided_steps(scale_N)
    return {
        "calls_per_sample": len(scale_N),
        "calls_with_two_branches_when_guided": guided,
        "branches_per_sample_when_guided": len(scale_N) + guided,
    }


def grid_labels(family: Family) -> np.ndarray:
    """Labels of the pictured grid, int64 (N,): rows of up to `CLASSES` classes in turn."""
    frames = family.data_layout.shapes[-1][0]
    rows = max(1, round(ROWS / frames))
    return np.tile(np.arange(min(CLASSES, family.condition.num_classes)), rows)


def record_of(entry: Entry, result: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """All figures of a run."""
    config, (measure, key) = entry.run.config, measure_of(entry.family)
    held_out = result["held_out"]
    return {
        "name": entry.name,
        "workdir": str(entry.run.workdir),
        "data": config.data.name,
        "parameters": result["parameters"],
        **found,
        "measure": {
            "name": measure,
            "value": held_out[key],
            "stderr": held_out[f"{key}_stderr"],
        },
        "guidance": config.sample.guidance,
        "scored_by": next(iter(config.eval.scores), None),
        "result": result,
    }
