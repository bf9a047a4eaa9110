#!/usr/bin/env python3
"""Measures everything on one GPU: `python launch/bench_gpu.py --out FOLDER`, an hour or so.

Each measurement is a `gen.bench` of its own process, with its figures in FOLDER/NAME.json and its
output in FOLDER/NAME.log; `FOLDER/summary.md` sets them side by side. What is there already is not
measured again, and what fails is told and left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HALF = ("--dtype", "bfloat16")
GUIDED = ("--guidance", "4", "--config.sample.top_k=2000", *HALF)
LONG = ("--budget-s", "300")

# name -> (config, arguments of gen.bench, set of XLA flags or none)
MEASUREMENTS: dict[str, tuple[str, tuple[str, ...], str | None]] = {
    # Eight images of 24x24 tokens, guided, in half precision.
    "llamagen_b_384": ("llamagen_b.py:384", ("--batch", "8", *GUIDED), None),
    "llamagen_b": ("llamagen_b.py:256", ("--batch", "1,4,16,64,256", *GUIDED, *LONG), None),
    "llamagen_b_gpu": ("llamagen_b.py:256", ("--batch", "1,64", *GUIDED), "gpu"),
    "llamagen_b_graphs": ("llamagen_b.py:256", ("--batch", "1,64", *GUIDED), "gpu_graphs"),
    "var_d16": ("var_d16.py", ("--batch", "1,64", *HALF), None),
    "nar_b": ("nar_b.py", ("--batch", "1,64", *HALF), None),
    "maskgit_256": ("maskgit_256.py", ("--batch", "1,64", *HALF), None),
    "flowar_s": ("flowar_s.py", ("--batch", "1,64", *HALF), None),
    "train_llamagen_xl": (
        "llamagen_xl.py", ("--train", "--config.train.batch_size=32", *HALF), None,
    ),
    "train_llamagen_xl_gpu": (
        "llamagen_xl.py", ("--train", "--config.train.batch_size=32", *HALF), "gpu",
    ),
    "attention": (
        "llamagen_b.py:256",
        ("--attention", "--batch", "8,64", "--config.train.batch_size=32", *HALF),
        None,
    ),
    "first": ("llamagen_b.py:256", ("--first", *GUIDED), None),
}  # fmt: skip


def command_of(name: str, out: Path, *, debug: bool) -> list[str]:
    """The `gen.bench` of a measurement; `debug` shrinks its model and its batches."""
    config, arguments, _ = MEASUREMENTS[name]
    if debug:
        config += ",debug" if ":" in config else ":debug"
        arguments = tuple("2" if "," in a or a in ("8", "64") else a for a in arguments)
    path = str(ROOT / "configs" / config)
    return [sys.executable, "-m", "gen.bench", path, *arguments, "--out", str(out)]


def run(name: str, folder: Path, *, debug: bool) -> str | None:
    """Measures one thing unless it is there; the last line that it wrote, if it failed."""
    out, log = folder / f"{name}.json", folder / f"{name}.log"
    if out.exists():
        return None
    flags = MEASUREMENTS[name][2]
    env = os.environ | ({"GEN_XLA_FLAGS": flags} if flags else {})
    with log.open("w") as file:
        command = command_of(name, out, debug=debug)
        code = subprocess.run(command, cwd=ROOT, env=env, stdout=file, stderr=file).returncode
    lines = log.read_text().strip().splitlines()
    return f"exit code {code}: {lines[-1] if lines else 'no output'}" if code else None


def rows_of(name: str, found: dict[str, Any]) -> list[str]:
    """Lines of the summary's table."""
    rows = []
    for r in found.get("sampling", []):
        memory = r["peak_bytes"] or r["temporary_bytes"]
        what = f"batch {r['batch']}, " + (
            "unguided" if r["guidance"] is None else f"guidance {r['guidance']:g}"
        )
        rows.append(
            f"| {name} | {what} | {r['ms_per_call']:.2f} ms a call | {r['share_of_bound']:.0%} | "
            f"{r['samples_per_s']:.3g} samples/s | {f'{memory / 1e9:.1f} GB' if memory else '-'} |"
        )
    if r := found.get("training"):
        rows.append(
            f"| {name} | step of {r['batch']} | {1e3 * r['p50_s']:.1f} ms | "
            f"{r['share_of_bound']:.0%} | {r['tokens_per_s']:.3g} tokens/s | - |"
        )
    if r := found.get("first"):
        cold = r["cold"]["until"]["sampled"]
        warm = sorted(record["until"]["sampled"] for record in r["warm"])
        rows.append(
            f"| {name} | process to first sample | {cold:.1f} s cold, "
            f"{warm[len(warm) // 2]:.1f} s warm | - | - | - |"
        )
    return rows


def summary(folder: Path, failed: dict[str, str], *, debug: bool) -> str:
    """All figures of the folder as Markdown."""
    parts = ["Shrunken models, for a try: these figures mean nothing.", ""] if debug else []
    parts += ["| what | | time | share of bound | rate | memory |", "|---|---|---|---|---|---|"]
    advice, versions = [], None
    for name in MEASUREMENTS:
        if (path := folder / f"{name}.json").exists():
            found = json.loads(path.read_text())
            parts += rows_of(name, found)
            advice += found.get("advice", [])
            versions = versions or found["versions"]
    told = ", ".join(f"{key} {value}" for key, value in (versions or {}).items())
    parts += [
        "",
        "The bound: bandwidth and matmul rate that XLA reached in the same process.",
        told,
    ]
    parts += ["", "Attention:", *(f"- `{line}`" for line in advice)] if advice else []
    parts += ["", *(f"- left out {name}: {why}" for name, why in failed.items())] if failed else []
    return "\n".join(parts) + "\n"


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where figures are written")
    parser.add_argument("--only", metavar="NAMES", help=f"some of {','.join(MEASUREMENTS)}")
    parser.add_argument("--debug", action="store_true", help="shrunken models, on any device")
    parser.add_argument("--dry-run", action="store_true", help="show the commands")
    args = parser.parse_args()
    names = args.only.split(",") if args.only else list(MEASUREMENTS)
    if unknown := [name for name in names if name not in MEASUREMENTS]:
        parser.error(f"--only: no {', '.join(unknown)} in {', '.join(MEASUREMENTS)}")
    folder = Path(args.out).resolve()
    if args.dry_run:
        for name in names:
            flags = MEASUREMENTS[name][2]
            start = f"GEN_XLA_FLAGS={flags} " if flags else ""
            print(start + " ".join(command_of(name, folder / f"{name}.json", debug=args.debug)))
        return 0
    if not args.debug:
        code = "import jax; print(jax.default_backend())"
        asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        if asked.stdout.strip() not in ("gpu", "tpu"):
            parser.error("JAX finds no accelerator here: pip install -e '.[cuda]', or try --debug")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"cannot write to folder {folder}: {error.strerror}")
    failed = {}
    for number, name in enumerate(names, 1):
        print(f"{number} of {len(names)}: {name}", file=sys.stderr, flush=True)
        if why := run(name, folder, debug=args.debug):
            failed[name] = why
            print(f"{name} failed, {why}", file=sys.stderr, flush=True)
        (folder / "summary.md").write_text(summary(folder, failed, debug=args.debug))
    print(summary(folder, failed, debug=args.debug))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
