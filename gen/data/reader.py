"""Opens a dataset by name, and checks it before anything is trained on it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gen.data import files
from gen.data.dataset import Dataset
from gen.data.manifest import Manifest
from gen.data.store import open_shards
from gen.data.synthetic import random_dataset
from gen.errors import UserError
from gen.layouts import Layout

# Up to these sizes a full check takes a few seconds at most, so it is always made.
SMALL_BYTES = 64 * 2**20
SMALL_RECORDS = 50_000
NUM_PROBES = 1000
VERIFY_MODES = ("auto", "hash", "size")


def open_dataset(
    name: str,
    *,
    directory: str | os.PathLike[str] | None = None,
    verify: str = "auto",
    layout: Layout | None = None,
    condition: Mapping[str, Any] | None = None,
) -> Dataset:
    """Opens a dataset for reading.

    Every shard must be present with its size. Of a small dataset all hashes and all records are
    checked too, of a large one a thousand records of each split, spread over it; whatever is
    read later is checked when it is read.

    Args:
      name: `digits` or `digits_video` (made on first use), `random` (made up, of the given
        layout and condition), or the name under which `write_dataset` wrote it; its latest
        version is opened.
      directory: data directory; None for `$GEN_DATA_DIR` or `~/.cache/gen/data`.
      verify: `auto` as above, `hash` to check the hashes of a large dataset also, or `size` to
        check sizes and a thousand records only.
      layout: layout of made-up data; unused otherwise.
      condition: condition of made-up data; unused otherwise.

    Raises:
      UserError: the dataset is missing, damaged or not what its manifest says.
    """
    if verify not in VERIFY_MODES:
        raise UserError(f'verify="{verify}" is not one of {", ".join(VERIFY_MODES)}')
    if name == "random":
        if layout is None or condition is None:
            raise UserError('the made-up dataset "random" needs a layout and a condition')
        return random_dataset(layout, condition)
    files.check_name(name)
    root = files.data_root(directory)
    if name in files.BUILT_IN:
        _prepare_built_in(name, root)
    version = files.latest_version(root / name)
    if version is None:
        raise UserError(
            f'dataset "{name}" is not in {root}: make it with python -m gen.encode, python -m '
            "gen.data import or gen.data.write_dataset, say where it is with --config.data.dir or "
            "GEN_DATA_DIR, or try made-up data with --config ...:debug"
        )
    manifest = Manifest.read(version)
    small = sum(shard["bytes"] for shard in manifest.shards.values()) <= SMALL_BYTES
    with_hashes = verify == "hash" or (verify == "auto" and small)
    dataset = Dataset(manifest, open_shards(version, manifest, with_hashes=with_hashes))
    few = sum(manifest.splits.values()) <= SMALL_RECORDS
    _probe(dataset, everything=verify != "size" and small and few)
    return dataset


def _prepare_built_in(name: str, root: Path) -> None:
    """Makes a dataset of `files.BUILT_IN`, whose modules need TFDS."""
    if name == "digits":
        from gen.data.digits import prepare_digits

        prepare_digits(root)
    else:
        from gen.data.digits_video import prepare_digits_video

        prepare_digits_video(root)


def _probe(dataset: Dataset, *, everything: bool) -> None:
    """Reads all records, or the first, the last and a spread of those between."""
    for name in dataset.records:
        split = dataset.split(name)
        count = len(split) if everything else min(NUM_PROBES, len(split))
        for index in np.linspace(0, len(split) - 1, count).round().astype(int):
            split[index]
