"""Folders of codes in LlamaGen's layout come in whole and in order, or are refused by name."""

import json
import os

import numpy as np
import pytest

from gen import train
from gen.data import check_dataset, code_folders, import_code_folder, importing, npy, open_dataset
from gen.data.__main__ import main
from tests import tiny
from tests.data_helpers import error_of

COUNT, VOCAB, CLASSES = 23, 50, 5
SIZES = {"num_classes": CLASSES, "vocab_size": VOCAB}
FLAGS = ["--classes", CLASSES, "--vocab", VOCAB]


def make(folder, *, versions=10, length=16, count=COUNT, seed=0, size=256):
    """Writes the two folders with labels 0, 1, .. in turn, and returns the codes (M, A, N)."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, VOCAB, (count, versions, length))
    for kind in ("codes", "labels"):
        (folder / f"imagenet{size}_{kind}").mkdir(parents=True)
    for i in range(count):
        np.save(folder / f"imagenet{size}_codes" / f"{i}.npy", codes[i : i + 1])
        np.save(folder / f"imagenet{size}_labels" / f"{i}.npy", np.array([i % CLASSES]))
    return codes


def run(*arguments):
    main([str(argument) for argument in arguments])


def refusal(capsys, entry, *arguments):
    """The one line that a command leaves, having exited with 2."""
    with pytest.raises(SystemExit) as stop:
        entry([str(argument) for argument in arguments])
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and lines[0].startswith("gen: error: "), lines
    return lines[0]


@pytest.mark.parametrize(("versions", "kind"), [(10, "tencrop"), (2, "flip"), (1, "none")])
def test_every_version_comes_back_in_order(tmp_path, versions, kind):
    codes = make(tmp_path / "in", versions=versions)
    manifest = import_code_folder(tmp_path / "in", name="x", directory=tmp_path, **SIZES)
    assert manifest.augmentation == {"kind": kind, "count": versions}
    assert manifest.tokenizer == {"id": "llamagen-vq16", "sha256": None}
    assert manifest.source == "LlamaGen code folders: in/imagenet256_codes"
    split = open_dataset("x", directory=tmp_path).split("train")
    expected = codes if versions > 1 else codes[:, 0]
    np.testing.assert_array_equal([record["tokens"] for record in split], expected)
    assert [record["label"] for record in split] == [i % CLASSES for i in range(COUNT)]


def test_crops_of_another_range_are_more_versions(tmp_path):
    parts = [
        make(tmp_path / name, seed=seed) for seed, name in enumerate(("ten_crop", "ten_crop_105"))
    ]
    manifest = import_code_folder(
        tmp_path / "ten_crop", tmp_path / "ten_crop_105", name="x", directory=tmp_path, **SIZES
    )
    assert manifest.augmentation == {"kind": "tencrop", "count": 20}
    assert manifest.source.endswith("ten_crop/imagenet256_codes, ten_crop_105/imagenet256_codes")
    split = open_dataset("x", directory=tmp_path).split("train")
    tokens = np.stack([record["tokens"] for record in split])
    np.testing.assert_array_equal(tokens, np.concatenate(parts, axis=1))


def test_command_line(tmp_path, capsys):
    codes = make(tmp_path / "in", versions=2, length=12, size=384)
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\nelk\n")
    source = tmp_path / "in" / "imagenet384_codes"
    (tmp_path / "link_codes").symlink_to(source)
    (tmp_path / "link_labels").symlink_to(tmp_path / "in" / "imagenet384_labels")
    for name, given in (("one", source), ("two", tmp_path / "link_codes")):
        run(
            "import", "llamagen-codes", given, "--name", name, "--dir", tmp_path, *FLAGS,
            "--grid", "3,4", "--copies", "flip", "--class-names", tmp_path / "names.txt",
            "--tokenizer-id", "mine", "--tokenizer-sha256", "AB" * 32, "--holdout", 4,
        )  # fmt: skip
        assert capsys.readouterr().out == (
            f"{tmp_path / name / '1.0.0'}: 19 train, 4 test; 3x4 grid, vocabulary 50\n"
        )
        manifest = open_dataset(name, directory=tmp_path).manifest
        assert manifest.layout.shapes == ((1, 3, 4),)
        assert manifest.tokenizer == {"id": "mine", "sha256": "ab" * 32}
        assert manifest.condition["names"] == ["ant", "bee", "cat", "dog", "elk"]
        assert check_dataset(tmp_path / name)["problems"] == []
    held = [2, 8, 14, 20]
    for spec, numbers in (("test", held), ("train", np.delete(np.arange(COUNT), held))):
        split = open_dataset("one", directory=tmp_path).split(spec)
        np.testing.assert_array_equal([record["tokens"] for record in split], codes[numbers])


@pytest.mark.parametrize(("count", "holdout"), [(10, 0), (10, 1), (10, 9), (1000, 7)])
def test_held_out_images_are_spread_evenly(tmp_path, count, holdout):
    train_numbers, test_numbers = importing.split_evenly(np.arange(count), holdout, tmp_path)
    assert sorted([*train_numbers, *test_numbers]) == list(range(count))
    assert len(test_numbers) == holdout
    gaps = np.diff(test_numbers)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_images_are_read_as_they_are_needed(tmp_path, monkeypatch):
    make(tmp_path, count=40, versions=1)
    folder = code_folders.CodeFolder.find(tmp_path)
    images = code_folders.Images([folder], (1, 1, 16), VOCAB, CLASSES)
    seen = []
    monkeypatch.setattr(importing, "READ_AHEAD", 8)
    monkeypatch.setattr(code_folders.Images, "read", lambda self, number: seen.append(number))
    stream = importing.records_of(images, images.numbers, importing.progress_bar(False, 40))
    next(stream)
    assert 0 < len(seen) <= 8
    assert len(list(stream)) == 39 and sorted(seen) == list(range(40))


def test_gaps_are_told(tmp_path, capsys):
    make(tmp_path / "in")
    for kind in ("codes", "labels"):
        for number in (7, 8, 22):
            (tmp_path / "in" / f"imagenet256_{kind}" / f"{number}.npy").unlink()
    manifest = import_code_folder(tmp_path / "in", name="x", directory=tmp_path, **SIZES)
    assert manifest.splits == {"train": 20}
    assert "imagenet256_codes lacks 2 numbers, the first of them 7" in capsys.readouterr().err


def test_training_on_imported_codes(tmp_path, capsys):
    make(tmp_path / "in")
    run("import", "llamagen-codes", tmp_path / "in", "--name", "x", "--dir", tmp_path, *FLAGS,
        "--holdout", 5)  # fmt: skip
    arguments = ["--config", f"{tiny.ROOT}/configs/llamagen_b.py:debug"]
    arguments += ["--workdir", tmp_path / "run", "--config.data.name=x"]
    arguments += ["--config.data.dir", tmp_path, "--config.data.valid=test"]
    arguments += ["--config.data.test=none", "--config.train.steps=2"]
    sizes = {"vocab_size": VOCAB, "grid": "4,4", "condition.num_classes": CLASSES}
    capsys.readouterr()
    for name, other, message in (
        ("vocab_size", 51, "the data has vocabulary 50, the model vocabulary 51"),
        ("grid", "2,8", "the data has lattice 1x4x4, the model lattice 1x2x8"),
        ("condition.num_classes", 6, "the data has 5 classes, the model 6 classes"),
    ):
        flags = [f"--config.model.{key}={value}" for key, value in (sizes | {name: other}).items()]
        assert message in refusal(capsys, train.main, *arguments, *flags)
    flags = [f"--config.model.{key}={value}" for key, value in sizes.items()]
    train.main([str(argument) for argument in (*arguments, *flags)])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [record["loss"] for record in map(json.loads, lines) if "loss" in record]
    assert len(losses) == 2 and np.isfinite(losses).all()


def rewrite(kind, number, values):
    return lambda root: np.save(root / f"imagenet256_{kind}" / f"{number}.npy", values)


def cut(kind, number, size):
    return lambda root: os.truncate(root / f"imagenet256_{kind}" / f"{number}.npy", size)


def remove(kind, numbers=range(COUNT)):
    def change(root):
        for number in numbers:
            (root / f"imagenet256_{kind}" / f"{number}.npy").unlink()

    return change


def move(old, new):
    return lambda root: (root / f"imagenet256_{old}").rename(root / new)


GOOD = np.zeros((1, 10, 16), np.int64)
# What is done to good folders, and the file and the facts that the one line must name.
FAULTS = {
    "no labels": (move("labels", "other"), ["imagenet256_labels is missing"]),
    "no codes": (move("codes", "other"), ["in holds no folder *_codes"]),
    "two codes": (lambda r: (r / "b_codes").mkdir(), ["holds 2 folders *_codes"]),
    "empty": (remove("codes"), ["imagenet256_codes holds no files"]),
    "label missing": (remove("labels", [11]), ["holds 23", "22: ", "_labels/11.npy is missing"]),
    "code missing": (remove("codes", [3]), ["holds 22", "23: ", "_codes/3.npy is missing"]),
    "name": (move("codes/4.npy", "imagenet256_codes/04.npy"), ["04.npy is not named"]),
    "ragged": (
        rewrite("codes", 13, GOOD[:, :9]),
        ["_codes/13.npy has shape (1, 9, 16)", "_codes/0.npy has (1, 10, 16)"],
    ),
    "shape": (rewrite("codes", 0, GOOD[0]), ["0.npy has shape (10, 16)", "(1, versions, codes)"]),
    "id too large": (rewrite("codes", 13, GOOD + 50), ["13.npy holds id 50", "0..49"]),
    "id negative": (rewrite("codes", 13, GOOD - 1), ["13.npy holds id -1", "0..49"]),
    "floats": (rewrite("codes", 13, GOOD * 1.0), ["13.npy holds float64", "integers"]),
    "objects": (rewrite("codes", 13, GOOD.astype(object)), ["13.npy holds object", "integers"]),
    "label too large": (rewrite("labels", 13, [5]), ["_labels/13.npy holds label 5", "0..4"]),
    "label negative": (rewrite("labels", 13, [-1]), ["_labels/13.npy holds label -1", "0..4"]),
    "label float": (rewrite("labels", 13, [1.0]), ["_labels/13.npy holds float64"]),
    "label shape": (rewrite("labels", 13, [[1]]), ["_labels/13.npy has shape (1, 1)", "(1,)"]),
    "versions": (rewrite("codes", 0, GOOD[:, :5]), ["0.npy holds 5 versions", "--copies"]),
    "square": (rewrite("codes", 0, GOOD[..., :15]), ["0.npy holds 15 codes", "--grid"]),
    "cut": (cut("codes", 13, 500), ["13.npy is damaged", "1280 bytes, 372 follow"]),
    "cut in header": (cut("codes", 13, 50), ["13.npy is no .npy file", "50 bytes"]),
    "no bytes": (cut("labels", 13, 0), ["_labels/13.npy is no .npy file", "0 bytes"]),
    "folder": (
        lambda r: (remove("codes", [13])(r), (r / "imagenet256_codes/13.npy").mkdir()),
        ["13.npy cannot be read (Is a directory)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_named(tmp_path, case):
    change, expected = FAULTS[case]
    make(tmp_path / "in")
    change(tmp_path / "in")
    call = {"name": "x", "directory": tmp_path / "out", **SIZES}
    message = error_of(import_code_folder, tmp_path / "in", **call)
    assert str(tmp_path) in message and "\n" not in message
    for part in expected:
        assert part in message
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("number", [0, COUNT - 1])
def test_first_and_last_file_are_checked_before_writing(tmp_path, monkeypatch, number):
    make(tmp_path / "in")
    rewrite("labels", number, [9])(tmp_path / "in")
    monkeypatch.setattr(code_folders, "write_dataset", lambda *_, **__: pytest.fail("it wrote"))
    call = {"name": "x", "directory": tmp_path, **SIZES}
    assert f"{number}.npy holds label 9" in error_of(import_code_folder, tmp_path / "in", **call)


def test_folders_that_do_not_belong_together(tmp_path):
    call = {"name": "x", "directory": tmp_path / "out", **SIZES}
    a, b = tmp_path / "a", tmp_path / "b"
    make(a)
    make(b)
    rewrite("labels", 13, [0])(b)
    message = error_of(import_code_folder, a, b, **call)
    assert f"{b / 'imagenet256_labels' / '13.npy'} holds label 0" in message
    assert f"{a / 'imagenet256_labels' / '13.npy'} label 3" in message
    for kind in ("codes", "labels"):
        remove(kind, [22])(b)
    message = error_of(import_code_folder, a, b, **call)
    assert "holds 23 files" in message and f"{b / 'imagenet256_codes' / '22.npy'}" in message
    assert "is given twice" in error_of(import_code_folder, a, a / "imagenet256_codes", **call)


def test_requests_that_cannot_be_met(tmp_path, capsys):
    make(tmp_path / "in")
    command = ["import", "llamagen-codes", tmp_path / "in", "--dir", tmp_path, *FLAGS]
    names = tmp_path / "names.txt"
    names.write_text("a\nb\n")
    for arguments, message in (
        (["--name", "x", "--holdout", 23], "holds 23 images: 23 of them cannot be held out"),
        (["--name", "x", "--holdout", -1], "-1 of them cannot"),
        (["--name", "x", "--grid", "4,5"], "0.npy holds 16 codes, the grid 4x5 20"),
        (["--name", "x", "--grid", "4x4"], "--grid must be"),
        (["--name", "x", "--copies", "none"], '10 versions of its image in 1 folders'),
        (["--name", "x", "--copies", "some"], "invalid choice"),
        (["--name", "x", "--class-names", names], "has 2 lines, one name each; --classes 5"),
        (["--name", "x", "--class-names", tmp_path / "no"], "cannot be read"),
        (["--name", "x", "--tokenizer-sha256", "abc"], '64 hexadecimal digits, not "abc"'),
        (["--name", "../x"], "is no dataset name"),
        ([], "--name"),
        (["--name", "x", "--stepz", 3], "unknown argument --stepz"),
    ):  # fmt: skip
        assert message in refusal(capsys, main, *command, *arguments)
    run(*command, "--name", "x")
    capsys.readouterr()
    assert "exists already" in refusal(capsys, main, *command, "--name", "x")
    assert "FORMAT" in refusal(capsys, main, "import")
    for absent in (tmp_path / "nosuch", "~nosuch", "x" * 5000):
        asked = ["import", "llamagen-codes", absent, "--name", "x"]
        assert "is no folder" in refusal(capsys, main, *asked)


def test_integers_are_read_safely(tmp_path, monkeypatch):
    path = tmp_path / "x.npy"
    values = np.asfortranarray(np.arange(12, dtype=">u2").reshape(3, 4))
    np.save(path, values)
    np.testing.assert_array_equal(npy.read_integers(path), values)
    with path.open("wb") as file:
        np.lib.format.write_array(file, values, version=(2, 0))
    np.testing.assert_array_equal(npy.read_integers(path), values)
    good = path.read_bytes()
    for old, new, expected in (
        (b"(3, 4)", b"(9, 9)", "promises 162 bytes, 24 follow"),
        (b"(3, 4)", b"(-3,-4)"[:6], "damaged"),
        (b"'>u2'", b"'>u3'", "header is damaged"),
        (b"\x93NUMPY\x02", b"\x93NUMPY\x03", "version (3, 0)"),
        (b"\x93NUMPY", b"\x93NUMPX", "no .npy file"),
    ):
        path.write_bytes(good.replace(old, new))
        assert expected in error_of(npy.read_integers, path)
    monkeypatch.setattr(npy, "MAX_BYTES", 20)
    assert "more than the 20 bytes" in error_of(npy.read_integers, path)
    assert "No such file" in error_of(npy.read_integers, tmp_path / "y.npy")
