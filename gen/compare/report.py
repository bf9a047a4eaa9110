"""What a comparison shows: a Markdown table, remarks on it, and a sheet of samples.

Axes: N samples, P positions, T frames (1 of an image), H height, W width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from gen.compare.runs import CLASSES, Entry, grid_labels
from gen.data import eval_batches
from gen.errors import note
from gen.inputs import class_names
from gen.layouts import Layout
from gen.pictures.panels import Panel, save_panels
from gen.pictures.samples import gray_images

NONE = "-"


def scores_of(record: dict[str, Any]) -> dict[str, Any]:
    """Scores of samples: `unguided`, `guided` and what is beside them; empty if there are none."""
    return record["result"].get(record["scored_by"], {})


def pair(record: dict[str, Any], name: str) -> str:
    """A score of unguided samples and of guided ones."""
    scores = scores_of(record)
    if not scores:
        return NONE
    return " / ".join(f"{scores[kind][name]:.2f}" for kind in ("unguided", "guided"))


def table(records: list[dict[str, Any]]) -> str:
    """The Markdown table, one row per run; each kind of likelihood or loss has its own column."""
    measures = dict.fromkeys(record["measure"]["name"] for record in records)
    scores = {
        "class accuracy": "class_accuracy",
        "two-sample test": "two_sample_accuracy",
        "memorisation ratio": "memorisation_ratio",
    }
    heads = ["config", "data", "parameters", "calls", "samples/s", *measures, "guidance", *scores]
    rows = [heads]
    for record in records:
        measure, guidance = record["measure"], record["guidance"]
        row = [record["name"], record["data"], f"{record['parameters']:,}"]
        row.append(str(record["network"]["calls_per_sample"]))
        row.append(f"{record['speed']['samples_per_second']:,.0f}")
        row += [f"{measure['value']:.2f}" if name == measure["name"] else NONE for name in measures]
        row.append(NONE if guidance is None else f"{guidance:g}")
        rows.append(row + [pair(record, name) for name in scores.values()])
    widths = [max(map(len, column)) for column in zip(*rows)]
    rule = ["-" * width if i < 2 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    aligned = [
        [text.ljust(width) if i < 2 else text.rjust(width)
         for i, (text, width) in enumerate(zip(row, widths))]
        for row in (rows[0], rule, *rows[1:])
    ]  # fmt: skip
    return "\n".join(f"| {' | '.join(row)} |" for row in aligned)


def remarks(records: list[dict[str, Any]], versions: dict[str, str]) -> str:
    """What the columns mean, what real images score, and where it ran."""
    speed = records[0]["speed"]
    lines = [
        "Scores of samples: unguided / as the config samples, at its guidance. Two-sample test: "
        "0.5 cannot be told from real ones. Memorisation ratio: 1 as far from the training set as "
        "unseen real ones.",
        f"Calls: of the network for a sample; a guided one costs two. Samples/s: unguided, batch "
        f"{speed['batch_size']}, best of {speed['repeats']} after a warm-up, on one "
        f"{jax.devices()[0].device_kind}, jax {versions['jax']}, Python {versions['python']}.",
    ]
    if any("bound" in record["measure"]["name"] for record in records):
        lines.append("Bits/dim (bound): bounded from above, not exact.")
    for data, scores in {record["data"]: scores_of(record) for record in records}.items():
        if scores:
            accuracy = scores["unguided"]["classifier_test_accuracy"]
            lines.append(f"Real test data of {data}: class accuracy {accuracy:.2f}.")
        if "histogram_bits_per_dim" in scores:
            bits = scores["histogram_bits_per_dim"]
            lines.append(f"A histogram per class and position of {data}: {bits:.2f} bits/dim.")
    return "\n".join(lines)


def can_show(layout: Layout) -> bool:
    """Whether the data are gray levels (or ids to be shown as such) of a grid."""
    return layout.geometry == "grid" and len(layout.vocab_sizes) == 1


def clips(samples_NP: np.ndarray, layout: Layout) -> np.ndarray:
    """Gray levels, uint8 `(N, T, H, W)`."""
    return gray_images(samples_NP, layout).reshape(len(samples_NP), *layout.shapes[0])


def real_samples(entry: Entry) -> np.ndarray:
    """Test samples of the classes of the pictured grid, `(N, P)`; the first of each that there are.

    Fewer rows where the split has too few of a class.
    """
    labels_N = grid_labels(entry.family)
    found: dict[int, list[np.ndarray]] = {int(label): [] for label in sorted(set(labels_N))}
    rows = len(labels_N) // len(found)
    split = entry.run.job.dataset.split(entry.run.config.data.test)
    for batch in eval_batches(split, min(len(split), 100)):
        for tokens_P, label, weight in zip(batch["tokens"], batch["label"], batch["weight"]):
            if weight and len(found.get(int(label), labels_N)) < rows:
                found[int(label)].append(tokens_P)
        if all(len(mine) == rows for mine in found.values()):
            break
    complete = min(map(len, found.values()))
    return np.array([mine[row] for row in range(complete) for mine in found.values()])


def caption(record: dict[str, Any]) -> str:
    """The two figures of a run that say most, of those that there are."""
    scores, measure, network = scores_of(record), record["measure"], record["network"]
    figures = []
    if scores:
        figures.append(f"two-sample test {scores['unguided']['two_sample_accuracy']:.2f}")
    figures.append(f"{measure['value']:.2f} {measure['name']}")
    figures.append(f"{network['calls_per_sample']} calls")
    return ", ".join(figures[:2])


def save_sheet(
    path: Path, entries: list[Entry], records: list[dict[str, Any]], samples: list[np.ndarray]
) -> bool:
    """Saves the samples of all runs, `(N, P)` each, beside real ones; whether there are any.

    Data that can only be seen through a tokenizer are left out, with a note.
    """
    panels: dict[Any, list[Panel]] = {}
    for entry, record, samples_NP in zip(entries, records, samples):
        layout = entry.family.data_layout
        if not can_show(layout):
            note(f"{entry.name} is not in the picture: its data need a tokenizer to be seen")
            continue
        labels = class_names(entry.run.job.dataset, entry.family.condition.num_classes)[:CLASSES]
        group = panels.setdefault(entry.data, [])
        real_NP = real_samples(entry) if not group else ()
        if len(real_NP):
            frames = "" if layout.shapes[0][0] == 1 else "; frames of a clip from top to bottom"
            text = f"real, not trained on{frames}"
            group.append(Panel(entry.data[0], text, clips(real_NP, layout), labels))
        group.append(Panel(entry.name, caption(record), clips(samples_NP, layout), labels))
    if panels:
        groups = list(panels.values())
        save_panels(path, groups, title="Samples without guidance, classes in columns")
    return bool(panels)
