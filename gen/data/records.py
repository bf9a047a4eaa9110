"""What a record must look like, checked both when it is written and when it is read.

Axes: A stored versions of the tokens, P positions, F factors, C channels, T caption positions.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from gen.data.manifest import Manifest
from gen.layouts import Layout


class BadRecord(ValueError):
    """A record breaks its dataset's description; the caller adds which record it is."""


class ContentHash:
    """SHA-256 over records in their order: what they hold, not the files that they lie in."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, record: Mapping[str, Any]) -> None:
        """Adds a record as `RecordSpec.encode` gives it."""
        for name in sorted(record):
            value = np.asarray(record[name])
            value = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
            self._digest.update(f"{name} {value.dtype.str} {value.shape} ".encode())
            self._digest.update(value.tobytes())

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class RecordSpec:
    """Fields, shapes and ranges of the records of one dataset.

    Attributes:
      layout: layout of one sample.
      condition: as in `Manifest`.
      num_copies: A, the number of versions of the tokens in a record.
    """

    layout: Layout
    condition: Mapping[str, Any]
    num_copies: int = 1

    @classmethod
    def of(cls, manifest: Manifest) -> RecordSpec:
        return cls(manifest.layout, manifest.condition, manifest.num_copies)

    @property
    def tokens_shape(self) -> tuple[int, ...]:
        """`sample_shape`, with A in front where a record holds several versions."""
        copies = (self.num_copies,) if self.num_copies > 1 else ()
        return copies + self.layout.sample_shape

    @functools.cached_property
    def fields(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and stored dtype of each field."""
        fields = {"tokens": (self.tokens_shape, self.layout.storage_dtype)}
        if self.condition["kind"] == "class":
            fields["label"] = ((), np.dtype(np.int64))
        elif self.condition["kind"] == "text":
            length, dim = self.condition["length"], self.condition["dim"]
            dtype = np.dtype(self.condition.get("dtype", "float16"))
            fields["caption"] = ((length, dim), dtype)
            fields["caption_valid"] = ((length,), np.dtype(np.bool_))
        return fields

    def features(self) -> Any:
        """The TFDS features that store such a record."""
        import tensorflow_datasets as tfds

        features = {
            name: tfds.features.Tensor(shape=shape, dtype=dtype.type)
            for name, (shape, dtype) in self.fields.items()
        }
        if "label" in features:
            features["label"] = tfds.features.ClassLabel(num_classes=self.condition["num_classes"])
        return tfds.features.FeaturesDict(features)

    def encode(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Checks a record and casts it for storage; raises `BadRecord`."""
        checked = self._check(record)
        dtypes = {name: dtype for name, (_, dtype) in self.fields.items()}
        encoded = {}
        for name, value in checked.items():
            with np.errstate(over="ignore"):
                encoded[name] = value.astype(dtypes[name])
            if value.dtype.kind == "f" and not np.isfinite(encoded[name]).all():
                raise BadRecord(f"{name} overflows {dtypes[name]}")
        if "label" in encoded:
            encoded["label"] = int(encoded["label"])
        return encoded

    def decode(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Checks a stored record and casts it for training; raises `BadRecord`.

        Returns:
          tokens: int32 or float32 of shape `tokens_shape`; label: a numpy int32 scalar, or
          caption: (T, C) float32 and caption_valid: (T,) bool.
        """
        decoded = self._check(record)
        dtype = np.float32 if self.layout.is_continuous else np.int32
        decoded["tokens"] = decoded["tokens"].astype(dtype)
        if "label" in decoded:
            decoded["label"] = np.int32(decoded["label"])
        if "caption" in decoded:
            decoded["caption"] = decoded["caption"].astype(np.float32)
        return decoded

    def arrays(self, record: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The fields as arrays; raises `BadRecord` if one is missing or has another shape."""
        fields = self.fields
        if not isinstance(record, Mapping) or record.keys() != fields.keys():
            found = sorted(record) if isinstance(record, Mapping) else type(record).__name__
            raise BadRecord(f"its fields are {found}, and should be {sorted(fields)}")
        arrays = {}
        for name, (shape, _) in fields.items():
            try:
                arrays[name] = np.asarray(record[name])
            except ValueError:
                raise BadRecord(f"{name} is no array: its rows differ in length") from None
            if arrays[name].shape != shape:
                raise BadRecord(f"{name} has shape {arrays[name].shape}, not {shape}")
        return arrays

    def check_field(self, name: str, values: np.ndarray) -> None:
        """Raises `BadRecord` if the values of one field are impossible."""
        if name == "label":
            self._check_label(values)
        elif name == "caption_valid":
            _check_valid(values)
        elif name == "caption" or self.layout.is_continuous:
            _check_floats(name, values)
        else:
            self._check_ids(values)

    def _check(self, record: Mapping[str, Any]) -> dict[str, np.ndarray]:
        arrays = self.arrays(record)
        for name, values in arrays.items():
            self.check_field(name, values)
        return arrays

    def _check_ids(self, tokens: np.ndarray) -> None:
        if tokens.dtype.kind not in "iub":
            raise BadRecord(f"tokens are {tokens.dtype}, but this layout has whole-number ids")
        sizes = self.layout.vocab_sizes
        # The quick test settles nearly every record; the exact one also serves to name the id.
        if tokens.min() >= 0 and int(tokens.max()) < min(sizes):
            return
        limits = np.asarray(sizes) if len(sizes) > 1 else np.asarray(sizes[0])
        bad = (tokens < 0) | (tokens >= limits)
        if bad.any():
            where = tuple(int(n) for n in np.argwhere(bad)[0])
            size = sizes[where[-1]] if len(sizes) > 1 else sizes[0]
            raise BadRecord(f"token id {tokens[where]} at {where} is outside 0..{size - 1}")

    def _check_label(self, label: np.ndarray) -> None:
        last = self.condition["num_classes"] - 1
        if label.dtype.kind not in "iu":
            raise BadRecord(f"label is {label.dtype}, not a whole number")
        if not 0 <= int(label) <= last:
            raise BadRecord(f"label {int(label)} is outside 0..{last}")


def _check_floats(name: str, values: np.ndarray) -> None:
    if values.dtype.kind != "f":
        raise BadRecord(f"{name} is {values.dtype}, and should be floating-point")
    if not np.isfinite(values).all():
        where = tuple(int(n) for n in np.argwhere(~np.isfinite(values))[0])
        raise BadRecord(f"{name} is not finite at {where} ({values[where]})")


def _check_valid(values: np.ndarray) -> None:
    if values.dtype != np.bool_:
        raise BadRecord(f"caption_valid is {values.dtype}, not bool")
    if not values.any():
        raise BadRecord("caption_valid marks no position of the caption as valid")
