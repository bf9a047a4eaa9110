"""A dataset and its splits: random access to checked records, wherever they are kept."""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from gen.data.manifest import Manifest
from gen.data.records import BadRecord, RecordSpec
from gen.errors import UserError, nearest

_SPEC = re.compile(r"(?P<name>\w+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


class Records(Protocol):
    """Where the records of one whole split are kept."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Mapping[str, Any]:
        """The stored record; raises `BadRecord` if it cannot be read."""

    def where(self, index: int) -> str:
        """Names a record to the user: its file and its index in that file."""


class Split:
    """Random access to the records of a split or of a part of one; may be pickled.

    `split[i]` is a dict of `tokens` (int32 or float32 of `layout.sample_shape`, with A in front
    if the data stores A versions), and `label` (numpy int32), or `caption` ((T, C) float32) and
    `caption_valid` ((T,) bool). Each record is checked when it is read.

    Raises:
      UserError: on reading a damaged or impossible record; its file and index are named.
      IndexError: the index is outside the split.
    """

    def __init__(self, manifest: Manifest, records: Records, *, start: int, stop: int) -> None:
        self.manifest = manifest
        self._records = records
        self._spec = RecordSpec.of(manifest)
        self._range = range(start, stop)

    def __len__(self) -> int:
        return len(self._range)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = self._range[operator.index(index)]
        try:
            return self._spec.decode(self._records.read(position))
        except BadRecord as error:
            raise UserError(f"{self._records.where(position)}: {error}") from None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"Split({self.manifest.name!r}, {self._range.start}:{self._range.stop})"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset that is open for reading.

    Attributes:
      manifest: what it holds.
      records: where the records of each split are kept.
    """

    manifest: Manifest
    records: Mapping[str, Records]

    def split(self, spec: str) -> Split:
        """The split, or the part of it, that a specification such as `train[:90%]` names.

        Args:
          spec: `name`, or `name[start:stop]` where each bound may be absent, negative (counted
            from the end) or a percentage (rounded to the nearest example).

        Raises:
          UserError: there is no such split, or the bounds lie outside of it.
        """
        match = _SPEC.fullmatch(spec)
        if match is None:
            raise UserError(
                f'"{spec}" is no split: write a name such as train, or a part such as '
                "train[:1350], train[-150:] or train[10%:90%]"
            )
        name = match["name"]
        if name not in self.records:
            hint = nearest(name, self.records)
            raise UserError(f'dataset "{self.manifest.name}" has no split "{name}"{hint}')
        count = len(self.records[name])
        start = _bound(match["start"], count, 0, spec)
        stop = _bound(match["stop"], count, count, spec)
        if start > stop:
            raise UserError(f'split "{spec}" starts at example {start}, after its end at {stop}')
        return Split(self.manifest, self.records[name], start=start, stop=stop)


def _bound(text: str | None, count: int, default: int, spec: str) -> int:
    if text is None:
        return default
    value = round(count * int(text[:-1]) / 100) if text.endswith("%") else int(text)
    bound = value + count if text.startswith("-") else value
    if not 0 <= bound <= count:
        raise UserError(f'split "{spec}" reaches outside of its {count} examples')
    return bound
