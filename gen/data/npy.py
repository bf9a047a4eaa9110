"""Reads the integers of an `.npy` file that may be damaged or made by anyone."""

from __future__ import annotations

import functools
import io
import math
from pathlib import Path

import numpy as np

from gen.errors import UserError

MAX_BYTES = 16 * 2**20  # of one file: 2 million int64 codes


def read_integers(path: Path) -> np.ndarray:
    """The integers of an `.npy` file, of any shape.

    Nothing is unpickled, and no more is read or allocated than the file holds.

    Raises:
      UserError: the file cannot be read, is cut, too large, or holds something else.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    if len(content) > MAX_BYTES:
        raise UserError(f"{path} has more than the {MAX_BYTES} bytes that one image may take")
    # Version 1 of the format has two bytes for the length of its header, version 2 four.
    body = 10 if content[6:7] == b"\x01" else 12
    end = body + int.from_bytes(content[8:body], "little")
    if content[:6] != b"\x93NUMPY" or len(content) < end:
        raise UserError(f"{path} is no .npy file, or cut short ({len(content)} bytes)")
    try:
        shape, is_fortran, dtype = _parse_header(content[:end])
    except Exception as error:
        # NumPy evaluates the header as Python; damaged text fails in every way that Python can.
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} is no .npy file: its header is damaged ({reason})") from None
    if dtype.kind not in "iu":
        raise UserError(f"{path} holds {dtype}, and should hold integers")
    promised = math.prod(shape) * dtype.itemsize
    if len(content) - end != promised or any(size < 0 for size in shape):
        raise UserError(
            f"{path} is damaged: its header promises {promised} bytes, {len(content) - end} follow"
        )
    flat = np.frombuffer(content, dtype, offset=end)
    return flat.reshape(shape, order="F" if is_fortran else "C")


@functools.lru_cache(maxsize=64)
def _parse_header(content: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and dtype; remembered, because nearly all files share one header."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"version {version} of the format")
