"""Encodes a job: in parts, in threads that read ahead, over all devices of this process.

Axes: A versions.

Shard i of n makes the parts i, i + n and so on; whichever finishes last makes the dataset of all of
them. Shards need to see one data directory, and nothing else of one another.
"""

from __future__ import annotations

import collections
import itertools
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from tqdm import tqdm

from gen.data import Manifest
from gen.encoding.encoder import Encoder, Row
from gen.encoding.job import NO_LABEL, Item, Job
from gen.encoding.merge import check_budget, merge
from gen.encoding.parts import Stopped
from gen.errors import UserError, ensure_writable, note
from gen.images import BadImage
from gen.parts import npz
from gen.training.stop import RESTART, StopSignal

READERS = min(os.cpu_count() or 1, 16)  # decoding of images runs without Python's lock
Read = Item | BadImage


def complete(job: Job, *, index: int = 0, count: int = 1) -> Manifest | None:
    """Makes what is missing of a shard, and the dataset once no shard misses anything.

    Args:
      job: what is to be made.
      index, count: which shard this is, of how many.

    Returns:
      The manifest of the dataset, or None where parts of other shards are missing still.

    Raises:
      UserError: more items are unreadable than allowed, parts were made with other settings, or
        something cannot be written.
      SystemExit: with `RESTART`, if told to stop.
    """
    if there := job.finished():
        return there
    ensure_writable(job.parts.out)
    missing = job.parts.missing(index, count)
    with StopSignal() as stop:
        try:
            mine = set(range(index, job.parts.total, count))
            missing |= _mended(job, mine - missing)
            _make(job, missing, mine - missing, stop)
            return None if job.parts.absent() else merge(job, stop)
        except Stopped:
            note(f"stopped; the same command goes on with what is in {job.parts.out}")
            raise SystemExit(RESTART) from None


def _mended(job: Job, parts: Collection[int]) -> set[int]:
    """Those of the parts with an item that could not be read and can be now."""
    mended = set()
    for number in job.parts.bad(parts):
        k = number // job.part_size
        if k not in mended and not isinstance(job.read(number), BadImage):
            note(f"{job.key(number)} can be read now: {job.parts.path(k)} is made anew")
            mended.add(k)
    return mended


def _make(job: Job, missing: Collection[int], there: Collection[int], stop: StopSignal) -> None:
    """Makes the missing parts; those that are there count for the progress and the bad files."""
    parts, bad = job.parts, job.parts.bad(there)
    check_budget(job, bad)
    if not missing:
        return
    encoder = Encoder(job.tokenizer, job.shape, job.batch_size)
    # Enough for the batch that comes next; more would only take memory.
    depth = READERS + -(-encoder.rows // job.cut.count)
    order = sorted(missing)
    numbers = (n for k in order for n in range(parts.rows(k).start, parts.rows(k).stop))
    bar = tqdm(
        total=parts.count(missing) + parts.count(there), initial=parts.count(there),
        unit=" items", desc="encoding", delay=0.5, smoothing=0.05,
    )  # fmt: skip
    with ThreadPoolExecutor(READERS) as pool, bar:
        # One stream for all parts: batches are full, and one computes while a part is written.
        rows = _rows(_in_order(pool, job.read, numbers, depth))
        made = _until_stopped(encoder(rows), stop)
        for k in order:
            arrays = _collect(job, made, parts.count([k]), bar.update)
            npz.write(parts.path(k), arrays, parts.settings)
            unread = np.flatnonzero(arrays["why"] != "")
            bad |= {parts.rows(k).start + int(row): str(arrays["why"][row]) for row in unread}
            check_budget(job, bad)


def encode_numbers(job: Job, encoder: Encoder, numbers: Sequence[int]) -> npz.Arrays:
    """The arrays of a part of the items of these numbers, read ahead in threads."""
    with ThreadPoolExecutor(READERS) as pool:
        made = encoder(_rows(_in_order(pool, job.read, iter(numbers), 2 * READERS)))
        return _collect(job, made, len(numbers))


def _rows(items: Iterable[Read]) -> Iterator[Row]:
    """The versions of each item, tagged with its class; and none, tagged with why, of a bad one."""
    for item in items:
        if isinstance(item, BadImage):
            yield item, None
        else:
            yield from ((item.label, version) for version in item.versions)


def _collect(
    job: Job, made: Iterator[Row], count: int, done: Callable[[], Any] = lambda: None
) -> npz.Arrays:
    """The arrays of a part of so many items, of their encoded versions; `done` after each."""
    shape, dtype = job.spec.tokens_shape, job.layout.storage_dtype
    tokens, labels = np.zeros((count, *shape), dtype), np.full(count, NO_LABEL, np.int64)
    why = [""] * count
    for row in range(count):
        tag, first = next(made)
        if first is None:
            why[row] = str(tag)
        else:
            others = (next(made)[1] for _ in range(job.cut.count - 1))
            tokens[row], labels[row] = np.reshape([first, *others], shape), tag
        done()
    if dtype.kind == "f" and not np.isfinite(tokens).all():
        raise UserError("the tokenizer makes values that are no numbers: its weights are broken")
    return {"tokens": tokens, "label": labels, "why": np.array(why, str)}


def _until_stopped(rows: Iterator[Row], stop: StopSignal) -> Iterator[Row]:
    for row in rows:
        if stop.received:
            raise Stopped
        yield row


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[int], Read], numbers: Iterator[int], depth: int
) -> Iterator[Read]:
    """Results in the order of the numbers, `depth` of them begun ahead."""
    waiting = collections.deque(pool.submit(function, n) for n in itertools.islice(numbers, depth))
    while waiting:
        yield waiting.popleft().result()
        waiting.extend(pool.submit(function, n) for n in itertools.islice(numbers, 1))
