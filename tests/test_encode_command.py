"""`python -m gen.encode` as a command: its sources, its pictures, and a user's mistakes."""

import sys

import numpy as np
import pytest
from PIL import Image

from gen import encode, tokenizers
from gen.data import Manifest
from gen.encoding.preview import psnr, save_preview
from gen.images import DigitImages, VideoFolder
from gen.tokenizers import files
from tests import tiny
from tests.encode_helpers import (
    PoolConfig,
    PoolTokenizer,
    image_folder,
    job,
    refused,
    stored,
    vq,
)
from tests.test_cli import error_of
from tests.test_videos import clip, save_gif


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizers") / "vq.safetensors"
    tokenizers.save(vq(), path)
    return path


@pytest.fixture
def with_videos(tmp_path, monkeypatch):
    """The file of a tokenizer of videos."""
    monkeypatch.setitem(files.TOKENIZERS, PoolTokenizer.kind, PoolTokenizer)
    path = tmp_path / "pool.safetensors"
    tokenizers.save(PoolTokenizer.fresh(PoolConfig()), path)
    return path


def run(*arguments):
    encode.main([str(argument) for argument in arguments])


def manifest_of(folder, name="codes"):
    return Manifest.read(folder / name / "1.0.0")


def test_digits(tokenizer_file, tmp_path, capsys):
    where = ("--tokenizer", tokenizer_file, "--name", "codes", "--dir", tmp_path)
    run("digits", *where, "--batch-size", 100)
    assert f"{tmp_path / 'codes' / '1.0.0'}: 1,500 train, 297 test" in capsys.readouterr().out
    assert manifest_of(tmp_path).licence == "CC BY 4.0"
    digits = DigitImages("test")
    tokens, labels = stored(tmp_path, "test")
    wanted = vq().encode(np.stack([digits.read(i) for i in range(297)]), batch_size=100)
    np.testing.assert_array_equal(tokens, wanted)
    assert labels == [digits.label(i) for i in range(297)] and len(np.unique(tokens)) > 4
    run("digits", *where, "--batch-size", 100)  # it is there
    assert "1,500 train, 297 test" in capsys.readouterr().out


