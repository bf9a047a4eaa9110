"""Runs side by side: trained once, loaded after that, each figure under its own name."""

import dataclasses
import itertools
import json
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import gen
from gen import config as configs
from gen import evaluate, train
from gen.compare.__main__ import main
from gen.compare.report import remarks
from gen.compare.runs import finished, measure_of
from gen.data.digits import load_digits
from gen.errors import UserError
from gen.families import FAMILIES
from gen.jobs.generator import GeneratorJob
from gen.pictures.panels import Panel, save_panels
from gen.training.stop import RESTART
from tests import tiny
from tests.test_cli import error_of

CLASSES = {"kind": "class", "num_classes": 10}
BACKBONE = {"depth": 1, "width": 16, "heads": 2}
EXACT = {
    "model": {"grid": [8, 8], "vocab_size": 17, "condition": CLASSES, "backbone": BACKBONE},
    "data": {"name": "digits", "train": "train[:200]", "test": "test[:70]"},
    "train.steps": 2,
    "sample": {"guidance": 2.0},
    "eval": {"batch_size": 70, "scores": ["digits"]},
}
LOSS = {
    "data": {"name": "random", "test": "test[:60]"},
    "model.latents": {"channels": 1, "gray_levels": 17},
    "train.steps": 2,
    "eval": {"batch_size": 60},
}
QUANTIZER = {"codebook_size": 41, "codebook_dim": 1, "scales": [[1, 1], [2, 2]], "mixing": 0.0}
SCORES = {"class_accuracy": 0.8, "two_sample_accuracy": 0.7, "memorisation_ratio": 0.9}
STORED = {
    "unguided": SCORES | {"classifier_test_accuracy": 0.91},
    "guided": {name: value + 0.1 for name, value in SCORES.items()},
    "histogram_bits_per_dim": 2.2,
}


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Training without what takes longest: scores and pictures of samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GeneratorJob, "_draw_samples", lambda *_: None)
        patch.setitem(evaluate.SAMPLE_SCORES, "digits", lambda *_, **__: STORED)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run to train, and one of another kind that is there: config files, `runs/`, `out.*`."""
    folder = tmp_path_factory.mktemp("compare")
    tiny.write_config(folder / "exact.py", **EXACT)
    spec, run = tiny.write_config(folder / "loss.py", **tiny.flow(**LOSS)), folder / "runs" / "loss"
    config = configs.load(str(spec))
    tiny.generator(config).save(run)
    (run / "checkpoints" / "0").rename(run / "checkpoints" / "2")
    held_out = {"flow_loss": 1.234, "flow_loss_stderr": 0.1}
    result = {"parameters": 12345, "held_out": held_out, "config": config.to_json()}
    (run / "result.json").write_text(json.dumps(result))
    main(arguments(folder))
    return folder


def arguments(folder, *more, out="out", names=("exact", "loss")):
    specs = [str(folder / f"{name}.py") for name in names]
    places = ["--runs", str(folder / "runs"), "--out", str(folder / out)]
    return [*specs, *places, "--batch-size", "8", *more]


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a run was trained")

    monkeypatch.setattr(train, "train", refuse)


def cells(text):
    """Row name -> column name -> text, of the Markdown table."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert all(re.fullmatch(r"-+:?", cell) for cell in rows[1])
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in [rows[0], *rows[2:]]}


def test_each_figure_is_what_its_run_stored_under_its_own_name(folder):
    text = (folder / "out.md").read_text()
    rows = cells(text)
    result = json.loads((folder / "runs" / "exact" / "result.json").read_text())
    stored = ("exact", "loss")
    bits = f"{result['held_out']['bits_per_dim']:.2f}"
    assert [rows[name]["bits/dim"] for name in stored] == [bits, "-"]
    assert [rows[name]["flow loss"] for name in stored] == ["-", "1.23"]
    assert [rows[name]["parameters"] for name in stored] == [f"{result['parameters']:,}", "12,345"]
    assert [rows[name]["class accuracy"] for name in stored] == ["0.80 / 0.90", "-"]
    assert [rows[name]["two-sample test"] for name in stored] == ["0.70 / 0.80", "-"]
    assert [rows[name]["memorisation ratio"] for name in stored] == ["0.90 / 1.00", "-"]
    assert [rows[name]["calls"] for name in stored] == ["64", "2"]
    assert [rows[name]["data"] for name in stored] == ["digits", "random"]
    assert [rows[name]["guidance"] for name in stored] == ["2", "-"]
    for name in stored:
        assert float(rows[name]["samples/s"].replace(",", "")) > 0
    assert "Real test data of digits: class accuracy 0.91." in text
    assert "A histogram per class and position of digits: 2.20 bits/dim." in text
    assert f"on one cpu, jax {jax.__version__}" in text
    assert "bounded from above" not in text


