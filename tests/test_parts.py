"""`gen.sample --parts`: the samples of one call, in files that go on where they were stopped."""

import errno
import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from flax import traverse_util

from gen import sample, sharding, tokenizers
from gen.api import Generator
from gen.errors import UserError
from gen.parts import npz
from gen.sampling import parts
from gen.tokenizers import MSVQTokenizer
from gen.training.stop import RESTART
from tests import tiny
from tests.test_captions import TEXT, encoded
from tests.test_cli import error_of

NUM, BATCH = 10, 4  # parts of 4, 4 and 2 samples
SIZES = ["--num", str(NUM), "--batch-size", str(BATCH)]


def saved(folder, overrides):
    """A saved model with weights that matter."""
    tiny.generator(tiny.config(**overrides)).save(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("plain") / "model", {})


@pytest.fixture(scope="module")
def scales(tmp_path_factory):
    """Arguments for a model of scales and its tokenizer."""
    folder = tmp_path_factory.mktemp("scales")
    generator = tiny.generator(tiny.config(**tiny.scales()))
    config = MSVQTokenizer.Config(generator.config.model.quantizer, 8, (1, 1), 1, norm_groups=4)
    rng = np.random.default_rng(5)
    flat = {p: 0.2 * rng.normal(size=size) for p, size in MSVQTokenizer.shapes(config).items()}
    params = traverse_util.unflatten_dict(flat, sep="/")
    tokenizer = MSVQTokenizer(config, params | {"quantizer": generator.params["quantizer"]})
    tokenizers.save(tokenizer, folder / "tokenizer.safetensors")
    generator.save(folder / "model")
    return [folder / "model", "--tokenizer", folder / "tokenizer.safetensors"]


def run(*arguments):
    sample.main([str(argument) for argument in (*arguments, *SIZES)])


def stored(path):
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays}


def stop_after(monkeypatch, parts, *arguments):
    """Runs a command that is told to stop while it draws the last of so many parts."""
    draw, calls = Generator.draw, []

    def drawn(*args, **kwargs):
        calls.append(kwargs["first"])
        if len(calls) == parts:
            signal.raise_signal(signal.SIGTERM)
        return draw(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Generator, "draw", drawn)
        with pytest.raises(SystemExit) as stop:
            run(*arguments)
    assert stop.value.code == RESTART and len(calls) == parts


@pytest.fixture
def numbers(monkeypatch):
    """The number of the first sample of every call of `Generator.draw` from now on."""
    draw, calls = Generator.draw, []

    def drawn(*args, **kwargs):
        calls.append(kwargs["first"])
        return draw(*args, **kwargs)

    monkeypatch.setattr(Generator, "draw", drawn)
    return calls


