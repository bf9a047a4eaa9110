"""Batches as a pure function of (seed, step), the same for any number of hosts.

Axes: B batch (of one host), A stored versions, P positions, H height, W width.

The stream of examples is: all examples shuffled, again in another order for each epoch, without
end. Batch k of all hosts together is the k-th run of `batch_size` examples of that stream, of
which host h takes every `num_hosts`-th. A resumed run, even on another number of hosts, thus
continues exactly, and no state of the pipeline need be saved.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from gen.data.dataset import Split
from gen.data.manifest import Manifest
from gen.errors import UserError

PREFETCHED_BATCHES = 4
# Decoding holds Python's lock: with two threads a batch of digits took 1.5 times as long.
NUM_THREADS = 1
MAX_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Shift:
    """Random moves of training images, for grids of gray levels: what moves in is token 0.

    Attributes:
      cells: the furthest move along each axis, all moves up to it (and none) equally likely; 0
        moves nothing.
      rate: share of the images that are moved.
      steps: move only in the first so many batches; None in all. A model whose last batches are
        as they were stored does not learn to draw moved images.
    """

    cells: int = 0
    rate: float = 1.0
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.cells < 0 or not 0.0 <= self.rate <= 1.0 or (self.steps or 0) < 0:
            raise UserError(f"a shift has cells and steps from 0 and a rate from 0 to 1: {self}")


class Batches:
    """Training batches of one host; made by `batches`.

    Attributes:
      num_examples: number of examples of an epoch.
      batch_size: number of examples of a batch of all hosts together.
    """

    def __init__(self, stream: Any, *, num_examples: int, batch_size: int) -> None:
        self.num_examples = num_examples
        self.batch_size = batch_size
        self._stream = stream

    def batch(self, k: int) -> dict[str, np.ndarray]:
        """Batch k, a dict of arrays with a leading axis of `batch_size // num_hosts` examples.

        `tokens` are int32 or float32 of `(B,) + layout.sample_shape`; then `label` (B,) int32, or
        `caption` (B, T, C) float32 and `caption_valid` (B, T) bool.
        """
        if k < 0:
            raise ValueError(f"batches are counted from 0, not {k}")
        return self._stream[k]

    def iterate(self, start: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Batches `start`, `start + 1`, ... without end, read ahead by a background thread."""
        if start < 0:
            raise ValueError(f"batches are counted from 0, not {start}")
        return self._iterate(start)

    def _iterate(self, start: int) -> Iterator[dict[str, np.ndarray]]:
        import grain

        options = grain.ReadOptions(
            num_threads=NUM_THREADS, prefetch_buffer_size=PREFETCHED_BATCHES
        )
        reader = iter(self._stream[start:].to_iter_dataset(options))
        try:
            yield from reader
        finally:
            # Otherwise its threads live until the garbage collector comes by.
            reader.close()


