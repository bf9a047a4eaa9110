"""`python -m gen.convert SYSTEM WEIGHTS... OUT`: published weights as ours, to sample or train on.

A generator becomes a folder that `gen.sample`, `gen.evaluate`, `gen.load` and `--init_from` take;
a tokenizer becomes one `.safetensors` file for `--tokenizer`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from gen import schema, tokenizers
from gen.api import Generator
from gen.command_line import Parser
from gen.errors import UserError, ensure_writable, exit_on_user_error
from gen.published import SYSTEMS, Files, from_published, system_named
from gen.published.base import System


def make_parser() -> Parser:
    """The command line."""
    parser = Parser(
        prog="python -m gen.convert",
        description=__doc__.splitlines()[0],
        epilog=f"Systems: {', '.join(SYSTEMS)}.",
    )
    add = parser.add_argument
    add("system", help="upstream system the weights were made for")
    add("files", nargs="+", metavar="WEIGHTS... OUT", help="weights, and where to write")
    add("--part", action="append", default=[], metavar="NAME=FILE", help="weights of one part")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="a reference setting")
    add("--settings", metavar="FILE", help="reference settings as a JSON object")
    add("--key", help="where in the file the model lies, such as ema")
    return parser


def split_pair(flag: str, text: str) -> tuple[str, str]:
    """`NAME=VALUE` as a pair."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UserError(f'{flag} takes NAME=VALUE, not "{text}"')
    return name, value


def read_settings(system: System, args: Any) -> dict[str, Any]:
    """Settings of the JSON file with those of `--set` over them, typed by the system."""
    values: dict[str, Any] = {}
    if args.settings:
        try:
            values = json.loads(Path(args.settings).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"--settings {args.settings} cannot be read: {error}") from None
        if not isinstance(values, dict):
            raise UserError(f"--settings {args.settings} holds no JSON object")
    for pair in args.set:
        name, text = split_pair("--set", pair)
        schema.override(system.Settings, values, name, text, root=f"{system.name} settings")
    return values


def read_files(system: System, args: Any) -> tuple[dict[str, Files], Path]:
    """The files of each part, and where to write."""
    *weights, out = args.files
    parts: dict[str, Files] = dict(split_pair("--part", pair) for pair in args.part)
    first = next(iter(system.parts))
    if weights and first in parts:
        raise UserError(f"give the weights of part {first} once: as WEIGHTS or as --part")
    if weights:
        parts[first] = weights
    if not parts:
        raise UserError("give WEIGHTS and then OUT (see --help)")
    return parts, Path(out)


@exit_on_user_error
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    args = make_parser().parse_args(argv)
    system = system_named(args.system)
    settings = read_settings(system, args)
    files, out = read_files(system, args)
    ensure_writable(out.parent)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists: choose another place to write to")
    made = from_published(system.name, files, settings, key=args.key)
    if isinstance(made, Generator):
        made.save(out)
        print(f"{made.num_parameters:,} parameters in {out}: {made.config.model}")
        return
    if out.suffix != ".safetensors":
        raise UserError(f"a tokenizer is written as one file: {out} should end in .safetensors")
    tokenizers.save(made, out)
    print(f"tokenizer in {out}: {made.config}")


if __name__ == "__main__":
    main(sys.argv[1:])
