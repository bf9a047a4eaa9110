"""Rows of pixels through the one compiled program of a tokenizer's encoder.

Axes: B rows of a batch.

Every batch has the same shape on every device, however many rows there are to encode, so that all
go through one program and what becomes of a row is the same in any company.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from gen import sharding
from gen.layouts import Layout
from gen.tokenizers import Tokenizer, pixels


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

    def __call__(self, rows: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """For each row, uint8 `(*shape, 3)`, an array of `layout.sample_shape` as it is stored.

        While a batch is computed, the next is read.
        """
        waiting: tuple[int, jax.Array] | None = None
        rows = iter(rows)
        while batch := list(itertools.islice(rows, self.rows)):
            started = len(batch), self._start(batch)
            if waiting:
                yield from self._finish(*waiting)
            waiting = started
        if waiting:
            yield from self._finish(*waiting)

    def _start(self, batch: list[np.ndarray]) -> jax.Array:
        filled = np.zeros(self._shape, np.uint8)
        filled[: len(batch)] = batch
        scaled = pixels.scale(filled, self._tokenizer.pixel_range)
        return self._program(self._tokenizer.params, jax.device_put(scaled, self._where))

    def _finish(self, count: int, made: jax.Array) -> Iterator[np.ndarray]:
        stored = np.asarray(made).reshape(self.rows, *self.layout.sample_shape)
        yield from stored[:count].astype(self.layout.storage_dtype)
