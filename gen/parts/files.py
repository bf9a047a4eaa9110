"""Large sets of samples: made in parts that survive a kill, and merged to one `.npz`.

Process p of n makes the parts (`base`) p, p + n and so on; process 0 then merges them to `OUT.npz`,
a part at a time, and removes them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from gen import distributed
from gen.errors import UserError, note
from gen.parts import npz
from gen.parts.base import Parts
from gen.training.stop import RESTART, StopSignal

CHUNK = 1 << 20  # bytes copied at a time


class PartSet(Parts):
    """A set of samples, and the files that it is made of; the whole set is OUT.npz."""

    made, remedy = "sampled", "another --out"
    free = ("run",)  # where the weights lie, not what they are

    @property
    def merged(self) -> Path:
        return self.out.with_name(self.out.name + ".npz")

    def is_merged(self) -> bool:
        """Whether the whole set is there.

        Raises:
          UserError: OUT.npz is there, but is damaged or holds other samples.
        """
        if not self.merged.exists():
            return False
        try:
            with zipfile.ZipFile(self.merged) as archive:
                settings = npz.settings(archive)
        except Exception as error:  # zipfile and NumPy raise many types
            raise UserError(
                f"{self.merged} is there and cannot be read ({error}): move it, or give another "
                "--out"
            ) from None
        self.check_settings(self.merged, settings)
        return True

    def make(
        self,
        missing: Collection[int],
        draw: Callable[[slice], npz.Arrays],
        stop: StopSignal,
        *,
        index: int = 0,
        count: int = 1,
    ) -> bool:
        """Makes the missing parts of process `index` of `count`, called by all of these.

        Args:
          missing: of this process.
          draw: the arrays of samples of the given numbers, by name, a row for each.
          stop: told to stop, all processes do so after the same round of parts.
          index, count: which process this is.

        Returns:
          Whether all is made; False if one of the processes was told to stop.

        Raises:
          UserError: a part cannot be made or written; the other processes stop.
        """
        failure = None
        there = {k for k in range(self.total) if self.path(k).exists()} - set(missing)
        bar = tqdm(
            total=self.num, initial=self.count(there), unit="sample", desc="sampling",
            delay=0.5, disable=index > 0,
        )  # fmt: skip
        with bar:
            for first in range(0, self.total, count):  # a round: a part for each process
                k = first + index
                if k in missing and not stop.received:
                    try:
                        npz.write(self.path(k), draw(self.rows(k)), self.settings)
                        if k == min(missing) and index == 0:
                            self._check_space(len(missing) * count)
                    except UserError as error:
                        failure, stop.received = error, True
                if not stop.received:
                    made = set(range(first, min(first + count, self.total))) - there
                    bar.update(self.count(made))
                if stop.agreed():
                    break
        stopped = distributed.any_process(stop.received)
        if failure:
            raise failure
        return not stopped

    def _check_space(self, missing: int) -> None:
        """Tells, once the size of a part is known, if the disk will not hold them all."""
        part = max(file.stat().st_size for file in self.out.glob("part_*.npz"))
        needed, free = part * (missing - 1 + self.total), shutil.disk_usage(self.out).free
        if needed > free:
            note(
                f"all parts and {self.merged.name} need about {needed / 1e9:.3g} GB more; "
                f"{self.out} has {free / 1e9:.3g} GB"
            )

    def merge(self, stop: StopSignal) -> bool:
        """Writes OUT.npz of all parts, array by array; False, and no file, if told to stop.

        Raises:
          UserError: a part is missing or damaged, or the file cannot be written.
        """
        self._wait()
        with self._reading(0) as archive:
            names = npz.arrays_in(archive)
        size = sum(self.path(k).stat().st_size for k in range(self.total))
        bar = tqdm(total=size, unit="B", unit_scale=True, desc="merging", delay=0.5)
        try:
            with bar, npz.whole_file(self.merged) as file, zipfile.ZipFile(file, "w") as archive:
                for name in names:
                    with archive.open(name + ".npy", "w", force_zip64=True) as stream:
                        for chunk in self._chunks(name):
                            if stop.received:
                                raise _Stopped
                            bar.update(stream.write(chunk))
                with archive.open(npz.SETTINGS + ".npy", "w") as stream:
                    np.lib.format.write_array(stream, np.array(json.dumps(self.settings)), (1, 0))
        except _Stopped:
            return False
        return True

    def _wait(self) -> None:
        """Returns once all parts are seen: network file systems show a new file late."""
        deadline = time.monotonic() + distributed.VISIBLE_S
        while absent := [k for k in range(self.total) if not self.path(k).exists()]:
            if time.monotonic() > deadline:
                raise UserError(f"{self.path(absent[0])} is gone: start again, it is made anew")
            os.listdir(self.out)  # makes a network file system look again
            time.sleep(0.1)

    @contextlib.contextmanager
    def _reading(self, k: int) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self.path(k)) as archive:
                yield archive
        except Exception as error:  # zipfile and NumPy raise many types
            raise UserError(
                f"{self.path(k)} is damaged ({error}): start again, it is made anew"
            ) from None

    def _chunks(self, name: str) -> Iterator[bytes]:
        """An array of all parts, as the bytes of one `.npy`."""
        rows = None
        for k in range(self.total):
            with self._reading(k) as archive, archive.open(name + ".npy") as stream:
                (_, *tail), dtype = npz.read_header(stream)
                if rows is None:
                    rows = tail, dtype
                    yield npz.header((self.num, *tail), dtype)
                if rows != (tail, dtype):
                    raise ValueError(f"{name} has rows {tail} {dtype}, not {rows[0]} {rows[1]}")
                while chunk := stream.read(CHUNK):
                    yield chunk

    def remove(self) -> None:
        """Removes the parts, which OUT.npz holds now, and OUT if nothing else is in it."""
        with contextlib.suppress(OSError):
            for file in [*map(self.path, range(self.total)), *self.out.glob(".part_*.partial")]:
                file.unlink(missing_ok=True)
            self.out.rmdir()


class _Stopped(Exception):
    """Leaves a file that is being written."""


def complete(parts: PartSet, draw: Callable[[slice], npz.Arrays]) -> None:
    """Makes what is missing and merges it, with all processes; with OUT.npz there, returns.

    Args:
      parts: the set.
      draw: the arrays of samples of the given numbers, by name, a row for each.

    Raises:
      UserError: what is there was made with other settings, or a file cannot be written.
      SystemExit: with `RESTART`, if told to stop.
    """
    index, count = jax.process_index(), jax.process_count()
    with distributed.together("checking its parts"):
        done = parts.is_merged()
        missing = set() if done else parts.missing(index, count)
    if distributed.any_process(done):
        return
    with StopSignal() as stop:
        done = parts.make(missing, draw, stop, index=index, count=count)
        if done:
            with distributed.together("merging"):
                done = not distributed.is_main() or parts.merge(stop)
            done = not distributed.any_process(not done)
    if not done:
        note(f"stopped; the same command goes on with what is in {parts.out}")
        raise SystemExit(RESTART)
