"""Real examples beside samples of the same conditions, as `gen.evaluate --pictures` shows them.

Axes: N examples, P positions, C channels of a latent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gen.api import Generator
from gen.data import Dataset, Split
from gen.errors import UserError
from gen.inputs import class_names
from gen.pictures.samples import gray_images, has_gray
from gen.pictures.stacks import save_stacks
from gen.pixels import Pixels, pixels_of

COUNT = 20


def opened(generator: Generator, tokenizer: str | None) -> Pixels | None:
    """The tokenizer, if a file is given.

    Raises:
      UserError: the file does not fit, or none is given where samples cannot be seen without.
    """
    if tokenizer is not None:
        return pixels_of(generator, tokenizer)
    if not has_gray(generator.family.data_layout):
        raise UserError("--pictures needs --tokenizer FILE here: these tokens are no gray levels")
    return None


def save_beside(
    path: str | Path,
    generator: Generator,
    dataset: Dataset,
    *,
    split: str,
    seed: int,
    pixels: Pixels | None,
) -> None:
    """Writes a PNG of examples spread over a split, each above a sample of its condition.

    Args:
      path: of the PNG.
      generator: drawn from at its config's settings.
      dataset: what it was trained on.
      split: where the examples are from.
      seed: of the samples.
      pixels: of the tokenizer; none: tokens are gray levels.

    Raises:
      UserError: the path cannot be written.
    """
    examples = dataset.split(split)
    fields = spread(examples, COUNT)
    if generator.family.condition.kind == "class":
        names = class_names(dataset, generator.family.condition.num_classes)
        given: dict[str, Any] = {"labels": fields["label"]}
        labels = [names[label] for label in fields["label"]]
    else:
        given = {"captions": (fields["caption"], fields["caption_valid"])}
        labels = None
    drawn = generator.draw(seed, **given, **generator.config.sample.settings())
    guidance = generator.config.sample.guidance
    kinds = {
        "real": seen(generator, real(generator, fields["tokens"]), pixels),
        "sample": seen(generator, drawn, pixels),
    }
    save_stacks(path, kinds, labels=labels, title=f"{split}, guidance {guidance}")


def spread(split: Split, count: int) -> dict[str, np.ndarray]:
    """The fields of at most so many examples, from the first to the last; of several stored
    versions the first."""
    numbers = np.linspace(0, len(split) - 1, min(count, len(split))).round().astype(int)
    records = [split[number] for number in numbers]
    if split.manifest.num_copies > 1:
        records = [record | {"tokens": record["tokens"][0]} for record in records]
    return {name: np.stack([record[name] for record in records]) for name in records[0]}


def real(generator: Generator, data: np.ndarray) -> dict[str, np.ndarray]:
    """Data as `Generator.draw` would give them: tokens, or the latents of the last scale."""
    layout, tokens = generator.family.layout, generator.from_data(data)
    if not layout.is_continuous:
        return {"tokens": tokens}
    frames, height, width = layout.shapes[-1]
    last_NPC = tokens[:, -frames * height * width :]
    return {"tokens": tokens, "latents": last_NPC.reshape(len(tokens), height, width, -1)}


def seen(generator: Generator, drawn: dict[str, np.ndarray], pixels: Pixels | None) -> np.ndarray:
    """Pixels of what was drawn, or its gray levels: uint8 `(N, [T,] H, W[, 3])`."""
    if pixels is not None:
        return pixels(drawn)
    gray = gray_images(generator.to_data(drawn["tokens"]), generator.family.data_layout)
    return gray if gray.ndim == 3 else gray[..., None]
