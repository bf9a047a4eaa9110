"""Checks a dataset and reports what is in it, without stopping at the first problem."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gen.data import files
from gen.data.manifest import FILE_NAME, Manifest
from gen.data.scan import Scan, find_duplicates, scan_split
from gen.data.store import manifest_faults, shards_by_split, tfds_builder
from gen.errors import UserError, nearest
from gen.layouts import Layout

SCAN_LIMIT = 200_000
EXPECTED_FILES = (FILE_NAME, "dataset_info.json", "features.json")


def check_dataset(
    directory: str | os.PathLike[str],
    *,
    split: str | None = None,
    limit: int | None = SCAN_LIMIT,
    progress: bool = False,
) -> dict[str, Any]:
    """Compares a dataset with its manifest, file by file and record by record.

    Args:
      directory: folder of the dataset, of which the latest version is taken, or of a version.
      split: scan the records of this split only; None for all.
      limit: records to scan in each split at most, evenly spread; None for all.
      progress: show progress bars.

    Returns:
      Plain values that JSON can hold: what the manifest says, `files`, `splits` (the counts of
      each), `duplicates`, and two lists of lines: `problems`, for which the data should not be
      used as they are, and `notes`, which are worth knowing. `report_text.format_report` shows it.

    Raises:
      UserError: there is no such dataset or split, or its manifest cannot be read.
    """
    version = find_version(Path(directory))
    manifest = Manifest.read(version)
    if split is not None and split not in manifest.splits:
        hint = nearest(split, manifest.splits)
        raise UserError(f'dataset "{manifest.name}" has no split "{split}"{hint}')
    report = _describe(version, manifest)
    problems, notes = report["problems"], report["notes"]
    problems += [f"{FILE_NAME} {fault}" for fault in manifest_faults(manifest)]
    report["files"] = _check_files(version, manifest, problems, progress)
    try:
        tfds_builder(version, manifest)
    except UserError as error:
        problems.append(str(error))
    names = list(report["splits"]) if split is None else [split]
    scans = _scan(version, manifest, names, limit, progress)
    for name, scan in scans.items():
        report["splits"][name] |= _summary(scan, manifest)
        problems += scan.wrong_lengths
        for fault, (count, first) in scan.faults.items():
            problems.append(f'split "{name}", {fault}: {count:,}; the first is {first}')
        empty = int((scan.label_counts == 0).sum())
        if empty:
            where = "not among the scanned records" if scan.is_partial else "without a record"
            notes.append(f'split "{name}", classes {where}: {empty:,}')
    report["duplicates"] = find_duplicates(scans)
    notes += _duplicate_notes(report["duplicates"])
    return report


def find_version(directory: Path) -> Path:
    """The folder that holds the manifest: the one given, or the latest version in it.

    Raises:
      UserError: there is none.
    """
    directory = directory.expanduser().absolute()
    if (directory / FILE_NAME).exists():
        return directory
    if not directory.exists():
        raise UserError(f"dataset {directory} does not exist")
    version = files.latest_version(directory)
    if version is None:
        raise UserError(
            f"{directory} is no dataset: it holds neither {FILE_NAME} nor a folder such as 1.0.0"
        )
    return version


def layout_in_words(layout: Layout) -> str:
    """`16x16 grid, vocabulary 16384`."""
    shapes = ["x".join(map(str, shape[shape[0] == 1 :])) for shape in layout.shapes]
    places = {
        "grid": f"{shapes[0]} grid",
        "line": f"line of {layout.num_positions} positions",
        "scales": f"{len(shapes)} scales from {shapes[0]} to {shapes[-1]}",
    }[layout.geometry]
    sizes = layout.vocab_sizes
    if layout.is_continuous:
        return f"{places}, latents of {layout.channels} channels"
    if len(sizes) == 1:
        return f"{places}, vocabulary {sizes[0]}"
    return f"{places}, {len(sizes)} factors ({layout.factor_mode}) of vocabularies {_short(sizes)}"


def _short(sizes: tuple[int, ...]) -> str:
    if len(set(sizes)) == 1:
        return f"{sizes[0]} each"
    return ", ".join(map(str, sizes))


def condition_in_words(condition: Mapping[str, Any]) -> str:
    """`1000 classes, with names`."""
    if condition["kind"] == "class":
        with_names = "with" if condition.get("names") else "without"
        return f"{condition['num_classes']} classes, {with_names} names"
    if condition["kind"] == "text":
        shape = f"{condition['length']} x {condition['dim']}"
        return f"captions of {shape} features by {condition['encoder']}"
    return "none"


def _describe(version: Path, manifest: Manifest) -> dict[str, Any]:
    """What the manifest says."""
    by_split = shards_by_split(manifest)
    return {
        "directory": str(version),
        "name": manifest.name,
        "version": manifest.version,
        "layout": layout_in_words(manifest.layout),
        "condition": condition_in_words(manifest.condition),
        "class_names": manifest.condition.get("names"),
        "tokenizer": dict(manifest.tokenizer),
        "augmentation": dict(manifest.augmentation),
        "source": manifest.source,
        "licence": manifest.licence,
        "splits": {
            name: {"promised": count, "shards": len(by_split[name])}
            # Training data first; a manifest has the splits in the order of the alphabet.
            for name, count in sorted(manifest.splits.items(), key=lambda item: item[0] != "train")
        },
        "problems": [],
        "notes": [],
    }


def _check_files(
    version: Path, manifest: Manifest, problems: list[str], progress: bool
) -> list[dict[str, Any]]:
    """Each file with its state; those that are not as the manifest says are problems."""
    known = {name for lengths in shards_by_split(manifest).values() for name in lengths}
    table = []
    total = sum(manifest.shards[name]["bytes"] for name in known)
    with _bar("hashing", total, progress, unit="B", unit_scale=True) as bar:
        for name in sorted(known):
            expected = manifest.shards[name]
            state, detail = _file_state(version / name, expected)
            bar.update(expected["bytes"])
            row = {"name": name, "bytes": expected["bytes"], "records": expected["records"]}
            table.append(row | {"state": state})
            if state != "ok":
                problems.append(f"{name}: {state}{detail}")
    for path in sorted(version.iterdir()):
        if path.name not in known and path.name not in EXPECTED_FILES:
            size = path.stat(follow_symlinks=False).st_size
            state = "not in the manifest"
            table.append({"name": path.name, "bytes": size, "records": None, "state": state})
            problems.append(f"{path.name}: {state}")
    return table


def _file_state(path: Path, expected: Mapping[str, Any]) -> tuple[str, str]:
    """A shard's state in a word or two, and what is to be added for a problem."""
    try:
        size = path.stat().st_size
        if size != expected["bytes"]:
            return "size differs", f" ({size:,} bytes, the manifest says {expected['bytes']:,})"
        found = files.sha256_of(path)
    except FileNotFoundError:
        return "missing", ""
    except OSError as error:
        return "cannot be read", f" ({error.strerror})"
    if found != expected["sha256"]:
        return (
            "SHA-256 differs",
            f" ({found[:12]}..., the manifest says {expected['sha256'][:12]}...)",
        )
    return "ok", ""


