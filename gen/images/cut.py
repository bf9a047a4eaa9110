"""Which versions of a picture a dataset holds: one, it and its mirror image, or ten crops.

Axes: A versions, T frames, H height, W width of the picture; h, w of the versions.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from gen.errors import UserError, nearest
from gen.images import crops

# As the command line names them: what a manifest's augmentation calls them.
KINDS = {"centre": "none", "flip": "flip", "tencrop": "tencrop"}
LARGEST_RANGE = 4.0


@dataclasses.dataclass(frozen=True)
class Cut:
    """How each picture is cut.

    Attributes:
      size: (h, w) in pixels.
      kind: `centre`; `flip`, which is that and its mirror image; or `tencrop`.
      ranges: of ten crops, how many times as large the part is that they are cut from; ten for
        each range.
    """

    size: tuple[int, int]
    kind: str = "centre"
    ranges: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f'there are no crops "{self.kind}"{nearest(self.kind, KINDS)}')
        if len(self.size) != 2 or min(self.size) < 1:
            raise UserError(f"a size is (height, width) in pixels, not {self.size}")
        if bool(self.ranges) != (self.kind == "tencrop"):
            raise UserError("ranges are those of ten crops: one at least, and of no others")
        # NaN fails the comparison.
        if not all(1 <= each <= LARGEST_RANGE for each in self.ranges):
            raise UserError(f"ranges of ten crops lie from 1 to {LARGEST_RANGE:g}: {self.ranges}")

    @property
    def count(self) -> int:
        """A, the number of versions of each picture."""
        return {"centre": 1, "flip": 2}.get(self.kind, 10 * len(self.ranges))

    @property
    def augmentation(self) -> dict[str, Any]:
        """As in a manifest."""
        return {"kind": KINDS[self.kind], "count": self.count}

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """The versions of an image `(H, W, 3)` or a video `(T, H, W, 3)`, uint8.

        Returns:
          uint8 `(A, h, w, 3)` or `(A, T, h, w, 3)`.
        """
        if pixels.ndim == 4:
            return np.stack([self._of_image(frame) for frame in pixels], axis=1)
        return self._of_image(pixels)

    def _of_image(self, pixels_HWC: np.ndarray) -> np.ndarray:
        if self.kind == "tencrop":
            return np.concatenate([crops.ten(pixels_HWC, self.size, r) for r in self.ranges])
        middle = crops.centre(pixels_HWC, self.size)
        return np.stack([middle, crops.mirrored(middle)][: self.count])

    def shape(self, frames: int | None) -> tuple[int, ...]:
        """(h, w) of each version, or (frames, h, w)."""
        return self.size if frames is None else (frames, *self.size)
