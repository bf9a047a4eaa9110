"""Published weight files, read without executing anything in them and within bounded memory.

Files are told apart by content: safetensors, zip archives of torch, streams of older torch, and
Flax's msgpack.
Opening reads names, shapes and places only, and checks all of them; what is refused is refused
with a `UserError` of one line. Memory while opening is bounded by constants, not by what the
file says; reading a tensor takes at most as many bytes as the file stores of it, or 64 MiB where
it repeats fewer, and once more where its numbers must be put in order.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from gen.errors import UserError
from gen.published.msgpack_file import is_map, msgpack_contents
from gen.published.torch_file import (
    MAX_ENTRIES,
    Contents,
    Stored,
    archive_contents,
    check_shape,
    read_stored,
    stream_contents,
)
from gen.published.torch_pickle import is_count, need, shown

MAX_HEADER = 16 * 2**20
SAFETENSORS = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
# First bytes, in lower case, of what is often found in place of weights.
OTHERS = {
    b"version https://git-lfs": "a pointer of git-lfs, not the weights; fetch them: git lfs pull",
    b"<!doctype html": "a web page, not weights; the download failed",
    b"<html": "a web page, not weights; the download failed",
    b"<?xml": "an XML text, not weights; the download failed",
    b"\x89hdf": "an HDF5 file",
    b"\x93numpy": "a NumPy array",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"gguf": "a GGUF file",
}
TENSORFLOW_END = bytes.fromhex("57fb808b247547db")
EXPECTED = "expected safetensors, a file of torch.save or Flax's msgpack"


class Weights:
    """Tensors of one file, by dotted name (slashes in Flax's), read one at a time.

    Attributes:
      path: the file.
      shapes: name -> shape, in the order of the file. Names are printable text.
      dtypes: name -> dtype; bfloat16 through ml_dtypes.
      settings: dotted name -> plain value saved beside the tensors: int, float, str, bool, None,
        and lists and tuples of these. Fields of an `argparse.Namespace` are among them. Of
        safetensors, the texts of its `__metadata__`.
    """

    def __init__(self, path: Path, tensors: dict[str, Stored], settings: dict[str, Any]) -> None:
        self.path = path
        self.shapes = {name: tensor.shape for name, tensor in tensors.items()}
        self.dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
        self.settings = settings
        self._tensors = tensors
        self._state = _state(path.stat())

    def read(self, name: str) -> np.ndarray:
        """The tensor `name`, C-contiguous.

        Raises:
          UserError: there is none of this name, or the file changed since it was opened.
        """
        with self._unchanged() as file:
            need(name in self._tensors, f"there is no tensor {shown(name)}")
            return read_stored(file, self._tensors[name])

    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the file, in lower case; raises `UserError` if it changed."""
        with self._unchanged() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @contextmanager
    def _unchanged(self) -> Iterator[BinaryIO]:
        with _opened(self.path) as file:
            same = _state(os.fstat(file.fileno())) == self._state
            need(same, "the file has changed since it was opened")
            yield file


def open_weights(path: str | Path) -> Weights:
    """Opens a `.safetensors`, `.pt`, `.pth` or `.msgpack` file, told apart by its content.

    Raises:
      UserError: in one line that begins with the path: the file cannot be read, is damaged or of
        another kind, or asks for code to be run, which is never done.
    """
    path = Path(path)
    with _opened(path) as file:
        return Weights(path, *_contents(file, os.fstat(file.fileno()).st_size))


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file for reading; what goes wrong with it becomes a `UserError` that names it."""
    name = str(path) if str(path).isprintable() else repr(str(path))[1:-1]
    try:
        mode = path.stat().st_mode
        need(not stat.S_ISDIR(mode), f"a directory; {EXPECTED}")
        need(stat.S_ISREG(mode), f"no regular file; {EXPECTED}")
        with path.open("rb") as file:
            yield file
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    except OSError as error:
        raise UserError(f"{name}: it cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{name}: it cannot be read ({error})") from None


def _contents(file: BinaryIO, size: int) -> Contents:
    need(size > 0, f"the file is empty; {EXPECTED}")
    head = file.read(512)
    file.seek(max(0, size - 8))
    tail = file.read(8)
    file.seek(0)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return archive_contents(file, size)
    if head[8:9] == b"{":
        return _safetensors_contents(file, size)
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return stream_contents(file, size)
    if is_map(head):
        return msgpack_contents(file, size)
    need(tail != TENSORFLOW_END, f"a TensorFlow checkpoint; {EXPECTED}")
    start = head.lstrip().lower()
    for beginning, kind in OTHERS.items():
        need(not start.startswith(beginning), f"{kind}; {EXPECTED}")
    text = head.decode("utf-8", errors="replace")[:40]
    is_text = text.replace("\n", "").replace("\t", "").isprintable() and "\ufffd" not in text
    told = f"a text that begins {shown(text)}" if is_text else "a file of an unknown kind"
    raise UserError(f"{told}; {EXPECTED}")


def _safetensors_contents(file: BinaryIO, size: int) -> Contents:
    """A header length (8 bytes), a JSON header, and the tensors without gaps or overlaps."""
    length = int.from_bytes(file.read(8), "little")
    need(length <= size - 8, f"its header of {length} bytes does not fit into {size} bytes")
    need(length <= MAX_HEADER, f"its header has {length} bytes; at most {MAX_HEADER}")
    try:
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise UserError("its header is no valid JSON") from None
    metadata = header.pop("__metadata__", {})
    texts = isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
    need(texts, "its __metadata__ is no mapping from names to texts")
    need(len(header) <= MAX_ENTRIES, f"it has over {MAX_ENTRIES} tensors")
    tensors, places = {}, []
    for name, entry in header.items():
        need(name.isprintable(), f"the tensor name {shown(name)} has characters of control")
        try:
            dtype, shape, (begin, end) = _entry(entry)
        except UserError as error:
            raise UserError(f"tensor {shown(name)}: {error}") from None
        places.append((begin, end, name))
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        tensors[name] = Stored(dtype, shape, strides, 8 + length + begin)
    reached = 0
    for begin, end, name in sorted(places):
        need(begin == reached, f"tensor {shown(name)} begins at byte {begin}, not {reached}")
        reached = end
    data = size - 8 - length
    need(reached == data, f"its tensors take {reached} bytes, but the file holds {data}")
    return tensors, metadata


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    items = dict(pairs)
    if len(items) < len(pairs):
        raise ValueError("a name occurs twice")
    return items


def _entry(entry: Any) -> tuple[np.dtype, tuple[int, ...], tuple[int, int]]:
    """(dtype, shape, (first byte, byte behind the last)) of one tensor of a safetensors header."""
    keys = {"dtype", "shape", "data_offsets"}
    need(isinstance(entry, dict) and entry.keys() == keys, "it is not described by dtype and shape")
    kind, shape, places = entry["dtype"], entry["shape"], entry["data_offsets"]
    need(isinstance(kind, str), "its dtype is no name")
    need(kind in SAFETENSORS, f"dtype {shown(kind)} is not supported; {', '.join(SAFETENSORS)} are")
    dtype = SAFETENSORS[kind]
    valid = isinstance(shape, list) and all(map(is_count, shape))
    need(valid, "its shape is no list of whole numbers from 0")
    valid = isinstance(places, list) and len(places) == 2 and all(map(is_count, places))
    need(valid and places[0] <= places[1], "its data_offsets are no two rising whole numbers")
    stored = places[1] - places[0]
    check_shape(tuple(shape), dtype, stored)
    size = math.prod(shape) * dtype.itemsize
    need(size == stored, f"its shape takes {size} bytes, but {stored} are stored")
    return dtype, tuple(shape), tuple(places)
