"""Torch files: where each tensor lies in the file, found without loading any of them.

Since torch 1.6 a file is a zip archive with a pickle and one uncompressed member per storage;
before, it was a run of pickles followed by the storages. Tensors are views of storages.
"""

from __future__ import annotations

import dataclasses
import math
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from gen.errors import UserError
from gen.published.torch_pickle import (
    MAX_BYTES,
    MAX_DIMS,
    MAX_INSTRUCTIONS,
    Namespace,
    Storage,
    Tensor,
    follow,
    need,
    shown,
)

MAX_DIRECTORY = 8 * 2**20
MAX_ENTRIES = 100_000
MAX_DEPTH = 32
MAX_NAME = 1000
# A tensor may be larger than its storage, which repeats it, but only up to here.
MAX_REPEATED = 64 * 2**20
MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001


@dataclasses.dataclass(frozen=True)
class Stored:
    """Where a tensor lies in a file; `strides` count elements, `start` is a byte."""

    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int


Contents = tuple[dict[str, Stored], dict[str, Any]]


def read_stored(file: BinaryIO, stored: Stored) -> np.ndarray:
    """The tensor, C-contiguous and of its own dtype; raises `UserError` where the file ends."""
    if 0 in stored.shape:
        return np.empty(stored.shape, stored.dtype)
    used = zip(stored.shape, stored.strides)
    span = 1 + sum((size - 1) * stride for size, stride in used if size > 1)
    size = stored.dtype.itemsize
    file.seek(stored.start)
    raw = np.fromfile(file, np.uint8, span * size)
    need(len(raw) == span * size, "it ends early")
    # Bytes of a bool other than 0 and 1 would be bools that NumPy cannot compare.
    flat = raw != 0 if stored.dtype == bool else raw.view(stored.dtype)
    strides = [stride * size if n > 1 else 0 for n, stride in zip(stored.shape, stored.strides)]
    view = np.lib.stride_tricks.as_strided(flat, stored.shape, strides)
    return view if view.flags.c_contiguous else view.copy()


def check_shape(shape: tuple[int, ...], dtype: np.dtype, stored_bytes: int) -> None:
    """Refuses shapes too large for memory, or that repeat a few numbers very often.

    The product counts a size of 0 as 1: NumPy makes no empty array with other sizes beyond it.
    """
    need(len(shape) <= MAX_DIMS, f"it has {len(shape)} dimensions; at most {MAX_DIMS}")
    size = math.prod(max(n, 1) for n in shape) * dtype.itemsize
    fits = size <= max(stored_bytes, MAX_REPEATED)
    need(fits, f"its shape asks for far more than the {stored_bytes} bytes that are stored")


def archive_contents(file: BinaryIO, size: int) -> Contents:
    """Tensors and settings of a zip archive of `size` bytes, written by torch.

    Raises:
      UserError: the file is damaged, of another kind, or asks for code to be run.
    """
    members = _members(file, size)
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    need(len(pickles) == 1, "a zip archive without data.pkl; expected a file of torch.save")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in members:
        file.seek(members[f"{folder}byteorder"][0])
        need(file.read(6) == b"little", "its numbers are big-endian; save it again")
    start, length = members[pickles[0]]
    need(length <= MAX_BYTES, f"its pickle has {length} bytes; at most {MAX_BYTES}")
    file.seek(start)
    tensors, settings = _flatten(follow(file, length))

    def start_of(storage: Storage) -> int:
        start, length = members.get(f"{folder}data/{storage.key}", (0, None))
        need(length is not None, f"there is no storage {shown(storage.key)}")
        wanted = storage.numel * storage.dtype.itemsize
        need(length == wanted, f"storage {shown(storage.key)} has {length} bytes, not {wanted}")
        return start

    return _place(tensors, start_of), settings


def stream_contents(file: BinaryIO, size: int) -> Contents:
    """Tensors and settings of a file of `size` bytes, written by torch before 1.6.

    Raises:
      UserError: the file is damaged, of another kind, or asks for code to be run.
    """
    need(follow(file, size) == MAGIC, "a pickle that torch.save did not write")
    version = follow(file, size)
    need(version == LEGACY_VERSION, "a torch file of an unknown version")
    info = follow(file, size)
    little = isinstance(info, dict) and info.get("little_endian") is True
    need(little, "its numbers are not little-endian; save it again")
    tensors, settings = _flatten(follow(file, size))
    keys = follow(file, size)
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    need(isinstance(keys, list), "it has no list of its storages")
    starts: dict[str, int] = {}
    for key in keys:
        need(isinstance(key, str) and key in storages, "it has a storage that no tensor uses")
        header = file.read(8)
        numel = storages[key].numel
        need(header == struct.pack("<q", numel), f"storage {shown(key)} does not have its size")
        starts[key] = file.tell()
        end = starts[key] + numel * storages[key].dtype.itemsize
        need(end <= size, f"it ends early: storage {shown(key)} needs {end} bytes, not {size}")
        file.seek(end)

    def start_of(storage: Storage) -> int:
        there = storage.key in starts and storage == storages[storage.key]
        need(there, f"there is no storage {shown(storage.key)} of this type and size")
        return starts[storage.key]

    return _place(tensors, start_of), settings


