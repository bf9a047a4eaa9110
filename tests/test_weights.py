"""Weight files: what torch and safetensors write comes back, and other files are told by name."""

import argparse
import hashlib
import os
import pickle
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save, save_file

from gen.published.weights import open_weights
from tests import torch_files as torch
from tests.data_helpers import error_of

FILES = torch.ROOT / "tests" / "files"
WRITERS = {"archive": torch.write_archive, "stream": torch.write_stream}


def written(tmp_path, tree, storages=None, writer="archive"):
    return open_weights(WRITERS[writer](tmp_path / "weights.bin", tree, storages))


# Written by torch 2.13, the second with _use_new_zipfile_serialization=False.
@pytest.mark.parametrize("name", ["real_torch.pt", "real_torch_legacy.pt"])
def test_files_written_by_torch(name):
    weights = open_weights(FILES / name)
    expected = {
        "model.w": np.arange(6, dtype=np.float32).reshape(2, 3) / 2,
        "model.wt": np.arange(6, dtype=np.float32).reshape(2, 3).T / 2,
        "model.half": (np.arange(6).reshape(2, 3) / 2).astype(ml_dtypes.bfloat16),
        "model.step": np.array(7, np.int64),
        "model.bias": np.array([-1, 2], np.float32),
    }
    assert list(weights.shapes) == list(expected)
    for key, array in expected.items():
        assert weights.shapes[key] == array.shape and weights.dtypes[key] == array.dtype
        assert weights.read(key).dtype == array.dtype and weights.read(key).flags.c_contiguous
        np.testing.assert_array_equal(weights.read(key), array)
    args = {"args.gpt_model": "GPT-B", "args.scale": 0.5, "args.sizes": [1, 2]}
    assert weights.settings == {**args, "steps": 3}


@pytest.mark.parametrize("writer", WRITERS)
def test_nested_trees_are_flattened(tmp_path, writer):
    weights = written(tmp_path, *torch.nested(), writer=writer)
    assert weights.shapes == {"model.w": (3, 4), "model.w_t": (4, 3), "optimizer.state.0.step": ()}
    assert weights.settings == {
        "optimizer.groups.0.lr": 0.5,
        "args.gpt_model": "GPT-B",
        "args.sizes": [1, (2, None)],
        "steps": 3,
    }
    np.testing.assert_array_equal(weights.read("model.w_t"), weights.read("model.w").T)
    assert weights.read("model.w_t").flags.c_contiguous
    assert weights.read("optimizer.state.0.step") == 7


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("dtype", torch.KINDS)
def test_dtypes_of_torch(tmp_path, dtype, writer):
    array = np.array([[0, 1, 2], [3, 1, 0]]).astype(np.dtype(dtype))
    weights = written(tmp_path, {"x": torch.view("k", array)}, {"k": array}, writer)
    assert weights.dtypes["x"] == array.dtype == weights.read("x").dtype
    np.testing.assert_array_equal(weights.read("x"), array)


def test_views_of_one_storage(tmp_path):
    numbers = np.arange(24, dtype=np.float32)
    views = {
        "part": ((2, 3), (3, 1), 5, numbers[5:11].reshape(2, 3)),
        "every_second": ((4,), (2,), 1, numbers[1:9:2]),
        "permuted": ((2, 3, 4), (1, 8, 2), 0, numbers.reshape(3, 4, 2).transpose(2, 0, 1)),
        "repeated": ((3, 4), (0, 1), 20, np.tile(numbers[20:], (3, 1))),
        "overlapping": ((3, 3), (1, 1), 0, np.array([[0, 1, 2], [1, 2, 3], [2, 3, 4]])),
        "scalar": ((), (), 23, np.array(23)),
        "single": ((1, 2), (99, 1), 22, numbers[None, 22:]),
        "empty": ((0, 5), (5, 1), 24, np.zeros((0, 5))),
    }
    tree = {name: torch.View("0", 24, *view[:3]) for name, view in views.items()}
    weights = written(tmp_path, tree, {"0": numbers})
    for name, (shape, _, _, expected) in views.items():
        assert weights.read(name).shape == shape == weights.shapes[name]
        assert weights.read(name).flags.c_contiguous
        np.testing.assert_array_equal(weights.read(name), expected)


def test_what_may_stand_beside_tensors(tmp_path):
    numbers = np.arange(2, dtype=np.float32)
    tensor = torch.view("0", numbers)
    attributes = torch.encode(torch.ORDERED) + torch.encode({"_metadata": {"v": 1}}) + b"b"
    tree = {
        "parameter": torch.Call("torch._utils _rebuild_parameter", (tensor, True, torch.ORDERED)),
        "state": torch.Raw(attributes),
        "size": torch.Call("torch Size", ((2, 3),)),
        "device": torch.Call("torch device", ("cuda", 1)),
        "dtype": torch.Name("torch bfloat16"),
        "bytes": torch.Raw(b"C\x02ab"),
        "list": [tensor, {"name": "a\nb", "none": None}],
        "nothing": {},
        "args": argparse.Namespace(inner=argparse.Namespace(x=2**70, y=True, z=-1.5)),
    }
    weights = written(tmp_path, tree, {"0": numbers})
    assert list(weights.shapes) == ["parameter", "list.0"]
    assert weights.settings == {
        "size": (2, 3),
        "device": ("cuda", 1),
        "dtype": "torch.bfloat16",
        "list.1.name": "a\nb",
        "list.1.none": None,
        "args.inner.x": 2**70,
        "args.inner.y": True,
        "args.inner.z": -1.5,
    }