def _scan(
    version: Path, manifest: Manifest, names: list[str], limit: int | None, progress: bool
) -> dict[str, Scan]:
    counts = [sum(shards_by_split(manifest)[name].values()) for name in names]
    total = sum(count if limit is None else min(count, limit) for count in counts)
    with _bar("reading", total, progress, unit=" records") as bar:
        return {
            name: scan_split(version, manifest, name, limit=limit, advance=bar.update)
            for name in names
        }


def _summary(scan: Scan, manifest: Manifest) -> dict[str, Any]:
    """The counts of a scan as plain values."""
    summary: dict[str, Any] = {
        "scanned": scan.scanned,
        "is_partial": scan.is_partial,
        "readable": scan.readable,
    }
    if manifest.num_classes:
        counts = scan.label_counts
        summary["classes"] = {
            "min": int(counts.min()),
            "median": float(np.median(counts)),
            "max": int(counts.max()),
            "empty": int((counts == 0).sum()),
            "counts": counts.tolist(),
        }
    if scan.length_counts.sum() and manifest.caption_shape:
        lengths = np.flatnonzero(scan.length_counts)
        below = np.cumsum(scan.length_counts)
        median = int(np.searchsorted(below, (below[-1] + 1) // 2))
        summary["captions"] = {"min": int(lengths[0]), "median": median, "max": int(lengths[-1])}
    if any(counts.sum() for counts in scan.id_counts):
        summary["vocabularies"] = [_vocabulary_use(counts) for counts in scan.id_counts]
    return summary


def _vocabulary_use(counts: np.ndarray) -> dict[str, Any]:
    share = counts[counts > 0] / counts.sum()
    return {
        "size": len(counts),
        "used": int((counts > 0).sum()),
        "perplexity": float(np.exp(-(share * np.log(share)).sum())),
        "top_id": int(counts.argmax()),
        "top_share": float(share.max()),
    }


def _duplicate_notes(duplicates: Mapping[str, Any]) -> list[str]:
    notes = [
        f'split "{name}", records that repeat the tokens of an earlier one: {count:,}'
        for name, count in duplicates["within"].items()
        if count
    ]
    shared = {name: count for name, count in duplicates["across"].items() if count}
    if shared:
        each = ", ".join(f"{count:,} of {name}" for name, count in shared.items())
        notes.append(f"records whose tokens are in another split too: {each}")
    if duplicates["other_labels"]:
        count = duplicates["other_labels"]
        notes.append(f"records with another label than an earlier one of their tokens: {count:,}")
    return notes


def _bar(label: str, total: int, progress: bool, **options: Any) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=label, delay=0.5, leave=False, disable=not progress, **options)
