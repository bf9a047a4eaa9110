"""`python -m gen.bench [CONFIG_OR_RUN]`: how fast sampling is, and how far from what it could be.

A config file gives random weights, a run's folder or checkpoint its own. Batches of several sizes,
with and without guidance, are sampled in turn in one process, between readings of the machine's
bandwidth and matmul rate; beside each time stands the bound these two give. `--train` times the
training step instead, `--attention` the ways to compute attention, `--first` a process from its
start to its first sample, and `--against` another implementation, call by call in turn with ours.
`--tokenizer FILE` alone times a tokenizer.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from gen import __version__, runtime, schema
from gen.api import Generator
from gen.bench import coding, precision, rates, report, rival, timing
from gen.bench.sampling import Sampler
from gen.bench.target import guidances_of, open_generator
from gen.command_line import Parser, add_dtype, split_overrides
from gen.errors import UserError, ensure_file, exit_on_user_error, note
from gen.pixels import Pixels, pixels_of
from gen.programs import PRECISIONS

BATCHES = "1,4,16,64"


def make_parser() -> Parser:
    """The command line."""
    parser = Parser(
        prog="python -m gen.bench",
        description=__doc__.splitlines()[0],
        epilog="Fields of the config: --config.sample.top_k=2000, after a config file.",
    )
    add = parser.add_argument
    add("target", nargs="?", metavar="CONFIG_OR_RUN",
        help="FILE.py or FILE.py:argument, a run, a checkpoint")  # fmt: skip
    add("--batch", default=BATCHES, help="sizes of batches (default: 1,4,16,64)")
    add("--guidance", help="a number, none, or both; default: both, at the config's number")
    add("--rounds", type=int, default=5, help="timed batches of each (default: 5)")
    add("--budget-s", type=float, default=60.0,
        help="skip a size whose batches would take longer than this (default: 60)")  # fmt: skip
    add_dtype(parser, PRECISIONS)
    add("--tokenizer", metavar="FILE",
        help="time the decoding to pixels too; without CONFIG_OR_RUN: this alone")  # fmt: skip
    add("--only", choices=coding.DIRECTIONS, help="of a tokenizer alone (default: both)")
    add("--size", metavar="HEIGHT,WIDTH",
        help="pixels of a tokenizer alone, or FRAMES,HEIGHT,WIDTH (default: 256,256)")  # fmt: skip
    add("--train", action="store_true", help="time the training step of a config instead")
    add("--attention", action="store_true",
        help="time ways to compute attention instead, at the sizes of this config")  # fmt: skip
    add("--first", action="store_true",
        help="time processes from start to first sample instead, cold and warm")  # fmt: skip
    add("--against", metavar="FILE.py:CALLABLE",
        help="also time this, which makes one batch (of the one --batch given)")  # fmt: skip
    add("--out", metavar="FILE.json", help="writes all figures")
    return parser


def sizes_of(text: str) -> list[int]:
    """`"1,4,16"` as ascending numbers."""
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) for part in parts):
        raise UserError(f"--batch takes sizes such as 1,4,16, not {text}")
    return sorted({int(part) for part in parts})


def versions() -> dict[str, str]:
    """What a figure depends on beside the program."""
    device = jax.local_devices()[0]
    return {
        "gen": __version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": f"{device.platform}: {device.device_kind}",
        "devices": str(jax.device_count()),
        "processor": platform.processor() or platform.machine(),
    }


def weight_shapes(params: Any) -> set[tuple[int, int]]:
    """The last two dimensions of the parameters that are matrices, stacked or not."""
    return {tuple(leaf.shape[-2:]) for leaf in jax.tree.leaves(params) if leaf.ndim >= 2}


def make_samplers(
    generator: Generator, args: Any, pixels: Pixels | None
) -> tuple[list[Sampler], list[str]]:
    """Those whose rounds stay within the budget, and what is said of the others.

    A size is predicted from the one before it, as if time grew with the rows.
    """
    settings = generator.config.sample.settings()
    del settings["batch_size"]
    made, skipped = [], []
    for guidance in guidances_of(args.guidance, generator):
        per_row = 0.0
        for rows in sizes_of(args.batch):
            predicted = per_row * rows * args.rounds
            if predicted > args.budget_s:
                skipped.append(f"batch {rows}: would take {predicted:.0f} s (--budget-s)")
                continue
            note(f"compiling batch {rows}, guidance {guidance}")
            sampler = Sampler(generator, rows, settings | {"guidance": guidance}, pixels)
            first = timing.interleave({"": sampler}, rounds=1)[""].best
            per_row = first / rows
            if first * args.rounds > args.budget_s:
                skipped.append(f"{sampler.name}: takes {first:.1f} s a batch (--budget-s)")
                continue
            made.append(sampler)
    return made, skipped


@exit_on_user_error
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    runtime.start()
    args, rest = make_parser().parse_known_args(argv)
    if args.rounds < 2:
        raise UserError(f"--rounds is at least 2, not {args.rounds}")
    if not args.budget_s > 0:
        raise UserError(f"--budget-s is above 0, not {args.budget_s:g}")
    if (args.train or args.attention) and args.dtype == "int8":
        what = "--train takes" if args.train else "--attention takes"
        raise UserError(f"{what} --dtype float32 or bfloat16: int8 is for sampling")
    if args.out:
        ensure_file(args.out)
    overrides = split_overrides(rest)
    if sum((args.train, args.attention, args.first)) > 1:
        raise UserError("--train, --attention and --first are one at a time")
    if args.first and args.batch not in (BATCHES, "1"):
        raise UserError("--first samples a batch of 1: leave --batch out")
    if args.target is None:
        found = bench_pixels(args, overrides)
    elif args.only or args.size:
        raise UserError("--only and --size go with --tokenizer alone, without CONFIG_OR_RUN")
    elif args.train:
        from gen.bench.training import bench_training

        found = bench_training(args.target, overrides, dtype=args.dtype, rounds=args.rounds)
    elif args.attention:
        from gen.bench.attention import bench_attention

        generator = open_generator(args.target, overrides, args.dtype)
        limits = {"rounds": args.rounds, "budget_s": args.budget_s}
        found = bench_attention(generator, sizes=sizes_of(args.batch), **limits)
    elif args.first:
        from gen.bench.first import bench_first

        how = {"guidance": args.guidance, "dtype": args.dtype}
        found = bench_first(args.target, overrides, **how)
    else:
        found = bench_sampling(args, overrides)
    found |= {"command": ["python", "-m", "gen.bench", *(argv or sys.argv[1:])]}
    found |= {"versions": versions(), "dtype": args.dtype}
    print(", ".join(f"{name} {value}" for name, value in versions().items()))
    if args.out:
        Path(args.out).write_text(json.dumps(found, indent=2) + "\n")


def bench_pixels(args: Any, overrides: list[tuple[str, str]]) -> dict[str, Any]:
    """Times a tokenizer alone."""
    if args.tokenizer is None:
        raise UserError("name a config file, a run or a checkpoint, or a --tokenizer (see --help)")
    if overrides or args.guidance or args.train or args.attention or args.first:
        raise UserError(
            "a tokenizer alone has no config, guidance, --train, --attention or --first"
        )
    directions = (args.only,) if args.only else coding.DIRECTIONS
    if args.dtype != "float32":
        directions = tuple(each for each in directions if each != "encode")
        if not directions:
            raise UserError("a tokenizer encodes in float32 alone")
    shape = args.size and schema.parse(tuple[int, ...], args.size, "--size")
    batches = sizes_of(args.batch)
    if args.against and (len(batches) > 1 or not args.only):
        raise UserError("--against compares one thing: give one size to --batch, and --only")
    against = (args.against, rival.load(args.against)) if args.against else None
    limits = {"rounds": args.rounds, "budget_s": args.budget_s, "dtype": args.dtype}
    request = coding.Request(directions, batches, shape, **limits)
    return coding.bench_tokenizer(args.tokenizer, request, against)


def bench_sampling(args: Any, overrides: list[tuple[str, str]]) -> dict[str, Any]:
    """Times sampling, prints the table and returns all figures."""
    against = rival.load(args.against) if args.against else None
    if against and (len(sizes_of(args.batch)) > 1 or args.guidance in (None, "both")):
        raise UserError("--against compares one thing: give one size to --batch, and --guidance")
    generator = open_generator(args.target, overrides, args.dtype)
    pixels = pixels_of(generator, args.tokenizer) if args.tokenizer else None
    samplers, skipped = make_samplers(generator, args, pixels)
    probes = rates.probes(weight_shapes(generator.params), generator.dtype)
    calls = {sampler.name: sampler for sampler in samplers}
    calls |= {name: probe.call for name, probe in probes.items()}
    if against:
        against()
        calls[args.against] = against
    with tqdm(total=args.rounds * len(calls), unit="call", desc="timing", delay=0.5) as bar:
        times = timing.interleave(calls, rounds=args.rounds, done=lambda name: bar.update())
    reached = rates.best(probes, times)
    records = [sampler.record(times[sampler.name], reached) for sampler in samplers]
    print(report.table(records))
    print(
        f"bound: {reached.bytes_per_s / 1e9:.1f} GB/s read, {reached.flops_per_s / 1e9:.0f} GF/s "
        f"in products, measured in turn with the samples; {args.dtype}, {args.rounds} rounds"
    )
    for line in skipped:
        print(f"skipped {line}")
    found: dict[str, Any] = {"rates": vars(reached), "sampling": records, "skipped": skipped}
    if args.dtype != "float32":
        found["precision"] = precision.against_float32(generator)
        print(precision.told(found["precision"], args.dtype))
    if against and samplers:
        theirs, ours = times[args.against], times[samplers[0].name]
        found["against"] = timing.compared(args.against, theirs, ours)
    return found


if __name__ == "__main__":
    main()