def test_remarks_tell_what_there_is(folder):
    exact, loss = json.loads((folder / "out.json").read_text())["runs"]
    del exact["result"]["digits"]["histogram_bits_per_dim"]
    loss["measure"]["name"] = "bits/dim (bound)"
    text = remarks([exact, loss], train.versions())
    assert "Real test data of digits: class accuracy 0.91." in text
    assert "histogram" not in text and "random" not in text
    assert "bounded from above" in text


def test_json_holds_everything(folder):
    found = json.loads((folder / "out.json").read_text())
    exact, loss = found["runs"]
    assert found["versions"] == train.versions()
    assert exact["result"] == json.loads((folder / "runs" / "exact" / "result.json").read_text())
    assert loss["measure"] == {"name": "flow loss", "value": 1.234, "stderr": 0.1}
    assert exact["network"] == {
        "calls_per_sample": 64,
        "calls_with_two_branches_when_guided": 64,
        "branches_per_sample_when_guided": 128,
    }
    assert loss["network"]["branches_per_sample_when_guided"] == 2
    speed = exact["speed"]
    assert (speed["batch_size"], speed["repeats"]) == (8, 3)
    assert speed["samples_per_second"] >= speed["samples_per_second_median"] > 0


def test_picture_has_real_digits_and_the_samples(folder):
    with Image.open(folder / "out.png") as picture:
        pixels = np.asarray(picture.convert("L")).astype(int)
    digits_NP, labels_N = load_digits()
    test_NP, test_N = digits_NP[1500:1570], labels_N[1500:1570]
    generator = gen.load(folder / "runs" / "exact")
    samples_NP = generator.sample(0, labels=np.arange(50) % 10, batch_size=8)
    panel, top = 2 * 16 + 10 * 32 + 9 * 8, 39 + 48 + 16
    for row, label in itertools.product(range(5), range(10)):
        real_P = test_NP[test_N == label][row]
        for number, tokens_P in enumerate((real_P, samples_NP[10 * row + label])):
            y, x = top + row * 40, number * panel + 16 + label * 40
            wanted = np.rint(tokens_P.reshape(8, 8) * (255 / 16))
            np.testing.assert_array_equal(pixels[y : y + 32 : 4, x : x + 32 : 4], wanted)
    assert (pixels[top : top + 192, 16 + 32 : 16 + 40] == 255).all()


def test_clips_stand_in_columns_with_white_lines_between_frames(tmp_path):
    rng = np.random.default_rng(0)
    clips_NTHW = rng.integers(0, 200, (4, 3, 7, 8), dtype=np.uint8)
    panel = Panel("title", "caption", clips_NTHW, ["a", "b"])
    save_panels(tmp_path / "clips.png", [[panel], [panel, panel]], columns=2)
    with Image.open(tmp_path / "clips.png") as picture:
        pixels = np.asarray(picture.convert("L"))[48 + 16 :: 4, 16::4]
    for number, clip_THW in enumerate(clips_NTHW):
        x = (number % 2) * 10
        for frame, image_HW in enumerate(clip_THW):
            y = (number // 2) * (3 * 8 + 1) + frame * 8
            np.testing.assert_array_equal(pixels[y : y + 7, x : x + 8], image_HW)
            assert (pixels[y + 7, x : x + 8] == 255).all()
    with pytest.raises(UserError, match="needs a panel"):
        save_panels(tmp_path / "none.png", [[]])
    with pytest.raises(UserError, match="4 clips do not fill rows of 3"):
        save_panels(tmp_path / "none.png", [[dataclasses.replace(panel, labels=["a", "b", "c"])]])


def test_finished_runs_are_loaded(folder, no_training, capsys):
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/result.json")}
    main(arguments(folder, "--config.train.log_every=7", names=("exact",), out="again"))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    printed = capsys.readouterr()
    assert cells(printed.out).keys() == {"config", "exact"}
    assert "flow loss" not in printed.out
    assert "1 of 1: exact is there" in printed.err
    assert f"{folder}/again.json" in printed.err


def test_other_settings_of_sampling_score_anew_without_training(folder, tmp_path):
    shutil.copytree(folder / "runs" / "exact", tmp_path / "exact")
    metrics = (tmp_path / "exact" / "metrics.jsonl").read_text()
    places = ["--runs", str(tmp_path), "--out", str(tmp_path / "out"), "--batch-size=8"]
    main([str(folder / "exact.py"), "--config.sample.guidance=3", *places])
    assert (tmp_path / "exact" / "metrics.jsonl").read_text() == metrics
    assert cells((tmp_path / "out.md").read_text())["exact"]["guidance"] == "3"
    result = json.loads((tmp_path / "exact" / "result.json").read_text())
    assert result["config"]["sample"]["guidance"] == 3


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"config": {}, "parameters": 1}'])
def test_a_result_that_is_none_is_not_loaded(folder, tmp_path, content):
    spec = str(folder / "exact.py")
    run = train.prepare(["--config", spec, "--workdir", str(folder / "runs" / "exact")])
    assert finished(run)["digits"] == STORED
    (tmp_path / "result.json").write_text(content)
    assert finished(dataclasses.replace(run, workdir=tmp_path)) is None


