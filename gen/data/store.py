"""Records in ArrayRecord shards, and the checks of the shards against their manifest."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gen.data import files
from gen.data.manifest import Manifest
from gen.data.records import BadRecord, RecordSpec
from gen.errors import UserError

_SHARD = re.compile(r"\w+-(?P<split>\w+)\.array_record-(?P<index>\d{5,})-of-(?P<count>\d{5,})")


class ShardRecords:
    """The records of one split in its shards, read through TFDS; may be pickled."""

    def __init__(self, directory: Path, shards: Mapping[str, int], source: Any) -> None:
        self._directory = directory
        self._names = list(shards)
        self._ends = list(itertools.accumulate(shards.values()))
        self._source = source

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, index: int) -> Mapping[str, Any]:
        """The stored record; raises `BadRecord` if it cannot be read."""
        try:
            return self._source[index]
        except Exception as error:
            # ArrayRecord, protobuf and TFDS each raise their own kinds for damaged bytes.
            reason = " ".join(str(error).split())[:160]
            raise BadRecord(f"it cannot be read ({type(error).__name__}: {reason})") from None

    def where(self, index: int) -> str:
        """The path of the shard, and the index of the record in that shard."""
        shard = bisect.bisect_right(self._ends, index)
        first = self._ends[shard - 1] if shard else 0
        return f"{self._directory / self._names[shard]}, record {index - first}"


def open_shards(directory: Path, manifest: Manifest, *, with_hashes: bool) -> dict[str, Any]:
    """Checks the files of a dataset and opens the records of each split.

    Raises:
      UserError: a file is missing, has another size or (if `with_hashes`) other contents than
        the manifest says, or the manifest and TFDS's own description disagree.
    """
    for fault in manifest_faults(manifest):
        raise UserError(f"{directory / 'manifest.json'} {fault}")
    for name, expected in manifest.shards.items():
        _check_file(directory / name, expected, with_hashes=with_hashes)
    builder = tfds_builder(directory, manifest)
    records = {}
    for split, lengths in shards_by_split(manifest).items():
        try:
            source = builder.as_data_source(split)
        except Exception as error:
            raise UserError(f'{directory}: split "{split}" cannot be opened ({error})') from None
        records[split] = ShardRecords(directory, lengths, source)
    return records


def shards_by_split(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Number of records of each shard, in order, of each split; files of other names left out."""
    found: dict[str, dict[str, int]] = {split: {} for split in manifest.splits}
    for name in sorted(manifest.shards):
        match = _SHARD.fullmatch(name)
        if match is not None and match["split"] in found:
            found[match["split"]][name] = manifest.shards[name]["records"]
    return found


def manifest_faults(manifest: Manifest) -> list[str]:
    """In which ways the shards that a manifest lists do not make up its splits."""
    found = shards_by_split(manifest)
    known = {name for lengths in found.values() for name in lengths}
    faults = [f'lists "{name}", which is no shard' for name in manifest.shards if name not in known]
    for split, count in manifest.splits.items():
        total = sum(found[split].values())
        if total != count or not count:
            faults.append(
                f'promises {count} examples of split "{split}", but its shards hold {total}'
            )
    return faults


def _check_file(path: Path, expected: Mapping[str, Any], *, with_hashes: bool) -> None:
    advice = f"; remove {path.parent} and copy or make the dataset again"
    if not path.is_file():
        raise UserError(f"{path} is missing{advice}")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise UserError(f"{path} has {size} bytes, not {expected['bytes']}{advice}")
    if with_hashes and files.sha256_of(path) != expected["sha256"]:
        raise UserError(f"{path} is damaged: its SHA-256 is not the manifest's{advice}")


def tfds_builder(directory: Path, manifest: Manifest) -> Any:
    """TFDS's view of the directory.

    Raises:
      UserError: its features or shards are not those of the manifest, or its files are damaged.
    """
    import tensorflow_datasets as tfds

    for name in ("dataset_info.json", "features.json"):
        if not (directory / name).is_file():
            raise UserError(f"{directory / name} is missing; copy or make the dataset again")
    try:
        builder = tfds.builder_from_directory(directory)
        stored = {
            name: (tuple(feature.shape), feature.np_dtype)
            for name, feature in builder.info.features.items()
        }
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{directory}: dataset_info.json or features.json is damaged ({reason})"
        ) from None
    if stored != RecordSpec.of(manifest).fields:
        raise UserError(
            f"{directory}: features.json has {stored}, manifest.json describes "
            f"{RecordSpec.of(manifest).fields}"
        )
    for split, lengths in shards_by_split(manifest).items():
        info = builder.info.splits.get(split)
        if info is None or info.shard_lengths != list(lengths.values()):
            raise UserError(
                f'{directory / "dataset_info.json"} and manifest.json disagree on split "{split}"'
            )
        if sorted(info.filenames) != sorted(lengths):
            raise UserError(f'{directory}: the shards of split "{split}" have unexpected names')
    return builder
