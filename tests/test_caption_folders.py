"""Codes and the features of their captions come in as pairs, or are refused by name."""

import os
import shutil

import numpy as np
import pytest

from gen import captions
from gen.data import caption_folders, check_dataset, import_captioned_codes, open_dataset
from gen.data.__main__ import main
from tests.data_helpers import error_of
from tests.importer_files import LENGTH, VOCAB, refusal, run, write_codes, write_features

SLOTS, DIM = 4, 3
LENGTHS = [1, 4, 2, 9, 3]  # of the captions; the fourth is cut
COUNT = len(LENGTHS)
SIZES = {"vocab_size": VOCAB, "name": "x"}
FLAGS = ["--vocab", VOCAB, "--name", "x"]


def padded(features):
    """Left-padded (T, C), and which slots are valid (T,)."""
    kept = features[:SLOTS]
    gap = SLOTS - len(kept)
    zeros = np.zeros((gap, DIM))
    return np.concatenate([zeros, kept]).astype(np.float16), np.arange(SLOTS) >= gap


def encoded(folder, count=COUNT, dim=DIM, seed=0):
    """What `gen.encode text` writes for so many captions."""
    rng = np.random.default_rng(seed)

    def encoder(texts):
        lengths = rng.integers(1, SLOTS + 1, len(texts))
        valid = np.arange(SLOTS) < lengths[:, None]
        return rng.normal(size=(len(texts), SLOTS, dim)), valid

    texts = [f"caption {number}" for number in range(count)]
    captions.encode(texts, encoder, folder, name="some-t5", length=SLOTS, dim=dim)
    return captions.load(folder)


def check_records(split, codes, expected):
    assert len(split) == len(codes)
    for record, tokens, (caption, valid) in zip(split, codes, expected):
        np.testing.assert_array_equal(record["tokens"], tokens)
        np.testing.assert_array_equal(record["caption"], caption)
        np.testing.assert_array_equal(record["caption_valid"], valid)


def test_features_in_files_of_the_same_names(tmp_path):
    codes = write_codes(tmp_path / "codes", COUNT)
    features = write_features(tmp_path / "t5", LENGTHS, DIM)
    manifest = import_captioned_codes(
        tmp_path / "codes", features=tmp_path / "t5", directory=tmp_path, length=SLOTS, **SIZES
    )
    assert manifest.condition == {
        "kind": "text", "length": SLOTS, "dim": DIM, "encoder": "google/flan-t5-xl",
    }  # fmt: skip
    assert manifest.tokenizer == {"id": "llamagen-vq16", "sha256": None}
    assert manifest.augmentation == {"kind": "none", "count": 1}
    split = open_dataset("x", directory=tmp_path).split("train")
    check_records(split, codes, map(padded, features))


def test_a_tree_of_folders(tmp_path, capsys):
    """One folder for each list of images, as LlamaGen leaves them."""
    parts = {"list_0": 3, "list_10": 12, "list_2": 1}
    codes, expected = [], []
    for seed, (name, count) in enumerate(parts.items()):
        codes += list(write_codes(tmp_path / "codes" / name, count, seed=seed))
        lengths = 1 + np.arange(count) % SLOTS
        found = write_features(tmp_path / "t5" / name, lengths, DIM, seed=seed)
        expected += map(padded, found)
    write_features(tmp_path / "t5" / "list_3", [1], DIM)
    (tmp_path / "codes" / ".hidden").mkdir()
    run(
        main, "import", "llamagen-t2i", tmp_path / "codes", "--features", tmp_path / "t5", *FLAGS,
        "--dir", tmp_path, "--length", SLOTS, "--encoder", "my-t5", "--holdout", 2,
    )  # fmt: skip
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'x' / '1.0.0'}: 14 train, 2 test; 4x4 grid, vocabulary 50\n"
    assert "t5 holds 1 folders without codes, such as list_3; going on" in err
    dataset = open_dataset("x", directory=tmp_path)
    assert dataset.manifest.condition["encoder"] == "my-t5"
    held = [4, 12]
    kept = np.delete(np.arange(16), held)
    for name, indices in (("test", held), ("train", kept)):
        some = [codes[i] for i in indices], [expected[i] for i in indices]
        check_records(dataset.split(name), *some)


