"""Images of a TFDS dataset that is there: nothing is downloaded, TensorFlow is not needed."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gen.data.files import latest_version
from gen.errors import UserError, nearest
from gen.images.folder import read_image
from gen.images.source import BadImage, Images


class TFDSImages(Images):
    """One split of a TFDS dataset with images and, perhaps, classes."""

    def __init__(self, builder: Any, split: str):
        """
        Args:
          builder: of a dataset that is there, as `find` gives it.
          split: one of its splits.

        Raises:
          UserError: the dataset has no such split, or not one feature that is an image.
        """
        import tensorflow_datasets as tfds

        info = builder.info
        if split not in info.splits:
            raise UserError(f'{info.full_name} has no split "{split}"{nearest(split, info.splits)}')
        self.name = info.full_name
        self._image = _only(info, "image", tfds.features.Image)
        if self._image is None:
            raise UserError(f"{self.name} has no images, but {', '.join(sorted(info.features))}")
        self._label = _only(info, "label", tfds.features.ClassLabel)
        self.class_names = self._label and info.features[self._label].names
        self._split, self._shards = split, list(info.splits[split].shard_lengths)
        try:
            # Decoding is left to `read`, so that one broken image does not end everything.
            decoders = {self._image: tfds.decode.SkipDecoding()}
            self._source = builder.as_data_source(split=split, decoders=decoders)
        except Exception as error:  # TFDS raises many types for other file formats
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{self.name} cannot be read as array_record ({reason})") from None

    @staticmethod
    def find(name: str, directory: str | os.PathLike[str] | None = None) -> Any:
        """The builder of a dataset that lies in a folder of TFDS.

        Args:
          name: `NAME` or `NAME/CONFIG`, with `:VERSION` if not the newest.
          directory: None for `$TFDS_DATA_DIR` or `~/tensorflow_datasets`.

        Raises:
          UserError: it is not there, or its description is damaged.
        """
        import tensorflow_datasets as tfds

        chosen = directory or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
        root = Path(chosen).expanduser().absolute()
        path, _, version = name.partition(":")
        folder = root / path / version if version else latest_version(root / path)
        if folder is None or not folder.is_dir():
            raise UserError(
                f'the TFDS dataset "{name}" is not in {root}, and nothing is downloaded: make it '
                "there with TFDS, in the format array_record"
            )
        try:
            return tfds.builder_from_directory(folder)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{folder} is no whole TFDS dataset ({reason})") from None

    def __len__(self) -> int:
        return len(self._source)

    def key(self, index: int) -> str:
        return f"{self._split}/{index:08d}"

    def label(self, index: int) -> int | None:
        if self._label is None:
            return None
        label = int(self._record(index)[self._label])
        if label < 0:  # TFDS's mark of what has none
            raise BadImage(f"{self.key(index)} of {self.name} has no class")
        return label

    def read(self, index: int) -> np.ndarray:
        encoded = self._record(index)[self._image]
        return read_image(io.BytesIO(encoded), f"{self.key(index)} of {self.name}")

    def digest(self, indices: np.ndarray) -> str:
        """As of any source, but without a look at the classes: that would read everything."""
        about = [self.name, self._split, self.class_names, self._shards]
        digest = hashlib.sha256(json.dumps(about).encode())
        digest.update(np.asarray(indices, "<i8").tobytes())
        return digest.hexdigest()

    def _record(self, index: int) -> Mapping[str, Any]:
        try:
            return self._source[index]
        except Exception as error:
            # ArrayRecord, protobuf and TFDS each raise their own kinds for damaged bytes.
            reason = " ".join(str(error).split())[:160]
            raise BadImage(f"{self.key(index)} of {self.name} cannot be read ({reason})") from None


def _only(info: Any, usual: str, kind: type) -> str | None:
    """The feature of a kind: the one of the usual name, else the only one, or none.

    Raises:
      UserError: there are several.
    """
    features: Mapping[str, Any] = info.features
    found = sorted(name for name, feature in features.items() if isinstance(feature, kind))
    if usual in found:
        return usual
    if len(found) > 1:
        raise UserError(f"{info.full_name} has several features {', '.join(found)} of one kind")
    return found[0] if found else None