def batches(
    source: Split,
    *,
    batch_size: int,
    seed: int,
    host: int = 0,
    num_hosts: int = 1,
    shift: Shift | None = None,
) -> Batches:
    """Endless shuffled training batches.

    Where the data stores several versions of the tokens, one is drawn for each example and epoch.

    Args:
      source: the split to train on.
      batch_size: number of examples of a batch of all hosts together; may exceed the split.
      seed: key of the order and of all random choices, 0 to 2^32 - 1.
      host: index of this host.
      num_hosts: number of hosts, of which `batch_size` must be a multiple.
      shift: how images are moved; None moves none.

    Raises:
      UserError: an empty split, an impossible batch size, seed, host or shift.
    """
    import grain

    _check_sizes(source, batch_size, host, num_hosts)
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"the data seed must be from 0 to {MAX_SEED}, not {seed}")
    shuffled = grain.MapDataset.source(source).seed(seed).shuffle().repeat()

    def stream_with(shift: Shift) -> Any:
        augment = _Augment.of(source.manifest, shift)
        # Before the slice, so that the random key is the place in the stream of all hosts.
        stream = shuffled.random_map(augment) if augment.is_random else shuffled
        return stream[host::num_hosts].batch(batch_size // num_hosts)

    shift = shift or Shift()
    stream = stream_with(shift)
    if shift.cells and shift.steps is not None:
        parts = [stream[: shift.steps], stream_with(Shift())[shift.steps :]]
        stream = grain.MapDataset.concatenate(parts)
    return Batches(stream, num_examples=len(source), batch_size=batch_size)


def eval_batches(
    source: Split, batch_size: int, *, host: int = 0, num_hosts: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """All examples once, in order, in batches of one shape.

    The last batch is filled with copies of the last example. Of data with several stored versions
    the first is taken. Every host gets the same number of batches.

    Yields:
      Batches as from `Batches.batch`, and `weight` (B,) float32: 1 for an example, 0 for a copy.

    Raises:
      UserError: an empty split or an impossible batch size or host.
    """
    _check_sizes(source, batch_size, host, num_hosts)
    return _eval_batches(source, batch_size, host, num_hosts)


def _eval_batches(
    source: Split, batch_size: int, host: int, num_hosts: int
) -> Iterator[dict[str, np.ndarray]]:
    last = len(source) - 1
    for start in range(0, len(source), batch_size):
        indices = np.arange(start + host, start + batch_size, num_hosts)
        records = [source[index] for index in np.minimum(indices, last)]
        if source.manifest.num_copies > 1:
            records = [{**record, "tokens": record["tokens"][0]} for record in records]
        batch = {name: np.stack([record[name] for record in records]) for name in records[0]}
        yield {**batch, "weight": (indices <= last).astype(np.float32)}


@dataclasses.dataclass(frozen=True)
class _Augment:
    """The random choices of one example: which stored version, and how far it is moved."""

    num_copies: int
    shift: Shift
    size: tuple[int, int]

    @classmethod
    def of(cls, manifest: Manifest, shift: Shift) -> _Augment:
        layout = manifest.layout
        frames, height, width = layout.shapes[0]
        if shift.cells:
            one_image = layout.geometry == "grid" and frames == 1
            if not one_image or len(layout.vocab_sizes) != 1:
                raise UserError("shift suits only images that are one grid of one vocabulary")
            if shift.cells >= min(height, width):
                raise UserError(f"shift by {shift.cells} does not fit a grid of {height}x{width}")
        return cls(manifest.num_copies, shift, (height, width))

    @property
    def is_random(self) -> bool:
        return self.num_copies > 1 or self.shift.cells > 0

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        tokens = record["tokens"]
        if self.num_copies > 1:
            tokens = tokens[rng.integers(self.num_copies)]
        cells = self.shift.cells
        if cells and rng.random() < self.shift.rate:
            down, right = rng.integers(-cells, cells + 1, size=2)
            tokens = _moved(tokens.reshape(self.size), int(down), int(right)).reshape(-1)
        return {**record, "tokens": tokens}


def _moved(grid_HW: np.ndarray, down: int, right: int) -> np.ndarray:
    """The grid moved by some cells, with zeros where nothing moved in."""
    height, width = grid_HW.shape
    moved_HW = np.zeros_like(grid_HW)
    moved_HW[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = grid_HW[
        max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)
    ]
    return moved_HW


def _check_sizes(source: Split, batch_size: int, host: int, num_hosts: int) -> None:
    if not len(source):
        raise UserError(f'the split of dataset "{source.manifest.name}" holds no examples')
    if num_hosts < 1 or not 0 <= host < num_hosts:
        raise UserError(f"host {host} is not one of {num_hosts} hosts")
    if batch_size < 1 or batch_size % num_hosts:
        raise UserError(
            f"the batch size {batch_size} is not a positive multiple of the {num_hosts} hosts"
        )


def padded_batches(
    arrays: dict[str, np.ndarray], batch_size: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Row numbers and rows, so many at a time; the last ones repeat the last row to fill up."""
    total = len(next(iter(arrays.values())))
    for start in range(0, total, batch_size):
        rows = np.arange(start, start + batch_size)
        yield rows, {name: array[np.minimum(rows, total - 1)] for name, array in arrays.items()}
