"""The contract of a source of pictures: so many, each with a key, perhaps a class, and pixels."""

from __future__ import annotations

import abc
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np


class BadImage(ValueError):
    """One item of a source cannot be read; the text says which and why, in one line."""


class Images(abc.ABC):
    """Images or videos in a fixed order; what is read of one depends on that one alone.

    Attributes:
      name: of the source, for messages and manifests.
      class_names: names of the classes, or None where items have none.
      licence: of the pictures, if known.
    """

    name: str
    class_names: Sequence[str] | None
    licence: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """What `read` depends on beside the item, as plain values: which frames of a video."""
        return {}

    @abc.abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    @abc.abstractmethod
    def key(self, index: int) -> str:
        """What the item is called, unique in the source and the same on every machine."""

    @abc.abstractmethod
    def label(self, index: int) -> int | None:
        """Its class, or None where there are no classes; may raise `BadImage`."""

    @abc.abstractmethod
    def read(self, index: int) -> np.ndarray:
        """Its pixels, uint8 `(H, W, 3)`, or `(T, H, W, 3)` of a video; raises `BadImage`."""

    def digest(self, indices: np.ndarray) -> str:
        """SHA-256 of which items these are, of which classes, in their order; hexadecimal."""
        digest = hashlib.sha256(json.dumps(self.class_names and list(self.class_names)).encode())
        for index in indices.tolist():
            item = f"{self.key(index)}\0{self.label(index)}\n"
            digest.update(item.encode(errors="surrogateescape"))  # names of files may be any bytes
        return digest.hexdigest()
