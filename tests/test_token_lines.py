"""Lines of tokens in 1d-tokenizer's layout come in whole and in order, or are refused by line."""

import gzip
import json
import os
import tracemalloc

import numpy as np
import pytest

from gen.data import import_token_lines, lines, open_dataset, token_lines
from gen.data.__main__ import main
from tests.data_helpers import error_of
from tests.importer_files import CLASSES, LENGTH, VOCAB, refusal, run, write_lines
from tests.importer_files import token_lines as made

COUNT = 7
SIZES = {"num_classes": CLASSES, "vocab_size": VOCAB}


def imported(*paths, directory, **options):
    manifest = import_token_lines(*paths, name="x", directory=directory, **SIZES, **options)
    return manifest, open_dataset("x", directory=directory)


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
@pytest.mark.parametrize(("copies", "versions"), [("tencrop", 10), ("none", 1)])
def test_every_version_comes_back_in_order(tmp_path, suffix, copies, versions):
    one, two = (made(COUNT, versions, seed=seed) for seed in (0, 1))
    paths = [write_lines(tmp_path / f"{i}.{suffix}", part[0]) for i, part in enumerate((one, two))]
    manifest, dataset = imported(*paths, directory=tmp_path, copies=copies)
    assert manifest.augmentation == {"kind": copies, "count": versions}
    assert manifest.tokenizer == {"id": "maskgit-vqgan", "sha256": None}
    assert manifest.source == f"lines of tokens: 0.{suffix}, 1.{suffix}"
    expected = np.concatenate([one[1], two[1]])
    split = dataset.split("train")
    np.testing.assert_array_equal(
        [record["tokens"] for record in split], expected if versions > 1 else expected[:, 0]
    )
    assert [record["label"] for record in split] == [i % CLASSES for i in range(COUNT)] * 2


@pytest.mark.parametrize("block", [1, 3])
def test_mirror_images_follow_their_batch(tmp_path, block):
    lines_, tokens = made(COUNT, 2)
    images = list(zip(lines_[::2], lines_[1::2]))
    batches = [images[start : start + block] for start in range(0, COUNT, block)]
    ordered = [line for batch in batches for versions in zip(*batch) for line in versions]
    path = write_lines(tmp_path / "x.jsonl", ordered)
    manifest, dataset = imported(path, path_copy(path), directory=tmp_path, copies="flip",
                                 block=block)  # fmt: skip
    assert manifest.augmentation == {"kind": "flip", "count": 2}
    found = [record["tokens"] for record in dataset.split("train")]
    np.testing.assert_array_equal(found, np.concatenate([tokens, tokens]))


def path_copy(path):
    other = path.with_name(f"copy_{path.name}")
    other.write_bytes(path.read_bytes())
    return other


def test_command_line(tmp_path, capsys):
    lines_, tokens = made(COUNT, 10, length=12)
    # Other keys, other white space and no newline at the end are nobody's mistake.
    first = json.dumps(json.loads(lines_[0]) | {"file": "n01/1.JPEG"}, indent=None)
    path = tmp_path / "x.jsonl"
    path.write_text("\r\n".join([f"  {first} ", *lines_[1:]]))
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\nelk\n")
    run(
        main, "import", "rar-jsonl", path, "--copies", "tencrop", "--name", "x", "--dir", tmp_path,
        "--classes", CLASSES, "--vocab", VOCAB, "--grid", "3,4", "--holdout", 2,
        "--class-names", tmp_path / "names.txt", "--tokenizer-id", "mine",
    )  # fmt: skip
    assert capsys.readouterr().out == (
        f"{tmp_path / 'x' / '1.0.0'}: 5 train, 2 test; 3x4 grid, vocabulary 50\n"
    )
    dataset = open_dataset("x", directory=tmp_path)
    assert dataset.manifest.condition["names"] == ["ant", "bee", "cat", "dog", "elk"]
    assert dataset.manifest.tokenizer == {"id": "mine", "sha256": None}
    for split, images in (("test", [1, 5]), ("train", [0, 2, 3, 4, 6])):
        found = [record["tokens"] for record in dataset.split(split)]
        np.testing.assert_array_equal(found, tokens[images])


TOKENS = [1] * LENGTH


def line(label=0, tokens=TOKENS, **more):
    return json.dumps({"class_id": label, "tokens": tokens} | more)


def with_token(value):
    return line(tokens=[*TOKENS[1:], value])


