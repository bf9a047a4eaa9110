"""Rows of pixels through the one compiled program of a tokenizer's encoder.

Axes: B rows of a batch.

Every batch has the same shape on every device, however many rows there are to encode, so that all
go through one program and what becomes of a row is the same in any company.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from gen import sharding
from gen.layouts import Layout
from gen.tokenizers import Tokenizer, pixels

Row = tuple[Any, np.ndarray | None]


def stored_layout(tokenizer: Tokenizer, shape: tuple[int, ...]) -> Layout:
    """The layout of what datasets hold of a sample of a shape in pixels.

    Raises:
      UserError: the tokenizer cannot cut that shape into cells.
    """
    layout = tokenizer.layout(shape)
    if not layout.is_continuous:
        return layout
    # Moments have twice the channels of latents.
    program = tokenizer.program(tokenizer.stored[1], layout)
    rows = jax.ShapeDtypeStruct((1, *shape, 3), np.float32)
    channels = jax.eval_shape(program, tokenizer.params, rows).shape[-1]
    return dataclasses.replace(layout, channels=channels)


class Encoder:
    """What datasets hold, of rows of pixels of one shape."""

    def __init__(self, tokenizer: Tokenizer, shape: tuple[int, ...], batch_size: int):
        """
        Args:
          tokenizer: on one device, or on a mesh over whose devices batches are cut.
          shape: (height, width) or (frames, height, width).
          batch_size: rows of each device.
        """
        mesh = tokenizer.mesh
        self.layout = stored_layout(tokenizer, shape)
        self.rows = batch_size * (mesh.size if mesh else 1)
        self._shape = (self.rows, *shape, 3)
        self._where = sharding.batch_sharding(mesh) if mesh else None
        self._tokenizer = tokenizer
        self._program = tokenizer.program(tokenizer.stored[1], tokenizer.layout(shape))

    def __call__(self, rows: Iterable[Row]) -> Iterator[Row]:
        """For each row, in order, its tag and an array of `layout.sample_shape` as it is stored.

        While a batch is computed, the next is read, and the caller has what the last one gave.

        Args:
          rows: pairs of a tag, which is handed through, and pixels, uint8 `(*shape, 3)`; or none,
            which take no place in a batch and remain none.
        """
        waiting: tuple[list[Row], jax.Array] | None = None
        for batch in self._batches(rows):
            started = batch, self._start([each for _, each in batch if each is not None])
            if waiting:
                yield from self._finish(*waiting)
            waiting = started
        if waiting:
            yield from self._finish(*waiting)

    def _batches(self, rows: Iterable[Row]) -> Iterator[list[Row]]:
        """Rows with as many pixels as a batch has place for, the last with fewer."""
        batch: list[Row] = []
        filled = 0
        for row in rows:
            batch.append(row)
            filled += row[1] is not None
            if filled == self.rows:
                yield batch
                batch, filled = [], 0
        if batch:
            yield batch

    def _start(self, batch: list[np.ndarray]) -> jax.Array:
        filled = np.zeros(self._shape, np.uint8)
        if batch:
            filled[: len(batch)] = batch
        scaled = pixels.scale(filled, self._tokenizer.pixel_range)
        return self._program(self._tokenizer.params, jax.device_put(scaled, self._where))

    def _finish(self, batch: list[Row], made: jax.Array) -> Iterator[Row]:
        stored = np.asarray(made).reshape(self.rows, *self.layout.sample_shape)
        rows = iter(stored.astype(self.layout.storage_dtype))
        for tag, given in batch:
            yield tag, None if given is None else next(rows)
