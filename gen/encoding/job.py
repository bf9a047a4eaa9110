"""What is to be encoded, how, and where to: all that can be checked before anything is computed."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gen.data import Manifest, files
from gen.data.manifest import check_condition
from gen.data.records import RecordSpec
from gen.data.writer import check_new, check_splits
from gen.encoding.encoder import stored_layout
from gen.encoding.parts import EncodedParts
from gen.errors import UserError
from gen.images import BadImage, Cut, Images
from gen.layouts import Layout
from gen.schema import differences
from gen.tokenizers import Tokenizer
from gen.tokenizers.weights import digest_of

# Longer than so many times its width, a picture would take gigabytes when it is scaled.
LONGEST = 64
NO_LABEL = -1


class Item(NamedTuple):
    """What is read of an item: its versions, uint8 `(A, *shape, 3)`, and its class."""

    versions: np.ndarray
    label: int


@dataclasses.dataclass(frozen=True)
class Job:
    """A dataset to be made. Its items are numbered split after split.

    Attributes:
      name: of the dataset.
      splits: of each split the source and which of its items, `(N,)` whole numbers.
      tokenizer: what encodes.
      cut: the versions of each picture.
      frames: of a video; None for images.
      directory: data directory; None for `$GEN_DATA_DIR` or `~/.cache/gen/data`.
      batch_size: pictures encoded together on each device.
      part_size: items of a part, the most that a kill loses.
      bad_files: so many items may be unreadable and are left out; None for one in a thousand,
        rounded up.
    """

    name: str
    splits: Mapping[str, tuple[Images, np.ndarray]]
    tokenizer: Tokenizer
    cut: Cut
    frames: int | None = None
    directory: str | os.PathLike[str] | None = None
    batch_size: int = 16
    part_size: int = 64
    bad_files: int | None = None

    def __post_init__(self) -> None:
        files.check_name(self.name)
        check_splits(self.splits)
        if min(self.batch_size, self.part_size) < 1 or (self.bad_files or 0) < 0:
            raise UserError("--batch-size and --part-size are at least 1, --bad-files at least 0")
        names = {split: images.class_names for split, (images, _) in self.splits.items()}
        first = next(iter(names))
        for split, each in names.items():
            if (each and list(each)) != (names[first] and list(names[first])):
                differing = sorted(set(each or ()) ^ set(names[first] or ()))[:3]
                raise UserError(
                    f'the splits "{first}" and "{split}" have other classes '
                    f"({', '.join(differing) or 'their order'})"
                )
        empty = [split for split, (_, indices) in self.splits.items() if not len(indices)]
        if empty:
            raise UserError(f'split "{empty[0]}" holds nothing')
        check_condition(self.condition)
        _ = self.layout  # an impossible size is refused here

    @property
    def shape(self) -> tuple[int, ...]:
        """(height, width) or (frames, height, width) of what is encoded."""
        return self.cut.shape(self.frames)

    @functools.cached_property
    def layout(self) -> Layout:
        """The layout of a stored sample."""
        return stored_layout(self.tokenizer, self.shape)

    @property
    def condition(self) -> dict[str, Any]:
        """As in a manifest."""
        names = next(iter(self.splits.values()))[0].class_names
        if names is None:
            return {"kind": "none"}
        return {"kind": "class", "num_classes": len(names), "names": list(names)}

    @property
    def spec(self) -> RecordSpec:
        return RecordSpec(self.layout, self.condition, self.cut.count)

    @property
    def num(self) -> int:
        """Number of items of all splits."""
        return sum(len(indices) for _, indices in self.splits.values())

    @property
    def allowed(self) -> int:
        """How many items may be unreadable."""
        return math.ceil(self.num / 1000) if self.bad_files is None else self.bad_files

    @functools.cached_property
    def starts(self) -> dict[str, int]:
        """Number of the first item of each split."""
        counts = [len(indices) for _, indices in self.splits.values()]
        return dict(zip(self.splits, np.cumsum([0, *counts]).tolist()))

    def numbers(self, split: str) -> range:
        """Numbers of the items of a split."""
        first = self.starts[split]
        return range(first, first + len(self.splits[split][1]))

    def item(self, number: int) -> tuple[Images, int]:
        """The source of an item, and its place there."""
        split = [name for name, start in self.starts.items() if start <= number][-1]
        images, indices = self.splits[split]
        return images, int(indices[number - self.starts[split]])

    def key(self, number: int) -> str:
        """What the source calls an item."""
        images, index = self.item(number)
        return images.key(index)

    def read(self, number: int) -> Item | BadImage:
        """An item, or why it cannot be read."""
        images, index = self.item(number)
        try:
            pixels, label = images.read(index), images.label(index)
            sides = pixels.shape[-3:-1]
            if max(sides) > LONGEST * min(sides):
                raise BadImage(f"{images.key(index)} is {sides[1]} x {sides[0]} pixels")
            return Item(self.cut(pixels), NO_LABEL if label is None else label)
        except BadImage as error:
            return error

    @property
    def root(self) -> Path:
        """The data directory."""
        return files.data_root(self.directory)

    @property
    def destination(self) -> Path:
        return self.root / self.name / files.VERSION

    @property
    def bad_list(self) -> Path:
        """Where unreadable items are listed."""
        return self.root / f"{self.name}.bad.txt"

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """All that the records depend on but the pixels, plain values."""
        first = next(iter(self.splits.values()))[0]
        return {
            "tokenizer": digest_of(self.tokenizer.config, self.tokenizer.params),
            "values": self.tokenizer.stored[0],
            "size": list(self.cut.size),
            "crops": self.cut.kind,
            "ranges": list(self.cut.ranges),
            "batch_size": self.batch_size,
            "part_size": self.part_size,
            "num": self.num,
            "items": self._digest(),
            **first.settings,
        }

    def _digest(self) -> str:
        """SHA-256 of which items there are, of which class and split, in their order."""
        listed = {name: images.digest(indices) for name, (images, indices) in self.splits.items()}
        return hashlib.sha256(
            json.dumps([self.condition, list(listed.items())]).encode()
        ).hexdigest()

    @property
    def parts(self) -> EncodedParts:
        folder = self.root / f"{self.name}.parts"
        return EncodedParts(folder, self.num, self.part_size, self.settings)

    def finished(self) -> Manifest | None:
        """The manifest of the dataset if it is there already.

        Raises:
          UserError: there is another dataset of this name, or there can be none.
        """
        if not self.destination.exists():
            check_new(self.directory, self.name)
            return None
        manifest = Manifest.read(self.destination)
        before = manifest.details.get("settings", {})
        changed = differences(before, json.loads(json.dumps(self.settings)))
        if changed:
            raise UserError(
                f"{self.destination} exists already and is of other settings "
                f"({', '.join(changed)}): remove it or choose another --name"
            )
        return manifest
