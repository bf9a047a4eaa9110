"""Makers of small datasets, and of damage to them, for the tests of gen.data."""

import hashlib
import json

import numpy as np
import pytest

from gen.data import write_dataset
from gen.errors import UserError
from gen.layouts import Layout, grid

CLASSES = {"kind": "class", "num_classes": 3, "names": None}
TEXT = {"kind": "text", "length": 4, "dim": 6, "encoder": "some-encoder"}
UNCONDITIONAL = {"kind": "none"}
SMALL = grid(2, 3, 17)
WIDE = grid(2, 3, 70_000)
FACTORS = Layout("grid", ((1, 2, 3),), (5, 300), "product")
LATENTS = Layout("line", ((1, 1, 4),), channels=2)
LAYOUTS = {"small": SMALL, "wide": WIDE, "factors": FACTORS, "latents": LATENTS}


def error_of(call, *args, **kwargs):
    """The message of the `UserError` that a call must raise."""
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def records(layout, condition, count=10, copies=1, seed=0):
    """Arrays of valid records."""
    rng = np.random.default_rng(seed)
    shape = (count,) + ((copies,) if copies > 1 else ()) + layout.sample_shape
    if layout.is_continuous:
        arrays = {"tokens": rng.normal(size=shape).astype(np.float32)}
    else:
        sizes = layout.vocab_sizes
        arrays = {"tokens": rng.integers(sizes if len(sizes) > 1 else sizes[0], size=shape)}
    if condition["kind"] == "class":
        arrays["label"] = rng.integers(condition["num_classes"], size=count)
    elif condition["kind"] == "text":
        size = (count, condition["length"], condition["dim"])
        arrays["caption"] = rng.normal(size=size).astype(np.float16)
        arrays["caption_valid"] = np.arange(condition["length"]) < rng.integers(1, 5, (count, 1))
    return arrays


def write(directory, layout=SMALL, condition=CLASSES, name="toy", count=10, **options):
    """Writes a dataset with the one split `train`, and returns (its arrays, its directory)."""
    copies = options.get("augmentation", {"count": 1})["count"]
    arrays = records(layout, condition, count, copies)
    write_dataset(
        directory,
        name=name,
        splits={"train": arrays},
        layout=layout,
        condition=condition,
        **options,
    )
    return arrays, directory / name / "1.0.0"


def shards(version):
    return sorted(version.glob("*.array_record-*"))


def edit_manifest(version, edit):
    path = version / "manifest.json"
    record = json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record))


def rehash(version):
    """Makes the manifest agree with the shards as they are now."""

    def edit(record):
        for path in shards(version):
            data = path.read_bytes()
            record["shards"][path.name]["bytes"] = len(data)
            record["shards"][path.name]["sha256"] = hashlib.sha256(data).hexdigest()

    edit_manifest(version, edit)


def flip_byte(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(bytes(data))


def replace_record(version, shard, index, **changes):
    """Stores another record, past all checks of the writer, in a manifest that matches."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    features = tfds.builder_from_directory(version).info.features
    reader = ArrayRecordReader(str(shard))
    stored = [reader.read([i])[0] for i in range(reader.num_records())]
    reader.close()
    raw = changes.pop("raw", None)
    if raw is None:
        example = features.deserialize_example_np(stored[index])
        serializer = ExampleSerializer(features.get_serialized_info())
        # Encoding each field but the label: a ClassLabel refuses to encode what is out of range.
        raw = serializer.serialize_example({**example, **changes})
    stored[index] = raw
    writer = ArrayRecordWriter(str(shard), "group_size:1")
    for record in stored:
        writer.write(record)
    writer.close()
    rehash(version)
