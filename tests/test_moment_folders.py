"""Folders of moments in MAR's layout come in whole and in order, or are refused by name."""

import shutil
import zipfile

import numpy as np
import pytest

from gen.data import batches, check_dataset, eval_batches, import_moment_folders, npy, open_dataset
from gen.data.__main__ import main
from gen.layouts import Layout
from tests.data_helpers import error_of

CLASSES = ("n01", "n02", "n10")
COUNT, SHAPE = 4, (6, 2, 3)  # files of a class; 2C, h, w
LAYOUT = Layout("grid", ((1, 2, 3),), channels=6)


def make(root, classes=CLASSES, seed=0, save=np.savez):
    """Writes the folders, and returns the moments of all files, (M, 2, 2C, h, w), in order."""
    rng = np.random.default_rng(seed)
    moments = rng.normal(size=(len(classes) * COUNT, 2, *SHAPE)).astype(np.float32)
    for number, (plain, flipped) in enumerate(moments):
        folder = root / classes[number // COUNT]
        folder.mkdir(parents=True, exist_ok=True)
        save(folder / f"{number % COUNT}.JPEG.npz", moments=plain, moments_flip=flipped)
    return moments


def in_raster_order(moments):
    """(..., 2C, h, w) as tokens (..., P, 2C), one cell after the other."""
    cells = [moments[..., row, column] for row in range(2) for column in range(3)]
    return np.stack(cells, axis=-2)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_both_versions_come_back_in_order(tmp_path, save):
    moments = make(tmp_path / "in", save=save)
    (tmp_path / "in" / ".hidden").mkdir()
    (tmp_path / "in" / "readme.txt").write_text("not a class")
    manifest = import_moment_folders(tmp_path / "in", name="x", directory=tmp_path)
    assert manifest.layout == LAYOUT
    assert manifest.augmentation == {"kind": "flip", "count": 2}
    assert manifest.condition == {"kind": "class", "num_classes": 3, "names": list(CLASSES)}
    assert manifest.tokenizer == {"id": "mar-kl16", "sha256": None, "values": "moments"}
    assert manifest.source == "cached moments: in"
    split = open_dataset("x", directory=tmp_path).split("train")
    expected = in_raster_order(moments)
    np.testing.assert_array_equal([record["tokens"] for record in split], expected)
    assert [record["label"] for record in split] == [i // COUNT for i in range(3 * COUNT)]


def test_moments_reach_batches_and_the_report(tmp_path):
    moments = in_raster_order(make(tmp_path / "in"))
    import_moment_folders(tmp_path / "in", name="x", directory=tmp_path, holdout=2)
    dataset = open_dataset("x", directory=tmp_path, verify="hash")
    assert {name: len(dataset.split(name)) for name in ("train", "test")} == {
        "train": 10,
        "test": 2,
    }
    seen = {}
    stream = batches(dataset.split("train"), batch_size=5, seed=0)
    for number in range(20):
        batch = stream.batch(number)
        assert batch["tokens"].dtype == np.float32 and batch["tokens"].shape == (5, 6, 6)
        for tokens, label in zip(batch["tokens"], batch["label"]):
            ((image, version),) = np.argwhere((moments == tokens).all(axis=(-1, -2)))
            assert label == image // COUNT
            seen.setdefault(image, set()).add(version)
    assert len(seen) == 10 and all(versions == {0, 1} for versions in seen.values())
    (held,) = eval_batches(dataset.split("test"), 2)
    np.testing.assert_array_equal(held["tokens"], moments[[3, 9], 0])
    report = check_dataset(tmp_path / "x")
    assert report["problems"] == [] and report["layout"] == "2x3 grid, latents of 6 channels"


def test_command_line(tmp_path, capsys):
    moments = make(tmp_path / "in")
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\n")
    main(
        [
            *("import", "mar-moments", str(tmp_path / "in"), "--name", "x"),
            *("--dir", str(tmp_path), "--class-names", str(tmp_path / "names.txt")),
            *("--classes", "3", "--holdout", "1", "--tokenizer-sha256", "AB" * 32),
        ]
    )
    out = f"{tmp_path / 'x' / '1.0.0'}: 11 train, 1 test; 2x3 grid, latents of 6 channels\n"
    assert capsys.readouterr().out == out
    dataset = open_dataset("x", directory=tmp_path)
    assert dataset.manifest.condition["names"] == ["ant", "bee", "cat"]
    assert dataset.manifest.tokenizer["sha256"] == "ab" * 32
    (record,) = dataset.split("test")
    np.testing.assert_array_equal(record["tokens"], in_raster_order(moments[6]))


def put(name="n02/1.JPEG.npz", **arrays):
    return lambda root: np.savez(root / name, **arrays)


def both(value):
    array = np.asarray(value)
    return {"moments": array, "moments_flip": array}


def raw(content, name="n02/1.JPEG.npz"):
    return lambda root: (root / name).write_bytes(content)


def spoilt(root):
    """A byte of the numbers changes, which the archive's own sums tell."""
    path = root / "n02/1.JPEG.npz"
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(bytes(content))


def bare(root):
    """An archive whose member is no array."""
    with zipfile.ZipFile(root / "n02/1.JPEG.npz", "w") as archive:
        for name in ("moments", "moments_flip"):
            archive.writestr(f"{name}.npy", b"nothing")


GOOD = np.zeros(SHAPE, np.float32)
# What is done to good folders, and the facts that the one line must name.
FAULTS = {
    "no folder": (shutil.rmtree, ["in is no folder"]),
    "no classes": (
        lambda r: [shutil.rmtree(r / name) for name in CLASSES],
        ["holds no class folders"],
    ),
    "empty class": (lambda r: (r / "n03").mkdir(), ["n03 holds no .npz files"]),
    "no flip": (put(moments=GOOD), ['1.JPEG.npz has no array "moments_flip"', "moments.npy"]),
    "first": (put("n01/0.JPEG.npz", other=GOOD), ['0.JPEG.npz has no array "moments"']),
    "odd": (put("n01/0.JPEG.npz", **both(GOOD[:5])), ["has shape (5, 2, 3)", "2 x channels"]),
    "flat": (put("n01/0.JPEG.npz", **both(GOOD[0])), ["has shape (2, 3)"]),
    "ragged": (put(**both(GOOD[:4])), ["has shape (4, 2, 3), others (6, 2, 3)"]),
    "flip ragged": (
        put(moments=GOOD, moments_flip=GOOD[:, :1]),
        ['1.JPEG.npz, array "moments_flip", has shape (6, 1, 3)'],
    ),
    "nan": (put(**both(GOOD * np.nan)), ['array "moments", is not finite']),
    "infinite": (put(moments=GOOD, moments_flip=GOOD + np.inf), ['"moments_flip", is not finite']),
    "ints": (put(**both(GOOD.astype(int))), ["holds int64, and should hold floats"]),
    "objects": (put(**both(GOOD.astype(object))), ["holds object, and should hold floats"]),
    "too large": (put(**both(GOOD + np.float64(1e300))), ["1.JPEG.npz", "finite in float32"]),
    "text": (raw(b"version https://git-lfs"), ["is no .npz file, or damaged"]),
    "no bytes": (raw(b""), ["is no .npz file, or damaged"]),
    "spoilt": (spoilt, ["is no .npz file, or damaged", "CRC"]),
    "bare": (bare, ["is no .npy file, or cut short (7 bytes)"]),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_named(tmp_path, case):
    change, expected = FAULTS[case]
    make(tmp_path / "in")
    change(tmp_path / "in")
    call = {"name": "x", "directory": tmp_path / "out"}
    message = error_of(import_moment_folders, tmp_path / "in", **call)
    assert "\n" not in message
    for part in expected:
        assert part in message
    assert not list(tmp_path.glob("out/*"))


def test_no_more_is_unpacked_than_a_file_may_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(npy, "MAX_BYTES", 10_000)
    np.savez_compressed(tmp_path / "bomb.npz", moments=np.zeros(10**6, np.float32))
    path = tmp_path / "bomb.npz"
    message = error_of(npy.read_float_archive, path, ["moments"])
    assert "promises 4000000 bytes, 9872 follow" in message
    np.savez(path, moments=np.zeros(10**4, np.float32))
    assert "more than the 10000 bytes" in error_of(npy.read_float_archive, path, ["moments"])


def test_numbers_that_do_not_fit(tmp_path):
    make(tmp_path / "in")
    call = {"name": "x", "directory": tmp_path / "out"}
    for given, message in (
        ({"num_classes": 4}, "holds 3 class folders, not 4"),
        ({"class_names": ["ant"]}, "1 names for the 3 class folders"),
        ({"holdout": 12}, "12 of them cannot be held out"),
    ):
        assert message in error_of(import_moment_folders, tmp_path / "in", **call, **given)
    import_moment_folders(tmp_path / "in", **call)
    assert "exists already" in error_of(import_moment_folders, tmp_path / "in", **call)
