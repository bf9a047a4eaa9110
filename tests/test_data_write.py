"""Datasets come back as they were written, and nothing wrong is written."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from gen.data import Manifest, open_dataset, write_dataset
from tests import data_helpers as helpers
from tests.data_helpers import (
    CLASSES,
    FACTORS,
    LATENTS,
    LAYOUTS,
    SMALL,
    TEXT,
    UNCONDITIONAL,
    error_of,
)
from tests.tiny import ROOT


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("condition", [CLASSES, TEXT, UNCONDITIONAL], ids=lambda c: c["kind"])
@pytest.mark.parametrize("augmentation", ["none", "flip"])
def test_round_trip(tmp_path, layout, condition, augmentation):
    layout = LAYOUTS[layout]
    arrays, version = helpers.write(
        tmp_path,
        layout,
        condition,
        name="my-toy.v2",
        augmentation={"kind": augmentation, "count": 2 if augmentation == "flip" else 1},
        tokenizer={"id": "vq", "sha256": "ab", "pixel_range": [-1, 1]},
        records_per_shard=4,
    )
    assert [path.name[-14:] for path in helpers.shards(version)] == [
        f"0000{i}-of-00003" for i in range(3)
    ]
    dataset = open_dataset("my-toy.v2", directory=tmp_path)
    split = pickle.loads(pickle.dumps(dataset.split("train")))
    assert len(split) == 10
    for name, values in arrays.items():
        np.testing.assert_array_equal([record[name] for record in split], values)
    assert split[0]["tokens"].dtype == (np.float32 if layout.is_continuous else np.int32)
    if condition is TEXT:
        assert split[0]["caption"].dtype == np.float32
        assert split[0]["caption_valid"].dtype == np.bool_
    assert Manifest.read(version) == dataset.manifest
    assert dataset.manifest.tokenizer["pixel_range"] == [-1, 1]


def test_content_hashes_tell_records_apart_and_not_shards(tmp_path):
    def content(name, **options):
        _, version = helpers.write(tmp_path, LATENTS, name=name, **options)
        return Manifest.read(version).details

    one = content("one", details={"why": "a test"})
    assert one["why"] == "a test" and len(one["content_sha256"]["train"]) == 64
    two = content("two", records_per_shard=3)
    assert two["content_sha256"] == one["content_sha256"]
    assert content("three", count=9)["content_sha256"] != one["content_sha256"]
    arrays = helpers.records(LATENTS, CLASSES)
    for name, changed in (("tokens", arrays["tokens"] * 2), ("label", 2 - arrays["label"])):
        splits = {"train": {**arrays, name: changed}}
        other = write_dataset(tmp_path, name=name, splits=splits, layout=LATENTS, condition=CLASSES)
        assert other.details["content_sha256"] != one["content_sha256"]


def test_manifests_of_older_versions_have_no_details(tmp_path):
    _, version = helpers.write(tmp_path)
    helpers.edit_manifest(version, lambda record: record.pop("details"))
    assert Manifest.read(version).details == {}
    helpers.edit_manifest(version, lambda record: record.update(details=[]))
    assert "details must be names and values" in error_of(Manifest.read, version)


def test_files_are_the_same_whichever_process_writes_them(tmp_path):
    program = (
        "import sys; from pathlib import Path; from tests.data_helpers import write; "
        "write(Path(sys.argv[1]), records_per_shard=4)"
    )
    for number in range(3):  # the order of a message's fields differs between processes
        subprocess.run(
            [sys.executable, "-c", program, tmp_path / str(number)], cwd=ROOT, check=True
        )
    first, *others = (Manifest.read(tmp_path / str(n) / "toy" / "1.0.0") for n in range(3))
    assert others == [first, first]


def test_written_dataset_by_plain_tfds(tmp_path):
    import tensorflow_datasets as tfds

    arrays, version = helpers.write(tmp_path, FACTORS, TEXT, records_per_shard=4)
    source = tfds.builder_from_directory(version).as_data_source("train[2:]")
    for name in arrays:
        np.testing.assert_array_equal(source[3][name], arrays[name][5])


def test_a_stream_is_consumed_record_by_record(tmp_path):
    """Nothing is read ahead, so that what is in memory does not grow with the dataset."""
    arrays = helpers.records(SMALL, CLASSES)
    seen = []

    def stream():
        for index in range(10):
            seen.append(index)
            yield {name: array[index] for name, array in arrays.items()}
        yield {"tokens": arrays["tokens"][0], "label": 9}

    message = error_of(
        write_dataset,
        tmp_path,
        name="toy",
        splits={"train": stream()},
        layout=SMALL,
        condition=CLASSES,
    )
    assert message == 'split "train", record 10: label 9 is outside 0..2'
    assert seen == list(range(10)) and list(tmp_path.iterdir()) == []


def test_existing_dataset_is_kept(tmp_path):
    helpers.write(tmp_path)
    assert "exists already" in error_of(helpers.write, tmp_path)
    (tmp_path / "file").touch()
    assert "exists already" in error_of(helpers.write, tmp_path, name="file")
    assert "cannot write" in error_of(helpers.write, tmp_path / "file")
    for name in ("digits", "random"):
        assert "built-in" in error_of(helpers.write, tmp_path, name=name)


def bad_record(field, value, index=3):
    def change(arrays):
        rows = list(arrays[field])
        rows[index] = value
        return {**arrays, field: rows}

    return change


BAD_RECORDS = {
    "negative id": (SMALL, CLASSES, bad_record("tokens", np.full(6, -1)), "id -1 at (0,) is out"),
    "id too large": (SMALL, CLASSES, bad_record("tokens", np.arange(12, 18)), "id 17 at (5,) is"),
    "id of a factor": (
        FACTORS,
        CLASSES,
        bad_record("tokens", np.full((6, 2), 5)),
        "token id 5 at (0, 0) is outside 0..4",
    ),
    "float tokens": (SMALL, CLASSES, bad_record("tokens", np.zeros(6)), "tokens are float64"),
    "shape": (SMALL, CLASSES, bad_record("tokens", np.zeros((2, 3), int)), "has shape (2, 3)"),
    "ragged": (SMALL, CLASSES, bad_record("tokens", [[1], [1, 2]]), "differ in length"),
    "label too large": (SMALL, CLASSES, bad_record("label", 3), "label 3 is outside 0..2"),
    "label negative": (SMALL, CLASSES, bad_record("label", -1), "label -1 is outside"),
    "label float": (SMALL, CLASSES, bad_record("label", 1.0), "label is float64"),
    "latents of int": (
        LATENTS,
        CLASSES,
        bad_record("tokens", np.zeros((4, 2), int)),
        "tokens is int64",
    ),
    "latents not finite": (
        LATENTS,
        CLASSES,
        bad_record("tokens", np.full((4, 2), np.nan)),
        "not finite at (0, 0)",
    ),
    "caption overflow": (
        SMALL,
        TEXT,
        bad_record("caption", np.full((4, 6), 1e6)),
        "caption overflows float16",
    ),
    "caption without words": (
        SMALL,
        TEXT,
        bad_record("caption_valid", np.zeros(4, bool)),
        "no position",
    ),
    "missing field": (SMALL, CLASSES, lambda a: {"tokens": a["tokens"]}, "its fields are"),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_bad_records_are_not_written(tmp_path, case):
    layout, condition, change, expected = BAD_RECORDS[case]
    arrays = change(helpers.records(layout, condition))
    splits = {"train": {name: list(values) for name, values in arrays.items()}}
    message = error_of(
        write_dataset, tmp_path, name="toy", splits=splits, layout=layout, condition=condition
    )
    index = 0 if case == "missing field" else 3
    assert message.startswith(f'split "train", record {index}: ') and expected in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"condition": {"kind": "colour"}}, "condition is of kind"),
        ({"condition": {"kind": "class", "num_classes": 0}}, "num_classes"),
        ({"condition": {**CLASSES, "names": ["a"]}}, "1 names for 3 classes"),
        ({"condition": {"kind": "text", "length": 4, "dim": 6}}, "encoder"),
        ({"augmentation": {"kind": "none", "count": 2}}, "cannot have 2 copies"),
        ({"tokenizer": {"sha256": None}}, '"id"'),
        ({"splits": {"train": {"tokens": np.zeros((0, 6), int)}}}, "holds no records"),
        ({"splits": {"a/b": {}}}, "no split name"),
        ({"splits": {}}, "at least one split"),
        (
            {"splits": {"train": {"tokens": np.zeros((2, 6), int), "label": np.zeros(3, int)}}},
            "differ in length",
        ),
    ],
)
def test_bad_descriptions_are_not_written(tmp_path, options, expected):
    options = {"splits": {"train": helpers.records(SMALL, CLASSES)}, **options}
    options = {"layout": SMALL, "condition": CLASSES, **options}
    assert expected in error_of(write_dataset, tmp_path, name="toy", **options)
    assert list(tmp_path.iterdir()) == []
