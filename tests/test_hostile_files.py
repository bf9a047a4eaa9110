"""Weight files that lie or attack: one line, nothing executed, little memory, no traceback."""

import argparse
import json
import pickle
import random
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from gen.errors import UserError
from gen.published.weights import open_weights
from tests import torch_files as torch
from tests.torch_files import ORDERED, Call, Name, Raw, View, encode, pickled

ATTACKS = list(torch.attacks("x"))
STORAGE = ("storage", Name("torch FloatStorage"), "0", "cpu", 4)
REBUILD, REST = "torch._utils _rebuild_tensor_v2", (0, (4,), (1,), False, ORDERED)
# Not to be tried out: what they would need is not installed, or they would not run by themselves.
REFUSED = {
    "load_from_bytes": (Call("torch.storage _load_from_bytes", (Raw(b"C\x00"),)), "_load_from"),
    "untyped": (Name("torch.storage UntypedStorage"), "UntypedStorage"),
    "attribute of an allowed name": (Name("collections OrderedDict.__init__"), "__init__"),
    "numpy": (Call("numpy.core.multiarray _reconstruct"), "_reconstruct"),
    "module": (Call("torch.nn.modules.linear Linear"), "torch.nn.modules.linear.Linear"),
    "hooks": (View("0", 1, (1,), (1,), hooks=Call("os system", ("x",))), '"os.system"'),
    "bare name": (Name("argparse Namespace"), "is a Name"),
    "negated": (Call(REBUILD, (Raw(encode(STORAGE) + b"Q"), *REST, {"neg": True})), "negated"),
    "bare storage": (Raw(encode(STORAGE) + b"Q"), "is a Storage"),
    "storage of no type": (Raw(encode(("storage", "Float", "0", "cpu", 4)) + b"Q"), "unknown type"),
    "id of no storage": (Raw(encode(("module", 1, "0", "cpu", 4)) + b"Q"), "no storage"),
    "call of a value": (Raw(encode("x") + encode(()) + b"R"), "no function"),
    "call of a namespace": (Call("argparse Namespace"), "other arguments"),
    "new tensor": (Raw(encode(Name("torch FloatStorage")) + b")\x81"), "unknown object"),
    "state of a text": (Raw(encode("x") + b"}b"), "has none"),
    "state twice": (Raw(encode(argparse.Namespace(x=1)) + encode({"y": 1}) + b"b"), "twice"),
    "extension": (Raw(b"\x82\x01"), "EXT1"),
    "text id": (Raw(b"Pstorage\n"), "PERSID"),
    "newline": (Raw(encode("os\nsystem") + encode("x\u2028" * 99) + b"\x93"), '"os\\nsystem.x'),
}
TEN_ITEMS = b"".join(encode(str(key)) + b"h\0" for key in range(10))
LIES = {
    "memo index": (Raw(b"Nr\xff\xff\xff\xff"), "memo"),
    "memo empty": (Raw(b"h\x07"), "memo"),
    "bytearray length": (Raw(b"\x96" + struct.pack("<Q", 2**40)), "damaged"),
    "bytes length": (Raw(b"\x8e" + struct.pack("<Q", 2**62)), "damaged"),
    "text length": (Raw(b"\x8d" + struct.pack("<Q", 2**63)), "damaged"),
    "short text length": (Raw(b"X\xff\xff\xff\xff"), "damaged"),
    "number length": (Raw(b"\x8b\xff\xff\xff\x7f"), "damaged"),
    "negative length": (Raw(b"\x8b\xff\xff\xff\xff"), "damaged"),
    "frame": (Raw(b"\x95" + struct.pack("<Q", 2**62)), "frame"),
    "protocol": (Raw(b"\x80\xffN"), "protocol 255"),
    "not text": (Raw(b"X\x02\0\0\0\xff\xff"), "damaged"),
    "nothing": (Raw(b""), "missing"),
    "no mark": (Raw(b"t"), "mark"),
    "two values": (Raw(b"NN"), "left over"),
    "mark left": (Raw(b"N(N"), "left over"),
    "key without value": (Raw(b"}(Nu"), "key"),
    "key of no text": (Raw(b"}]Ns"), "a key is a list"),
    "items of a list": (Raw(b"](NNu"), "dict is missing"),
    "in itself": (Raw(b"}q\0" + encode("a") + b"h\0s"), "in themselves"),
    "wide and in itself": (Raw(b"]q\0(" + b"h\0" * 1000 + b"e"), "in themselves"),
    "long name": ({"x" * 600: {"y" * 600: 1}}, "too long"),
    "same name": ({"a.b": 1, "a": {"b": 2}}, "two values"),
    "control": ({"a\nb": View("0", 1, (), ())}, 'name "a\\nb"'),
}
# Slow under the count of memory, and so tried in one format only.
HEAVY = {
    "deep lists": (Raw(b"]" * 10**5 + b"a" * (10**5 - 1)), "levels deep"),
    "deep tuples": (Raw(b")" + b"\x85" * 10**5), "levels deep"),
    "laughing lists": (Raw(b"(Nq\0" + 9 * (b"(" + b"h\0" * 10 + b"tq\0") + b"t"), "too often"),
    "laughing dicts": (Raw(b"(Nq\0" + 9 * (b"}(" + TEN_ITEMS + b"uq\0") + b"t"), "over 100000"),
    "many instructions": (Raw(b"N" * 500_001), "instructions"),
}
BIG = 2**40
TENSORS = {
    "numel": (View("0", BIG, (BIG,), (1,)), "not 4398046511104"),
    "numel of 2**62": (View("0", 2**62, (2**62,), (1,)), "storage"),
    "numel too small": (View("0", 3, (3,), (1,)), "storage"),
    "negative numel": (View("0", -4, (4,), (1,)), "size"),
    "negative stride": (View("0", 4, (2,), (-1,), 2), "negative"),
    "negative size": (View("0", 4, (-2,), (1,)), "negative"),
    "negative offset": (View("0", 4, (2,), (1,), -1), "negative"),
    "fraction": (View("0", 4, (2.0,), (1,)), "fractional"),
    "offset outside": (View("0", 4, (1,), (1,), 4), "5 elements"),
    "size outside": (View("0", 4, (5,), (1,)), "5 elements"),
    "stride outside": (View("0", 4, (2, 2), (3, 1)), "5 elements"),
    "offset of 2**62": (View("0", 4, (), (), 2**62), "elements"),
    "product": (View("0", 4, (2**31, 2**31, 4), (0, 0, 1)), "asks for"),
    "repeated": (View("0", 4, (BIG,), (0,)), "asks for"),
    "empty but vast": (View("0", 4, (0, 2**62), (1, 1)), "asks for"),
    "dimensions": (View("0", 4, (1,) * 33, (1,) * 33), "proper shape"),
    "strides": (View("0", 4, (1, 1), (1,)), "proper shape"),
    "no such storage": (View("1", 4, (4,), (1,)), 'no storage "1"'),
    "other type": (View("0", 4, (4,), (1,), kind="Double"), "storage"),
    "path": (View("../data.pkl", 4, (4,), (1,)), "no storage"),
}
FOUR = {"0": np.arange(4, dtype=np.float32)}
ONE, INT = torch.view("0", FOUR["0"]), View("0", 4, (), (), kind="Int")


