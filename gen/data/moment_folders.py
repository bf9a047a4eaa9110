"""Imports the folders of cached moments that MAR and its kin are trained on.

Axes: A stored versions of an image, P positions, C channels of a latent, h and w sides of it.

`CACHED/<class folder>/<image>.npz` holds `moments` and, of the mirror image, `moments_flip`, each
(2C, h, w) floats: means, then log variances, as the tokenizer's encoder gave them. A class is the
place of its folder in the order of their names. Source of the format: LTH14/mar, `main_cache.py`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gen.data.importing import names_in, path_of, progress_bar, records_of, split_evenly
from gen.data.manifest import Manifest
from gen.data.npy import read_float_archive
from gen.data.writer import write_dataset
from gen.errors import UserError
from gen.layouts import Layout

NAMES = ("moments", "moments_flip")
KL16 = {"id": "mar-kl16", "sha256": None}


@dataclasses.dataclass(frozen=True)
class MomentFolders:
    """The images of a cache, numbered class after class.

    Attributes:
      root: the folder of all classes.
      class_names: names of the class folders, sorted.
      files: of each image its class and the name of its file.
      shape: (2C, h, w) of each array; found in the first file.
    """

    root: Path
    class_names: Sequence[str]
    files: Sequence[tuple[int, str]]
    shape: tuple[int, ...]

    @classmethod
    def find(cls, source: str | os.PathLike[str]) -> MomentFolders:
        """The images that a path holds.

        Raises:
          UserError: they do not lie in class folders, a class has none, or the first is unreadable.
        """
        root = path_of(source)
        if not os.path.isdir(root):
            raise UserError(f"{root} is no folder: it should hold a folder for each class")
        names = names_in(root, folders=True)
        if not names:
            raise UserError(f"{root} holds no class folders, such as n01440764")
        files: list[tuple[int, str]] = []
        for label, name in enumerate(names):
            images = [file for file in names_in(root / name) if file.endswith(".npz")]
            if not images:
                raise UserError(f"{root / name} holds no .npz files: each folder is a class")
            files += [(label, file) for file in images]
        first = root / names[0] / files[0][1]
        shape = read_float_archive(first, NAMES)[0].shape
        if len(shape) != 3 or 0 in shape or shape[0] % 2:
            raise UserError(
                f'{first}, array "{NAMES[0]}", has shape {shape}, and should have '
                "(2 x channels, height, width)"
            )
        return cls(root, names, files, shape)

    @property
    def layout(self) -> Layout:
        """Moments in raster order: positions of 2C channels."""
        channels, height, width = self.shape
        return Layout("grid", ((1, height, width),), channels=channels)

    def read(self, number: int) -> dict[str, Any]:
        """Moments of both versions (A, P, 2C), float32, and the label.

        Raises:
          UserError: the file is unreadable or does not fit the others; it is named.
        """
        label, file = self.files[number]
        path = self.root / self.class_names[label] / file
        with np.errstate(over="ignore"):
            arrays = [array.astype(np.float32) for array in read_float_archive(path, NAMES)]
        for name, array in zip(NAMES, arrays):
            if array.shape != self.shape:
                raise UserError(
                    f'{path}, array "{name}", has shape {array.shape}, others {self.shape}'
                )
            if not np.isfinite(array).all():
                raise UserError(f'{path}, array "{name}", is not finite in float32')
        moments_APC = np.moveaxis(np.stack(arrays), 1, -1).reshape(len(NAMES), -1, self.shape[0])
        return {"tokens": moments_APC, "label": np.int64(label)}


def import_moment_folders(
    source: str | os.PathLike[str],
    *,
    name: str,
    directory: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    tokenizer: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    holdout: int = 0,
    progress: bool = False,
) -> Manifest:
    """Writes a dataset of moments, class after class, images in the order of their names.

    Args:
      source: the folder of the class folders.
      name, directory: as in `write_dataset`.
      num_classes: number of class folders there must be; None for any.
      tokenizer: as in `Manifest`; None for MAR's KL-16.
      class_names: one name per class; None for the names of the folders.
      holdout: this many images, spread evenly over all, become the split `test`; all others are
        the split `train`. The same folders always give the same splits.
      progress: show a progress bar.

    Returns:
      The manifest. Its tokenizer says `"values": "moments"`: the layout alone, of 2C channels,
      does not tell them from latents.

    Raises:
      UserError: the folders or files are not as above, or the dataset exists already.
    """
    images = MomentFolders.find(source)
    count = len(images.class_names)
    if num_classes not in (None, count):
        raise UserError(f"{images.root} holds {count} class folders, not {num_classes}")
    # A faulty name list would otherwise be found only after all files were read.
    names = list(images.class_names if class_names is None else class_names)
    if len(names) != count:
        raise UserError(f"{len(names)} names for the {count} class folders of {images.root}")
    train, test = split_evenly(np.arange(len(images.files)), holdout, images.root)
    images.read(len(images.files) - 1)
    with progress_bar(progress, len(images.files)) as bar:
        splits = {"train": records_of(images, train, bar)}
        if holdout:
            splits["test"] = records_of(images, test, bar)
        return write_dataset(
            directory, name=name, splits=splits, layout=images.layout,
            condition={"kind": "class", "num_classes": count, "names": names},
            tokenizer=dict(tokenizer or KL16) | {"values": "moments"},
            augmentation={"kind": "flip", "count": len(NAMES)},
            source=f"cached moments: {images.root.name}",
        )  # fmt: skip
