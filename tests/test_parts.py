"""`gen.sample --parts`: the samples of one call, in files that go on where they were stopped."""

import errno
import json
import os
import shutil
import signal
import tracemalloc
import zipfile

import jax
import numpy as np
import pytest

from gen import distributed, sample, sharding, tokenizers
from gen.api import Generator
from gen.errors import UserError
from gen.parts import npz, sampling
from gen.parts.files import PartSet
from gen.tokenizers import MSVQTokenizer
from gen.training.stop import RESTART, StopSignal
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
    params = MSVQTokenizer.fresh(config, seed=5).params
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
    whole = generator.sample(3, num=8, guidance=2.0)
    parts = [generator.sample(3, num=n, first=k, guidance=2.0) for k, n in ((0, 3), (3, 5))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert not np.array_equal(generator.sample(3, num=5, guidance=2.0), whole[3:])


def test_pixels_for_evaluators(scales, tmp_path, numbers, capsys):
    out = tmp_path / "new" / "x"
    run(*scales, "--parts", "--out", out)
    assert numbers == [0, 4, 8]
    assert "10 samples" in capsys.readouterr().out
    found = stored(out.with_suffix(".npz"))
    assert set(found) == {"tokens", "labels", "arr_0", "arr_1", "settings"}
    assert found["labels"].tolist() == found["arr_1"].tolist() == [0, 1, 2, 3, 4] * 2
    tokenizer = tokenizers.load(scales[2])
    pixels = tokenizer.to_uint8(tokenizer.decode(found["tokens"]))
    assert found["arr_0"].dtype == np.uint8 and found["arr_0"].shape == pixels.shape
    assert np.abs(found["arr_0"].astype(int) - pixels).max() <= 1
    # The files are the merged one and the picture: parts would take the space twice.
    assert sorted(path.name for path in out.parent.iterdir()) == ["x.npz", "x.png"]

    (tmp_path / "new" / "x.png").unlink()
    run(*scales, "--parts", "--out", out)
    assert numbers == [0, 4, 8], "nothing is drawn again"
    assert sorted(path.name for path in out.parent.iterdir()) == ["x.npz", "x.png"]


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
        lambda folder: ["--known", known_tokens(folder), "--option", "keep_steps=true"],
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


def test_processes_need_parts(model, capsys):
    line = error_of(capsys, sample.main, model, "--distributed", "auto")
    assert "--distributed is for --parts" in line


def test_a_batch_divides_over_the_devices():
    mesh = jax.sharding.AbstractMesh((4, 1, 1), sharding.AXES)
    sampling.check_batch(64, mesh)
    with pytest.raises(UserError, match="give --batch-size 68"):
        sampling.check_batch(66, mesh)


def test_two_devices_draw_what_one_draws(scales, tmp_path):
    run(*scales, "--parts", "--out", tmp_path / "one")
    arguments = (*scales, "--parts", "--out", tmp_path / "two", *SIZES)
    process = tiny.run_module("gen.sample", *arguments, devices=2)
    assert process.returncode == 0, process.stderr[-3000:]
    one, two = stored(tmp_path / "one.npz"), stored(tmp_path / "two.npz")
    np.testing.assert_array_equal(two["tokens"], one["tokens"])
    assert np.abs(two["arr_0"].astype(int) - one["arr_0"]).max() <= 1


ROWS = {
    "tokens": lambda i: np.arange(i, i + 12, dtype=np.int32),
    "arr_0": lambda i: np.full((16, 16, 3), i % 251, np.uint8),
    "captions": lambda i: np.array(f"caption {i}", "<U14"),
    "latents": lambda i: np.full((1,), i / 7, np.float32),
}


def rows_of(rows):
    """Arrays that tell which samples they are of."""
    numbers = range(rows.start, rows.stop)
    return {name: np.stack([row(i) for i in numbers]) for name, row in ROWS.items()}


def test_processes_share_the_parts(tmp_path):
    parts, drawn = PartSet(tmp_path / "x", 50, 4, {"seed": 0}), []
    parts.out.mkdir()

    def draw(rows):
        drawn.append(rows)
        return rows_of(rows)

    for index in range(2):
        with StopSignal() as stop:
            missing = parts.missing(index, 2)
            assert missing == set(range(index, 13, 2))
            assert parts.make(missing, draw, stop, index=index, count=2)
    assert sorted(i for rows in drawn for i in range(rows.start, rows.stop)) == list(range(50))
    with StopSignal() as stop:
        assert parts.make(parts.missing(), None, stop), "nothing is left to draw"
        assert parts.merge(stop)
    for name, array in rows_of(slice(0, 50)).items():
        np.testing.assert_array_equal(stored(parts.merged)[name], array)


def test_merging_streams(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1 << 16)  # as if the file were of many gigabytes
    parts = PartSet(tmp_path / "x", 20_000, 1000, {"seed": 0})
    parts.out.mkdir()
    with StopSignal() as stop:
        assert parts.make(parts.missing(), rows_of, stop)
        tracemalloc.start()
        assert parts.merge(stop)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    found = stored(parts.merged)
    assert found["arr_0"].nbytes > 15e6 > 5e6 > peak
    for name in ROWS:
        pieces = [stored(parts.path(k))[name] for k in range(parts.total)]
        assert found[name].dtype == pieces[0].dtype
        np.testing.assert_array_equal(found[name], np.concatenate(pieces))
    # Evaluators read rows off the member of the archive: NumPy's format 1.0, in C order.
    with zipfile.ZipFile(parts.merged) as archive, archive.open("arr_0.npy") as member:
        assert np.lib.format.read_magic(member) == (1, 0)
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(member)
        assert shape == (20_000, 16, 16, 3) and not by_columns and dtype == np.uint8
        assert np.array_equal(np.frombuffer(member.read(768), np.uint8), np.zeros(768))
    np.testing.assert_array_equal(npz.first_rows(parts.merged, "tokens", 3), found["tokens"][:3])


def test_merging_stops_and_refuses(tmp_path, monkeypatch):
    parts = PartSet(tmp_path / "x", 8, 4, {"seed": 0})
    parts.out.mkdir()
    with StopSignal() as stop:
        assert parts.make(parts.missing(), rows_of, stop)
        signal.raise_signal(signal.SIGINT)
        assert not parts.merge(stop)
    content = bytearray(parts.path(1).read_bytes())
    content[300] ^= 1
    parts.path(1).write_bytes(content)
    with StopSignal() as stop, pytest.raises(UserError, match=r"part_00001.npz is damaged"):
        parts.merge(stop)
    parts.path(1).unlink()
    monkeypatch.setattr(distributed, "VISIBLE_S", 0)
    with StopSignal() as stop, pytest.raises(UserError, match=r"part_00001.npz is gone"):
        parts.merge(stop)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
