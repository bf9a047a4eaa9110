"""`python -m gen`: which commands there are."""

from __future__ import annotations

import ast
from pathlib import Path

COMMANDS = ("train", "sample", "evaluate", "compare", "bench")
COMMANDS += ("export", "convert", "encode", "data", "images")


def about(command: str) -> str:
    """The first line of a command's description, read without importing it."""
    place = Path(__file__).parent / command
    file = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))).splitlines()[0]


if __name__ == "__main__":
    print("python -m gen.COMMAND --help tells more.\n")
    for command in COMMANDS:
        print(about(command))
