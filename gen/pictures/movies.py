"""Videos as a labelled grid that moves (GIF, MP4), and as still strips of their frames (PNG).

Axes: N videos, T frames, H height, W width, C channels (1 or 3).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from gen.errors import UserError
from gen.pictures.base import PAPER, save
from gen.pictures.grids import draw_grid, save_grid, to_rgb


def _to_frames(videos: Any) -> np.ndarray:
    """uint8 (N, T, H, W, 3) of videos in any of the forms that the functions here take."""
    videos = np.asarray(videos)
    if videos.ndim == 4:
        videos = videos[..., None]
    if videos.ndim != 5 or videos.shape[-1] not in (1, 3) or videos.size == 0:
        raise UserError(f"videos must be (N, T, H, W[, 1 or 3]) and not empty, got {videos.shape}")
    count, frames = videos.shape[:2]
    images = to_rgb(videos.reshape(count * frames, *videos.shape[2:]))
    return images.reshape(count, frames, *images.shape[1:])


def save_gif(
    path: Any,
    videos_NTHWC: Any,
    *,
    labels: Sequence[str] | None = None,
    columns: int | None = None,
    title: str | None = None,
    scale: int | None = None,
    fps: float = 2.0,
    pause: float = 0.0,
) -> None:
    """Saves videos as one endless GIF, laid out as `save_grid` does.

    Frames of more than 256 colours lose some.

    Args:
        path: file to write, ending in .gif; missing folders are made.
        videos_NTHWC: (N, T, H, W), (N, T, H, W, 1) or (N, T, H, W, 3), uint8 or float in 0..1.
        labels, columns, title, scale: as in `save_grid`, for videos instead of images.
        fps: frames per second, 0.1 to 50; GIF rounds the time of a frame to 10 ms.
        pause: seconds that the last frame stays longer.

    Raises:
        UserError: as `save_grid`, or fps out of range.
    """
    how = {"labels": labels, "columns": columns, "title": title, "scale": scale}
    save_frames(path, _drawn(videos_NTHWC, fps, how), fps=fps, pause=pause)


def save_frames(path: Any, frames: Sequence[Any], *, fps: float, pause: float = 0.0) -> None:
    """Saves Pillow pictures as one endless GIF; arguments and errors as `save_gif`."""
    first, *rest = frames
    times = [10 * round(100 / fps)] * (1 + len(rest))
    times[-1] += 10 * round(100 * pause)
    save(path, first, ending="gif", save_all=True, append_images=rest, duration=times, loop=0)


def save_mp4(
    path: Any,
    videos_NTHWC: Any,
    *,
    labels: Sequence[str] | None = None,
    columns: int | None = None,
    title: str | None = None,
    scale: int | None = None,
    fps: float = 8.0,
) -> None:
    """Saves videos as one H.264 film in all colours, laid out as `save_grid` does.

    Args:
        path: file to write, ending in .mp4; missing folders are made.
        videos_NTHWC, labels, columns, title, scale: as in `save_gif`.
        fps: frames per second, 0.1 to 50.

    Raises:
        UserError: as `save_gif`, or the extra `video` is not installed.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise UserError(f"this film is saved as MP4; {path} should end in .mp4")
    check_mp4()
    how = {"labels": labels, "columns": columns, "title": title, "scale": scale}
    frames = [np.asarray(frame.convert("RGB")) for frame in _drawn(videos_NTHWC, fps, how)]
    # Players want even sides: H.264 stores colour at half the resolution.
    even = [(0, side % 2) for side in frames[0].shape[:2]]
    frames = [np.pad(frame, (*even, (0, 0)), mode="edge") for frame in frames]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _encode(path, frames, fps)
    except OSError as error:
        raise UserError(f"cannot write the film {path}: {error.strerror or error}") from error


def _encode(path: Path, frames: Sequence[np.ndarray], fps: float) -> None:
    """Writes uint8 frames (H, W, 3) of even sides as H.264."""
    import av

    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            film.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        film.mux(stream.encode())


def check_mp4() -> None:
    """Raises `UserError` unless what writes films is installed."""
    if importlib.util.find_spec("av") is None:
        raise UserError("an MP4 needs the extra `video`: pip install -e '.[video]'")


def _drawn(videos: Any, fps: float, how: dict[str, Any]) -> list[Any]:
    """A grid of each frame."""
    frames_NTHWC = _to_frames(videos)
    if not 0.1 <= fps <= 50:
        raise UserError(f"fps lies in 0.1..50, not {fps}")
    return [draw_grid(frames_NTHWC[:, t], **how) for t in range(frames_NTHWC.shape[1])]


def to_strips(videos_NTHWC: Any) -> np.ndarray:
    """The frames of each video side by side, uint8 (N, H, T * (W + gap) - gap, 3).

    Takes videos as `save_gif` does; raises `UserError` for others.
    """
    frames_NTHWC = _to_frames(videos_NTHWC)
    count, frames, height, width, _ = frames_NTHWC.shape
    gap = max(1, width // 32)
    strips = np.full((count, height, frames * (width + gap), 3), PAPER, np.uint8)
    for t in range(frames):
        start = t * (width + gap)
        strips[:, :, start : start + width] = frames_NTHWC[:, t]
    return strips[:, :, :-gap]


def save_strips(
    path: Any,
    videos_NTHWC: Any,
    *,
    labels: Sequence[str] | None = None,
    columns: int = 1,
    title: str | None = None,
    scale: int | None = None,
) -> None:
    """Saves videos as one PNG: the frames of each side by side, by default one video per row.

    Args:
        path: file to write, ending in .png; missing folders are made.
        videos_NTHWC, labels, columns, title, scale: as in `save_gif`.

    Raises:
        UserError: as `save_grid`.
    """
    strips = to_strips(videos_NTHWC)
    save_grid(path, strips, labels=labels, columns=columns, title=title, scale=scale)
