"""Damaged, edited and missing datasets are refused, and the file and record are named."""

import numpy as np
import pytest

from gen.data import open_dataset
from tests import data_helpers as helpers
from tests.data_helpers import LATENTS, SMALL, WIDE, error_of


@pytest.mark.parametrize("name", ["../toy", "a/b", "/etc", "..", ".", ".hidden", "", "a b", "a\n"])
def test_names_cannot_leave_the_data_directory(tmp_path, name):
    assert "is no dataset name" in error_of(open_dataset, name, directory=tmp_path)
    assert "is no dataset name" in error_of(helpers.write, tmp_path, name=name)


def test_missing_dataset(tmp_path):
    message = error_of(open_dataset, "imagenet", directory=tmp_path)
    assert '"imagenet"' in message and str(tmp_path) in message
    assert "write_dataset" in message and ":debug" in message and "\n" not in message


def test_latest_version_is_opened(tmp_path):
    _, version = helpers.write(tmp_path)
    (version.parent / "notes").mkdir()
    version.rename(version.parent / "9.0.0")
    helpers.write(tmp_path, layout=WIDE)
    (tmp_path / "toy" / "9.0.0").rename(tmp_path / "toy" / "10.0.0")
    assert open_dataset("toy", directory=tmp_path).manifest.layout == SMALL


MANIFEST_DAMAGE = {
    "missing": (lambda path: path.unlink(), "is missing"),
    "garbage": (lambda path: path.write_bytes(b"\xff\x00{"), "is damaged"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:200]), "is damaged"),
    "empty": (lambda path: path.write_text("{}"), "format_version is None"),
    "list": (lambda path: path.write_text("[1]"), "no JSON object"),
}


@pytest.mark.parametrize("case", MANIFEST_DAMAGE)
def test_damaged_manifest(tmp_path, case):
    damage, expected = MANIFEST_DAMAGE[case]
    _, version = helpers.write(tmp_path)
    damage(version / "manifest.json")
    message = error_of(open_dataset, "toy", directory=tmp_path)
    assert str(version / "manifest.json") in message and expected in message


MANIFEST_EDITS = {
    "version": (lambda m: m.update(format_version=2), "format_version is 2"),
    "field missing": (lambda m: m.pop("licence"), "licence"),
    "field unknown": (lambda m: m.update(colour=1), "colour"),
    "layout": (lambda m: m["layout"].pop("shapes"), "no layout"),
    "layout type": (lambda m: m.update(layout=3), "no layout"),
    "splits": (lambda m: m.update(splits={"train": -3}), "counts of examples"),
    "shards": (lambda m: m.update(shards={"x": {}}), "each shard needs"),
    "sum": (lambda m: m["splits"].update(train=11), "promises 11 examples"),
    "path": (
        lambda m: m["shards"].update({"../x": {"bytes": 1, "records": 1, "sha256": ""}}),
        "is no shard",
    ),
    "other layout": (lambda m: m["layout"].update(shapes=[[1, 3, 3]]), "manifest.json describes"),
}


@pytest.mark.parametrize("case", MANIFEST_EDITS)
def test_edited_manifest(tmp_path, case):
    edit, expected = MANIFEST_EDITS[case]
    _, version = helpers.write(tmp_path)
    helpers.edit_manifest(version, edit)
    message = error_of(open_dataset, "toy", directory=tmp_path)
    assert str(version) in message and expected in message


def test_damaged_tfds_description(tmp_path):
    _, version = helpers.write(tmp_path)
    for name in ("dataset_info.json", "features.json"):
        kept = (version / name).read_bytes()
        (version / name).write_bytes(kept[: len(kept) // 2])
        assert name in error_of(open_dataset, "toy", directory=tmp_path)
        (version / name).unlink()
        assert f"{name} is missing" in error_of(open_dataset, "toy", directory=tmp_path)
        (version / name).write_bytes(kept)
    open_dataset("toy", directory=tmp_path)


def test_damaged_shards_are_named(tmp_path):
    _, version = helpers.write(tmp_path, records_per_shard=4)
    shard = helpers.shards(version)[1]
    kept = shard.read_bytes()
    shard.unlink()
    assert f"{shard} is missing" in error_of(open_dataset, "toy", directory=tmp_path)
    shard.write_bytes(kept[:-1])
    assert f"{shard} has {len(kept) - 1} bytes" in error_of(open_dataset, "toy", directory=tmp_path)
    shard.write_bytes(kept)
    helpers.flip_byte(shard, len(kept) // 3)
    assert f"{shard} is damaged" in error_of(open_dataset, "toy", directory=tmp_path)


UNREADABLE = {
    "truncated": lambda shard: shard.write_bytes(shard.read_bytes()[:1000]),
    "empty": lambda shard: shard.write_bytes(b""),
    "noise": lambda shard: shard.write_bytes(np.random.default_rng(0).bytes(131072)),
    "file header": lambda shard: helpers.flip_byte(shard, 70),
    "block header": lambda shard: helpers.flip_byte(shard, 65541),
    "record": lambda shard: helpers.flip_byte(shard, 65600),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_records_are_named(tmp_path, case):
    """With a manifest that matches the damage, only reading can find it."""
    _, version = helpers.write(tmp_path, records_per_shard=4)
    shard = helpers.shards(version)[1]
    UNREADABLE[case](shard)
    helpers.rehash(version)
    message = error_of(open_dataset, "toy", directory=tmp_path)
    assert message.startswith(f"{shard}, record 0: it cannot be read") and "\n" not in message


@pytest.mark.parametrize(
    ("layout", "changes", "expected"),
    [
        (SMALL, {"tokens": np.full(6, 17, np.uint8)}, "token id 17 at (0,) is outside 0..16"),
        (WIDE, {"tokens": np.full(6, -1, np.int32)}, "token id -1"),
        (LATENTS, {"tokens": np.full((4, 2), np.inf, np.float32)}, "not finite"),
        (SMALL, {"label": 3}, "label 3 is outside 0..2"),
        (SMALL, {"label": -1}, "label -1 is outside"),
        (SMALL, {"raw": b"nonsense"}, "cannot be read"),
        (SMALL, {"raw": b""}, ""),
    ],
    ids=str,
)
def test_impossible_records_are_named(tmp_path, layout, changes, expected):
    _, version = helpers.write(tmp_path, layout, records_per_shard=4)
    shard = helpers.shards(version)[1]
    helpers.replace_record(version, shard, 2, **changes)
    message = error_of(open_dataset, "toy", directory=tmp_path)
    assert message.startswith(f"{shard}, record 2: ") and expected in message


def test_large_data_are_probed_and_checked_when_read(tmp_path, monkeypatch):
    from gen.data import reader

    _, version = helpers.write(tmp_path, count=20)
    helpers.replace_record(version, helpers.shards(version)[0], 7, label=5)
    monkeypatch.setattr(reader, "SMALL_BYTES", 0)
    monkeypatch.setattr(reader, "NUM_PROBES", 3)
    split = open_dataset("toy", directory=tmp_path).split("train[5:]")
    assert len(split[1]["tokens"]) == 6
    assert "record 7: label 5" in error_of(lambda: split[2])
    helpers.edit_manifest(version, lambda m: next(iter(m["shards"].values())).update(sha256="0"))
    open_dataset("toy", directory=tmp_path)
    assert "SHA-256" in error_of(open_dataset, "toy", directory=tmp_path, verify="hash")
