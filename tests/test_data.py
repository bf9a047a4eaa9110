"""The digits, split specifications, the fit of data to a model, and made-up data."""

import gzip
import subprocess
import sys
from importlib import resources

import numpy as np
import pytest

from gen.data import open_dataset, random_dataset
from gen.layouts import Layout, grid
from tests.data_helpers import CLASSES, FACTORS, LATENTS, LAYOUTS, TEXT, UNCONDITIONAL, error_of


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def digits(digits_dir):
    return open_dataset("digits", directory=digits_dir)


def test_import_is_light():
    code = (
        "import sys, gen.data; "
        "print([m for m in ('tensorflow_datasets', 'grain', 'jax', 'tensorflow') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# The digits.


def test_digits_are_the_file_in_order(digits):
    packed = (resources.files("gen.data") / "vendor" / "digits.csv.gz").read_bytes()
    rows = [line.split(",") for line in gzip.decompress(packed).decode().splitlines()]
    table = np.array(rows, dtype=float).astype(int)
    found = [
        digits.split(name)[i] for name in ("train", "test") for i in range(len(digits.split(name)))
    ]
    np.testing.assert_array_equal([r["tokens"] for r in found], table[:, :64])
    np.testing.assert_array_equal([r["label"] for r in found], table[:, 64])
    assert found[0]["tokens"].dtype == np.int32 and found[0]["label"].dtype == np.int32


def test_digits_counts(digits):
    train, test = (
        np.bincount([record["label"] for record in digits.split(name)])
        for name in ("train", "test")
    )
    assert (train + test).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert test.tolist() == [27, 31, 27, 30, 33, 30, 30, 30, 28, 31]
    assert digits.manifest.splits == {"train": 1500, "test": 297}
    assert digits.manifest.layout == grid(8, 8, 17)


def test_tampered_digits_file_is_refused(monkeypatch):
    from gen.data import digits

    monkeypatch.setattr(digits, "SHA256", "0" * 64)
    assert "digits.csv.gz is damaged" in error_of(digits.load_digits.__wrapped__)


def test_digits_by_plain_tfds(digits, digits_dir):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(digits_dir / "digits" / "1.0.0")
    source = builder.as_data_source("test")
    assert len(source) == 297
    np.testing.assert_array_equal(source[5]["tokens"], digits.split("test")[5]["tokens"])
    named = tfds.data_source("digits", split="train", data_dir=digits_dir, download=False)
    assert named[7]["label"] == digits.split("train")[7]["label"]


def run_python(code, data_dir):
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={"GEN_DATA_DIR": str(data_dir), "PYTHONPATH": ":".join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_and_concurrent_preparations(tmp_path):
    killed = run_python(
        "import os; from gen.data import digits; "
        "digits.seal = lambda *args: os.kill(os.getpid(), 9); digits.prepare_digits()",
        tmp_path,
    )
    killed.communicate(timeout=120)
    assert killed.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".partial-digits-")
    code = "from gen.data import open_dataset; print(len(open_dataset('digits').split('train')))"
    for run in [run_python(code, tmp_path) for _ in range(2)]:
        out, err = run.communicate(timeout=120)
        assert (run.returncode, out.strip()) == (0, "1500"), err
    assert {path.name for path in tmp_path.iterdir()} == {left.name, "digits"}


def test_losing_the_race_uses_the_winners_copy(tmp_path, monkeypatch):
    from gen.data import digits, files

    install = files.install

    def late(stage, destination):
        destination.mkdir(parents=True)
        (destination / "winner").touch()
        return install(stage, destination)

    monkeypatch.setattr(files, "install", late)
    assert (digits.prepare_digits(tmp_path) / "winner").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


# Splits and fit.


def test_split_specifications(digits):
    whole = digits.split("train")
    for spec, first, count in [
        ("train[:1350]", 0, 1350),
        ("train[-150:]", 1350, 150),
        ("train[10%:90%]", 150, 1200),
        ("train[:-10%]", 0, 1350),
        ("train[7:7]", 7, 0),
        ("test", None, 297),
    ]:
        split = digits.split(spec)
        assert len(split) == count
        if first is not None and count:
            np.testing.assert_array_equal(split[0]["tokens"], whole[first]["tokens"])
    np.testing.assert_array_equal(whole[-1]["tokens"], whole[1499]["tokens"])
    with pytest.raises(IndexError):
        whole[1500]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("trian", 'did you mean "train"'),
        ("train[:1501]", "outside of its 1500"),
        ("train[-1501:]", "outside"),
        ("train[:101%]", "outside"),
        ("train[9:5]", "after its end"),
        ("train[5]", "is no split"),
        ("train+test", "is no split"),
        ("", "is no split"),
    ],
)
def test_bad_split_specifications(digits, spec, expected):
    assert expected in error_of(digits.split, spec)


def test_fit_names_both_sides(digits):
    manifest = digits.manifest
    manifest.check_fits(grid(8, 8, 17), num_classes=10)
    manifest.check_fits(grid(8, 8, 17))
    message = error_of(manifest.check_fits, grid(8, 8, 16384))
    assert "the data has vocabulary 17, the model vocabulary 16384" in message
    message = error_of(manifest.check_fits, grid(16, 16, 17), num_classes=1000)
    assert "lattice 1x8x8, 10 classes, the model lattice 1x16x16, 1000 classes" in message
    message = error_of(manifest.check_fits, LATENTS, caption=(77, 768))
    assert "no captions" in message and "latents of 2 channels" in message
    text = random_dataset(FACTORS, TEXT).manifest
    text.check_fits(FACTORS, caption=(4, 6))
    assert "width 6" in error_of(text.check_fits, FACTORS, caption=(4, 8))
    depth = Layout("grid", FACTORS.shapes, FACTORS.vocab_sizes, "depth")
    assert "(product), the model vocabularies (5, 300) (depth)" in error_of(text.check_fits, depth)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_random_data(layout):
    layout = LAYOUTS[layout]
    for condition in (CLASSES, TEXT, UNCONDITIONAL):
        one, two = (random_dataset(layout, condition, num_examples=8, seed=1) for _ in range(2))
        other = random_dataset(layout, condition, num_examples=8, seed=2).split("train")[3]
        for name, value in one.split("train")[3].items():
            np.testing.assert_array_equal(value, two.split("train")[3][name])
        assert (one.split("train")[3]["tokens"] != other["tokens"]).any()
        assert (one.split("test")[0]["tokens"] != one.split("train")[0]["tokens"]).any()
    named = open_dataset("random", layout=layout, condition=CLASSES)
    assert len(named.split("train")) == 256
    assert "needs a layout" in error_of(open_dataset, "random")