def test_devices_and_batches_change_nothing(tokenizer_file, tmp_path):
    folder = image_folder(tmp_path / "zoo", 9)
    options = ("--size", "8,8", "--batch-size", 2, "--crops", "flip", "--tokenizer", tokenizer_file)
    for devices in (1, 3):
        process = tiny.run_module(
            "gen.encode", "images", folder, *options, "--name", "codes",
            "--dir", tmp_path / str(devices), devices=devices,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr[-3000:]
    assert manifest_of(tmp_path / "1") == manifest_of(tmp_path / "3")


def test_splits_holdout_shards_and_bad_files(tokenizer_file, tmp_path, capsys):
    train = image_folder(tmp_path / "train", 10)
    test = image_folder(tmp_path / "other", 3, seed=1)
    options = ("--size", "8,8", "--tokenizer", tokenizer_file, "--dir", tmp_path / "data")
    run("images", f"train={train}", f"test={test}", *options, "--name", "two")
    assert manifest_of(tmp_path / "data", "two").splits == {"train": 10, "test": 3}
    (train / "ant" / "0003.png").write_bytes(b"")
    options += ("--holdout", 3, "--name", "held", "--bad-files", 1, "--part-size", 4)
    run("images", train, *options, "--shard", "1/2")
    assert "2 of 3 parts are missing still" in capsys.readouterr().out
    run("images", train, *options, "--shard", "0/2")
    assert "1 could not be read and are left out" in capsys.readouterr().out
    manifest = manifest_of(tmp_path / "data", "held")
    assert sum(manifest.splits.values()) == 9 and manifest.details["bad"] == ["ant/0003.png"]


def test_nothing_readable_is_told(tokenizer_file, tmp_path, capsys):
    folder = image_folder(tmp_path / "train", 1)
    (image,) = folder.glob("*/*.png")
    image.write_bytes(b"")
    options = ("--size", "8,8", "--tokenizer", tokenizer_file, "--dir", tmp_path / "data")
    with pytest.raises(SystemExit) as stop:
        run("images", folder, *options, "--name", "none")
    told = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 2
    assert "error: none of the 1 items can be read: " in told and "0000.png" in told
    assert "0000.png" in (tmp_path / "data" / "none.bad.txt").read_text()


def test_ten_crops(tokenizer_file, tmp_path):
    folder = image_folder(tmp_path / "zoo", 3)
    options = ("--size", "8,8", "--tokenizer", tokenizer_file, "--dir", tmp_path)
    run("images", folder, *options, "--name", "codes", "--crops", "tencrop")
    assert manifest_of(tmp_path).augmentation == {"kind": "tencrop", "count": 20}
    assert manifest_of(tmp_path).details["settings"]["ranges"] == [1.05, 1.1]
    run("images", folder, *options, "--name", "wide", "--crops", "tencrop", "--ranges", "1.5")
    assert manifest_of(tmp_path, "wide").details["settings"]["ranges"] == [1.5]


def test_videos(with_videos, tmp_path):
    save_gif(tmp_path / "moves" / "a" / "1.gif", clip(9))
    options = ("--tokenizer", with_videos, "--size", "8,8", "--frames", 4, "--dir", tmp_path)
    run("videos", tmp_path / "moves", *options, "--name", "codes", "--stride", 2, "--clips", 2)
    manifest = manifest_of(tmp_path)
    assert manifest.layout.shapes == ((2, 2, 2),) and manifest.splits == {"train": 2}
    settings = manifest.details["settings"]
    assert [settings[name] for name in ("frames", "stride", "clips")] == [4, 2, 2]
    videos = VideoFolder.find(tmp_path / "moves", frames=4, stride=2, clips=2)
    wanted = PoolTokenizer.fresh(PoolConfig()).encode(np.stack([videos.read(0), videos.read(1)]))
    np.testing.assert_array_equal(stored(tmp_path)[0], wanted)


def test_tfds(tokenizer_file, tmp_path):
    from tests.test_tfds_images import prepare

    prepare(tmp_path / "tfds")
    where = ("--tfds-dir", tmp_path / "tfds", "--dir", tmp_path, "--tokenizer", tokenizer_file)
    run("tfds", "zoo", *where, "--size", "8,8", "--name", "codes")
    assert manifest_of(tmp_path).splits == {"train": 5}
    assert manifest_of(tmp_path).source == "encoded from zoo/1.2.0"


def test_preview(tokenizer_file, tmp_path, capsys):
    folder, picture = image_folder(tmp_path / "zoo", 20), tmp_path / "pictures" / "p.png"
    options = ("--size", "8,8", "--tokenizer", tokenizer_file, "--dir", tmp_path)
    options += ("--batch-size", 4)
    run("images", folder, *options, "--preview", picture)
    printed = capsys.readouterr().out
    assert "mean PSNR" in printed and not list(tmp_path.glob("preview*"))
    shown, made = job(folder, tmp_path), tmp_path / "again.png"
    mean = save_preview(shown, made)
    assert f"{mean:.1f} dB" in printed and made.read_bytes() == picture.read_bytes()
    ends = np.stack([shown.read(number).versions[0] for number in (0, 19, 19, 19)])
    tokens = shown.tokenizer.encode(ends, batch_size=4)
    pixels = shown.tokenizer.to_uint8(shown.tokenizer.decode(tokens, batch_size=4))
    with Image.open(picture) as image:
        drawn = np.asarray(image)
    # Each picture is drawn somewhere, original and reconstruction, magnified by a whole factor.
    for pixels_HWC in (shown.read(0).versions[0], pixels[0], pixels[1]):
        assert is_in(drawn, pixels_HWC.repeat(7, 0).repeat(7, 1))
    run("images", folder, *options, "--preview", picture, "--name", "codes")
    assert manifest_of(tmp_path).splits == {"train": 20}


def is_in(picture, part):
    starts = np.argwhere((picture == part[0, 0]).all(-1)).tolist()
    (height, width, _) = part.shape
    return any(np.array_equal(picture[y : y + height, x : x + width], part) for y, x in starts)


def test_preview_of_videos_shows_frames_side_by_side(tmp_path):
    save_gif(tmp_path / "moves" / "1.gif", clip(6))
    videos = VideoFolder.find(tmp_path / "moves", frames=6)
    options = {"tokenizer": PoolTokenizer.fresh(PoolConfig()), "frames": 6}
    shown = job(None, tmp_path, splits={"train": (videos, np.arange(1))}, **options)
    save_preview(shown, tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        drawn = np.asarray(image)
    strip = np.concatenate(videos.read(0)[[0, 2, 3, 5]], axis=1)
    assert is_in(drawn, strip.repeat(7, 0).repeat(7, 1))


def test_psnr():
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr(black, black) == 99 and psnr(black, black + 255) == 0
    assert abs(psnr(black, black + 16) - 24.0484) < 1e-3


def test_a_preview_of_nothing_readable(tmp_path):
    folder = image_folder(tmp_path / "zoo", 1)
    (folder / "ant" / "0000.png").write_bytes(b"")
    assert "nothing to show" in refused(save_preview, job(folder, tmp_path), tmp_path / "p.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["images", "NO"], "is no folder of images"),
        (["images", "ZOO", "--size", "9,8"], "multiples of (2, 2), not (9, 8)"),
        (["images", "ZOO", "--size", "8"], "--size HEIGHT,WIDTH must be"),
        (["images", "ZOO", "--shard", "2/2"], "--shard is one of 0/N to N-1/N"),
        (["images", "ZOO", "--shard", "x"], "--shard is one of 0/N to N-1/N"),
        (["images", "ZOO", "--name", "digits"], "taken by a built-in dataset"),
        (["images", "all=ZOO"], '"all" is no split name'),
        (["images", "ZOO", "--name", "a/b"], "is no dataset name"),
        (["images", "ZOO", "--name", ""], "give --name for a dataset, or --preview"),
        (["images", "ZOO", "--dir", "FILE/data"], "cannot write to folder"),
        (["images", "ZOO", "--batch-size", "0"], "are at least 1"),
        (["images", "ZOO", "--bad-files", "-1"], "--bad-files at least 0"),
        (["images", "ZOO", "--holdout", "9"], "9 of them cannot be held out"),
        (["images", "ZOO", "--ranges", "1.1"], "--ranges are those of --crops tencrop"),
        (["images", "ZOO", "--crops", "tencrop", "--ranges", "0.9"], "lie from 1 to 4"),
        (["images", "ZOO", "--crops", "tencrop", "--ranges", "nan"], "lie from 1 to 4"),
        (["images", "ZOO", "--crops", "ten"], "invalid choice"),
        (["images", "SPLITS"], "holds splits, not classes: give each as SPLIT=FOLDER"),
        (["images", "ZOO", "train=ZOO"], 'two folders for the split "train"'),
        (["images", "a=ZOO", "b=ZOO", "--holdout", "1"], "--holdout is for one split"),
        (["images", "ZOO", "--tokenizer", "FILE"], "is damaged or no safetensors file"),
        (["images", "ZOO", "--tokenizer", "NO"], "does not exist"),
        (["images", "ZOO", "--preview", "FILE.jpg"], "should end in .png"),
        (["images", "ZOO", "--beam"], "--beam needs the beam extra"),
        (["images", "ZOO", "--beam", "--shard", "0/2"], "leave out --shard"),
        (["images", "ZOO", "--beam-options", "x"], "are those of --beam"),
        (["videos", "ZOO", "--frames", "2"], "this tokenizer takes images"),
        (["videos", "ZOO"], "the following arguments are required: --frames"),
        (["tfds", "zoo", "--tfds-dir", "ZOO"], "nothing is downloaded"),
        (["digits", "--size", "7,7"], "multiples of (2, 2)"),
    ],
)
def test_mistakes_are_told_before_anything_is_compiled(
    tokenizer_file,
    tmp_path,
    capsys,
    monkeypatch,
    arguments,
    message,
):
    def refuse(*args):
        raise AssertionError("encoding started before the mistake was found")

    monkeypatch.setattr(tokenizers.Tokenizer, "program", refuse)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    image_folder(tmp_path / "ZOO", 3)
    image_folder(tmp_path / "SPLITS", 2, classes=("train", "val"))
    (tmp_path / "FILE").write_text("no tokenizer")
    places = ("ZOO", "SPLITS", "FILE", "NO")

    def placed(text):
        name, _, folder = text.rpartition("=")
        inside = f"{tmp_path / folder}" if folder.startswith(places) else folder
        return f"{name}={inside}" if name else inside

    defaults = {
        "--tokenizer": tokenizer_file,
        "--name": "codes",
        "--dir": tmp_path,
        "--size": "8,8",
    }
    given = [x for n, v in defaults.items() if n not in arguments for x in (n, v)]
    error = error_of(capsys, encode.main, *map(placed, arguments), *given)
    assert message in error


def test_a_tokenizer_of_videos_refuses_images(with_videos, tmp_path, capsys):
    image_folder(tmp_path / "zoo", 2)
    arguments = ("images", tmp_path / "zoo", "--tokenizer", with_videos, "--name", "codes")
    assert "takes videos" in error_of(capsys, encode.main, *arguments, "--dir", tmp_path)


def test_other_datasets_of_the_name_are_not_touched(tokenizer_file, tmp_path, capsys):
    from tests.data_helpers import write

    write(tmp_path, name="codes")
    image_folder(tmp_path / "zoo", 2)
    arguments = ("images", tmp_path / "zoo", "--tokenizer", tokenizer_file, "--name", "codes")
    error = error_of(capsys, encode.main, *arguments, "--size", "8,8", "--dir", tmp_path)
    assert "exists already and is of other settings" in error and len(error) < 500


def test_what_a_tokenizer_was_trained_on_is_the_size(tmp_path):
    image_folder(tmp_path / "zoo", 4)
    ours = vq()
    file = tmp_path / "own.safetensors"
    tokenizers.save(type(ours)(ours.config, ours.params, meta={"size": [12, 8]}), file)
    run("images", tmp_path / "zoo", "--tokenizer", file, "--name", "codes", "--dir", tmp_path)
    assert manifest_of(tmp_path).layout.shapes == ((1, 6, 4),)
