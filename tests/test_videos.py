"""Folders of videos: what is found, which frames are read, and their tokens."""

import sys

import numpy as np
import pytest
from PIL import Image

from gen.encoding import complete
from gen.images import BadImage, Cut, VideoFolder
from tests.encode_helpers import PoolConfig, PoolTokenizer, job, refused, save_image, stored


def clip(count, first=0, size=(8, 8)):
    """Frame t is all of the gray level 10 * (first + t)."""
    levels = 10 * (first + np.arange(count, dtype=np.uint8))
    return np.broadcast_to(levels[:, None, None, None], (count, *size, 3)).copy()


def save_gif(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:])


def save_frames(folder, frames):
    for index, frame in enumerate(frames):
        save_image(folder / f"{index:03d}.png", frame)


def save_mp4(path, frames):
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width = frames.shape[1:3]
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def levels(video):
    """The gray level of each frame over 10."""
    assert video.std(axis=(1, 2, 3)).max() < 3
    return np.rint(video.mean(axis=(1, 2, 3)) / 10).astype(int).tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos") / "moves"
    save_gif(root / "walk" / "a.gif", clip(9))
    save_frames(root / "run" / "b", clip(4, first=10))
    save_gif(root / "run" / "c.gif", clip(6, first=2, size=(8, 12)))
    return root


def test_files_and_folders_of_frames_are_videos(folder):
    videos = VideoFolder.find(folder, frames=4)
    assert [videos.key(i) for i in range(len(videos))] == ["run/b", "run/c.gif", "walk/a.gif"]
    assert videos.class_names == ["run", "walk"] and [videos.label(i) for i in range(3)] == [
        0,
        0,
        1,
    ]
    # Without a choice it is the middle.
    assert [levels(videos.read(i)) for i in range(3)] == [
        [10, 11, 12, 13],
        [3, 4, 5, 6],
        [2, 3, 4, 5],
    ]
    assert videos.read(1).shape == (4, 8, 12, 3) and videos.read(1).dtype == np.uint8


def test_clips_lie_evenly_spread(folder):
    videos = VideoFolder.find(folder, frames=2, stride=2, clips=3)
    assert len(videos) == 9 and videos.key(8) == "walk/a.gif#2" and videos.label(8) == 1
    assert [levels(videos.read(i)) for i in (6, 7, 8)] == [[1, 3], [3, 5], [5, 7]]
    assert videos.settings == {"frames": 2, "stride": 2, "clips": 3}


def test_videos_of_codecs(tmp_path):
    save_mp4(tmp_path / "v.mp4", clip(8, first=3, size=(32, 48)))
    videos = VideoFolder.find(tmp_path, frames=3, stride=2)
    assert levels(videos.read(0)) == [4, 6, 8] and videos.read(0).shape == (3, 32, 48, 3)
    whole = (tmp_path / "v.mp4").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no video"):
        (tmp_path / "v.mp4").write_bytes(content)
        with pytest.raises(BadImage, match=r"v\.mp4"):
            videos.read(0)


def test_codecs_need_the_extra(tmp_path, monkeypatch):
    (tmp_path / "v.webm").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "av", None)
    assert "need the video extra" in refused(VideoFolder.find, tmp_path, frames=2)


def test_unfit_videos_are_named(folder, tmp_path):
    with pytest.raises(BadImage, match="b has 4 frames, and a clip spans 5"):
        VideoFolder.find(folder, frames=3, stride=2).read(0)
    save_frames(tmp_path / "v", [*clip(2), *clip(1, size=(4, 4))])
    with pytest.raises(BadImage, match="differ in size"):
        VideoFolder.find(tmp_path, frames=3).read(0)
    (tmp_path / "v" / "001.png").write_bytes(b"no image")
    with pytest.raises(BadImage, match=r"001\.png cannot be read"):
        VideoFolder.find(tmp_path, frames=2).read(0)
    save_gif(tmp_path / "w.gif", clip(3))
    (tmp_path / "w.gif").write_bytes((tmp_path / "w.gif").read_bytes()[:40])
    with pytest.raises(BadImage, match=r"w\.gif"):
        VideoFolder.find(tmp_path, frames=2).read(1)


def test_what_is_no_folder_of_videos(folder, tmp_path):
    assert "no folder of videos" in refused(VideoFolder.find, tmp_path / "no", frames=2)
    assert "holds no videos" in refused(VideoFolder.find, tmp_path, frames=2)
    assert "at least 1" in refused(VideoFolder.find, folder, frames=0)


def test_their_tokens(folder, tmp_path):
    videos = VideoFolder.find(folder, frames=4)
    tokenizer = PoolTokenizer.fresh(PoolConfig())
    cut = Cut((8, 8), "flip")
    options = {"tokenizer": tokenizer, "cut": cut, "frames": 4}
    manifest = complete(job(None, tmp_path, splits={"train": (videos, np.arange(3))}, **options))
    assert manifest.layout.shapes == ((2, 2, 2),) and manifest.details["settings"]["frames"] == 4
    pixels = np.concatenate([cut(videos.read(i)) for i in range(3)])
    assert pixels.shape == (6, 4, 8, 8, 3)
    tokens, labels = stored(tmp_path)
    np.testing.assert_array_equal(tokens, tokenizer.encode(pixels).reshape(3, 2, 8))
    assert labels == [0, 0, 1] and len(np.unique(tokens)) > 1
