"""The UCI handwritten digits, the dataset that ships with this package.

1797 images of 8x8 gray levels 0..16, so an image is its own sequence of 64 tokens of a
vocabulary of 17 and needs no tokenizer. The last 297, by other writers than most of the first
1500, are the test split, as in the usual reading of the file.

This module needs TFDS, so it is imported only when the digits are asked for.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import io
import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from gen.data import files
from gen.data.manifest import Manifest
from gen.data.records import RecordSpec
from gen.data.writer import seal
from gen.errors import UserError
from gen.layouts import grid

NAME = "digits"
SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
NUM_TRAIN = 1500
DESCRIPTION = Manifest(
    name=NAME,
    layout=grid(8, 8, 17),
    condition={"kind": "class", "num_classes": 10, "names": [str(n) for n in range(10)]},
    splits={},
    tokenizer={"id": "gray-levels", "sha256": None},
    licence="CC BY 4.0",
    source="UCI Optical Recognition of Handwritten Digits, Alpaydin and Kaynak, 1998",
)


@functools.cache
def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """All digits, in the order of the file.

    Returns:
      tokens_NP: (1797, 64) uint8 of 0..16, rows of the image from the top; labels_N: (1797,)
      int64 of 0..9. Both are read-only.

    Raises:
      UserError: the file shipped with the package is missing or damaged.
    """
    path = resources.files("gen.data") / "vendor" / "digits.csv.gz"
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); install gen again") from None
    if hashlib.sha256(packed).hexdigest() != SHA256:
        raise UserError(f"{path} is damaged: its SHA-256 is not {SHA256}; install gen again")
    table = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",", dtype=np.int64)
    tokens_NP, labels_N = table[:, :-1].astype(np.uint8), table[:, -1]
    tokens_NP.setflags(write=False)
    labels_N.setflags(write=False)
    return tokens_NP, labels_N


class BuiltIn(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """TFDS builder of a dataset that is made from this package alone; it downloads nothing.

    A subclass sets `description`, the manifest without splits, and defines `arrays`.
    """

    # Nothing is downloaded, so there are no checksums to look for beside the code; TFDS 4.9.10
    # looks all the same, with importlib_resources, which it does not install.
    code_path = None
    VERSION = tfds.core.Version(files.VERSION)
    RELEASE_NOTES = {files.VERSION: "First version."}  # noqa: RUF012 (TFDS reads it so)

    description: Manifest

    def arrays(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Tokens (N, P) and labels (N,) of each split, in their order."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.description.source}. Licence: {self.description.licence}.",
            features=RecordSpec.of(self.description).features(),
            supervised_keys=("tokens", "label"),
            # With whole-number keys this keeps the order of the arrays.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {name: self._generate_examples(*arrays) for name, arrays in self.arrays().items()}

    def _generate_examples(
        self, tokens_NP: np.ndarray, labels_N: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        spec = RecordSpec.of(self.description)
        for index, (tokens_P, label) in enumerate(zip(tokens_NP, labels_N, strict=True)):
            yield index, spec.encode({"tokens": tokens_P, "label": label})


class Digits(BuiltIn):
    """TFDS builder of the digits."""

    description = DESCRIPTION

    def arrays(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        tokens_NP, labels_N = load_digits()
        train, test = slice(NUM_TRAIN), slice(NUM_TRAIN, None)
        return {
            "train": (tokens_NP[train], labels_N[train]),
            "test": (tokens_NP[test], labels_N[test]),
        }


def prepare_digits(directory: str | os.PathLike[str] | None = None) -> Path:
    """Makes the digits under a data directory, unless they are there, and returns their folder."""
    return prepare(Digits, directory)


def prepare(builder: type[BuiltIn], directory: str | os.PathLike[str] | None = None) -> Path:
    """Makes a built-in dataset under a data directory, unless it is there; returns its folder.

    Several processes may do this at once: each prepares its own copy, the first to finish
    renames it into place, and the others use that one.

    Raises:
      UserError: what is there was made by a version of this package whose samples differ.
    """
    root, description = files.data_root(directory), builder.description
    destination = root / description.name / files.VERSION
    if destination.is_dir():
        found = Manifest.read(destination)
        if found.layout != description.layout:
            raise UserError(f"{destination} is of another version of gen: remove it")
        return destination
    load_digits()
    with files.staging(root, description.name) as stage, _quiet():
        made = builder(data_dir=str(stage), file_format="array_record")
        made.download_and_prepare(
            download_dir=str(stage / "downloads"),
            download_config=tfds.download.DownloadConfig(try_download_gcs=False, num_shards=1),
        )
        built = Path(made.data_dir)
        lengths = {name: list(info.shard_lengths) for name, info in made.info.splits.items()}
        seal(built, description, lengths)
        files.install(built, destination)
    return destination


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS's progress bars and its messages on standard output out of the user's log."""
    silent = io.StringIO()
    with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
        yield
