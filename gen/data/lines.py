"""Reads the lines of files that may be packed, damaged, larger than memory, or made by anyone."""

from __future__ import annotations

import contextlib
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gen.errors import UserError

MAX_BYTES = 2**17  # of a line; one of 256 tokens has about 1,500
REPORT_EVERY = 1000  # lines
_GZIP = b"\x1f\x8b"

# The number of a line, counted from 1, and its bytes.
Line = tuple[int, bytes]


def read_lines(path: Path, advance: Callable[[int], Any] = lambda count: None) -> Iterator[Line]:
    """The lines of a file, unpacked if it is packed with gzip.

    Args:
      path: the file.
      advance: told now and then how many more bytes of the file were read.

    Raises:
      UserError: the file cannot be read, is damaged, or a line is longer than `MAX_BYTES`, which
        is all that is read of it.
    """
    number = done = 0
    try:
        with contextlib.ExitStack() as stack:
            raw = file = stack.enter_context(path.open("rb"))
            if raw.peek(2)[:2] == _GZIP:
                file = stack.enter_context(gzip.open(raw))
            while line := file.readline(MAX_BYTES + 1):
                number += 1
                if len(line) > MAX_BYTES:
                    raise UserError(f"{path}, line {number} has more than {MAX_BYTES} bytes")
                yield number, line
                if number % REPORT_EVERY == 0:
                    advance(raw.tell() - done)
                    done = raw.tell()
            advance(raw.tell() - done)
    except (OSError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} cannot be read after line {number} ({reason})") from None


def parse_object(where: str, line: bytes) -> dict[str, Any]:
    """The JSON object that a line holds; `where` begins each error.

    Raises:
      UserError: it is no JSON, nested too deeply, or no object.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        # The decoder's own count of lines starts anew within this one.
        reason = str(error).partition(": line ")[0][:80]
        raise UserError(f"{where} is no JSON ({reason})") from None
    if not isinstance(record, dict):
        raise UserError(f"{where} is {shown(record)}, and should be a JSON object")
    return record


def shown(value: Any) -> str:
    """A value of JSON in a few characters, whatever it holds."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
