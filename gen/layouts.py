"""What a sample is: its geometry, and what stands at each position.

Axes: B batch, P positions, F factors per position, C channels.

A tokenizer, a dataset and a generator agree when their layouts are equal, so this is the one
description that all three carry. Tokens of a layout are `(B, P)` integers, `(B, P, F)` where a
position holds several factors (sub-tokens, product codes or bits), or `(B, P, C)` floats where
the values are continuous.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from gen.errors import UserError

GEOMETRIES = ("grid", "line", "scales")
FACTOR_MODES = ("depth", "product", "bits")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Geometry and value type of one sample.

    Attributes:
      geometry: `grid` (one lattice), `line` (positions without coordinates) or `scales`
        (lattices from coarse to fine).
      shapes: the (frames, height, width) of each lattice; one entry for `grid`, one per scale
        for `scales`; `((1, 1, K),)` for a `line` of K positions. Images have one frame.
      vocab_sizes: number of token ids of each factor at a position; empty if continuous.
      factor_mode: how several factors relate: `depth` (each depends on those before), `product`
        (independent) or `bits` (independent and binary).
      channels: width of a continuous latent; 0 for tokens.
    """

    geometry: str
    shapes: tuple[tuple[int, int, int], ...]
    vocab_sizes: tuple[int, ...] = ()
    factor_mode: str = "depth"
    channels: int = 0

    def __post_init__(self) -> None:
        if self.geometry not in GEOMETRIES:
            raise UserError(f'geometry "{self.geometry}" is not one of {", ".join(GEOMETRIES)}')
        if self.factor_mode not in FACTOR_MODES:
            raise UserError(f'factor mode "{self.factor_mode}" is not one of {FACTOR_MODES}')
        shapes = [size for shape in self.shapes for size in shape]
        if not self.shapes or any(len(s) != 3 for s in self.shapes) or min(shapes) < 1:
            raise UserError(
                f"a layout needs (frames, height, width) of each lattice: {self.shapes}"
            )
        if self.geometry != "scales" and len(self.shapes) != 1:
            raise UserError(f"a {self.geometry} has one lattice, not {len(self.shapes)}")
        if bool(self.vocab_sizes) == bool(self.channels):
            raise UserError("a layout has either vocabularies (tokens) or channels (latents)")
        if any(size < 2 for size in self.vocab_sizes) or self.channels < 0:
            raise UserError(
                f"vocabularies {self.vocab_sizes} or channels {self.channels} too small"
            )

    @property
    def num_positions(self) -> int:
        """P, the number of positions of all lattices together."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def is_continuous(self) -> bool:
        return self.channels > 0

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: `(P,)`, `(P, F)` or `(P, C)`."""
        last = self.channels if self.is_continuous else len(self.vocab_sizes)
        return (self.num_positions,) + ((last,) if self.is_continuous or last > 1 else ())

    @property
    def storage_dtype(self) -> np.dtype:
        """Smallest dtype that holds every value: uint8, uint16, int32, or float32."""
        if self.is_continuous:
            return np.dtype(np.float32)
        largest = max(self.vocab_sizes) - 1
        return np.dtype(np.uint8 if largest < 2**8 else np.uint16 if largest < 2**16 else np.int32)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Layout:
        """The layout that `to_json` wrote; raises `UserError` if the record is not one."""
        try:
            return cls(
                geometry=record["geometry"],
                shapes=tuple(tuple(int(n) for n in shape) for shape in record["shapes"]),
                vocab_sizes=tuple(int(n) for n in record["vocab_sizes"]),
                factor_mode=record["factor_mode"],
                channels=int(record["channels"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"this is no layout: {record!r} ({error!r})") from None

    def differences(self, other: Layout) -> list[str]:
        """`"vocab_sizes (17,) against (16,)"` for each field in which the two layouts differ."""
        return [
            f"{field.name} {getattr(self, field.name)} against {getattr(other, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]


def grid(height: int, width: int, vocab_size: int, frames: int = 1) -> Layout:
    """The common case: one token of one vocabulary per cell of an image or video grid."""
    return Layout("grid", ((frames, height, width),), (vocab_size,))
