"""Reads arrays of `.npy` and `.npz` files that may be damaged or made by anyone."""

from __future__ import annotations

import functools
import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gen.errors import UserError

MAX_BYTES = 16 * 2**20  # of one file, and of one array: 2 million int64 codes
KINDS = {"integers": "iu", "floats": "f"}
# What zipfile raises for archives that are damaged, encrypted or packed in a way it does not know.
ZIP_FAULTS = (
    *(zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError),
    *(RuntimeError, NotImplementedError, OverflowError),
)


def read_integers(path: Path) -> np.ndarray:
    """The integers of an `.npy` file, of any shape.

    Nothing is unpickled, and no more is read or allocated than the file holds.

    Raises:
      UserError: the file cannot be read, is cut, too large, or holds something else.
    """
    return _parse(_content(path), str(path), "integers")


def read_floats(path: Path) -> np.ndarray:
    """The floats of an `.npy` file, of any shape and width, as `read_integers` reads integers."""
    return _parse(_content(path), str(path), "floats")


def read_float_archive(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """The named arrays of floats of an `.npz` file, of any shapes and widths.

    Nothing is unpickled, and no more than `MAX_BYTES` of an array is unpacked.

    Raises:
      UserError: the file cannot be read, is damaged or too large, or an array is missing or holds
        something else than floats.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(_content(path))) as archive:
            held = archive.namelist()
            missing = [name for name in names if f"{name}.npy" not in held]
            contents = [] if missing else [_member(archive, f"{name}.npy") for name in names]
    except ZIP_FAULTS as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} is no .npz file, or damaged ({reason})") from None
    if missing:
        there = ", ".join(held[:5]) or "nothing"
        raise UserError(f'{path} has no array "{missing[0]}"; it holds {there!r}')
    return [_parse(raw, f'{path}, array "{name}",', "floats") for name, raw in zip(names, contents)]


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as file:
        return file.read(MAX_BYTES)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    if len(content) > MAX_BYTES:
        raise UserError(f"{path} has more than the {MAX_BYTES} bytes that one image may take")
    return content


def _parse(content: bytes, where: str, wanted: str) -> np.ndarray:
    """The array of an `.npy` file's bytes; `where` begins each error, `wanted` is in `KINDS`."""
    # Version 1 of the format has two bytes for the length of its header, version 2 four.
    body = 10 if content[6:7] == b"\x01" else 12
    end = body + int.from_bytes(content[8:body], "little")
    if content[:6] != b"\x93NUMPY" or len(content) < end:
        raise UserError(f"{where} is no .npy file, or cut short ({len(content)} bytes)")
    try:
        shape, is_fortran, dtype = _parse_header(content[:end])
    except Exception as error:
        # NumPy evaluates the header as Python; damaged text fails in every way that Python can.
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{where} is no .npy file: its header is damaged ({reason})") from None
    if dtype.kind not in KINDS[wanted]:
        raise UserError(f"{where} holds {dtype}, and should hold {wanted}")
    promised = math.prod(shape) * dtype.itemsize
    if len(content) - end != promised or any(size < 0 for size in shape):
        raise UserError(
            f"{where} is damaged: its header promises {promised} bytes, {len(content) - end} follow"
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
