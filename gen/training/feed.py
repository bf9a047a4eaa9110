"""Training batches on the mesh: each process reads the rows that its devices hold."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import Mesh

from gen import sharding
from gen.config import Config
from gen.data import Split, batches

AHEAD = 4  # batches read before they are asked for


Rows = dict[str, np.ndarray]


def feed(config: Config, split: Split, mesh: Mesh, *, start: int) -> Iterator[dict[str, jax.Array]]:
    """Batches `start`, `start + 1`, ... of tokens, as the config says; see `stream`."""

    def blocks(ways: int) -> Callable[[int], Rows]:
        shift = config.data.shift
        if shift.steps is not None:  # counted in batches, and here each block is one
            shift = dataclasses.replace(shift, steps=shift.steps * ways)
        size = config.train.batch_size // ways
        return batches(split, batch_size=size, seed=config.train.seed, shift=shift).batch

    return stream(blocks, config.train.batch_size, mesh, start=start)


def stream(
    blocks: Callable[[int], Callable[[int], Rows]], rows: int, mesh: Mesh, *, start: int
) -> Iterator[dict[str, jax.Array]]:
    """Batches `start`, `start + 1`, ... without end, read ahead by a thread.

    The mesh cuts a batch into blocks of rows, and a process reads the blocks of its own devices:
    row i of a batch is the same example for any number of processes and any order of devices.

    Args:
      blocks: number of blocks of a batch -> a function that reads block k of all batches.
      rows: of a batch.
      mesh: devices.
      start: of the batches.

    Yields:
      Arrays by name, of all processes together, cut over the mesh.
    """
    where = sharding.batch_sharding(mesh)
    ways = math.prod(mesh.shape[axis] for axis in sharding.BATCH_AXES)
    cuts = where.addressable_devices_indices_map((rows,)).values()
    mine = sorted({(cut.start or 0) // (rows // ways) for (cut,) in cuts})
    block_at = blocks(ways)

    def read(step: int) -> Rows:
        blocks = [block_at(step * ways + block) for block in mine]
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}

    pool = ThreadPoolExecutor(1)
    try:
        ahead = collections.deque(pool.submit(read, step) for step in range(start, start + AHEAD))
        for step in itertools.count(start + AHEAD):
            ahead.append(pool.submit(read, step))
            batch = ahead.popleft().result()
            yield {
                name: jax.make_array_from_process_local_data(where, array, (rows, *array.shape[1:]))
                for name, array in batch.items()
            }
    finally:
        pool.shutdown(cancel_futures=True)
