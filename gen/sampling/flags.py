"""Flags that say how to sample, of `gen.sample` and `gen.export`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from gen import schema
from gen.api import Generator
from gen.command_line import Parser, add_dtype
from gen.config import SampleConfig
from gen.errors import UserError
from gen.programs import PRECISIONS


def add_settings(parser: Parser, precisions: Sequence[str] = PRECISIONS) -> None:
    """Flags of the weights, and of how to sample, which `settings_from` reads."""
    add = parser.add_argument
    add("--guidance", help="guidance as the published code counts it, or none")
    add("--guidance-interval", help="last guided step after the first; -1 guides all")
    add("--temperature", help="0 takes the most likely token")
    add("--top-k", help="keep the k most likely tokens; 0 keeps all")
    add("--top-p", help="keep the smallest set of this probability; 1 keeps all")
    add("--option", action="append", default=[], metavar="NAME=VALUE",
        help="an option of the model's kind, such as more_smooth=true")  # fmt: skip
    add("--raw", action="store_true", help="use the weights, not their average")
    add_dtype(parser, precisions)


def settings_from(args: Any, generator: Generator) -> dict[str, Any]:
    """The config's sampling settings with those given on the command line in their place."""
    options = generator.family.Options
    settings = dataclasses.asdict(options()) | generator.config.sample.settings()
    for name, kind in schema.hints(SampleConfig).items():
        text = getattr(args, name, None)
        if text is not None:
            settings[name] = schema.parse(kind, text, "--" + name.replace("_", "-"))
    given: dict[str, Any] = {}
    for pair in args.option:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UserError(f"--option takes NAME=VALUE, not {pair}")
        schema.override(options, given, name, text, root="options of sampling")
    settings |= given
    if settings["batch_size"] < 1:
        raise UserError(f"--batch-size is at least 1, not {settings['batch_size']}")
    return settings
