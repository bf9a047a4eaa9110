"""Arrays of a row per sample in `.npz` files: written whole or not at all, and read by rows.

Beside the arrays, a file holds the settings they were made with, as JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from gen.errors import UserError

SETTINGS = "settings"  # the array that holds them
Arrays = dict[str, np.ndarray]


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name once it is whole and on the disk.

    Raises:
      UserError: it cannot be written.
    """
    # The same name each time: what a kill leaves is written over.
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def write(path: Path, arrays: Arrays, settings: dict[str, Any]) -> None:
    """Writes a file of such arrays; raises `UserError` if it cannot be written."""
    rows = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with whole_file(path) as file:
        np.savez(file, **rows, **{SETTINGS: json.dumps(settings)})


def settings(archive: zipfile.ZipFile) -> dict[str, Any]:
    """The settings that the arrays of an open file were made with."""
    with archive.open(SETTINGS + ".npy") as stream:
        found = json.loads(str(np.lib.format.read_array(stream)))
    if not isinstance(found, dict):
        raise ValueError(f"settings are names and values, not {found}")
    return found


def arrays_in(archive: zipfile.ZipFile) -> list[str]:
    """Names of the arrays in an open file."""
    return [name for n in archive.namelist() if (name := n.removesuffix(".npy")) != SETTINGS]


def read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of a `.npy`; leaves the stream at its first row."""
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"a .npy of version {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    return shape, dtype


def header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """How a `.npy` of rows in C order begins."""
    stream, descr = io.BytesIO(), np.lib.format.dtype_to_descr(dtype)
    about = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, about)
    return stream.getvalue()


def first_rows(path: Path, name: str, rows: int) -> np.ndarray:
    """The first rows of an array of an `.npz`, without reading the others."""
    with zipfile.ZipFile(path) as archive, archive.open(name + ".npy") as stream:
        shape, dtype = read_header(stream)
        shape = (min(rows, shape[0]), *shape[1:])
        return np.frombuffer(stream.read(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)
