"""Flax's msgpack files: where each array lies in the file, found without loading any of them.

`flax.serialization.to_bytes` writes nested dicts whose leaves are arrays, each a record of shape,
dtype and bytes in an extension type. Beside them, a train state holds plain values: numbers, texts,
true, false and nothing. Nothing else is taken: no other extension, no list, no array in chunks
(Flax cuts those over 1 GiB).
"""

from __future__ import annotations

import math
import struct
from typing import Any, BinaryIO

import ml_dtypes  # noqa: F401
import numpy as np

from gen.errors import UserError
from gen.published.torch_file import (
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_NAME,
    Contents,
    Stored,
    check_shape,
)
from gen.published.torch_pickle import MAX_DIMS, need, shown

NDARRAY, SCALAR = 1, 3  # Flax's extension types
DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "bool"),
    *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
)
# First byte -> bytes of the size that follows it.
MAPS = {0xDE: 2, 0xDF: 4}
TEXTS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
LISTS = {0xDC: 2, 0xDD: 4}
BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
NUMBERS = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
# First byte -> how `struct` reads the number that follows it.
PLAIN = {
    **{0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"},
    **{0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"},
}
CHUNKED = "__msgpack_chunked_array__"
EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}
FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}


def is_map(head: bytes) -> bool:
    """Whether these first bytes of a file begin a dict of msgpack whose first key is a text."""
    if not head or not (0x80 < head[0] <= 0x8F or head[0] in MAPS):
        return False
    key = head[1 + MAPS.get(head[0], 0) :][:1]
    return bool(key) and (0xA0 <= key[0] <= 0xBF or key[0] in TEXTS)


def msgpack_contents(file: BinaryIO, size: int) -> Contents:
    """Arrays and plain values of a file of `size` bytes, by their keys joined with "/".

    Raises:
      UserError: the file is damaged, or holds anything but dicts, arrays and plain values.
    """
    reader = _Reader(file, size)
    reader.tree("", 0)
    need(file.tell() == size, f"its values end at byte {file.tell()}, not {size}")
    return reader.arrays, reader.settings


class _Reader:
    """Follows a file from its start; memory is bounded by what is checked, not by what it says."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size
        self.arrays: dict[str, Stored] = {}
        self.settings: dict[str, Any] = {}
        self.visited = 0

    def take(self, count: int) -> bytes:
        """The next bytes; few, as the caller has made sure."""
        found = self.file.read(count)
        need(len(found) == count, "it ends early")
        return found

    def head(self) -> int:
        return self.take(1)[0]

    def count(self, head: int, sizes: dict[int, int], fixed: range, what: str) -> int:
        """A size: in the first byte itself, or in those that follow it."""
        if head in fixed:
            return head - fixed.start
        need(head in sizes, f"byte {self.file.tell() - 1} begins no {what}")
        return int.from_bytes(self.take(sizes[head]), "big")

    def text(self, longest: int, head: int | None = None) -> str:
        """A text; `head` is its first byte, if that has been read."""
        head = self.head() if head is None else head
        length = self.count(head, TEXTS, range(0xA0, 0xC0), "text")
        need(length <= longest, f"a text of {length} bytes; at most {longest}")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise UserError("a text in it is damaged") from None

    def tree(self, name: str, depth: int) -> None:
        """A dict, an array or a plain value; the numbers of arrays are passed over."""
        self.visited += 1
        need(self.visited <= MAX_ENTRIES, f"over {MAX_ENTRIES} values")
        need(depth <= MAX_DEPTH, f"its values lie over {MAX_DEPTH} levels deep")
        need(len(name) <= MAX_NAME, f"the name {shown(name)} is too long")
        head = self.head()
        if head in range(0x80, 0x90) or head in MAPS:
            for _ in range(self.count(head, MAPS, range(0x80, 0x90), "dict")):
                key = self.text(MAX_NAME)
                need(key.isprintable(), f"the name {shown(key)} has characters of control")
                need(key != CHUNKED, f"{shown(name)} is an array in chunks, which is not supported")
                self.tree(f"{name}/{key}" if depth else key, depth + 1)
            return
        taken = name in self.arrays or name in self.settings
        need(not taken, f"two values have the name {shown(name)}")
        if self.is_plain(head):
            self.settings[name] = self.plain(head)
            return
        extended = head in EXTENSIONS or head in FIXED_EXTENSIONS
        need(extended, f"{shown(name)} is no dict, array or plain value (type {head:#04x})")
        length = FIXED_EXTENSIONS.get(head)
        if length is None:
            length = int.from_bytes(self.take(EXTENSIONS[head]), "big")
        kind = self.head()
        need(kind in (NDARRAY, SCALAR), f"{shown(name)} is no array (extension {kind})")
        self.arrays[name] = self.array(name, self.file.tell() + length)

    @staticmethod
    def is_plain(head: int) -> bool:
        """Whether this first byte begins a number, a text, true, false or nothing."""
        fixed = head < 0x80 or head >= 0xE0 or 0xA0 <= head < 0xC0
        return fixed or head in CONSTANTS or head in PLAIN or head in TEXTS

    def plain(self, head: int) -> Any:
        """The plain value that begins with this byte."""
        if head in CONSTANTS:
            return CONSTANTS[head]
        if head in PLAIN:
            form = PLAIN[head]
            return struct.unpack(form, self.take(struct.calcsize(form)))[0]
        if head < 0x80 or head >= 0xE0:
            return head if head < 0x80 else head - 0x100
        return self.text(MAX_NAME, head)

    def array(self, name: str, end: int) -> Stored:
        """The record of an array that ends at byte `end`; leaves the file there."""
        need(end <= self.size, f"array {shown(name)} ends behind the file")
        need(self.head() == 0x93, f"array {shown(name)} has no shape, dtype and bytes")
        dims = self.count(self.head(), LISTS, range(0x90, 0xA0), "shape")
        need(dims <= MAX_DIMS, f"array {shown(name)} has {dims} dimensions; at most {MAX_DIMS}")
        shape = tuple(
            self.count(self.head(), NUMBERS, range(0x80), "whole number") for _ in range(dims)
        )
        kind = self.text(MAX_NAME)
        need(kind in DTYPES, f"array {shown(name)}: dtype {shown(kind)} is not supported")
        dtype = np.dtype(kind)
        stored = self.count(self.head(), BYTES, range(0), "run of bytes")
        start = self.file.tell()
        need(start + stored == end, f"array {shown(name)} does not fill its record")
        check_shape(shape, dtype, stored)
        wanted = math.prod(shape) * dtype.itemsize
        need(wanted == stored, f"array {shown(name)} takes {wanted} bytes, but has {stored}")
        self.file.seek(end)
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(dims))
        return Stored(dtype, shape, strides, start)
