"""Samples as pixels: their tokenizer held against the generator, and the pictures written."""

import numpy as np
import pytest
from PIL import Image

import gen
from gen import pixels, sample, tokenizers
from gen.errors import UserError
from gen.pictures import movies, save_gif, save_grid, save_strips
from tests import tiny
from tests.test_movies import load, load_frames

VQ = tokenizers.VQConfig(
    codebook_size=16, codebook_dim=2, width=4, encoder_multipliers=(1, 2),
    decoder_multipliers=(1, 2), blocks_per_level=1, z_channels=4, normalise_codes=True,
    norm_groups=2,
)  # fmt: skip


def colours(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def generator():
    return tiny.generator(tiny.config())


def test_what_a_generator_draws_is_decoded(generator, tmp_path):
    layout = generator.family.layout
    config = VQ.__class__(**{**vars(VQ), "codebook_size": layout.vocab_sizes[0]})
    tokenizer = tokenizers.VQTokenizer.fresh(config)
    tokenizers.save(tokenizer, tmp_path / "vq.safetensors")
    _, height, width = layout.shapes[0]
    drawn = generator.draw(0, num=3)
    for given in (tokenizer, tmp_path / "vq.safetensors"):
        decode = gen.pixels_of(generator, given)
        assert decode.tokenizer.config == gen.load_tokenizer(tmp_path / "vq.safetensors").config
        assert decode.shape == (2 * height, 2 * width)
        made = decode(drawn)
        assert made.shape == (3, 2 * height, 2 * width, 3) and made.dtype == np.uint8
        assert np.array_equal(made, decode(drawn["tokens"]))
    expected = tokenizer.to_uint8(tokenizer.decode(drawn["tokens"], decode.shape))
    assert np.array_equal(made, expected)


def test_another_tokenizer_is_refused(generator):
    config = VQ.__class__(**{**vars(VQ), "codebook_size": 99})
    with pytest.raises(UserError, match="does not fit the generator"):
        gen.pixels_of(generator, tokenizers.VQTokenizer.fresh(config))


def test_pictures_by_their_ending(tmp_path):
    images, videos = colours(12, 8, 8), colours(3, 2, 8, 8)
    gen.save_pictures(tmp_path / "images.png", images, labels=range(12), title="twelve")
    save_grid(tmp_path / "grid.png", images, labels=list(map(str, range(12))), columns=10,
              title="twelve")  # fmt: skip
    assert np.array_equal(load(tmp_path / "images.png"), load(tmp_path / "grid.png"))
    gen.save_pictures(tmp_path / "videos.png", videos, columns=2)
    save_strips(tmp_path / "strips.png", videos, columns=2)
    assert np.array_equal(load(tmp_path / "videos.png"), load(tmp_path / "strips.png"))
    gen.save_pictures(tmp_path / "videos.gif", videos, fps=5)
    save_gif(tmp_path / "same.gif", videos, fps=5, columns=10)
    (frames, seconds), (same, _) = (load_frames(tmp_path / f"{n}.gif") for n in ("videos", "same"))
    assert np.array_equal(frames, same) and seconds == [0.2, 0.2]


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("a.jpg", (1, 8, 8), "end in .png, .gif or .mp4"),
        ("a.gif", (1, 8, 8), "only videos"),
        ("a.mp4", (1, 8, 8), "only videos"),
        ("a.png", (8,), "images must be"),
    ],
)
def test_pictures_that_are_refused(tmp_path, name, shape, message):
    with pytest.raises(UserError, match=message):
        gen.save_pictures(tmp_path / name, colours(*shape))


def test_films(tmp_path):
    av = pytest.importorskip("av")
    # Large even surfaces survive compression; 9 x 15 cells make odd sides.
    videos = np.zeros((2, 3, 9, 15, 3), np.uint8)
    for video in range(2):
        for frame in range(3):
            videos[video, frame, ..., (video + frame) % 3] = 200
    gen.save_pictures(tmp_path / "new" / "film.mp4", videos, fps=4, columns=2)
    with av.open(str(tmp_path / "new" / "film.mp4")) as film:
        assert film.streams.video[0].average_rate == 4
        frames = [f.to_ndarray(format="rgb24").astype(int) for f in film.decode(video=0)]
    assert len(frames) == 3 and not any(side % 2 for side in frames[0].shape[:2])
    save_gif(tmp_path / "same.gif", videos, columns=2)
    same, _ = load_frames(tmp_path / "same.gif")
    for film, still in zip(frames, same):
        film = film[: still.shape[0], : still.shape[1]]
        assert np.abs(film - still).mean() < 6


def test_films_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(movies.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[video\]'"):
        gen.save_pictures(tmp_path / "a.mp4", colours(1, 2, 8, 8))


def test_each_sample_is_a_file(tmp_path):
    images, videos = colours(2, 8, 8), np.zeros((2, 3, 8, 8, 3), np.uint8)
    videos[1, 1], videos[1, 2] = 100, 255
    pixels.save_each(tmp_path, images, first=7)
    assert np.array_equal(load(tmp_path / "00008.png"), images[1])
    with Image.open(tmp_path / "00007.png") as picture:
        assert picture.mode == "RGB"
    pixels.save_each(tmp_path, videos)
    frames, _ = load_frames(tmp_path / "00001.gif")
    assert np.array_equal(frames, videos[1])


def test_films_of_images_are_refused(generator, tmp_path, capsys):
    pytest.importorskip("av")
    generator.save(tmp_path / "model")
    with pytest.raises(SystemExit) as stopped:
        sample.main([str(tmp_path / "model"), "--mp4", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2 and "--mp4 is for videos" in capsys.readouterr().err


def test_films_by_the_command(tmp_path):
    pytest.importorskip("av")
    video = tiny.generator(
        tiny.config(
            **tiny.neighbours(
                **{"model.grid": [2, 2, 3], "model.positions": "learned", "model.backbone.depth": 3}
            )
        )
    )
    video.save(tmp_path / "model")
    sample.main([str(tmp_path / "model"), "--num", "4", "--mp4", "--out", str(tmp_path / "out")])
    assert (tmp_path / "out.mp4").stat().st_size > 500 and (tmp_path / "out.gif").exists()
