"""A folder of videos, in class folders or not: files, animated GIFs, or folders of frames.

Axes: T frames of a clip, H height, W width.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from gen.errors import UserError
from gen.images.folder import ENDINGS, ImageFolder, pixels_of, read_image
from gen.images.source import BadImage, Images

FILES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")  # with the extra
ANIMATED = (".gif", ".webp")  # by Pillow
FRAMES = tuple(ending for ending in ENDINGS if ending not in ANIMATED)
LARGEST_FRAME = 8192 * 8192  # pixels; a header may promise any number


class VideoFolder(Images):
    """Clips of the videos under a folder; each folder in it is a class, unless it holds frames.

    A video is a file, or a folder that holds images and nothing else: its frames, in the order of
    their names. Its clips lie evenly spread; a single one is in the middle.
    """

    def __init__(self, folder: ImageFolder, *, frames: int, stride: int = 1, clips: int = 1):
        """
        Args:
          folder: the videos, as `find` gives them.
          frames: T of a clip.
          stride: every so many frames of a video one is taken.
          clips: of each video.
        """
        if min(frames, stride, clips) < 1:
            raise UserError("--frames, --stride and --clips are at least 1")
        self._videos, self._frames, self._stride, self._clips = folder, frames, stride, clips
        self.name, self.class_names = folder.name, folder.class_names

    @classmethod
    def find(cls, root: str | os.PathLike[str], **options: int) -> VideoFolder:
        """The videos of a folder; none is opened. The options are those of the constructor.

        Raises:
          UserError: as `ImageFolder.find`; or videos need what is not installed.
        """
        root = Path(root).expanduser().absolute()
        if not root.is_dir():
            raise UserError(f"{root} is no folder of videos")
        folder = ImageFolder.of_paths(root, sorted(_videos(root)), "videos")
        if any(folder.key(index).lower().endswith(FILES) for index in range(len(folder))):
            _av()
        return cls(folder, **options)

    @property
    def settings(self) -> dict[str, Any]:
        return {"frames": self._frames, "stride": self._stride, "clips": self._clips}

    def __len__(self) -> int:
        return len(self._videos) * self._clips

    def key(self, index: int) -> str:
        video, clip = divmod(index, self._clips)
        return self._videos.key(video) + (f"#{clip}" if self._clips > 1 else "")

    def label(self, index: int) -> int | None:
        return self._videos.label(index // self._clips)

    def read(self, index: int) -> np.ndarray:
        video, clip = divmod(index, self._clips)
        path = self._videos.path(video)
        try:
            return self._read(path, clip)
        except BadImage:
            raise
        except Exception as error:  # decoders raise many types
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            raise BadImage(f"{path} cannot be read as a video ({reason})") from None

    def _read(self, path: Path, clip: int) -> np.ndarray:
        if path.is_dir():
            names = _with_endings(os.listdir(path), FRAMES)
            chosen = self._chosen(len(names), clip, path)
            frames = [read_image(path / names[at], str(path / names[at])) for at in chosen]
        elif path.name.lower().endswith(ANIMATED):
            with Image.open(path) as image:
                chosen = self._chosen(image.n_frames, clip, path)
                frames = _pick((pixels_of(f) for f in ImageSequence.Iterator(image)), chosen)
        else:
            chosen = self._chosen(_count(path), clip, path)
            frames = _pick(_decoded(path), chosen)
        if len(frames) != self._frames or len({frame.shape for frame in frames}) > 1:
            raise BadImage(f"{path} breaks off, or its frames differ in size")
        return np.stack(frames)

    def _chosen(self, count: int, clip: int, path: Path) -> range:
        """Which of so many frames a clip has."""
        span = (self._frames - 1) * self._stride + 1
        if count < span:
            raise BadImage(f"{path} has {count} frames, and a clip spans {span}")
        # Clip i of n at the middle of the i-th n-th of the room there is.
        first = (count - span) * (2 * clip + 1) // (2 * self._clips)
        return range(first, first + span, self._stride)


def _videos(root: Path) -> Iterator[str]:
    """Paths, relative to the root, of files and of folders of frames."""
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        inside = Path(folder).relative_to(root)
        files = _with_endings(names, FILES + ANIMATED)
        yield from ((inside / name).as_posix() for name in files)
        if not files and not folders and inside.parts and _with_endings(names, FRAMES):
            yield inside.as_posix()


def _with_endings(names: Iterable[str], endings: tuple[str, ...]) -> list[str]:
    return sorted(n for n in names if n.lower().endswith(endings) and not n.startswith("."))


def _pick(frames: Iterator[np.ndarray], chosen: range) -> list[np.ndarray]:
    """The chosen frames, decoded up to the last of them."""
    return list(itertools.islice(frames, chosen.start, chosen.stop, chosen.step))


def _av() -> Any:
    """PyAV.

    Raises:
      UserError: the extra `video` is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(
            f"videos other than GIFs and folders of frames need the video extra ({error}): "
            "pip install 'gen[video]', or -e '.[video]' in a checkout"
        ) from None
    return av


def _count(path: Path) -> int:
    """Frames of a video file, counted without decoding them."""
    with _av().open(str(path)) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def _decoded(path: Path) -> Iterator[np.ndarray]:
    with _av().open(str(path)) as container:
        stream = container.streams.video[0]
        if stream.width * stream.height > LARGEST_FRAME:
            raise BadImage(f"{path} has frames of {stream.width} x {stream.height} pixels")
        for frame in container.decode(stream):
            yield frame.to_ndarray(format="rgb24")