def test_later_protocols(tmp_path):
    """Frames, short texts, names from the stack, and the memo without numbers."""
    body = b"}\x8c\x01a\x94\x8c\x05torch\x94\x8c\x07float16\x94\x93\x94s\x8c\x01bh\x00s."
    pickle = b"\x80\x04\x95" + len(body).to_bytes(8, "little") + body
    weights = open_weights(torch.write_archive(tmp_path / "w.pt", None, pickle=pickle))
    assert weights.settings == {"a": "torch.float16", "b": "a"}


def test_lone_tensor(tmp_path):
    numbers = np.arange(3, dtype=np.float32)
    weights = written(tmp_path, torch.view("0", numbers), {"0": numbers})
    assert weights.shapes == {"": (3,)}
    np.testing.assert_array_equal(weights.read(""), numbers)


def test_bools_of_other_bytes(tmp_path):
    odd = np.array([0, 1, 2, 255], np.uint8)
    weights = written(tmp_path, {"x": torch.view("0", odd, kind="Bool")}, {"0": odd})
    assert weights.read("x").tobytes() == b"\x00\x01\x01\x01"


def test_safetensors(tmp_path):
    rng = np.random.default_rng(0)
    kinds = [*torch.KINDS, "uint64", "uint32", "uint16"]
    arrays = {f"a.{kind}": rng.integers(0, 2, (2, 3)).astype(np.dtype(kind)) for kind in kinds}
    arrays["scalar"] = np.array(2.5, np.float32)
    arrays["empty"] = np.zeros((0, 4), np.float32)
    save_file(arrays, tmp_path / "x.pt", metadata={"format": "pt"})
    weights = open_weights(str(tmp_path / "x.pt"))
    assert weights.shapes == {name: weights.read(name).shape for name in arrays}
    assert weights.settings == {"format": "pt"} and weights.path == tmp_path / "x.pt"
    for name, array in arrays.items():
        read = weights.read(name)
        assert read.dtype == weights.dtypes[name] == array.dtype and read.flags.c_contiguous
        np.testing.assert_array_equal(read, array)


def test_hash_names_and_changed_files(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(save({"x": np.zeros(4, np.float32)}))
    weights = open_weights(path)
    assert weights.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()
    message = error_of(weights.read, "y\n")
    assert message == f'{path}: there is no tensor "y\\n"'
    path.write_bytes(path.read_bytes()[:-1])
    assert "has changed" in error_of(weights.read, "x")
    assert "has changed" in error_of(weights.sha256)
    path.unlink()
    assert f"{path}: it cannot be read (No such file" in error_of(weights.read, "x")


OTHERS = {
    "empty": (b"", "the file is empty"),
    "web page": (b"\n <!DOCTYPE html><html>", "a web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "words": (b"Entry\nnot found", 'a text that begins "Entry\\nnot found"'),
    "noise": (np.random.default_rng(0).bytes(1000), "unknown kind"),
    "tensorflow": (bytes(64) + bytes.fromhex("57fb808b247547db"), "TensorFlow"),
    "array": (b"\x93NUMPY\x01\x00v\x00", "a NumPy array"),
    "gzip": (b"\x1f\x8b\x08\x00", "unpack it first"),
    "pickle": (pickle.dumps({"w": [1.0]}), "a pickle that torch.save did not write"),
    "pickle of arrays": (pickle.dumps(np.zeros(2)), "_reconstruct"),
    "zip": (b"PK\x05\x06" + bytes(18), "a zip archive without data.pkl"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_told(tmp_path, name):
    content, expected = OTHERS[name]
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    message = error_of(open_weights, path)
    assert message.startswith(f"{path}: ") and expected in message and "\n" not in message


def test_paths_that_are_no_files(tmp_path):
    assert "a directory" in error_of(open_weights, tmp_path)
    assert "No such file" in error_of(open_weights, tmp_path / "none.pt")
    os.mkfifo(tmp_path / "fifo")
    assert "no regular file" in error_of(open_weights, tmp_path / "fifo")
    odd = tmp_path / "a\nb.pt"
    odd.write_bytes(b"x")
    assert "a\\nb.pt: a text" in error_of(open_weights, odd)
    assert "cannot be read" in error_of(open_weights, "a\0b")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"x")
    (tmp_path / "x.pt").chmod(0)
    assert "Permission denied" in error_of(open_weights, tmp_path / "x.pt")


def test_reader_needs_neither_jax_nor_torch():
    code = (
        "import sys; from tests.torch_files import import_alone; import_alone()\n"
        "assert not {'jax', 'torch', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=torch.ROOT, check=True)
