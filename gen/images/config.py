"""Which pictures a tokenizer is trained on, and how they are cut."""

from __future__ import annotations

import dataclasses

from gen.errors import UserError


@dataclasses.dataclass(frozen=True)
class ImagesConfig:
    """Pictures to learn from, and those held out.

    Attributes:
      name: `folder`, `digits` (8x8 pixels, shipped with this package) or `random` (made up).
      dir: the folder, of image files or of class folders.
      valid_dir: folder of the held-out images; none: every so many-th image of `dir` is held out.
      valid_every: which; the last of each run of so many, in the order of their names.
      size: (height, width) in pixels of the crops.
      resize: images are first scaled so that their shorter side has so many pixels; none: they
        stay as they are, and must be as large as a crop.
      flip: half of the training crops are mirrored.
      valid_crops: held-out crops, spread over the held-out images; always the same.
      cache_mb: megabytes of decoded images to keep in memory; the rest is decoded at each visit.
    """

    name: str
    size: tuple[int, int]
    dir: str | None = None
    valid_dir: str | None = None
    valid_every: int = 10
    resize: int | None = None
    flip: bool = True
    valid_crops: int = 256
    cache_mb: int = 4096

    def __post_init__(self) -> None:
        if min(self.size) < 1 or min(self.valid_crops, self.resize or 1) < 1 or self.cache_mb < 0:
            raise UserError(f"config.data: sizes are at least 1: {self}")
        if self.valid_every < 2:
            raise UserError(f"config.data.valid_every is at least 2, not {self.valid_every}")
        if self.resize and self.resize < max(self.size):
            raise UserError(f"config.data.resize {self.resize} is less than a crop, {self.size}")
