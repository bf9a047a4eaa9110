"""Batch by batch into files, over all devices of all processes.

Axes: B samples of a batch.

A part is a batch. What sample i becomes depends on the seed, i and its condition alone, so it does
not matter which process draws it, nor when.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gen import distributed, sharding
from gen.errors import UserError
from gen.parts import npz
from gen.parts.files import PartSet, complete
from gen.sampling.job import Job

SHOWN = 100  # samples in the picture


def check_batch(size: int, mesh: Mesh) -> None:
    """Raises `UserError` unless the devices get equal shares of a batch."""
    if size % mesh.size:
        even = -(-size // mesh.size) * mesh.size
        raise UserError(
            f"a batch of {size} does not divide over {mesh.size} devices: give --batch-size {even}"
        )


def sample_in_parts(job: Job) -> None:
    """Makes all samples, or those that are missing, then OUT.npz and the picture.

    Raises:
      UserError: what is there was made with other settings, or a file cannot be written.
      SystemExit: with `RESTART`, if told to stop.
    """
    parts = PartSet(job.out, job.num, job.settings["batch_size"], settings_of(job))
    with jax.set_mesh(job.generator.mesh):
        complete(parts, functools.partial(draw, job))
        if distributed.is_main():
            head = functools.partial(npz.first_rows, parts.merged, rows=SHOWN)
            job.show(head(name="tokens"), head(name="arr_0") if job.pixels else None)
            parts.remove()
    distributed.barrier()


def draw(job: Job, rows: slice) -> npz.Arrays:
    """The arrays of the samples of these numbers, which are one batch or the rest of one."""
    # Filled up with repeats of the last: one program for all parts.
    numbers_B = np.arange(rows.start, rows.start + job.settings["batch_size"])
    conditions = job.prompts.arguments(np.minimum(numbers_B, rows.stop - 1))
    drawn = job.generator.draw(job.args.seed, first=rows.start, **conditions, **job.settings)
    drawn = {name: array[: rows.stop - rows.start] for name, array in drawn.items()}
    arrays = job.arrays(drawn, rows)
    if job.pixels:  # the names that evaluators of the Frechet distance read
        arrays["arr_0"] = job.images(drawn)
        arrays |= {"arr_1": arrays["labels"]} if "labels" in arrays else {}
    return arrays


def settings_of(job: Job) -> dict[str, Any]:
    """All that the samples depend on; `run` tells where the weights lie."""
    # As in `gen.api`: sampling code imports without Orbax.
    from gen.training import checkpoint

    weights, tokenizer = hashlib.sha256(), job.args.tokenizer
    for path, leaf in jax.tree_util.tree_leaves_with_path(job.generator.params):
        weights.update(f"{sharding.path_of(path)} {leaf.shape}".encode())
        weights.update(np.ascontiguousarray(leaf.addressable_data(0)))  # whole on each device
    return {
        "run": str(checkpoint.find(job.args.run)),
        "weights": weights.hexdigest(),
        "tokenizer": tokenizer and hashlib.sha256(Path(tokenizer).read_bytes()).hexdigest(),
        "dtype": job.args.dtype,
        "seed": job.args.seed,
        "num": job.num,
        **job.prompts.digests(),
        **job.settings,
    }
