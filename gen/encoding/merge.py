"""Makes the dataset of all its parts, which are the same whoever made them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from tqdm import tqdm

from gen.data import Manifest, write_dataset
from gen.encoding.job import Job
from gen.encoding.parts import Stopped
from gen.errors import UserError
from gen.training.stop import StopSignal


def merge(job: Job, stop: StopSignal) -> Manifest:
    """Writes the dataset, a part in memory at a time, and removes the parts.

    Raises:
      Stopped: it was told to stop; the parts are all there still.
      UserError: a part is damaged or was made with other settings, more items are unreadable than
        allowed, or the dataset cannot be written.
    """
    try:
        bad = job.parts.bad(range(job.parts.total))
        check_budget(job, bad)
        with tqdm(total=job.num, unit=" items", desc="writing", delay=0.5) as bar:
            manifest = write_dataset(
                job.directory,
                splits={split: _records(job, split, bar, stop) for split in job.splits},
                **description(job, bad),
            )
    except UserError:
        # Of two shards that finish together, the other may have been first.
        there = job.finished()
        if there is None:
            raise
        return there
    if bad:
        write_bad_list(job, bad)
    shutil.rmtree(job.parts.out, ignore_errors=True)
    return manifest


def description(job: Job, bad: Mapping[int, str]) -> dict[str, Any]:
    """What the manifest says of the dataset beside its splits."""
    meta = dict(job.tokenizer.meta)
    meta["sha256"] = meta["sha256"] or job.settings["tokenizer"]
    keys = [job.key(number) for number in sorted(bad)]
    names = dict.fromkeys(images.name for images, _ in job.splits.values())
    return {
        "name": job.name,
        "layout": job.layout,
        "condition": job.condition,
        "tokenizer": meta | {"values": job.tokenizer.stored[0]},
        "augmentation": job.cut.augmentation,
        "licence": next(iter(job.splits.values()))[0].licence,
        "source": f"encoded from {', '.join(names)}",
        "details": {"settings": job.settings, "bad": keys},
    }


def _records(job: Job, split: str, bar: Any, stop: StopSignal) -> Iterator[dict[str, Any]]:
    """The records of a split, in its order; bad items are left out."""
    parts, fields, loaded = job.parts, list(job.spec.fields), -1
    for number in job.numbers(split):
        k, row = divmod(number, parts.size)
        if k != loaded:
            arrays, loaded = parts.load(k), k
        if stop.received:
            raise Stopped
        bar.update()
        if not arrays["why"][row]:
            yield {name: arrays[name][row] for name in fields}


def check_budget(job: Job, bad: Mapping[int, str]) -> None:
    """Raises `UserError`, and lists them, if more items are unreadable than allowed."""
    if len(bad) == job.num:
        write_bad_list(job, bad)
        raise UserError(
            f"none of the {job.num} items can be read: {bad[min(bad)]}; all are listed in "
            f"{job.bad_list}"
        )
    if len(bad) > job.allowed:
        write_bad_list(job, bad)
        raise UserError(
            f"{len(bad)} of {job.num} items cannot be read, --bad-files allows {job.allowed}: "
            f"{bad[min(bad)]}; all are listed in {job.bad_list}. Mend them, or allow more; the "
            "same command then goes on"
        )


def write_bad_list(job: Job, bad: Mapping[int, str]) -> None:
    """Lists unreadable items: on each line what an item is called, a tab, and why."""
    lines = [f"{job.key(number)}\t{bad[number]}\n" for number in sorted(bad)]
    try:
        job.bad_list.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"cannot write {job.bad_list}: {error.strerror}") from None
