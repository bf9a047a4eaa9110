"""`gen.sample` beyond tokens: options of a family, and latents decoded by a tokenizer."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image, ImageSequence

import gen
from gen import sample, tokenizers
from gen.tokenizers import MAGVITConfig, MAGVITTokenizer, MSVQTokenizer
from tests import tiny
from tests.test_animate import cells_of
from tests.test_movies import load_frames


@pytest.fixture(scope="module")
def scales(tmp_path_factory):
    """A saved model of scales, and a tokenizer with the same quantiser."""
    folder = tmp_path_factory.mktemp("scales")
    generator = tiny.generator(tiny.config(**tiny.scales()))
    config = MSVQTokenizer.Config(generator.config.model.quantizer, 8, (1, 1), 1, norm_groups=4)
    tokenizer = MSVQTokenizer.fresh(config, seed=5)
    same = tokenizer.params | {"quantizer": generator.params["quantizer"]}
    tokenizer = MSVQTokenizer(config, same)
    generator.save(folder / "model")
    tokenizers.save(tokenizer, folder / "tokenizer.safetensors")
    return folder, tokenizer


def drawn(folder, out, *arguments):
    """Tokens, settings and the pixels of all samples, uint8 `(N, H, W, 3)`."""
    run = [str(folder / "model"), "--num", "5", "--out", str(out)]
    sample.main([*run, "--tokenizer", str(folder / "tokenizer.safetensors"), *arguments])
    images = [np.asarray(Image.open(path)) for path in sorted(out.glob("*.png"))]
    with np.load(out.with_suffix(".npz")) as stored:
        return stored["tokens"], json.loads(str(stored["settings"])), np.asarray(images)


def test_options_and_latents(scales, tmp_path, capsys):
    folder, tokenizer = scales
    tokens, settings, images = drawn(folder, tmp_path / "plain")
    assert not settings["more_smooth"]
    pixels = tokenizer.to_uint8(tokenizer.decode(tokens))
    assert np.abs(images.astype(int) - pixels).max() <= 1

    tokens, settings, images = drawn(folder, tmp_path / "smooth", "--option", "more_smooth=true")
    assert settings["more_smooth"]
    # What is seen is the smooth latent, not the tokens.
    latents = gen.load(folder / "model").draw(0, num=5, more_smooth=True)["latents"]
    pixels = tokenizer.to_uint8(tokenizer.decode_latents(latents))
    assert np.abs(images.astype(int) - pixels).max() <= 1
    hard = tokenizer.to_uint8(tokenizer.decode(tokens)).astype(int)
    assert np.abs(images - hard).max() > 2


def test_a_gif_shows_the_pixels_of_latents_so_far(scales, tmp_path):
    folder, tokenizer = scales
    drawn(folder, tmp_path / "x", "--animate")
    frames, _ = load_frames(tmp_path / "x.gif")
    moments = list(gen.load(folder / "model").stream(0, num=5))
    assert len(frames) == 1 + len(moments)
    for frame, moment in zip(frames[1:], moments):
        pixels = tokenizer.to_uint8(tokenizer.decode_latents(moment.latents)).astype(int)
        for index in (0, 4):
            found = cells_of(frame[None], index, *pixels.shape[1:3])[0]
            # A GIF has 256 colours.
            assert np.abs(found - pixels[index]).mean() < 12


@pytest.mark.parametrize("frames", [1, 2])
def test_videos_move(frames, tmp_path):
    """The tokens of 1 or 2 frames stand for twice as many."""
    grid = {"model.grid": [frames, 2, 2], "model.positions": "learned", "model.backbone.depth": 3}
    tiny.generator(tiny.config(**tiny.neighbours(**grid))).save(tmp_path / "model")
    config = MAGVITConfig(11, 3, 4, (1, 1), (True,), 1, 1, norm_groups=2)
    tokenizer = MAGVITTokenizer.fresh(config)
    tokenizers.save(tokenizer, tmp_path / "tokenizer.safetensors")
    out = tmp_path / "x"
    tokens, _, _ = drawn(tmp_path, out)
    pixels = tokenizer.to_uint8(tokenizer.decode(tokens, (2 * frames, 4, 4)))
    for index, path in enumerate(sorted(out.glob("*.gif"))):
        with Image.open(path) as movie:
            shown = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(movie)]
        assert np.abs(np.stack(shown).astype(int) - pixels[index]).max() <= 1
    assert len(load_frames(out.with_suffix(".gif"))[0]) == 2 * frames


def test_out_may_be_the_name_of_a_file(scales, tmp_path, capsys):
    for name in ("x.npz", "x.png"):
        sample.main([str(scales[0] / "model"), "--num", "2", "--out", str(tmp_path / name)])
        assert f"2 samples: {tmp_path / 'x.npz'}" in capsys.readouterr().out
    assert {path.suffix for path in tmp_path.iterdir()} <= {".npz", ".png"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--option", "more_smoth=true"], 'no field "more_smoth"; did you mean "more_smooth"?'),
        (["--option", "more_smooth=2"], "must be true or false"),
        (["--option", "more_smooth"], "--option takes NAME=VALUE"),
        (["--known", "nothing.npy"], "cannot be read"),
    ],
)
def test_wrong_options(scales, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        sample.main([str(scales[0] / "model"), "--out", str(tmp_path / "x"), *arguments])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and message in error and "Traceback" not in error


def test_a_tokenizer_with_other_codes_is_refused(scales, tmp_path, capsys):
    folder, tokenizer = scales
    other = MSVQTokenizer.fresh(tokenizer.config, seed=6)
    tokenizers.save(other, tmp_path / "other.safetensors")
    arguments = ["--tokenizer", str(tmp_path / "other.safetensors"), "--out", str(tmp_path / "x")]
    with pytest.raises(SystemExit):
        sample.main([str(folder / "model"), *arguments])
    assert "has another quantizer than the generator holds" in capsys.readouterr().err


def test_no_picture_no_name_of_one(scales, tmp_path, capsys):
    sample.main([str(scales[0] / "model"), "--num", "5", "--out", str(tmp_path / "x")])
    printed = capsys.readouterr()
    assert "need --tokenizer FILE" in printed.err and ".png" not in printed.out


def test_known_tokens_are_refused_where_they_have_no_place(scales, tmp_path, capsys):
    np.save(tmp_path / "known.npy", np.zeros((5, 17), int))
    arguments = [str(scales[0] / "model"), "--num", "5", "--known", str(tmp_path / "known.npy")]
    with pytest.raises(SystemExit):
        sample.main([*arguments, "--out", str(tmp_path / "x")])
    assert "cannot start from known tokens" in capsys.readouterr().err


def test_options_of_a_config_are_the_defaults():
    config = tiny.config(**tiny.scales(**{"sample.options.more_smooth": True}))
    assert config.sample.settings()["more_smooth"] is True
    config = dataclasses.replace(config, sample=dataclasses.replace(config.sample, options=None))
    assert "more_smooth" not in config.sample.settings()
