"""A folder of image files, in class folders or not."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from gen.errors import UserError
from gen.images.source import BadImage, Images

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


class ImageFolder(Images):
    """The images under a folder; each folder in it is a class, in the order of their names.

    Images that lie in the folder itself have no class, so a folder holds either those or class
    folders. Class folders may hold folders. Names that start with "." are left out.
    """

    def __init__(self, name: str, root: Path, paths: Sequence[str], classes: Sequence[str] | None):
        """
        Args:
          name: of the source.
          root: the folder.
          paths: of the images, relative to it, with "/" on every system.
          classes: names of the class folders, or None.
        """
        self.name, self.root, self.class_names = name, root, classes
        self._paths = list(paths)
        self._numbers = {each: number for number, each in enumerate(classes or ())}

    @classmethod
    def find(
        cls, root: str | os.PathLike[str], *, endings: tuple[str, ...] = ENDINGS
    ) -> ImageFolder:
        """The images of a folder; none is opened.

        Args:
          root: the folder.
          endings: of the names of files that count, in lower case.

        Raises:
          UserError: it is no folder, holds none, holds images beside class folders, or a class
            folder holds none.
        """
        root = Path(root).expanduser().absolute()
        if not root.is_dir():
            raise UserError(f"{root} is no folder of images")
        return cls.of_paths(root, sorted(_files(root, endings)), f"images ({', '.join(endings)})")

    @classmethod
    def of_paths(cls, root: Path, paths: Sequence[str], what: str) -> ImageFolder:
        """As `find`, of `paths` relative to the root, sorted; messages call them `what`."""
        loose = [path for path in paths if "/" not in path]
        folders = sorted(each for each in _names(root) if (root / each).is_dir())
        if not paths:
            raise UserError(f"{root} holds no {what}")
        what = what.partition(" ")[0]
        if loose and len(loose) < len(paths):
            raise UserError(
                f"{root} holds {what} ({loose[0]}) beside folders of {what}: put all into class "
                "folders, or none"
            )
        if loose:
            return cls(root.name, root, paths, None)
        used = {path.partition("/")[0] for path in paths}
        empty = [each for each in folders if each not in used]
        if empty:
            raise UserError(f"the class folder {root / empty[0]} holds no {what}")
        return cls(root.name, root, paths, folders)

    def __len__(self) -> int:
        return len(self._paths)

    def key(self, index: int) -> str:
        return self._paths[index]

    def label(self, index: int) -> int | None:
        if self.class_names is None:
            return None
        return self._numbers[self._paths[index].partition("/")[0]]

    def read(self, index: int) -> np.ndarray:
        return read_image(self.path(index), str(self.path(index)))

    def path(self, index: int) -> Path:
        """Where an item lies."""
        return self.root / self._paths[index]


def read_image(file: Path | IO[bytes], name: str) -> np.ndarray:
    """The pixels of a file, which messages call by that name, uint8 `(H, W, 3)`.

    Photographs are turned as their EXIF orientation says, transparent pixels are put on white, 16
    bits become 8, and of several frames the first counts.

    Raises:
      BadImage: it is missing, damaged, no image, or so large that Pillow takes it for an attack.
    """
    with _opened(file, name) as image:
        return pixels_of(image)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of what `read_image` would give, from the head of the file alone.

    Raises:
      BadImage: as `read_image`, as far as the head tells.
    """
    with _opened(path, str(path)) as image:
        width, height = image.size
        # Without EXIF in the head Pillow would look for it behind the pixels.
        exif = image.getexif() if "exif" in image.info else {}
        turned = exif.get(ExifTags.Base.Orientation, 1) >= 5
        return (width, height) if turned else (height, width)


@contextlib.contextmanager
def _opened(file: Path | IO[bytes], name: str) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as image:
            # Pillow only warns of the first half of what it takes for attacks.
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise ValueError(f"{image.width} x {image.height} pixels: a decompression bomb?")
            yield image
    except Exception as error:
        # Pillow's decoders raise many kinds: OSError, SyntaxError, ValueError, struct.error, ...
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise BadImage(f"{name} cannot be read as an image ({reason})") from None


def pixels_of(image: Image.Image) -> np.ndarray:
    """Of an open image, or of its present frame, as `read_image`; errors are Pillow's."""
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # Pillow would clip 16 bits at 255
        gray = np.asarray(image).astype(np.int64).clip(0, 65535) // 257
        return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=-1)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def _files(root: Path, endings: tuple[str, ...]) -> Iterator[str]:
    """Paths relative to the root of all files with one of the endings."""
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        inside = Path(folder).relative_to(root)
        for name in names:
            if name.lower().endswith(endings) and not name.startswith("."):
                yield (inside / name).as_posix()


def _names(root: Path) -> list[str]:
    return [name for name in os.listdir(root) if not name.startswith(".")]