# What stands in line 12 of 20, and what is said of it.
FAULTS = {
    "empty": ("", "is no JSON (Expecting value"),
    "cut": (line()[:-20], "is no JSON (Expecting"),
    "text": ("version https://git-lfs", "is no JSON"),
    "no text": (b"\xff\xfe\xfa", "is no JSON"),
    "list": (f"[{line()}]", "is a list, and should be a JSON object"),
    "deep": ("[" * 60_000 + "]" * 60_000, "is no JSON (maximum recursion"),
    "digits": (line(label=0).replace("0", "9" * 5000, 1), "is no JSON (Exceeds the limit"),
    "no tokens": ('{"class_id": 1, "codes": [1]}', "has no \"tokens\"; it holds 'class_id, codes'"),
    "no class": (f'{{"tokens": {TOKENS}}}', "has no \"class_id\"; it holds 'tokens'"),
    "nothing": ("{}", "it holds 'nothing'"),
    "tokens text": (line(tokens="1, 2"), '"tokens" is no list, or empty'),
    "tokens none": (line(tokens=[]), '"tokens" is no list, or empty'),
    "short": (line(tokens=TOKENS[1:]), "has 15 tokens, line 1 of {path} has 16"),
    "long": (line(tokens=[*TOKENS, 1]), "has 17 tokens"),
    "large": (with_token(VOCAB), "holds id 50, the vocabulary is 0..49"),
    "huge": (with_token(10**60), f"holds id 1{'0' * 39}..., the vocabulary is 0..49"),
    "negative": (with_token(-1), "holds id -1, the vocabulary is 0..49"),
    "float": (with_token(3.0), "a token is 3.0, not a whole number"),
    "nan": (with_token(float("nan")), "a token is nan, not a whole number"),
    "infinite": (with_token(0).replace("0]", "1e999]"), "a token is inf, not a whole number"),
    "bool": (with_token(True), "a token is True, not a whole number"),
    "null": (with_token(None), "a token is None, not a whole number"),
    "nested": (line(tokens=[TOKENS] * LENGTH), "a token is a list, not a whole number"),
    "text token": (with_token("\u001b[2J\n"), r"a token is '\x1b[2J\n', not a whole number"),
    "class large": (line(label=CLASSES), "class_id 5, the classes are 0..4"),
    "class negative": (line(label=-1), "class_id -1, the classes are 0..4"),
    "class float": (line(label=1.0), "class_id is 1.0, not a whole number"),
    "class bool": (line(label=False), "class_id is False, not a whole number"),
    "class object": (line(label={"a": 1}), "class_id is an object, not a whole number"),
    "other class": (line(label=3), "class_id 3, but line 11 of the same image has 0"),
    "wide": (line(note="x" * 2**17), "has more than 131072 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_named(tmp_path, case):
    bad, expected = FAULTS[case]
    path = tmp_path / "in.jsonl"
    content = [line().encode()] * 20
    content[11] = bad if isinstance(bad, bytes) else bad.encode()
    path.write_bytes(b"\n".join(content))
    message = error_of(
        import_token_lines, path, name="x", directory=tmp_path / "out", copies="flip", block=1,
        **SIZES,
    )  # fmt: skip
    assert f"{path}, line 12" in message and "\n" not in message and len(message) < 400
    assert expected.format(path=path) in message
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("number", [1, 20])
def test_first_and_last_line_are_checked_before_writing(tmp_path, monkeypatch, number):
    content = [line()] * 20
    content[number - 1] = line(label=9)
    path = write_lines(tmp_path / "in.jsonl", content)
    monkeypatch.setattr(token_lines, "write_dataset", lambda *_, **__: pytest.fail("it wrote"))
    call = {"name": "x", "directory": tmp_path, "copies": "tencrop", **SIZES}
    assert f"in.jsonl, line {number}: class_id 9" in error_of(import_token_lines, path, **call)


def test_images_that_are_not_whole(tmp_path):
    call = {"name": "x", "directory": tmp_path, **SIZES}
    path = write_lines(tmp_path / "in.jsonl", [line()] * 23)
    message = error_of(import_token_lines, path, copies="tencrop", **call)
    assert "in.jsonl, line 23: the file ends with 3 of the 10 lines of an image" in message
    message = error_of(import_token_lines, path, copies="flip", block=4, **call)
    assert "line 23: the file ends with 1 of the 2 lines" in message


def test_files_that_are_damaged(tmp_path):
    call = {"name": "x", "directory": tmp_path / "out", "copies": "none", **SIZES}
    path = tmp_path / "in.jsonl.gz"
    whole = gzip.compress("\n".join(made(2000)[0]).encode())
    for content, message in (
        (whole[: len(whole) // 2], "(Compressed file ended before"),
        (whole[:5000] + bytes(50) + whole[5050:], "cannot be read after line"),
        (whole + b"nonsense", "(Not a gzipped file"),
        (gzip.compress(b""), "in.jsonl.gz is empty"),
        (b"", "in.jsonl.gz is empty"),
    ):
        path.write_bytes(content)
        found = error_of(import_token_lines, path, **call)
        assert message in found and str(path) in found and "\n" not in found
    good = write_lines(tmp_path / "good.jsonl", made(3)[0])
    assert f"{path} is empty" in error_of(import_token_lines, good, path, **call)
    assert not list(tmp_path.glob("out/*"))


def test_files_that_change_while_they_are_read(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "in.jsonl", made(4)[0])
    call = {"name": "x", "directory": tmp_path / "out", "copies": "none", **SIZES}
    for count in (3, 5):
        monkeypatch.setattr(token_lines.TokenLines, "count", lambda *_, count=count: count)
        assert f"held {count} images when they" in error_of(import_token_lines, path, **call)
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("packed", [False, True])
def test_one_endless_line_takes_little_memory(tmp_path, packed):
    path = tmp_path / "in.jsonl"
    if packed:
        path.write_bytes(gzip.compress(bytes(10**8)))
    else:
        path.touch()
        os.truncate(path, 2**30)  # nothing is stored of it
    tracemalloc.start()
    try:
        call = {"name": "x", "directory": tmp_path, "copies": "none", **SIZES}
        message = error_of(import_token_lines, path, **call)
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    finally:
        tracemalloc.stop()
    assert f"line 1 has more than {lines.MAX_BYTES} bytes" in message


def test_lines_are_read_as_they_are_needed(tmp_path):
    path = write_lines(tmp_path / "in.jsonl", made(3000)[0])
    seen = []
    stream = lines.read_lines(path, seen.append)
    assert next(stream)[0] == 1 and not seen
    assert [number for number, _ in stream] == list(range(2, 3001))
    assert sum(seen) == path.stat().st_size and len(seen) == 4


def test_requests_that_cannot_be_met(tmp_path, capsys):
    path = write_lines(tmp_path / "in.jsonl", made(20)[0])
    flags = ["--dir", tmp_path, "--name", "x", "--classes", CLASSES, "--vocab", VOCAB]
    command = ["import", "rar-jsonl", path, *flags]
    plain = ["--copies", "none"]
    for arguments, message in (
        ([], "--copies"),
        (["--copies", "some"], "invalid choice"),
        (["--copies", "flip"], "with --copies flip, and only then, give --block"),
        (["--copies", "tencrop", "--block", 2], "with --copies flip, and only then, give --block"),
        (["--copies", "flip", "--block", 0], "a block has 1 to 4096 images, not 0"),
        ([*plain, "--holdout", 20], "holds 20 images: 20 of them cannot be held out"),
        ([*plain, "--grid", "4,5"], "line 1, holds 16 codes, the grid 4x5 20"),
        ([*plain, "--name", "../x"], "is no dataset name"),
        ([*plain, "--name", "digits"], "is taken by a built-in dataset"),
        ([*plain, "--vocab", 1], "too small"),
        ([*plain, "--classes", 0], "must be a positive whole number"),
    ):
        assert message in refusal(capsys, main, *command, *arguments)
    for source, message in (
        (path, "in.jsonl is given twice"),
        (tmp_path, f"{tmp_path} is no file"),
        (tmp_path / "no.jsonl", "no.jsonl is no file"),
        ("/dev/zero", "/dev/zero is no file"),
        ("~nobody-of-this-name/x", "is no file"),
        ("x" * 5000, "is no file"),
    ):
        found = refusal(capsys, main, "import", "rar-jsonl", path, source, *flags, *plain)
        assert message in found
    uneven = write_lines(tmp_path / "uneven.jsonl", made(2, length=15)[0])
    call = {"name": "x", "directory": tmp_path}
    assert "holds 15 codes, which is no square" in error_of(
        import_token_lines, uneven, copies="none", **call
    )
    assert 'copies "crops" is not one of' in error_of(
        import_token_lines, path, copies="crops", **call
    )
    assert "nothing to import" in error_of(import_token_lines, copies="none", **call)
    run(main, *command, *plain)
    assert "exists already" in refusal(capsys, main, *command, *plain)
