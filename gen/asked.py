"""What samples are asked for: settings of sampling, checked and as programs take them.

Axes: B samples, P positions, N steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gen import schema
from gen.checks import Captions, check_condition, check_known
from gen.decoding.guidance import num_guided_steps
from gen.decoding.tokens import TokenSampling, token_sampling
from gen.families import Family


class Asked(NamedTuple):
    """Checked settings.

    `batch` holds the fields of the condition and what the family prepared, `known` the tokens known
    in advance (or none), `scale_N` the guidance scale of each step, `options` the family's own.
    """

    batch: dict[str, np.ndarray]
    known: np.ndarray | None
    scale_N: np.ndarray
    sampling: TokenSampling
    options: Any

    @property
    def rows(self) -> int:
        """B."""
        return len(next(iter(self.batch.values())))

    @property
    def static(self) -> dict[str, Any]:
        """What decides the program beside the shapes."""
        return {"num_guided": num_guided_steps(self.scale_N), "options": self.options}


def ask(
    family: Family,
    *,
    num: int | None = None,
    labels: Sequence[int] | None = None,
    captions: Captions | None = None,
    guidance: float | None = None,
    guidance_interval: int = -1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    known: np.ndarray | None = None,
    first: int = 0,
    **options: Any,
) -> Asked:
    """Settings of `Generator.draw`, which tells what they mean.

    Raises:
      UserError: a setting is out of range, unknown, or does not fit the family.
    """
    sampling = token_sampling(temperature, top_k=top_k, top_p=top_p)
    chosen = schema.build(family.Options, options, "options of sampling")
    scale_N = family.scales(guidance, guidance_interval, chosen)
    batch = check_condition(family.condition, num, labels, captions, first=first)
    rows = len(next(iter(batch.values())))
    known = check_known(family.layout, known, rows)
    batch |= family.prepare(rows, known, chosen)
    return Asked(batch, known, scale_N, sampling, chosen)
