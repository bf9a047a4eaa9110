"""Writes files of torch's two formats without torch, honest ones and lying ones.

Pickles are written instruction by instruction (protocol 2 unless raw bytes say otherwise).
"""

import argparse
import dataclasses
import struct
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save

MAGIC = 0x1950A86A20F9469CFC6C
ROOT = Path(__file__).parents[1]
KINDS = {
    "float32": "Float",
    "float64": "Double",
    "float16": "Half",
    "bfloat16": "BFloat16",
    "int64": "Long",
    "int32": "Int",
    "int16": "Short",
    "int8": "Char",
    "uint8": "Byte",
    "bool": "Bool",
}


class Raw(bytes):
    """Instructions, put in as they are."""


@dataclasses.dataclass
class Call:
    """What `module name` makes of the arguments."""

    name: str
    args: tuple = ()

    def instructions(self, tail):
        return encode(Name(self.name), tail) + encode(tuple(self.args), tail) + b"R"


@dataclasses.dataclass
class Name:
    """`module name` itself."""

    text: str

    def instructions(self, tail):
        return f"c{self.text.replace(' ', chr(10), 1)}\n".encode()


@dataclasses.dataclass
class View:
    """A float32 tensor (of another storage type if `kind` says so) of storage `key`."""

    key: str
    numel: int
    shape: tuple
    strides: tuple
    offset: int = 0
    kind: str = "Float"
    hooks: object = dataclasses.field(default_factory=lambda: ORDERED)

    def instructions(self, tail):
        pid = ("storage", Name(f"torch {self.kind}Storage"), self.key, "cpu", self.numel, *tail)
        storage = Raw(encode(pid, tail) + b"Q")
        args = (storage, self.offset, self.shape, self.strides, False, self.hooks)
        return encode(Call("torch._utils _rebuild_tensor_v2", args), tail)


ORDERED = Call("collections OrderedDict")


def encode(value, tail=()):
    """The instructions that put a value on the stack; `tail` ends the ids of storages."""
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, Call | Name | View):
        return value.instructions(tail)
    if isinstance(value, argparse.Namespace):
        state = encode(vars(value), tail)
        return encode(Name("argparse Namespace"), tail) + b")\x81" + state + b"b"
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        size = value.bit_length() // 8 + 1
        return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        text = value.encode()
        return b"X" + struct.pack("<I", len(text)) + text
    inner = b"".join(encode(item, tail) for item in value) if not isinstance(value, dict) else b""
    if isinstance(value, dict):
        inner = b"".join(encode(k, tail) + encode(v, tail) for k, v in value.items())
        return b"}(" + inner + b"u"
    return b"(" + inner + b"t" if isinstance(value, tuple) else b"](" + inner + b"e"


def pickled(value, tail=()):
    return b"\x80\x02" + encode(value, tail) + b"."


