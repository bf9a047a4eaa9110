"""Training batches on the mesh: each process reads the rows that its devices hold."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import Mesh

from gen import sharding
from gen.config import Config
from gen.data import Split, batches

AHEAD = 4  # batches read before they are asked for


def feed(config: Config, split: Split, mesh: Mesh, *, start: int) -> Iterator[dict[str, jax.Array]]:
    """Batches `start`, `start + 1`, ... of the config without end, read ahead by a thread.

    The mesh cuts a batch into blocks of rows, and a process reads the blocks of its own devices:
    row i of a batch is the same example for any number of processes and any order of devices.

    Yields:
      Arrays as of `gen.data.Batches.batch`, of all processes together, cut over the mesh.
    """
    rows, where = config.train.batch_size, sharding.batch_sharding(mesh)
    ways = math.prod(mesh.shape[axis] for axis in sharding.BATCH_AXES)
    cuts = where.addressable_devices_indices_map((rows,)).values()
    mine = sorted({(cut.start or 0) // (rows // ways) for (cut,) in cuts})
    shift = config.data.shift
    if shift.steps is not None:  # counted in batches, and here each block is one
        shift = dataclasses.replace(shift, steps=shift.steps * ways)
    source = batches(split, batch_size=rows // ways, seed=config.train.seed, shift=shift)

    def read(step: int) -> dict[str, np.ndarray]:
        blocks = [source.batch(step * ways + block) for block in mine]
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