@pytest.mark.parametrize(
    ("names", "more", "message"),
    [
        (("new", "exact"), ["--config.train.stepz=3"], 'new.py: config.train has no field "stepz"'),
        (("new", "exact"), ["--config.train.steps=3"], "exact.py: the run in .* of train.steps"),
        (("new", "missing"), [], "missing.py: config file .* does not exist"),
        (("new", "new"), [], "two configs are called new"),
        (("new", "text"), [], "text.py: only models that are conditioned on classes"),
        (("new", "untested"), [], "untested.py: config.data.test names no split"),
        (("new", "unfit"), [], "unfit.py: the data has 10 classes, the model 9"),
        (("new",), ["--batch-size", "0"], "--batch-size is at least 1"),
        (("new",), ["--out", "/dev/null/out"], "cannot write to folder /dev/null"),
        (("new",), ["--runs", "/dev/null"], "new.py: cannot write to folder /dev/null/new"),
    ],
)
def test_all_is_refused_before_the_first_training(
    folder, no_training, capsys, names, more, message
):
    tiny.write_config(folder / "new.py", **EXACT)
    tiny.write_config(folder / "text.py", **tiny.text())
    tiny.write_config(folder / "untested.py", **{"data": {"name": "random"}})
    fields = EXACT["model"] | {"condition": CLASSES | {"num_classes": 9}}
    tiny.write_config(folder / "unfit.py", **EXACT | {"model": fields})
    capsys.readouterr()
    assert re.search(message, error_of(capsys, main, *arguments(folder, *more, names=names)))


def test_a_stopped_run_ends_the_comparison_and_goes_on_later(folder, capsys, monkeypatch):
    tiny.write_config(folder / "stopped.py", **EXACT)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr("gen.training.stop.StopSignal.agreed", lambda self: True)
        main(arguments(folder, names=("stopped", "exact"), out="stopped"))
    assert stop.value.code == RESTART
    assert "stopped at step 1; the same command goes on from there" in capsys.readouterr().err
    assert not (folder / "stopped.md").exists()
    main(arguments(folder, names=("stopped",), out="stopped"))
    assert "going on from step 1" in capsys.readouterr().err
    both = [folder / "out.md", folder / "stopped.md"]
    first, resumed = (cells(path.read_text())[name]["bits/dim"]
                      for path, name in zip(both, ("exact", "stopped")))  # fmt: skip
    assert first == resumed


@pytest.mark.parametrize(
    ("overrides", "measure"),
    [
        ({"family": "next_token"}, "bits/dim"),
        (tiny.masked(), "bits/dim (bound)"),
        (tiny.scales(), "bits/dim"),
        (
            tiny.scales(**{"model.gray_levels": 17, "model.quantizer": QUANTIZER}),
            "bits/dim (bound)",
        ),
        (tiny.flow(), "flow loss"),
    ],
)
def test_what_a_held_out_figure_is_called(overrides, measure):
    family = FAMILIES[overrides["family"]]
    assert measure_of(family(tiny.config(**overrides).model))[0] == measure
