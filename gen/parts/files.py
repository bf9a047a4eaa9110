"""Large sets of samples: made in parts that survive a kill, and merged to one `.npz`.

Part k is the file `OUT/part_0000k.npz` with samples k * size to (k + 1) * size - 1. It appears
under its name once it is whole and on the disk, and carries the settings it was made with; so
what is there is never made again, whichever process made it. Process p of n makes parts p, p + n
and so on; process 0 then merges them to `OUT.npz`, a part at a time, and removes them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from gen import distributed
from gen.errors import UserError, note
from gen.parts import npz
from gen.schema import differences
from gen.training.stop import RESTART, StopSignal

FREE = ("run",)  # settings that may change: where the weights lie, not what they are
CHUNK = 1 << 20  # bytes copied at a time


@dataclasses.dataclass(frozen=True)
class PartSet:
    """A set of samples, and the files that it is made of.

    Attributes:
      out: OUT, the folder of the parts; the whole set is OUT.npz.
      num: number of samples.
      size: samples of a part; the last may have fewer.
      settings: all that the samples depend on, plain values.
    """

    out: Path
    num: int
    size: int
    settings: dict[str, Any]

    @property
    def merged(self) -> Path:
        return self.out.with_name(self.out.name + ".npz")

    @property
    def total(self) -> int:
        """Number of parts."""
        return -(-self.num // self.size)

    def path(self, k: int) -> Path:
        return self.out / f"part_{k:05d}.npz"

    def rows(self, k: int) -> slice:
        """Numbers of the samples of part k."""
        return slice(k * self.size, min((k + 1) * self.size, self.num))

    def count(self, parts: Collection[int]) -> int:
        """Samples of these parts together."""
        return sum(self.rows(k).stop - self.rows(k).start for k in parts)

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
        self._check_settings(self.merged, settings)
        return True

    def missing(self, index: int = 0, count: int = 1) -> set[int]:
        """Parts of process `index` of `count` that are yet to be made; tells of damaged ones.

        Raises:
          UserError: a part was made with other settings.
        """
        found = [k for k in range(index, self.total, count) if self.path(k).exists()]
        whole = set()
        for k in tqdm(found, unit="part", desc="checking", delay=0.5, disable=index > 0):
            problem = self._problem(k)
            if problem:
                note(f"{self.path(k)} is damaged ({problem}): it is made anew")
            else:
                whole.add(k)
        return set(range(index, self.total, count)) - whole

    def _problem(self, k: int) -> str | None:
        """Why part k is not whole; every byte of it is read."""
        rows = self.count([k])
        try:
            with zipfile.ZipFile(self.path(k)) as archive:
                changed = archive.testzip()
                if changed:
                    return f"{changed} was changed"
                settings = npz.settings(archive)
                for name in npz.arrays_in(archive):
                    with archive.open(name + ".npy") as stream:
                        shape, _ = npz.read_header(stream)
                    if shape[0] != rows:
                        return f"{name} has {shape[0]} rows, not {rows}"
        except Exception as error:  # zipfile and NumPy raise many types
            return " ".join(str(error).split())
        self._check_settings(self.path(k), settings)
        return None

    def _check_settings(self, path: Path, before: dict[str, Any]) -> None:
        now = json.loads(json.dumps(self.settings))  # makes lists of tuples
        # The end of a path or a hash is enough to tell it from another.
        changed = [
            f"{name} {str(before.get(name))[-24:]}, now {str(now.get(name))[-24:]}"
            for name in differences(before, now)
        ]
        if any(name not in FREE for name in differences(before, now)):
            raise UserError(
                f"{path} was sampled with other settings ({'; '.join(changed)}): give the same "
                "again, or another --out"
            )

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
