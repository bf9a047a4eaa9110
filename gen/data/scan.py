"""Reads the records of a split however damaged it is, and counts what is in them.

Axes: N records, A stored versions, P positions, F factors.
"""

from __future__ import annotations

import array
import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gen.data.manifest import Manifest
from gen.data.records import BadRecord, RecordSpec
from gen.data.store import shards_by_split

CHUNK = 256  # records read, and counted, together
MAX_PAIRS = 5


class Scan:
    """What is in the records of one split, those that were scanned.

    Attributes:
      spec: what a record must look like.
      scanned: number of records looked at.
      is_partial: whether they are fewer than there are.
      readable: number of those that have their fields, in the right shapes.
      faults: for each fault, the number of records that have it and what the first of them is.
      wrong_lengths: one line for each shard that holds more or fewer records than promised.
      label_counts: number of records of each class.
      id_counts: for each factor, how often each token id occurs in all stored versions.
      length_counts: number of captions of each number of valid positions.
      positions, digests, labels: of each record with good tokens its index in the split, a
        64-bit hash of its first version, and its label (-1: none or a bad one).
    """

    def __init__(self, manifest: Manifest) -> None:
        self.spec = RecordSpec.of(manifest)
        self.scanned = self.readable = 0
        self.is_partial = False
        self.faults: dict[str, tuple[int, str]] = {}
        self.wrong_lengths: list[str] = []
        self.label_counts = np.zeros(manifest.num_classes or 0, np.int64)
        self.id_counts = [np.zeros(size, np.int64) for size in manifest.layout.vocab_sizes]
        self.length_counts = np.zeros((manifest.caption_shape or (0,))[0] + 1, np.int64)
        # Arrays, because a list of all numbers of a large set would take gigabytes.
        self.positions, self.labels = array.array("q"), array.array("q")
        self.digests = array.array("Q")
        self._features = self.spec.features()
        self._tokens: list[np.ndarray] = []

    def add(self, position: int, where: str, raw: bytes | BadRecord) -> None:
        """Counts one stored record, or the failure to read it."""
        self.scanned += 1
        try:
            if isinstance(raw, BadRecord):
                raise raw
            fields = self.spec.arrays(_deserialized(self._features, raw))
        except BadRecord as error:
            self._count_fault("unreadable records", where, error)
            return
        self.readable += 1
        good = {name for name, values in fields.items() if self._is_good(name, values, where)}
        label = int(fields["label"]) if "label" in good else -1
        if "label" in good:
            self.label_counts[label] += 1
        if "caption_valid" in good:
            self.length_counts[fields["caption_valid"].sum()] += 1
        if "tokens" in good:
            self._add_tokens(position, fields["tokens"], label)

    def flush(self) -> None:
        """Counts the ids of the tokens that wait to be counted together."""
        if not self._tokens:
            return
        tokens = np.stack(self._tokens)
        self._tokens = []
        # Without a factor axis, make one: (N, [A,] P) -> (N, [A,] P, 1).
        by_factor = tokens if len(self.id_counts) > 1 else tokens[..., None]
        for factor, counts in enumerate(self.id_counts):
            counts += np.bincount(by_factor[..., factor].ravel(), minlength=len(counts))

    def _is_good(self, name: str, values: np.ndarray, where: str) -> bool:
        try:
            self.spec.check_field(name, values)
        except BadRecord as error:
            self._count_fault(_FAULTS[name][self.spec.layout.is_continuous], where, error)
            return False
        return True

    def _count_fault(self, fault: str, where: str, error: BadRecord) -> None:
        count, first = self.faults.get(fault, (0, f"{where}: {error}"))
        self.faults[fault] = count + 1, first

    def _add_tokens(self, position: int, tokens: np.ndarray, label: int) -> None:
        first = tokens[0] if self.spec.num_copies > 1 else tokens
        digest = hashlib.blake2b(first.tobytes(), digest_size=8).digest()
        self.positions.append(position)
        self.digests.append(int.from_bytes(digest, "little"))
        self.labels.append(label)
        if self.id_counts:
            self._tokens.append(tokens)


# What is wrong with a record whose field is impossible: of a layout of tokens, of latents.
_FAULTS = {
    "tokens": ("records with ids out of range", "records with latents that are not finite"),
    "label": ("records with a bad label",) * 2,
    "caption": ("records with a caption that is not finite",) * 2,
    "caption_valid": ("records with a caption without a valid position",) * 2,
}


