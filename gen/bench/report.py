"""The benchmark's figures as a table for the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

COLUMNS = (
    ("batch", "batch", "d"),
    ("guidance", "guidance", "g"),
    ("compile s", "compile_s", ".1f"),
    ("calls", "calls_per_sample", "d"),
    ("ms/call", "ms_per_call", ".2f"),
    ("bound", "bound_ms_per_call", ".2f"),
    ("share", "share_of_bound", ".0%"),
    ("samples/s", "samples_per_s", ".3g"),
    ("p50 s", "p50_s", ".3g"),
    ("p95 s", "p95_s", ".3g"),
    ("memory MB", "memory", ".0f"),
)


CODING = (
    ("", "direction", ""),
    ("batch", "batch", "d"),
    ("compile s", "compile_s", ".1f"),
    ("ms/sample", "ms_per_sample", ".1f"),
    ("bound", "bound_ms_per_sample", ".1f"),
    ("share", "share_of_bound", ".0%"),
    ("samples/s", "samples_per_s", ".3g"),
    ("p50 s", "p50_s", ".3g"),
    ("p95 s", "p95_s", ".3g"),
    ("memory MB", "memory", ".0f"),
)


def cell(value: Any, form: str) -> str:
    """A value in its format, or none."""
    return "none" if value is None else format(value, form)


def table(records: Sequence[dict[str, Any]]) -> str:
    """Aligned columns, one row per record of `Sampler.record`."""
    rows = rows_of(COLUMNS, records)
    for row, record in zip(rows[1:], records):
        row[0] += " px" if record["pixels"] else ""
    return aligned(rows)


def coding_table(records: Sequence[dict[str, Any]]) -> str:
    """Aligned columns, one row per record of `Coder.record`."""
    return aligned(rows_of(CODING, records))


def rows_of(columns: Sequence[tuple], records: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Titles, then the cells of each record."""
    rows = [[title for title, _, _ in columns]]
    for record in records:
        peak = record["peak_bytes"] or record["temporary_bytes"]
        record = record | {"memory": None if peak is None else peak / 1e6}
        rows.append([cell(record[name], form) for _, name, form in columns])
    return rows


def attention_table(records: Sequence[dict[str, Any]]) -> str:
    """One row per record of `attention.measure`: milliseconds of each kind, `*` at the chosen."""
    kinds = list(dict.fromkeys(kind for record in records for kind in record["seconds"]))
    rows = [
        ["rows", "queries", "slots", "heads", "channels", "dtype", "", *(f"{k} ms" for k in kinds)]
    ]
    for record in records:
        heads = f"{record['H']}" + (f"/{record['K']}" if record["K"] != record["H"] else "")
        sizes = [str(record[name]) for name in ("B", "S", "T")]
        row = [*sizes, heads, str(record["E"]), record["dtype"]]
        row.append("gradient" if record["gradient"] else "forward")
        for kind in kinds:
            taken = record["seconds"].get(kind)
            mark = "*" if kind == record["chosen"] else " "
            row.append(f"{1e3 * statistics.median(taken):.3f}{mark}" if taken else "- ")
        rows.append(row)
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of as many texts, each column as wide as its widest."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(text.rjust(w) for text, w in zip(row, widths)) for row in rows)
