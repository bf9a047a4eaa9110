"""The parts that a dataset is made of, on disk until it is whole.

Axes: N items of a part, A versions.

A part holds `tokens`, (N, A, ...) or, of one version, (N, ...); `label`, (N,), -1 without classes;
and `why`, (N,) text: empty, or why an item could not be read, whose tokens are zero then.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

import numpy as np

from gen.errors import UserError
from gen.parts.base import Parts

ARRAYS = ("tokens", "label", "why")


class Stopped(Exception):
    """Leaves what is being made, because the process was told to stop."""


class EncodedParts(Parts):
    """Encoded items in parts; see `gen.parts.base`."""

    made = "encoded"

    @property
    def remedy(self) -> str:  # type: ignore[override]
        """What helps where other settings are meant."""
        return f"choose another --name, or remove {self.out}"

    def absent(self) -> list[int]:
        """Parts that nobody has made yet."""
        return [k for k in range(self.total) if not self.path(k).exists()]

    def load(self, k: int, names: Sequence[str] = ARRAYS) -> dict[str, np.ndarray]:
        """The arrays of a part that have these names.

        Raises:
          UserError: it is damaged or was made with other settings.
        """
        try:
            with np.load(self.path(k)) as archive:
                arrays = {name: archive[name] for name in names}
                settings = json.loads(str(archive["settings"]))
            if {len(array) for array in arrays.values()} != {self.count([k])}:
                raise ValueError(f"it has not {self.count([k])} rows")
        except Exception as error:  # zipfile and NumPy raise many types
            raise UserError(
                f"{self.path(k)} is damaged ({' '.join(str(error).split())}): start the shard "
                "that made it again"
            ) from None
        self.check_settings(self.path(k), settings)
        return arrays

    def bad(self, parts: Collection[int]) -> dict[int, str]:
        """Numbers of the items of these parts that could not be read, and why."""
        found = {}
        for k in sorted(parts):
            why = self.load(k, ["why"])["why"]
            first = self.rows(k).start
            found |= {first + int(row): str(why[row]) for row in np.flatnonzero(why != "")}
        return found
