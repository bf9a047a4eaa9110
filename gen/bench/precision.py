"""What a compute dtype costs in quality, told beside what it gains in speed."""

from __future__ import annotations

from typing import Any

import numpy as np

from gen.api import Generator
from gen.bench.made_up import training_batch
from gen.checks import Captions

ROWS = 4


def against_float32(generator: Generator) -> dict[str, Any]:
    """The held-out measure of random samples, in the generator's dtype and in float32.

    With random weights it says how far rounding moves it, not how good the model is.

    Returns:
      `measure` (its name), `own` and `float32` (means over tokens), `mean_difference` and
      `largest_difference` (absolute, of a token).
    """
    batch = training_batch(generator.family, ROWS)
    captions: Captions | None = None
    if "caption" in batch:
        captions = batch["caption"], batch["caption_valid"]
    single = Generator(generator.config, generator.params, mesh=generator.mesh)
    measure, found = generator.family.measure, []
    for one in (generator, single):
        tokens = one.from_data(batch["tokens"])
        told = one.held_out(tokens, labels=batch.get("label"), captions=captions)
        found.append(np.asarray(told[measure], np.float64))
    own, exact = found
    differences = np.abs(own - exact)
    return {
        "measure": measure,
        "own": own.mean(),
        "float32": exact.mean(),
        "mean_difference": differences.mean(),
        "largest_difference": differences.max(),
    }


def told(found: dict[str, Any], dtype: str) -> str:
    """The same as a line of text."""
    return (
        f"{found['measure']} of random tokens: {found['own']:.4f} in {dtype}, "
        f"{found['float32']:.4f} in float32; a token differs by {found['mean_difference']:.2g} in "
        f"the mean and {found['largest_difference']:.2g} at most"
    )