@pytest.mark.parametrize("overrides", [{}, tiny.masked()], ids=["next token", "masked"])
def test_a_set_drawn_in_two_calls_is_the_set_of_one(overrides):
    generator = tiny.generator(tiny.config(**overrides))
    same = {"guidance": 2.0, "batch_size": 2}
    whole = generator.sample(3, num=8, **same)
    parts = [generator.sample(3, num=n, first=k, **same) for k, n in ((0, 3), (3, 5))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert not np.array_equal(generator.sample(3, num=5, **same), whole[3:])


@pytest.fixture(scope="module")
def made(scales, tmp_path_factory):
    """A whole set with pixels."""
    out = tmp_path_factory.mktemp("made") / "new" / "x"
    run(*scales, "--parts", "--out", out)
    return out


def test_pixels_for_evaluators(scales, made):
    found = stored(made.with_suffix(".npz"))
    assert set(found) == {"tokens", "labels", "arr_0", "arr_1", "settings"}
    assert found["labels"].tolist() == found["arr_1"].tolist() == [0, 1, 2, 3, 4] * 2
    tokenizer = tokenizers.load(scales[2])
    pixels = tokenizer.to_uint8(tokenizer.decode(found["tokens"]))
    assert found["arr_0"].dtype == np.uint8 and found["arr_0"].shape == pixels.shape
    assert np.abs(found["arr_0"].astype(int) - pixels).max() <= 1


def test_what_is_whole_is_not_made_again(scales, made, monkeypatch, capsys):
    monkeypatch.setattr(Generator, "draw", None)
    # Parts are gone: they would take the space twice.
    assert sorted(path.name for path in made.parent.iterdir()) == ["x.npz", "x.png"]
    made.with_suffix(".png").unlink()
    run(*scales, "--parts", "--out", made)
    assert "10 samples" in capsys.readouterr().out
    assert sorted(path.name for path in made.parent.iterdir()) == ["x.npz", "x.png"]


def known_tokens(folder):
    known = np.random.default_rng(0).integers(0, 11, (NUM, 12))
    known[:, 3:9] = -1
    np.save(folder / "known.npy", known)
    return folder / "known.npy"


CASES = {
    "labels": ({}, lambda folder: ["--labels", "1,3-4", "--guidance", "2"]),
    "captions": (TEXT, lambda folder: ["--captions", encoded(folder / "set")]),
    "known": (
        tiny.masked(),
        lambda folder: ["--known", known_tokens(folder), "--option", "order=random"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_parts_hold_what_one_call_gives(case, tmp_path, capsys):
    overrides, arguments = CASES[case]
    arguments = [saved(tmp_path / "model", overrides), *arguments(tmp_path), "--seed", "2"]
    run(*arguments, "--out", tmp_path / "plain")
    run(*arguments, "--parts", "--out", tmp_path / "parts")
    plain, parts = stored(tmp_path / "plain.npz"), stored(tmp_path / "parts.npz")
    assert plain.keys() == parts.keys() and len(parts["tokens"]) == NUM
    for name in plain.keys() - {"settings"}:
        np.testing.assert_array_equal(parts[name], plain[name], err_msg=name)
    settings = json.loads(str(parts["settings"]))
    assert settings.items() > json.loads(str(plain["settings"])).items() - {
        ("run", str(tmp_path / "model"))
    }
    assert (tmp_path / "parts.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


def test_stopped_it_goes_on(model, tmp_path, monkeypatch, numbers, capsys):
    run(model, "--parts", "--out", tmp_path / "whole")
    numbers.clear()
    stop_after(monkeypatch, 2, model, "--parts", "--out", tmp_path / "x")
    assert "the same command goes on" in capsys.readouterr().err
    assert len(list((tmp_path / "x").iterdir())) == 2 and not (tmp_path / "x.npz").exists()
    numbers.clear()
    moved = shutil.copytree(model, tmp_path / "moved")  # the same weights elsewhere
    run(moved, "--parts", "--out", tmp_path / "x")
    assert numbers == [8]
    whole, found = stored(tmp_path / "whole.npz"), stored(tmp_path / "x.npz")
    for name in ("tokens", "labels"):
        np.testing.assert_array_equal(found[name], whole[name])


def test_other_settings_are_refused(model, tmp_path, monkeypatch, capsys):
    out = tmp_path / "x"
    stop_after(monkeypatch, 1, model, "--parts", "--out", out)
    capsys.readouterr()
    monkeypatch.setattr(Generator, "draw", None)  # nothing may be drawn
    arguments = [model, "--parts", "--out", out, *SIZES]
    line = error_of(capsys, sample.main, *arguments, "--seed", "1", "--guidance", "2")
    assert "other settings (seed 0, now 1; guidance None, now 2.0)" in line
    line = error_of(capsys, sample.main, *arguments, "--labels", "1")
    assert "other settings (labels" in line and "seed" not in line
    other = tiny.generator(tiny.config(), seed=1)
    other.save(tmp_path / "other")
    line = error_of(capsys, sample.main, tmp_path / "other", *arguments[1:])
    assert "weights" in line and "checkpoints/0" in line
    assert len(list(out.iterdir())) == 1


def test_a_file_of_other_samples_is_not_written_over(model, tmp_path, monkeypatch, capsys):
    run(model, "--out", tmp_path / "x")
    capsys.readouterr()
    before = (tmp_path / "x.npz").read_bytes()
    monkeypatch.setattr(Generator, "draw", None)
    arguments = [model, "--parts", "--out", tmp_path / "x", *SIZES]
    assert "x.npz was sampled with other settings" in error_of(capsys, sample.main, *arguments)
    assert (tmp_path / "x.npz").read_bytes() == before
    (tmp_path / "x.npz").write_bytes(before[:100])
    assert "x.npz is there and cannot be read" in error_of(capsys, sample.main, *arguments)


@pytest.mark.parametrize("damage", ["cut", "flip", "rows", "empty", "no settings"])
def test_a_damaged_part_is_made_anew(model, tmp_path, monkeypatch, numbers, capsys, damage):
    run(model, "--parts", "--out", tmp_path / "whole")
    stop_after(monkeypatch, 2, model, "--parts", "--out", tmp_path / "x")
    part = tmp_path / "x" / "part_00000.npz"
    content, arrays = bytearray(part.read_bytes()), stored(part)
    settings = json.loads(str(arrays.pop("settings")))
    if damage == "cut":
        part.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[content.index(arrays["tokens"].tobytes())] ^= 1
        part.write_bytes(content)
    elif damage == "rows":
        npz.write(part, {name: array[:3] for name, array in arrays.items()}, settings)
    elif damage == "empty":
        part.write_bytes(b"")
    else:
        np.savez(part, **arrays)
    numbers.clear()
    capsys.readouterr()
    run(model, "--parts", "--out", tmp_path / "x")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("gen: ")]
    assert f"{part} is damaged" in line and "made anew" in line
    assert numbers == [0, 8]
    for name, array in stored(tmp_path / "whole.npz").items():
        if name != "settings":
            np.testing.assert_array_equal(stored(tmp_path / "x.npz")[name], array)


def test_a_full_disk_is_one_line(model, tmp_path, monkeypatch, capsys):
    stop_after(monkeypatch, 1, model, "--parts", "--out", tmp_path / "x")
    capsys.readouterr()

    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        line = error_of(capsys, sample.main, model, "--parts", "--out", tmp_path / "x", *SIZES)
    assert "cannot write" in line and "part_00001.npz: No space left on device" in line
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["part_00000.npz"]
    line = error_of(capsys, sample.main, model, "--parts", "--out", "/proc/nothing/x")
    assert "cannot write to folder" in line

    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    run(model, "--parts", "--out", tmp_path / "x")
    assert f"{tmp_path / 'x'} has 1e-06 GB" in capsys.readouterr().err


def test_wrong_options(model, tmp_path, capsys):
    line = error_of(capsys, sample.main, model, "--distributed", "auto")
    assert "--distributed is for --parts" in line
    arguments = (model, "--batch-size", "0", "--out", tmp_path / "x")
    assert "--batch-size is at least 1" in error_of(capsys, sample.main, *arguments)


def test_a_batch_divides_over_the_devices():
    mesh = jax.sharding.AbstractMesh((4, 1, 1), sharding.AXES)
    parts.check_batch(64, mesh)
    with pytest.raises(UserError, match="give --batch-size 68"):
        parts.check_batch(66, mesh)


def test_two_devices_draw_what_one_draws(scales, made, tmp_path):
    arguments = (*scales, "--parts", "--out", tmp_path / "two", *SIZES)
    process = tiny.run_module("gen.sample", *arguments, devices=2)
    assert process.returncode == 0, process.stderr[-3000:]
    one, two = stored(made.with_suffix(".npz")), stored(tmp_path / "two.npz")
    np.testing.assert_array_equal(two["tokens"], one["tokens"])
    assert np.abs(two["arr_0"].astype(int) - one["arr_0"]).max() <= 1
