"""Command lines: parsers whose complaints are one line, and overrides of config fields."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from gen.errors import UserError, close_to

OVERRIDE = "--config."


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line, like all others.

    What it does not know and `parse_known_args` returns are overrides, such as
    `--config.optim.lr=1e-3`; of anything else that looks like an option the nearest is told.
    """

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        found, rest = super().parse_known_args(args, namespace)
        for argument in rest:
            name = argument.partition("=")[0]
            if name.startswith("--") and not name.startswith(OVERRIDE):
                close = close_to(name, self._option_string_actions, cutoff=0.7)
                raise UserError(f"unknown argument {name}{close or ' (see --help)'}")
        return found, rest

    def error(self, message: str) -> None:
        raise UserError(f"{message} (see --help)")


def split_overrides(arguments: list[str]) -> list[tuple[str, str]]:
    """`--config.a.b=value` and `--config.a.b value` as pairs; anything else is refused."""
    pairs, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith(OVERRIDE):
            raise UserError(f"unknown argument {argument}")
        name, equals, text = argument.removeprefix(OVERRIDE).partition("=")
        if not equals:
            if not rest:
                raise UserError(f"{argument} needs a value")
            text = rest.pop(0)
        pairs.append((name, text))
    return pairs


def add_dtype(parser: Parser, names: Sequence[str]) -> None:
    """The option `--dtype` of commands that sample or score."""
    eight = "; int8: float32 with weights rounded to 8 bits (CPUs)" if "int8" in names else ""
    parser.add_argument("--dtype", choices=names, default="float32", help=f"compute dtype{eight}")
