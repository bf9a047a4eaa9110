"""Made-up data in the shape of real data, for trying a program without any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gen.data.dataset import Dataset
from gen.data.manifest import NO_AUGMENTATION, Manifest
from gen.data.records import RecordSpec
from gen.errors import UserError
from gen.layouts import Layout


class RandomRecords:
    """Random records, each a pure function of (seed, split, index)."""

    def __init__(self, spec: RecordSpec, split: str, *, count: int, seed: int) -> None:
        self._spec = spec
        self._split = split
        self._count = count
        self._key = [seed, *split.encode()]

    def __len__(self) -> int:
        return self._count

    def read(self, index: int) -> Mapping[str, Any]:
        """The record, in the dtypes in which it would be stored."""
        rng = np.random.default_rng([*self._key, index])
        layout, condition, shape = self._spec.layout, self._spec.condition, self._spec.tokens_shape
        if layout.is_continuous:
            tokens = rng.standard_normal(shape, dtype=np.float32)
        else:
            sizes = layout.vocab_sizes if len(layout.vocab_sizes) > 1 else layout.vocab_sizes[0]
            tokens = rng.integers(sizes, size=shape)
        record: dict[str, Any] = {"tokens": tokens}
        if condition["kind"] == "class":
            record["label"] = rng.integers(condition["num_classes"])
        elif condition["kind"] == "text":
            length, dim = condition["length"], condition["dim"]
            record["caption"] = rng.standard_normal((length, dim), dtype=np.float32)
            record["caption_valid"] = np.arange(length) < rng.integers(1, length + 1)
        return self._spec.encode(record)

    def where(self, index: int) -> str:
        """Names the record."""
        return f'made-up split "{self._split}", record {index}'


def random_dataset(
    layout: Layout,
    condition: Mapping[str, Any],
    *,
    num_examples: int = 256,
    seed: int = 0,
    augmentation: Mapping[str, Any] | None = None,
) -> Dataset:
    """A dataset of random tokens (uniform) or latents (normal), labels and captions.

    Args:
      layout: layout of one sample.
      condition: as in `Manifest`.
      num_examples: size of the split `train`; the split `test` has a quarter of it.
      seed: records with the same seed are the same; a whole number from 0.
      augmentation: as in `Manifest`; None for one version per record.
    """
    if num_examples < 1 or seed < 0:
        raise UserError(f"made-up data needs examples and a seed from 0: {num_examples}, {seed}")
    manifest = Manifest(
        name="random",
        layout=layout,
        condition=condition,
        splits={"train": num_examples, "test": max(1, num_examples // 4)},
        augmentation=augmentation or NO_AUGMENTATION,
        licence="none needed",
        source=f"random numbers, seed {seed}",
    )
    spec = RecordSpec.of(manifest)
    records = {
        split: RandomRecords(spec, split, count=count, seed=seed)
        for split, count in manifest.splits.items()
    }
    return Dataset(manifest, records)
