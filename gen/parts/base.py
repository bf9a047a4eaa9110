"""Work in parts on disk: each a file that survives a kill, with the settings it was made with.

Part k is the file `OUT/part_0000k.npz`, of items k * size to (k + 1) * size - 1, with a row for
each. It appears under its name once it is whole and on the disk; so what is there is never made
again, whichever process made it.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

from tqdm import tqdm

from gen.errors import UserError, note
from gen.parts import npz
from gen.schema import differences


@dataclasses.dataclass(frozen=True)
class Parts:
    """A number of items, and the files that they are made in.

    Attributes:
      out: OUT, the folder of the parts.
      num: number of items.
      size: items of a part; the last may have fewer.
      settings: all that the items depend on, plain values.
    """

    out: Path
    num: int
    size: int
    settings: dict[str, Any]

    made: ClassVar[str] = "made"  # what was done with other settings
    remedy: ClassVar[str] = "remove it"
    free: ClassVar[tuple[str, ...]] = ()  # settings that may change

    @property
    def total(self) -> int:
        """Number of parts."""
        return -(-self.num // self.size)

    def path(self, k: int) -> Path:
        return self.out / f"part_{k:05d}.npz"

    def rows(self, k: int) -> slice:
        """Numbers of the items of part k."""
        return slice(k * self.size, min((k + 1) * self.size, self.num))

    def count(self, parts: Collection[int]) -> int:
        """Items of these parts together."""
        return sum(self.rows(k).stop - self.rows(k).start for k in parts)

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
        self.check_settings(self.path(k), settings)
        return None

    def check_settings(self, path: Path, before: dict[str, Any]) -> None:
        """Raises `UserError`, naming the difference, if a file was made with other settings."""
        now = json.loads(json.dumps(self.settings))  # makes lists of tuples
        # The end of a path or a hash is enough to tell it from another.
        changed = [
            f"{name} {str(before.get(name))[-24:]}, now {str(now.get(name))[-24:]}"
            for name in differences(before, now)
        ]
        if any(name not in self.free for name in differences(before, now)):
            raise UserError(
                f"{path} was {self.made} with other settings ({'; '.join(changed)}): give the "
                f"same again, or {self.remedy}"
            )
