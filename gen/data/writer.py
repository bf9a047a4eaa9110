"""Writes a dataset: ArrayRecord shards that TFDS reads, and the manifest beside them.

The shards are written directly rather than by a TFDS builder, because TFDS keeps a whole split
in memory and needs TensorFlow beyond 1 GB, whereas here a split may be a stream of any length.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gen.data import files
from gen.data.manifest import NO_AUGMENTATION, NO_TOKENIZER, Manifest
from gen.data.records import BadRecord, ContentHash, RecordSpec
from gen.errors import UserError
from gen.layouts import Layout

RESERVED_NAMES = (*files.BUILT_IN, "random")
_SPLIT = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def write_dataset(
    directory: str | os.PathLike[str] | None,
    *,
    name: str,
    splits: Mapping[str, Mapping[str, np.ndarray] | Iterable[Mapping[str, Any]]],
    layout: Layout,
    condition: Mapping[str, Any],
    tokenizer: Mapping[str, Any] | None = None,
    augmentation: Mapping[str, Any] | None = None,
    licence: str = "",
    source: str = "",
    details: Mapping[str, Any] | None = None,
    records_per_shard: int = 50_000,
) -> Manifest:
    """Writes `directory/name/1.0.0`, in the order given; it appears whole or not at all.

    A record holds `tokens` of shape `layout.sample_shape`, or `(A,) + sample_shape` if the
    augmentation stores A versions: whole numbers for tokens, floats for latents. With classes it
    also holds `label` (a whole number); with texts, `caption` (T, C) floats and `caption_valid`
    (T,) bools.

    Args:
      directory: data directory; None for `$GEN_DATA_DIR` or `~/.cache/gen/data`.
      name: name under which `open_dataset` finds it.
      splits: for each split its fields as arrays with a leading axis of examples, or an iterable
        of records, which is read once and never held in memory as a whole.
      layout, condition: as in `Manifest`.
      tokenizer: as in `Manifest`; None if there is none.
      augmentation: as in `Manifest`; None for one version per record.
      licence, source: licence of the data, and where they came from.
      details: as in `Manifest`; the hash of the content is added.
      records_per_shard: largest number of records in one file.

    Returns:
      The manifest as written.

    Raises:
      UserError: the dataset exists already, the description is inconsistent, or a record does
        not fit it; the record is named.
    """
    check_splits(splits, records_per_shard)
    destination = check_new(directory, name)
    manifest = Manifest(
        name=name, layout=layout, condition=condition, splits={},
        tokenizer=tokenizer or NO_TOKENIZER, augmentation=augmentation or NO_AUGMENTATION,
        licence=licence, source=source, details=details or {},
    )  # fmt: skip
    with files.staging(destination.parent.parent, name) as stage:
        manifest = _write_files(stage, manifest, splits, records_per_shard)
        if not files.install(stage, destination):
            raise _exists(destination)
    return manifest


def check_new(directory: str | os.PathLike[str] | None, name: str) -> Path:
    """Where `write_dataset` would write; for those who have much to do before it.

    Raises:
      UserError: this is no name of a dataset, or there is one already.
    """
    files.check_name(name)
    if name in RESERVED_NAMES:
        raise UserError(f'the dataset name "{name}" is taken by a built-in dataset')
    destination = files.data_root(directory) / name / files.VERSION
    if destination.exists():
        raise _exists(destination)
    return destination


def _exists(destination: Path) -> UserError:
    return UserError(f"{destination} exists already; remove it or choose another name")


def seal(directory: Path, manifest: Manifest, lengths: Mapping[str, list[int]]) -> Manifest:
    """Completes the manifest of a directory of written shards, and writes it there.

    Args:
      directory: where the shards lie.
      manifest: everything but the splits and shards.
      lengths: number of records of each shard of each split.
    """
    dataset = files.tfds_name(manifest.name)
    records = {
        files.shard_name(dataset, split, index, len(counts)): count
        for split, counts in lengths.items()
        for index, count in enumerate(counts)
    }
    manifest = dataclasses.replace(
        manifest,
        splits={split: sum(counts) for split, counts in lengths.items()},
        shards=files.shard_table(directory, records),
    )
    manifest.write(directory)
    return manifest


def check_splits(splits: Iterable[str], records_per_shard: int = 1) -> None:
    """Raises `UserError` for impossible names of splits, or none, or empty shards."""
    if not splits or records_per_shard < 1:
        raise UserError("a dataset needs at least one split and one record per shard")
    for split in splits:
        if not _SPLIT.fullmatch(split) or split == "all":
            raise UserError(f'"{split}" is no split name: use letters, digits and "_"')


def _write_files(
    stage: Path, manifest: Manifest, splits: Mapping[str, Any], records_per_shard: int
) -> Manifest:
    spec = RecordSpec.of(manifest)
    contents = {split: ContentHash() for split in splits}
    lengths = {
        split: _write_split(stage, manifest, spec, split, data, contents[split], records_per_shard)
        for split, data in splits.items()
    }
    _write_tfds_metadata(stage, manifest, spec, lengths)
    hashes = {split: content.hexdigest() for split, content in contents.items()}
    details = {**manifest.details, "content_sha256": hashes}
    return seal(stage, dataclasses.replace(manifest, details=details), lengths)


def _write_split(
    stage: Path,
    manifest: Manifest,
    spec: RecordSpec,
    split: str,
    data: Mapping[str, np.ndarray] | Iterable[Mapping[str, Any]],
    content: ContentHash,
    records_per_shard: int,
) -> list[int]:
    """Writes the shards of one split and returns the number of records of each."""
    from array_record.python.array_record_module import ArrayRecordWriter

    lengths: list[int] = []
    writer = None
    for serialized in _serialized(spec, split, data, content):
        if not lengths or lengths[-1] == records_per_shard:
            if writer is not None:
                writer.close()
            # One record per group is what makes reading in random order cheap.
            writer = ArrayRecordWriter(str(stage / f"{split}.{len(lengths)}"), "group_size:1")
            lengths.append(0)
        writer.write(serialized)
        lengths[-1] += 1
    if writer is None:
        raise UserError(f'split "{split}" holds no records')
    writer.close()
    # A shard's name tells how many there are, which is known only now.
    dataset = files.tfds_name(manifest.name)
    for index in range(len(lengths)):
        final = files.shard_name(dataset, split, index, len(lengths))
        (stage / f"{split}.{index}").rename(stage / final)
    return lengths


def _serialized(
    spec: RecordSpec,
    split: str,
    data: Mapping[str, np.ndarray] | Iterable[Mapping[str, Any]],
    content: ContentHash,
) -> Iterator[bytes]:
    """Checks each record and turns it into the bytes that TFDS would store."""
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    features = spec.features()
    serializer = ExampleSerializer(features.get_serialized_info())
    records = _rows(split, data) if isinstance(data, Mapping) else data
    for index, record in enumerate(records):
        try:
            encoded = spec.encode(record)
        except BadRecord as error:
            raise UserError(f'split "{split}", record {index}: {error}') from None
        content.update(encoded)
        # As `serialize_example`, whose order of fields changes from process to process.
        example = serializer.get_tf_example(features.encode_example(encoded))
        yield example.SerializeToString(deterministic=True)


def _rows(split: str, arrays: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """The records of fields that are arrays with a leading axis of examples."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f'split "{split}": its fields differ in length: {lengths}')
    for index in range(min(lengths.values(), default=0)):
        yield {name: array[index] for name, array in arrays.items()}


def _write_tfds_metadata(
    stage: Path, manifest: Manifest, spec: RecordSpec, lengths: Mapping[str, list[int]]
) -> None:
    """Writes dataset_info.json and features.json, with which TFDS reads it without our code."""
    import tensorflow_datasets as tfds

    dataset = files.tfds_name(manifest.name)
    infos = []
    for split, counts in lengths.items():
        template = tfds.core.ShardedFileTemplate(
            data_dir=stage, dataset_name=dataset, split=split, filetype_suffix="array_record"
        )
        names = [files.shard_name(dataset, split, i, len(counts)) for i in range(len(counts))]
        info = tfds.core.SplitInfo(
            name=split,
            shard_lengths=counts,
            num_bytes=sum((stage / name).stat().st_size for name in names),
            filename_template=template,
        )
        infos.append(info)
    tfds.folder_dataset.write_metadata(
        data_dir=stage,
        features=spec.features(),
        split_infos=infos,
        version=files.VERSION,
        check_data=False,
        disable_shuffling=True,
    )