def refusal(path):
    """The one line with which a file is refused, in little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as caught:
            open_weights(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and len(message) < len(str(path)) + 250
    assert message.isprintable()
    assert peak < 32 * 2**20, f"{peak} bytes"
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("write", [torch.write_archive, torch.write_stream])
@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_is_executed(tmp_path, name, write):
    sentinel = tmp_path / "ran"
    tree = torch.attacks(sentinel)[name]
    message = refusal(write(tmp_path / "x.pt", tree))
    assert "refused" in message or "which torch.save does not write" in message
    assert not sentinel.exists()
    # The attack is a real one: Python's own unpickler falls for it.
    pickle.loads(pickled(tree))
    assert sentinel.exists()


@pytest.mark.parametrize("write", [torch.write_archive, torch.write_stream])
@pytest.mark.parametrize("name", [*REFUSED, *LIES, *TENSORS])
def test_lying_pickles(tmp_path, name, write):
    tree, expected = {**REFUSED, **LIES, **TENSORS}[name]
    message = refusal(write(tmp_path / "x.pt", tree, FOUR))
    if name not in TENSORS or write is torch.write_archive:
        assert expected in message


@pytest.mark.parametrize("name", HEAVY)
def test_vast_trees(tmp_path, name):
    tree, expected = HEAVY[name]
    assert expected in refusal(torch.write_archive(tmp_path / "x.pt", tree))


def archive_with(**changes):
    return lambda path: torch.write_archive(path, {"x": ONE}, FOUR, **changes)


ARCHIVES = {
    "bomb": (lambda path: torch.compressed(path, "archive/data/9", 256 << 20), "compressed"),
    "bomb as pickle": (lambda path: torch.compressed(path, "b/data.pkl", 8 << 20), "compressed"),
    "parent": (archive_with(after=[("archive/../../x", b"")]), "a name that"),
    "absolute": (archive_with(after=[("/etc/x", b"")]), "a name that"),
    "backslash": (archive_with(after=[("archive\\x", b"")]), "a name that"),
    "newline": (archive_with(after=[("archive/x\ny", b"")]), "a name that"),
    "two pickles": (archive_with(before=[("b/data.pkl", b"N.")]), "without data.pkl"),
    "twice": (archive_with(after=[("archive/data/0", b"")]), "two members"),
    "big-endian": (archive_with(byteorder=b"big"), "big-endian"),
    "short": (archive_with(pickle=pickled(View("0", 5, (5,), (1,)))), "has 16 bytes, not 20"),
    "long": (archive_with(pickle=pickled(View("0", 3, (3,), (1,)))), "has 16 bytes, not 12"),
    "directory size": (torch.patched(12, "<I", 2**32 - 9), "damaged or incomplete"),
    "directory place": (torch.patched(16, "<I", 2**31), "outside"),
    "vast directory": (torch.vast_directory, "its directory has"),
    "encrypted": (torch.patched(-8, "<H", 1), "encrypted"),
    "version": (torch.patched(-6, "<H", 255), "damaged or incomplete"),
    "member size": (torch.patched(-20, "<II", 2**31, 2**31), "ends behind"),
    "member place": (torch.patched(-42, "<I", 2**31), "outside"),
    "no header": (torch.patched(-42, "<I", 5), "damaged header"),
}
STREAMS = {
    "size of a storage": ({"sizes": {"0": 2**60}}, "does not have its size"),
    "negative size": ({"sizes": {"0": -1}}, "does not have its size"),
    "unknown key": ({"keys": ["0", "1"]}, "no tensor uses"),
    "missing key": ({"keys": []}, "no storage"),
    "keys of no text": ({"keys": [["0"]]}, "no tensor uses"),
    "no keys": ({"keys": {"0": 1}}, "no list"),
    "two types": ({"pickle": pickled([ONE, INT], (None,))}, "this type"),
    "big-endian": ({"little": False}, "not little-endian"),
    "beyond the end": ({"storages": {"0": FOUR["0"][:2]}, "sizes": {"0": 4}}, "ends early"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ARCHIVES)
def test_lying_archives(tmp_path, name):
    write, expected = ARCHIVES[name]
    write(tmp_path / "x.pt")
    assert expected in refusal(tmp_path / "x.pt")


@pytest.mark.parametrize("name", STREAMS)
def test_lying_streams(tmp_path, name):
    changes, expected = STREAMS[name]
    path = torch.write_stream(tmp_path / "x", {"x": ONE}, **{"storages": FOUR, **changes})
    assert expected in refusal(path)


def entry(shape=(4,), offsets=(0, 16), dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


SAFETENSORS = {
    "vast": ('{"x":1}', 2**62, "does not fit"),
    "over the limit": ("{" + " " * (17 << 20) + "}", None, "at most 16777216"),
    "no JSON": ("{x", None, "JSON"),
    "not text": (b"{\xff}", None, "JSON"),
    "deep": ('{"x":' + "[" * 10**5 + "]" * 10**5 + "}", None, "JSON"),
    "vast number": ('{"x":' + "9" * 5000 + "}", None, "JSON"),
    "twice": ('{"x":1,"x":1}', None, "JSON"),
    "no entry": ({"x": 3}, None, "not described"),
    "extra key": ({"x": {**entry(), "y": 1}}, None, "not described"),
    "negative": ({"x": entry(shape=[-4])}, None, "no list of whole"),
    "two negatives": ({"x": entry(shape=[-2, -2])}, None, "no list of whole"),
    "fraction": ({"x": entry(shape=[4.0])}, None, "no list of whole"),
    "bool": ({"x": entry(shape=[True, 4])}, None, "no list of whole"),
    "shape": ({"x": entry(shape=[5])}, None, "takes 20 bytes, but 16"),
    "product": ({"x": entry(shape=[2**62, 4, 2**62])}, None, "asks for"),
    "empty but vast": ({"x": entry(shape=[0, 2**62], offsets=[0, 0])}, None, "asks for"),
    "dimensions": ({"x": entry(shape=[1] * 33, offsets=[0, 4])}, None, "33 dimensions"),
    "overlap": ({"x": entry(), "y": entry([2], [8, 16])}, None, "begins at byte 8, not 16"),
    "hole": ({"x": entry([2], [0, 8]), "y": entry([1], [12, 16])}, None, "byte 12, not 8"),
    "behind the end": ({"x": entry([5], [0, 20])}, None, "take 20 bytes, but the file holds 16"),
    "left over": ({"x": entry([3], [0, 12])}, None, "take 12 bytes, but the file holds 16"),
    "falling": ({"x": entry(offsets=[16, 0])}, None, "rising"),
    "dtype": ({"x": entry(dtype="F8_E4M3")}, None, '"F8_E4M3" is not supported'),
    "dtype of no name": ({"x": entry(dtype=["F32"])}, None, "no name"),
    "control": ({"x\n": entry()}, None, 'name "x\\n"'),
    "many": (dict.fromkeys(map(str, range(100_001)), 0), None, "over 100000 tensors"),
    "metadata": ({"__metadata__": {"x": 1}}, None, "__metadata__"),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_lying_safetensors(tmp_path, name):
    header, length, expected = SAFETENSORS[name]
    header = json.dumps(header) if isinstance(header, dict) else header
    path = torch.write_safetensors(tmp_path / "x", header, bytes(16), length)
    assert expected in refusal(path)


def test_truncated_files(tmp_path):
    for path in torch.good_files(tmp_path):
        data = path.read_bytes()
        for length in {*range(0, len(data), 97), len(data) - 1}:
            path.write_bytes(data[:length])
            refusal(path)


def test_flipped_bits(tmp_path):
    """Any other byte anywhere is either refused or read without an accident."""
    rng = random.Random(0)
    refused = 0
    for path in torch.good_files(tmp_path):
        data = path.read_bytes()
        for _ in range(300):
            damaged = bytearray(data)
            # Half of them at the beginning, where the pickle or the header lies.
            place = rng.randrange(min(rng.choice([400, 10**6]), len(data)))
            damaged[place] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            try:
                weights = open_weights(path)
                arrays = [weights.read(name) for name in weights.shapes]
                assert sum(array.nbytes for array in arrays) < 1000
            except UserError as error:
                refused += 1
                assert str(error).startswith(f"{path}: ") and str(error).isprintable()
    assert 150 < refused < 900


def test_little_address_space(tmp_path):
    """The worst of them with 1.5 GB of address space, code and libraries included."""
    worst = {**LIES, **HEAVY, **TENSORS}
    names = ["memo index", "bytearray length", "laughing lists", "many instructions", "numel"]
    paths = [torch.write_archive(tmp_path / name, worst[name][0], FOUR) for name in names]
    for name in ("bomb", "vast directory"):
        ARCHIVES[name][0](tmp_path / name)
        paths.append(tmp_path / name)
    paths.append(torch.write_stream(tmp_path / "stream", worst["numel"][0], FOUR, sizes={"0": BIG}))
    paths.append(torch.write_safetensors(tmp_path / "vast", "{}", length=2**62))
    paths.append(torch.write_safetensors(tmp_path / "wide", '{"x":[' + "[]," * (5 * 10**6)))
    code = (
        "import resource, sys; from tests.torch_files import import_alone\n"
        "from gen.errors import UserError\n"
        "weights = import_alone()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1_500_000_000,) * 2)\n"
        "for path in sys.argv[1:]:\n"
        "    try: weights.open_weights(path)\n"
        "    except UserError: print('refused')\n"
    )
    command = [sys.executable, "-c", code, *map(str, paths)]
    done = subprocess.run(command, cwd=torch.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["refused"] * len(paths)
