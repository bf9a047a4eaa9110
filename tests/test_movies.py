"""Moving pictures and film strips: every frame where it belongs, mistakes refused."""

import numpy as np
import pytest
from PIL import Image

from gen import layouts
from gen.errors import UserError
from gen.pictures import save_gif, save_grid, save_strips
from gen.pictures.samples import gray_images, save_samples

MARGIN, GAP, LABEL = 16, 8, 20


def load(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def load_frames(path):
    """int (T, H, W, 3) and the seconds of each frame."""
    frames, seconds = [], []
    with Image.open(path) as movie:
        for number in range(movie.n_frames):
            movie.seek(number)
            frames.append(np.asarray(movie.convert("RGB")).astype(int))
            seconds.append(movie.info["duration"] / 1000)
    return np.stack(frames), seconds


def gray_levels(seed, *shape):
    """17 gray levels, as the digits have."""
    return np.random.default_rng(seed).integers(0, 17, shape).astype(np.uint8) * 15


@pytest.mark.parametrize("options", [{}, {"labels": list("abcde"), "title": "five", "columns": 2}])
def test_each_frame_is_the_grid_of_that_frame(tmp_path, options):
    videos = gray_levels(0, 5, 3, 10, 8)
    save_gif(tmp_path / "new" / "movie.gif", videos, fps=4, **options)
    frames, seconds = load_frames(tmp_path / "new" / "movie.gif")
    assert len(frames) == 3 and seconds == [0.25] * 3
    for t in range(3):
        save_grid(tmp_path / "grid.png", videos[:, t], **options)
        np.testing.assert_array_equal(frames[t], load(tmp_path / "grid.png"))
    with Image.open(tmp_path / "new" / "movie.gif") as movie:
        assert movie.info["loop"] == 0, "it repeats without end"


def test_the_last_frame_may_stay(tmp_path):
    save_gif(tmp_path / "movie.gif", gray_levels(3, 2, 3, 4, 4), fps=10, pause=1.5)
    _, seconds = load_frames(tmp_path / "movie.gif")
    assert seconds == [0.1, 0.1, 1.6]


def test_forms_of_videos(tmp_path):
    videos = gray_levels(1, 2, 2, 4, 4)
    forms = [videos, videos[..., None], videos / 255, np.repeat(videos[..., None], 3, axis=-1)]
    for index, form in enumerate(forms):
        save_gif(tmp_path / f"{index}.gif", form, scale=3)
        save_strips(tmp_path / f"{index}.png", form, scale=3)
    for index in range(1, 4):
        for end, read in (("gif", lambda path: load_frames(path)[0]), ("png", load)):
            first, other = (read(tmp_path / f"{i}.{end}") for i in (0, index))
            np.testing.assert_array_equal(first, other)


def test_strips_place_every_frame(tmp_path):
    videos = np.random.default_rng(2).integers(0, 256, (3, 2, 4, 6, 3), dtype=np.uint8)
    save_strips(tmp_path / "strips.png", videos, scale=2)
    pixels = load(tmp_path / "strips.png")
    # One video per row; between two frames lies one column of paper.
    assert pixels.shape == (2 * MARGIN + 3 * 8 + 2 * GAP, 2 * MARGIN + 2 * (6 + 1 + 6), 3)
    expected = np.full_like(pixels, 255)
    for index, video in enumerate(videos):
        for t, frame in enumerate(video):
            y, x = MARGIN + index * (8 + GAP), MARGIN + t * 2 * 7
            expected[y : y + 8, x : x + 12] = np.kron(frame, np.ones((2, 2, 1), int))
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(
    ("videos", "options", "words"),
    [
        (np.zeros((2, 8, 8), np.uint8), {}, "N, T, H, W"),
        (np.zeros((2, 3, 8, 8, 2), np.uint8), {}, "N, T, H, W"),
        (np.zeros((2, 0, 8, 8), np.uint8), {}, "not empty"),
        (np.zeros((2, 3, 8, 8), np.int32), {}, "uint8 or float"),
        (np.zeros((2, 3, 8, 8), np.uint8), {"labels": ["one"]}, "1 labels for 2"),
        (np.zeros((2, 3, 8, 8), np.uint8), {"scale": 3000}, "too large"),
    ],
)
def test_refuses(tmp_path, videos, options, words):
    for save, name in ((save_gif, "movie.gif"), (save_strips, "strips.png")):
        with pytest.raises(UserError, match=words):
            save(tmp_path / name, videos, **options)
    assert not list(tmp_path.iterdir())


def test_refuses_endings_rates_and_paths(tmp_path):
    videos = np.zeros((2, 3, 8, 8), np.uint8)
    with pytest.raises(UserError, match=r"end in \.gif"):
        save_gif(tmp_path / "movie.png", videos)
    for fps in (0, 100, float("nan")):
        with pytest.raises(UserError, match="fps lies in"):
            save_gif(tmp_path / "movie.gif", videos, fps=fps)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        save_gif(tmp_path / "file" / "movie.gif", videos)


def test_samples_of_video_grids_move(tmp_path):
    layout = layouts.grid(4, 5, 17, frames=3)
    tokens = np.random.default_rng(0).integers(0, 17, (20, 60))
    gray = gray_images(tokens, layout)
    assert gray.shape == (20, 3, 4, 5)
    assert gray[7, 2, 3, 4] == round(tokens[7, 59] * 255 / 16)
    labels = [str(index % 10) for index in range(20)]
    save_samples(tmp_path / "out.png", tokens, layout=layout, labels=labels, title="a title")
    frames, _ = load_frames(tmp_path / "out.gif")
    assert len(frames) == 3
    # Ten to a row: the second row shows samples 10 and on.
    top = MARGIN + 31 + (56 + LABEL + GAP)
    np.testing.assert_array_equal(
        frames[1][top : top + 56 : 14, MARGIN : MARGIN + 70 : 14, 0], gray[10, 1]
    )
    # A strip is 3 * 5 + 2 cells of 14 pixels.
    width = 2 * MARGIN + 10 * 17 * 14 + 9 * GAP
    assert load(tmp_path / "out.png").shape[1] == width


def test_long_videos_get_one_strip_per_row(tmp_path):
    layout = layouts.grid(2, 2, 17, frames=16)
    tokens = np.zeros((12, 64), int)
    save_samples(tmp_path / "out.png", tokens, layout=layout, labels=None, title="")
    height, width, _ = load(tmp_path / "out.png").shape
    assert width == 2 * MARGIN + (16 * 3 - 1) * 28
    assert height == 2 * MARGIN + 10 * 56 + 9 * GAP, "ten rows"
