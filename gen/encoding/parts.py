"""The parts that a dataset is made of, on disk until it is whole.

Axes: N items of a part, A versions.

A part holds `tokens`, (N, A, ...) or, of one version, (N, ...), and `why`, (N,) text: empty, or why
an item could not be read; its tokens are zero then.
"""

from __future__ import annotations

import json
from collections.abc import Collection

import numpy as np

from gen.errors import UserError
from gen.parts.base import Parts


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

    def load(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """`tokens` and `why` of a part.

        Raises:
          UserError: it is damaged or was made with other settings.
        """
        try:
            with np.load(self.path(k)) as archive:
                tokens, why = archive["tokens"], archive["why"]
                settings = json.loads(str(archive["settings"]))
            if len(tokens) != self.count([k]) or len(why) != len(tokens):
                raise ValueError(f"it has {len(tokens)} rows")
        except Exception as error:  # zipfile and NumPy raise many types
            raise UserError(
                f"{self.path(k)} is damaged ({' '.join(str(error).split())}): start again, it is "
                "made anew"
            ) from None
        self.check_settings(self.path(k), settings)
        return tokens, why

    def bad(self, parts: Collection[int]) -> dict[int, str]:
        """Numbers of the items of these parts that could not be read, and why."""
        found = {}
        for k in sorted(parts):
            _, why = self.load(k)
            first = self.rows(k).start
            found |= {first + int(row): str(why[row]) for row in np.flatnonzero(why != "")}
        return found