@pytest.mark.parametrize("nested", [False, True])
def test_captions_that_gen_encode_wrote(tmp_path, nested):
    names = ["a", "b"] if nested else [""]
    codes, rows = [], []
    for seed, name in enumerate(names):
        codes += list(write_codes(tmp_path / "codes" / name, COUNT, seed=seed))
        found = encoded(tmp_path / "captions" / name, seed=seed)
        rows += zip(found.caption, found.caption_valid)
    run(
        main, "import", "llamagen-t2i", tmp_path / "codes", "--captions", tmp_path / "captions",
        *FLAGS, "--dir", tmp_path,
    )  # fmt: skip
    dataset = open_dataset("x", directory=tmp_path)
    assert dataset.manifest.condition == {
        "kind": "text", "length": SLOTS, "dim": DIM, "encoder": "some-t5",
    }  # fmt: skip
    check_records(dataset.split("train"), codes, rows)
    report = check_dataset(tmp_path / "x")
    assert report["problems"] == []
    assert report["condition"] == f"captions of {SLOTS} x {DIM} features by some-t5"


def put(name, values):
    return lambda root: np.save(root / name, values)


def remove(name):
    return lambda root: (root / name).unlink()


def nested(root):
    (root / "codes" / "more").mkdir()


CODES, FEATURES = np.zeros((1, LENGTH), np.int64), np.zeros((1, 2, DIM), np.float32)
# What is done to good folders, and what is said.
FAULTS = {
    "no codes": (lambda r: shutil.rmtree(r / "codes"), "codes is no folder"),
    "no features": (lambda r: shutil.rmtree(r / "t5"), "t5 is no folder"),
    "empty": (lambda r: [path.unlink() for path in (r / "codes").iterdir()], "codes holds no fi"),
    "code missing": (remove("codes/2.npy"), "codes/2.npy is missing"),
    "feature missing": (remove("t5/2.npy"), "t5/2.npy is missing"),
    "name": (put("codes/a.npy", CODES), "codes/a.npy is not named by an image's number"),
    "both": (nested, "codes holds both files and folders of codes: name one"),
    "first": (put("codes/0.npy", CODES[None]), "0.npy has shape (1, 1, 16), and should have (1, c"),
    "versions": (put("codes/3.npy", np.zeros((2, LENGTH), int)), "3.npy has shape (2, 16), and"),
    "ragged": (put("codes/3.npy", CODES[:, 1:]), "3.npy has shape (1, 15), and should have (1, 16"),
    "large": (put("codes/3.npy", CODES + VOCAB), "codes/3.npy holds id 50, the vocabulary is 0..4"),
    "floats": (put("codes/3.npy", CODES * 1.0), "codes/3.npy holds float64, and should hold integ"),
    "first flat": (put("t5/0.npy", FEATURES[0]), "t5/0.npy has shape (2, 3), and should have (1, "),
    "no length": (put("t5/3.npy", FEATURES[:, :0]), "t5/3.npy has shape (1, 0, 3), and should"),
    "batch": (put("t5/3.npy", np.zeros((2, 2, DIM))), "t5/3.npy has shape (2, 2, 3), and should"),
    "narrow": (put("t5/3.npy", FEATURES[..., 1:]), "3.npy has features of width 2, others 3"),
    "integers": (put("t5/3.npy", FEATURES.astype(int)), "t5/3.npy holds int64, and should hold fl"),
    "objects": (put("t5/3.npy", FEATURES.astype(object)), "t5/3.npy holds object, and should"),
    "nan": (put("t5/3.npy", FEATURES * np.nan), "t5/3.npy holds features that are no numbers in"),
    "overflow": (put("t5/3.npy", FEATURES + 1e5), "t5/3.npy holds features that are no numbers"),
    "cut": (lambda r: os.truncate(r / "t5/3.npy", 140), "3.npy is damaged: its header promises"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_named(tmp_path, case):
    change, expected = FAULTS[case]
    write_codes(tmp_path / "codes", COUNT)
    write_features(tmp_path / "t5", LENGTHS, DIM)
    change(tmp_path)
    message = error_of(
        import_captioned_codes, tmp_path / "codes", features=tmp_path / "t5",
        directory=tmp_path / "out", **SIZES,
    )  # fmt: skip
    assert str(tmp_path) in message and expected in message and "\n" not in message
    assert not list(tmp_path.glob("out/*"))


def test_folders_of_captions_that_do_not_fit(tmp_path):
    call = {"directory": tmp_path / "out", **SIZES}
    codes, made = tmp_path / "codes", tmp_path / "captions"
    write_codes(codes, COUNT)
    for count, message in ((COUNT + 1, "5.npy is missing"), (COUNT - 1, "4.npy has none")):
        encoded(made, count)
        found = error_of(import_captioned_codes, codes, captions=made, **call)
        assert f"{made} holds {count} captions, {codes} 5 codes: {message}" in found
        shutil.rmtree(made)
    encoded(made)
    for file, row, value, message in (
        ("caption", 3, np.nan, "row 3, holds features that are no numbers in float16"),
        ("caption_valid", 2, False, "row 2, has no valid slot"),
    ):
        whole = np.load(made / f"{file}.npy")
        spoilt = whole.copy()
        spoilt[row] = value
        np.save(made / f"{file}.npy", spoilt)
        found = error_of(import_captioned_codes, codes, captions=made, **call)
        assert f"{made}, {message}" in found
        np.save(made / f"{file}.npy", whole)
    assert "no folder of captions" in error_of(
        import_captioned_codes, codes, captions=codes, **call
    )
    for number, name in enumerate(("a", "b")):
        write_codes(tmp_path / "tree" / name, COUNT)
        encoded(tmp_path / "parts" / name, dim=DIM + number)
    message = error_of(
        import_captioned_codes, tmp_path / "tree", captions=tmp_path / "parts", **call
    )
    assert "b holds captions of (4, 4, 'some-t5')" in message
    assert "a of (4, 3, 'some-t5')" in message
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("number", [0, COUNT - 1])
def test_first_and_last_file_are_checked_before_writing(tmp_path, monkeypatch, number):
    write_codes(tmp_path / "codes", COUNT)
    write_features(tmp_path / "t5", LENGTHS, DIM)
    np.save(tmp_path / "codes" / f"{number}.npy", CODES + VOCAB)
    monkeypatch.setattr(caption_folders, "write_dataset", lambda *_, **__: pytest.fail("it wrote"))
    call = {"features": tmp_path / "t5", "directory": tmp_path, **SIZES}
    assert f"{number}.npy holds id" in error_of(import_captioned_codes, tmp_path / "codes", **call)


def test_requests_that_cannot_be_met(tmp_path, capsys):
    write_codes(tmp_path / "codes", COUNT)
    write_features(tmp_path / "t5", LENGTHS, DIM)
    command = ["import", "llamagen-t2i", tmp_path / "codes", *FLAGS, "--dir", tmp_path]
    features = ["--features", tmp_path / "t5"]
    for arguments, message in (
        ([], "one of the arguments --features --captions is required"),
        ([*features, "--captions", tmp_path], "not allowed with argument --features"),
        (["--captions", tmp_path, "--length", 4], "know their length and encoder: give neither"),
        ([*features, "--length", 0], "captions have 1 to 4096 slots, not 0"),
        ([*features, "--length", 10**12], "captions have 1 to 4096 slots, not 1000000000000"),
        ([*features, "--grid", "4,5"], "0.npy holds 16 codes, the grid 4x5 20"),
        ([*features, "--holdout", 5], "holds 5 images: 5 of them cannot be held out"),
        ([*features, "--name", "../x"], "is no dataset name"),
        ([*features, "--class-names", "x"], "unknown argument --class-names"),
    ):
        assert message in refusal(capsys, main, *command, *arguments)
    call = {"directory": tmp_path, **SIZES}
    assert "not both" in error_of(import_captioned_codes, tmp_path / "codes", **call)
    run(main, *command, *features)
    assert open_dataset("x", directory=tmp_path).manifest.condition["length"] == 120
    assert "exists already" in refusal(capsys, main, *command, *features)
