"""The report of `check_dataset` as text for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_FILES = 30  # beyond that, files that are as they should be are only counted
MAX_CLASSES = 20


def format_report(report: Mapping[str, Any]) -> str:
    """The report as lines of text, the verdict last."""
    sections = [_head(report), _files(report["files"])]
    sections += [
        _split(name, split, report["class_names"])
        for name, split in report["splits"].items()
        if "scanned" in split
    ]
    sections.append(_duplicates(report["duplicates"]))
    if "config" in report:
        sections.append([f"{'fits' if report['fits'] else 'does not fit'} {report['config']}"])
    sections += [_numbered("note", report["notes"]), _numbered("problem", report["problems"])]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _plural(count: int, noun: str) -> str:
    """`1 record`, `2 records`."""
    return f"{count:,} {noun}" + "s" * (count != 1)


def _row(label: str, text: str) -> str:
    return f"  {label:<12}{text}"


def _head(report: Mapping[str, Any]) -> list[str]:
    tokenizer, augmentation = report["tokenizer"], report["augmentation"]
    sha256 = tokenizer.get("sha256")
    versions = f"{augmentation['count']} per record ({augmentation['kind']})"
    return [
        f"dataset {report['name']} {report['version']}",
        _row("folder", report["directory"]),
        _row("samples", report["layout"]),
        _row("versions", versions if augmentation["count"] > 1 else "1 per record"),
        _row("condition", report["condition"]),
        _row("tokenizer", f"{tokenizer['id']}, SHA-256 {sha256 or 'not given'}"),
        _row("source", report["source"] or "not given"),
        _row("licence", report["licence"] or "not given"),
    ]


def _files(files: list[Mapping[str, Any]]) -> list[str]:
    good = [file for file in files if file["state"] == "ok"]
    shown = files if len(files) <= MAX_FILES else [f for f in files if f["state"] != "ok"]
    width = max((len(file["name"]) for file in shown), default=0)
    lines = [f"files: {len(good)} of {len(files)} as the manifest says"]
    for file in shown:
        records = "" if file["records"] is None else _plural(file["records"], "record")
        size = _size(file["bytes"])
        lines.append(f"  {file['name']:<{width}} {size:>10} {records:>18}   {file['state']}")
    return lines


def _size(count: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _split(name: str, split: Mapping[str, Any], names: list[str] | None) -> list[str]:
    scanned, readable = split["scanned"], split["readable"]
    records, shards = _plural(split["promised"], "record"), _plural(split["shards"], "shard")
    lines = [f"split {name}: {records} in {shards}"]
    if split["is_partial"]:
        lines.append(_row("scanned", f"{scanned:,}, evenly spread (--full scans all)"))
    lines.append(_row("readable", f"{readable:,} of {scanned:,}"))
    if "classes" in split:
        lines += _classes(split["classes"], names)
    if "captions" in split:
        c = split["captions"]
        text = f"{c['min']} / {c['median']} / {c['max']} valid positions (least / median / most)"
        lines.append(_row("captions", text))
    vocabularies = split.get("vocabularies", [])
    for factor, use in enumerate(vocabularies):
        label = "token ids" if len(vocabularies) == 1 else f"factor {factor}"
        lines.append(
            _row(
                label,
                f"{use['used']:,} of {use['size']:,} used, perplexity {use['perplexity']:,.1f}, "
                f"most frequent {use['top_id']} ({use['top_share']:.2%})",
            )
        )
    return lines


def _classes(classes: Mapping[str, Any], names: list[str] | None) -> list[str]:
    counts = classes["counts"]
    used = len(counts) - classes["empty"]
    spread = f"{classes['min']:,} / {classes['median']:,.0f} / {classes['max']:,}"
    text = f"{used:,} of {len(counts):,} have records: {spread} each (least / median / most)"
    lines = [_row("classes", text)]
    if len(counts) <= MAX_CLASSES:
        names = names or [""] * len(counts)
        titles = [str(n) if name in ("", str(n)) else f"{n} {name}" for n, name in enumerate(names)]
        width, digits = max(map(len, titles)), len(f"{classes['max']:,}")
        for title, count in zip(titles, counts):
            bar = "#" * round(40 * count / max(classes["max"], 1))
            lines.append(_row("", f"{title:<{width}}  {count:>{digits},}  {bar}").rstrip())
    return lines


def _duplicates(duplicates: Mapping[str, Any]) -> list[str]:
    within, across = duplicates["within"], duplicates["across"]
    if not any(within.values()) and not any(across.values()):
        return ["duplicates: none among the scanned records (first versions compared)"]
    lines = ["duplicates among the scanned records (first versions compared)"]
    for label, counts, pairs in (
        ("in a split", within, duplicates["pairs_within"]),
        ("across", across, duplicates["pairs_across"]),
    ):
        if not any(counts.values()):
            continue
        each = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        examples = ", ".join(f"{a}[{i}] = {b}[{j}]" for a, i, b, j in pairs)
        lines.append(_row(label, f"{each}; first: {examples}"))
    if duplicates["other_labels"]:
        lines.append(_row("labels", f"{duplicates['other_labels']:,} differ"))
    return lines


def _numbered(kind: str, lines: list[str]) -> list[str]:
    if not lines:
        return ["no problems found"] if kind == "problem" else []
    return [
        f"{_plural(len(lines), kind)}:",
        *(f"  {number}. {line}" for number, line in enumerate(lines, 1)),
    ]
