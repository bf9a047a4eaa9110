"""What a run reports: a progress bar, `metrics.jsonl`, and TensorBoard event files.

Every record of `metrics.jsonl` is one line with its `step`, written and flushed at once, so that
a killed run leaves whole lines. A resumed run first drops the lines after its checkpoint: the
file of a run that was killed equals that of one that was not, times aside. Of several processes
only process 0 reports.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from gen import distributed, pictures


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole records of a `metrics.jsonl`; a line cut off by a kill is left out."""
    records = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def write_overview(path: Path, params: Any) -> None:
    """Writes the table of parameters: path, shape, size."""
    from clu import parameter_overview

    shapes = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), params)
    table = parameter_overview.get_parameter_overview(shapes, include_stats=False)
    path.write_text(table + "\n")


def average(recent: list[dict[str, jax.Array]]) -> dict[str, float]:
    """Means over the steps since the last report; `skipped` and `lr` as they are now."""
    values = {name: float(np.mean([m[name] for m in recent])) for name in recent[-1]}
    return values | {name: float(recent[-1][name]) for name in ("skipped", "lr")}


class Logs:
    """The reports of one run, from step `start` on.

    `curves` are the values that are drawn at the end, each with the name of its line, and `unit`
    is theirs.
    """

    def __init__(self, workdir: Path, *, start: int, total: int, curves: dict[str, str], unit: str):
        self.workdir = workdir
        self.curves, self.unit = curves, unit
        self.path = workdir / "metrics.jsonl"
        self._silent = not distributed.is_main()
        if not self._silent:
            # A run from the start keeps nothing, also not what it logged at step 0.
            records = read_metrics(self.path) if start else []
            self._rewrite([record for record in records if record["step"] <= start])
        target = Path(os.devnull) if self._silent else self.path
        self._stream = target.open("a", buffering=1)
        self._board = SummaryWriter(
            str(workdir / "tensorboard"),
            purge_step=start + 1 if start else 0,
            write_to_disk=not self._silent,
        )
        # Into a file, a bar every ten seconds is enough.
        interval = 0.1 if sys.stderr.isatty() else 10.0
        self.bar = tqdm(
            total=total, initial=start, unit="step", desc="training", mininterval=interval,
            disable=self._silent,
        )  # fmt: skip

    def _rewrite(self, records: list[dict[str, Any]]) -> None:
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(record) + "\n" for record in records))
        temporary.replace(self.path)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Records values at a step (updates done)."""
        self._stream.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def report(self, step: int, values: dict[str, float], *, rows: int, began: float) -> None:
        """Records training values and the rate since `began`, and shows both behind the bar."""
        rate = rows / (time.perf_counter() - began)
        self.write(step, values | {"samples_per_second": rate})
        self.bar.set_postfix(
            loss=f"{values['loss']:.3f}", rate=f"{rate:.0f} samples/s", refresh=False
        )

    def advance(self) -> None:
        """Moves the bar by one step."""
        self.bar.update()

    def say(self, line: str) -> None:
        """Prints a line without breaking the bar."""
        if not self._silent:
            tqdm.write(line, file=sys.stderr)

    def save_curves(self) -> None:
        """Draws the curves of the whole run into `curves.png`."""
        if self._silent:
            return
        curves: dict[str, tuple[list, list]] = {}
        for record in read_metrics(self.path):
            for name, label in self.curves.items():
                if name in record:
                    xs, ys = curves.setdefault(label, ([], []))
                    xs.append(record["step"])
                    ys.append(record[name])
        if curves:
            pictures.save_curves(
                self.workdir / "curves.png", curves,
                title="training", x_label="step", y_label=self.unit,
            )  # fmt: skip

    def close(self) -> None:
        self.bar.close()
        self._stream.close()
        self._board.close()
