"""One command of `gen.sample`: what to sample, and what its files hold.

Axes: N samples, P positions.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from gen.api import Generator
from gen.pictures.samples import save_samples
from gen.pixels import Pixels
from gen.prompts import Prompts


@dataclasses.dataclass(frozen=True)
class Job:
    """A checked command; `pixels` where a tokenizer is given."""

    args: Any
    out: Path
    generator: Generator
    settings: dict[str, Any]
    prompts: Prompts
    pixels: Pixels | None

    @property
    def num(self) -> int:
        return len(self.prompts.row_N)

    @property
    def file(self) -> Path:
        return self.out.with_name(self.out.name + ".npz")

    def arrays(
        self, drawn: dict[str, np.ndarray], rows: slice = slice(None)
    ) -> dict[str, np.ndarray]:
        """What an `.npz` keeps of the samples of these numbers."""
        names = [n for n in drawn if n == "tokens" or (self.args.trace and n.startswith("trace_"))]
        records = {name: array[rows] for name, array in self.prompts.record.items()}
        return {name: drawn[name] for name in names} | records

    def images(self, drawn: dict[str, np.ndarray]) -> np.ndarray:
        """Pixels of what was drawn, so many at a time on each device."""
        devices = self.generator.mesh.size if self.generator.mesh else 1
        return self.pixels(drawn, batch_size=16 * devices)

    @property
    def title(self) -> str:
        """What pictures are headed."""
        guidance, temperature = self.settings["guidance"], self.settings["temperature"]
        return f"guidance {guidance}, temperature {temperature:g}"

    def show(self, tokens_NP: np.ndarray, images: np.ndarray | None) -> None:
        """Writes the picture of the first samples, and tells where all are."""
        picture = self.out.with_name(self.out.name + ".png")
        shown = save_samples(
            picture,
            self.generator.to_data(tokens_NP),
            layout=self.generator.family.data_layout,
            labels=self.prompts.names[: len(tokens_NP)],
            title=self.title,
            images=images,
            mp4=self.args.mp4,
        )
        each = f", each as a file in {self.out}" if self.pixels and not self.args.parts else ""
        first = f", the first {len(tokens_NP)} in {' and '.join(map(str, shown))}" if shown else ""
        print(f"{self.num} samples: {self.file}{first}{each}")