def _place(tensors: dict[str, Tensor], start_of: Callable[[Storage], int]) -> dict[str, Stored]:
    placed = {}
    for name, tensor in tensors.items():
        dtype = tensor.storage.dtype
        try:
            start = start_of(tensor.storage) + tensor.offset * dtype.itemsize
            check_shape(tensor.shape, dtype, tensor.storage.numel * dtype.itemsize)
        except UserError as error:
            raise UserError(f"tensor {shown(name)}: {error}") from None
        placed[name] = Stored(dtype, tensor.shape, tensor.strides, start)
    return placed


class _Guarded:
    """A file for `zipfile`, which would read a directory of any size at once."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, count: int = -1) -> bytes:
        need(count <= MAX_DIRECTORY, f"its directory has {count} bytes; at most {MAX_DIRECTORY}")
        return self.file.read(count if count >= 0 else MAX_DIRECTORY)


def _members(file: BinaryIO, size: int) -> dict[str, tuple[int, int]]:
    """Name -> (first byte, number of bytes) of each member of a zip archive."""
    try:
        with zipfile.ZipFile(_Guarded(file)) as archive:
            listed = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, struct.error):
        listed = None
    except OSError:  # A directory that would begin before the file.
        listed = None
    need(listed is not None, "a zip archive that is damaged or incomplete")
    members: dict[str, tuple[int, int]] = {}
    for info in listed:
        name = info.orig_filename
        proper = name.isprintable() and "\\" not in name
        proper = proper and not {"", ".", ".."} & set(name.split("/"))
        need(proper, f"its member {shown(name)} has a name that torch.save does not give")
        need(name not in members, f"it has two members {shown(name)}")
        plain = info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size
        plain = plain and not info.flag_bits & 1
        need(plain, f"its member {shown(name)} is compressed or encrypted; torch.save does neither")
        need(0 <= info.header_offset <= size, f"its member {shown(name)} lies outside")
        file.seek(info.header_offset)
        header = file.read(30)
        is_header = len(header) == 30 and header.startswith(b"PK\x03\x04")
        need(is_header, f"its member {shown(name)} has a damaged header")
        start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
        need(start + info.file_size <= size, f"its member {shown(name)} ends behind the file")
        members[name] = (start, info.file_size)
    return members


def _flatten(tree: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and plain values of a tree by dotted name; the name of a lone one is ""."""
    leaves = _Leaves()
    leaves.visit("", tree, 0)
    return leaves.tensors, leaves.settings


class _Leaves:
    """Collects leaves. Shared parts count each time: a small pickle can spell a vast tree."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.settings: dict[str, Any] = {}
        self.visited = 0

    def enter(self, depth: int) -> None:
        self.visited += 1
        need(self.visited <= MAX_INSTRUCTIONS, "its values refer to each other too often")
        need(depth <= MAX_DEPTH, f"its values lie in themselves or over {MAX_DEPTH} levels deep")

    def visit(self, name: str, value: Any, depth: int) -> None:
        self.enter(depth)
        need(len(name) <= MAX_NAME, f"the name {shown(name)} is too long")
        if isinstance(value, Tensor):
            need(name.isprintable(), f"the tensor name {shown(name)} has characters of control")
            self.keep(self.tensors, name, value)
        elif isinstance(value, Namespace | dict):
            items = value.fields if isinstance(value, Namespace) else value
            for key, item in items.items():
                self.visit(f"{name}.{key}" if depth else str(key), item, depth + 1)
        elif self.is_plain(value, depth):
            self.keep(self.settings, name, value)
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                self.visit(f"{name}.{index}" if depth else str(index), item, depth + 1)
        else:
            # Bytes are neither weights nor settings, and are left out.
            kind = type(value).__name__
            need(isinstance(value, bytes), f"{shown(name)} is a {kind}, not a tensor or setting")

    def is_plain(self, value: Any, depth: int) -> bool:
        self.enter(depth)
        if isinstance(value, list | tuple):
            return all(self.is_plain(item, depth + 1) for item in value)
        return value is None or isinstance(value, bool | int | float | str)

    def keep(self, leaves: dict[str, Any], name: str, value: Any) -> None:
        twice = name in self.tensors or name in self.settings
        need(not twice, f"two values have the name {shown(name)}")
        need(len(self.tensors) + len(self.settings) < MAX_ENTRIES, f"over {MAX_ENTRIES} values")
        leaves[name] = value