def scan_split(
    directory: Path,
    manifest: Manifest,
    split: str,
    *,
    limit: int | None,
    advance: Callable[[int], Any],
) -> Scan:
    """Looks at the records of a split; what cannot be read is counted, and the scan goes on.

    Args:
      directory: where the shards lie; any of them may be damaged or missing.
      manifest: what they should hold.
      split: name of the split.
      limit: look at so many records at most, evenly spread; None for all.
      advance: called with a number of records when they are done.
    """
    scan = Scan(manifest)
    shards = shards_by_split(manifest)[split]
    total = sum(shards.values())
    wanted = spread(total, limit)
    scan.is_partial = len(wanted) < total
    first = 0
    for name, count in shards.items():
        start, stop = np.searchsorted(wanted, [first, first + count])
        with _opened(directory / name) as reader:
            if reader.ok() and reader.num_records() != count:
                scan.wrong_lengths.append(
                    f"{name} holds {reader.num_records()} records, the manifest says {count}"
                )
            for begin in range(start, stop, CHUNK):
                chunk = wanted[begin : min(begin + CHUNK, stop)].tolist()
                raws = _read(reader, [position - first for position in chunk])
                for position, raw in zip(chunk, raws, strict=True):
                    scan.add(position, f"{name}, record {position - first}", raw)
                scan.flush()
                advance(len(chunk))
        first += count
    return scan


def spread(total: int, limit: int | None) -> np.ndarray:
    """Ascending indices of all records, or of `limit` of them, first and last among them."""
    if limit is None or total <= limit:
        return np.arange(total)
    return np.linspace(0, total - 1, limit).round().astype(np.int64)


def find_duplicates(scans: Mapping[str, Scan]) -> dict[str, Any]:
    """Records whose first version has the same tokens.

    Returns:
      `within`: for each split the number of its records that repeat an earlier one of it;
      `across`: for each split the number of its records that another split has too;
      `other_labels`: number of records that have another label than the first of their tokens;
      `pairs_within`, `pairs_across`: the first few, as (split, index, split, index).
    """
    within, across = dict.fromkeys(scans, 0), dict.fromkeys(scans, 0)
    other_labels, pairs_within, pairs_across = 0, [], []
    for group in _groups(scans):
        firsts: dict[str, int] = {}  # of each split the first record of the group
        for split, position, label in group:
            if split in firsts:
                within[split] += 1
                pairs_within.append((split, firsts[split], split, position))
            elif firsts:
                pairs_across.append((*group[0][:2], split, position))
            firsts.setdefault(split, position)
            other_labels += label != group[0][2]
        if len(firsts) > 1:
            for split, _, _ in group:
                across[split] += 1
    return {
        "within": within,
        "across": across,
        "other_labels": other_labels,
        "pairs_within": pairs_within[:MAX_PAIRS],
        "pairs_across": pairs_across[:MAX_PAIRS],
    }


def _groups(scans: Mapping[str, Scan]) -> list[list[tuple[str, int, int]]]:
    """Records of equal tokens, two or more, as (split, index, label), in order."""
    digests = [np.asarray(scan.digests) for scan in scans.values()]
    values, counts = np.unique(
        np.concatenate([np.zeros(0, np.uint64), *digests]), return_counts=True
    )
    groups: dict[int, list[tuple[str, int, int]]] = {}
    for split, scan in scans.items():
        for i in np.flatnonzero(np.isin(np.asarray(scan.digests), values[counts > 1])):
            member = split, scan.positions[i], scan.labels[i]
            groups.setdefault(scan.digests[i], []).append(member)
    return list(groups.values())


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """ArrayRecord's reader of a shard, which opens whatever there is; reading tells."""
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(path), "readahead_buffer_size:0")
    try:
        yield reader
    finally:
        # Closing tells again what is wrong with the file.
        with contextlib.suppress(RuntimeError):
            reader.close()


def _read(reader: Any, indices: list[int]) -> list[bytes | BadRecord]:
    """The stored bytes of each record, or why they cannot be read."""
    try:
        return reader.read(indices)
    except Exception as error:
        if len(indices) == 1:
            return [_reason(error)]
    return [raw for index in indices for raw in _read(reader, [index])]


def _deserialized(features: Any, raw: bytes) -> Mapping[str, Any]:
    try:
        return features.deserialize_example_np(raw)
    except Exception as error:
        raise _reason(error) from None


def _reason(error: Exception) -> BadRecord:
    # ArrayRecord, protobuf and TFDS each raise their own kinds for damaged bytes.
    return BadRecord(f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")
