"""A folder of image files, in class folders or not."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

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
        paths = sorted(_files(root, endings))
        loose = [path for path in paths if "/" not in path]
        folders = sorted(each for each in _names(root) if (root / each).is_dir())
        if not paths:
            raise UserError(f"{root} holds no images ({', '.join(endings)})")
        if loose and len(loose) < len(paths):
            raise UserError(
                f"{root} holds images ({loose[0]}) beside folders of images: put all into class "
                "folders, or none"
            )
        if loose:
            return cls(root.name, root, paths, None)
        used = {path.partition("/")[0] for path in paths}
        empty = [each for each in folders if each not in used]
        if empty:
            raise UserError(f"the class folder {root / empty[0]} holds no images")
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
        return read_image(self.root / self._paths[index])


def read_image(path: Path) -> np.ndarray:
    """The pixels of a file, uint8 `(H, W, 3)`.

    Photographs are turned as their EXIF orientation says, transparent pixels are put on white, 16
    bits become 8, and of several frames the first counts.

    Raises:
      BadImage: it is missing, damaged, no image, or so large that Pillow takes it for an attack.
    """
    with _opened(path) as image:
        return _pixels(image)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of what `read_image` would give, from the head of the file alone.

    Raises:
      BadImage: as `read_image`, as far as the head tells.
    """
    with _opened(path) as image:
        width, height = image.size
        # Without EXIF in the head Pillow would look for it behind the pixels.
        exif = image.getexif() if "exif" in image.info else {}
        turned = exif.get(ExifTags.Base.Orientation, 1) >= 5
        return (width, height) if turned else (height, width)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                yield image
    except Exception as error:
        # Pillow's decoders raise many kinds: OSError, SyntaxError, ValueError, struct.error, ...
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise BadImage(f"{path} cannot be read as an image ({reason})") from None


def _pixels(image: Image.Image) -> np.ndarray:
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
