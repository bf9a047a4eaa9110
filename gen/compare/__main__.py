"""`python -m gen.compare CONFIG...`: trains what is not trained, and sets runs side by side.

Each config has its run's folder below `--runs`. What is there is loaded, what was begun goes on,
and the rest is trained as `gen.train` does, after everything that can be refused was refused for
all of them. The scores are those that training wrote; only the speed of sampling is measured anew.
Writes a Markdown table, all figures as JSON, and samples beside real data as PNG.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gen import runtime, train
from gen.command_line import Parser
from gen.compare.report import remarks, save_sheet, table
from gen.compare.runs import draw, prepare, record_of, result_of
from gen.errors import UserError, ensure_writable, exit_on_user_error, note


def make_parser() -> Parser:
    """The command line."""
    parser = Parser(
        prog="python -m gen.compare",
        description=__doc__.splitlines()[0],
        epilog="Fields of all the configs: --config.data.dir=..., after the config files.",
    )
    add = parser.add_argument
    add("configs", nargs="+", metavar="CONFIG", help="config file, FILE.py or FILE.py:argument")
    add("--runs", default="runs", help="folder of the runs' folders (default: runs)")
    add("--batch-size", type=int, default=100, help="samples drawn together for the speed")
    add("--out", default="comparison", help="writes OUT.md, OUT.json and OUT.png")
    return parser


@exit_on_user_error
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    runtime.start()
    args, overrides = make_parser().parse_known_args(argv)
    if args.batch_size < 1:
        raise UserError(f"--batch-size is at least 1, not {args.batch_size}")
    out = Path(args.out)
    ensure_writable(out.parent)
    entries = prepare(args.configs, Path(args.runs), overrides)
    if len({entry.data for entry in entries}) > 1:
        note("the configs are of different data: only rows of the same data compare")
    positions = [f"{number} of {len(entries)}" for number in range(1, len(entries) + 1)]
    results = [result_of(*pair) for pair in zip(entries, positions)]
    records, samples = [], []
    for entry, position, result in zip(entries, positions, results):
        note(f"{position}: samples of {entry.name}")
        samples_NP, found = draw(entry, args.batch_size)
        records.append(record_of(entry, result, found))
        samples.append(samples_NP)
    versions = train.versions()
    text = f"{table(records)}\n\n{remarks(records, versions)}\n"
    markdown, figures, picture = (out.with_name(out.name + e) for e in (".md", ".json", ".png"))
    markdown.write_text(text)
    figures.write_text(json.dumps({"versions": versions, "runs": records}, indent=2) + "\n")
    print(text)
    pictured = save_sheet(picture, entries, records, samples)
    files = [markdown, figures, *([picture] if pictured else [])]
    note(f"written: {', '.join(map(str, files))}")


if __name__ == "__main__":
    main(sys.argv[1:])