def view(key, array, **changes):
    """An honest contiguous tensor of all of an array, with some fields changed."""
    strides = tuple(stride // array.itemsize for stride in array.strides)
    honest = View(key, array.size, array.shape, strides, kind=KINDS[array.dtype.name])
    return dataclasses.replace(honest, **changes)


def write_archive(
    path, value, storages=None, *, before=(), after=(), pickle=None, byteorder=b"little"
):
    """A zip archive of torch; the `pickle` takes the place of that of `value`.

    Args:
      path: the file.
      value: the tree, with `View`s for tensors.
      storages: key -> array.
      before: (name, bytes) of members that come first.
      after: the same, that come last.
      pickle: bytes of data.pkl.
      byteorder: bytes of the member of this name.
    """
    members = [("archive/data.pkl", pickled(value) if pickle is None else pickle)]
    members += [("archive/byteorder", byteorder)]
    for key, array in (storages or {}).items():
        members.append((f"archive/data/{key}", array.tobytes()))
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (*before, *members, *after):
            archive.writestr(name, data)
    return path


def write_stream(path, value, storages=None, *, keys=None, sizes=None, pickle=None, little=True):
    """A file of torch before 1.6: pickles, then per key its number of elements and its data."""
    storages = storages or {}
    info = {"protocol_version": 1001, "little_endian": little}
    parts = [pickled(MAGIC), pickled(1001), pickled(info)]
    parts.append(pickled(value, (None,)) if pickle is None else pickle)
    parts.append(pickled(list(storages) if keys is None else keys))
    for key, array in storages.items():
        size = (sizes or {}).get(key, array.size)
        parts += [struct.pack("<q", size), array.tobytes()]
    path.write_bytes(b"".join(parts))
    return path


def write_safetensors(path, header, data=b"", length=None):
    """A safetensors file of a header (JSON text or bytes) that may lie about its length."""
    header = header.encode() if isinstance(header, str) else header
    size = len(header) if length is None else length
    path.write_bytes(struct.pack("<Q", size) + header + data)
    return path


def nested():
    """A tree like that of a training script, and its storages."""
    numbers = np.arange(12, dtype=np.float32).reshape(3, 4)
    steps = np.array(7, np.int64)
    tree = {
        "model": {"w": view("0", numbers), "w_t": View("0", 12, (4, 3), (1, 4))},
        "optimizer": {"state": {0: {"step": view("1", steps)}}, "groups": [{"lr": 0.5}]},
        "args": argparse.Namespace(gpt_model="GPT-B", sizes=[1, (2, None)]),
        "steps": 3,
    }
    return tree, {"0": numbers, "1": steps}


def attacks(sentinel):
    """Name -> tree that makes an ordinary unpickler create the sentinel."""
    run = f"touch {sentinel}"
    system = Call("os system", (run,))
    on_stack = encode("os") + encode("system") + b"\x93"
    getattr_chain = Call("builtins getattr", (Call("builtins __import__", ("os",)), "system"))
    return {
        "os.system": system,
        "posix.system": Call("posix system", (run,)),
        "eval": Call("builtins eval", (f"open({str(sentinel)!r}, 'w').close()",)),
        "old name of eval": Call("__builtin__ eval", (f"open({str(sentinel)!r}, 'w')",)),
        "name from the stack": Raw(on_stack + encode((run,)) + b"R"),
        "dotted name": Raw(b"\x80\x04\x8c\x02os\x8c\x0epath.os.system\x93" + encode((run,)) + b"R"),
        "getattr": Raw(encode(getattr_chain) + encode((run,)) + b"R"),
        "instance": Raw(b"(" + encode(run) + b"ios\nsystem\n"),
        "object": Raw(b"(cos\nsystem\n" + encode(run) + b"o"),
        "in a tuple": {"model": ORDERED, "x": (1, [(2, system)])},
        "in a namespace": argparse.Namespace(model="x", inner=argparse.Namespace(x=system)),
        "in attributes": Raw(encode(ORDERED) + encode({"_metadata": system}) + b"b"),
        "thrown away": Raw(encode(system) + b"0N"),
        "as a key": Raw(b"}" + encode(system) + b"Ns"),
    }


def compressed(path, member, size):
    """Adds a member of zeros, which deflates to a thousandth."""
    write_archive(path, *nested())
    kind = zipfile.ZIP_DEFLATED
    with (
        zipfile.ZipFile(path, "a", kind, compresslevel=1) as archive,
        archive.open(member, "w") as file,
    ):
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))


def patched(where, form, *values):
    """Changes fields of the record at the end of an archive, or (-) of its first entry."""

    def write(path):
        data = bytearray(write_archive(path, *nested()).read_bytes())
        start = len(data) - 22 if where >= 0 else data.index(b"PK\x01\x02")
        struct.pack_into(form, data, start + abs(where), *values)
        path.write_bytes(data)

    return write


def vast_directory(path):
    """An archive whose directory takes 9 MiB, by its own account."""
    size = 9 << 20
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, size, 4, 0)
    path.write_bytes(b"PK\3\4" + bytes(size) + end)


def good_files(tmp_path):
    """One small file of each format."""
    tree, storages = nested()
    yield write_archive(tmp_path / "zip", tree, storages)
    yield write_stream(tmp_path / "stream", tree, storages)
    (tmp_path / "safe").write_bytes(save({"x": storages["0"], "y": storages["0"][0]}))
    yield tmp_path / "safe"


def import_alone():
    """`gen.published.weights` without the rest of its package, which imports much more."""
    package = types.ModuleType("gen.published")
    package.__path__ = [str(ROOT / "gen" / "published")]
    sys.modules["gen.published"] = package
    from gen.published import weights

    return weights
