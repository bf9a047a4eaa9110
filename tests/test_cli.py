"""A user's mistakes: one clear line, exit code 2, before anything is compiled."""

import json
import shutil

import jax
import numpy as np
import pytest

from gen import data, evaluate, layouts, sample, train
from gen.errors import UserError
from tests import tiny


@pytest.fixture
def no_compilation(monkeypatch):
    """Fails the test if anything is compiled or traced after all."""

    def refuse(*args, **kwargs):
        raise AssertionError("compilation started before the mistake was found")

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    monkeypatch.setattr(train, "train", refuse)


def error_of(capsys, main, *arguments) -> str:
    """The one line that a command leaves, having exited with 2."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("gen: error: "), lines
    return lines[0].removeprefix("gen: error: ")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A finished tiny run."""
    folder = tmp_path_factory.mktemp("runs")
    config = tiny.write_config(folder / "tiny.py")
    train.main(["--config", str(config), "--workdir", str(folder / "run")])
    return folder / "run"


def write_grid(directory, *, vocab_size=11, num_classes=5, rows=20, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "tokens": rng.integers(0, vocab_size, (rows, 12)).astype(np.uint8),
        "label": rng.integers(0, num_classes, rows),
    } | changes
    return data.write_dataset(
        directory,
        name="mine",
        splits={"train": arrays, "test": arrays},
        layout=layouts.grid(3, 4, vocab_size),
        condition={"kind": "class", "num_classes": num_classes, "names": None},
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.train.stepz=3"], 'config.train has no field "stepz"; did you mean "steps"?'),
        (["--config.train.steps=ten"], 'config.train.steps must be int, not "ten"'),
        (["--config.mesh.data=3"], "needs 3 devices, there are 1"),
        (["--config.mesh.fsdp=2"], "mesh fsdp 2 needs a multiple of 2 devices, there is 1"),
        (["--config.mesh.tensor=0"], "sizes are >= 1"),
        (["--config.optim.accumulate=3"], "does not divide into 3 passes"),
        (["--config.data.name=absent"], 'dataset "absent" is not in'),
        (["--config.data.name=../x"], "../x"),
        (["--config.data.valid=nosuch"], "nosuch"),
        (["--config.data.valid=test[:0]"], 'config.data.valid "test[:0]"'),
        (["--config.eval.scores=digit"], 'did you mean "digits"?'),
        (["--config.eval.scores=digits", "--config.eval.num_samples=9"], "scores need 200 samples"),
        (["--config.optim.warmup_steps=4"], "warmup_steps"),
        (["--config.train.freeze=nothing"], "matches no parameter"),
        (["--confg.train.steps=3"], "unknown argument --confg.train.steps"),
        (["--tokeniser", "x"], 'unknown argument --tokeniser; did you mean "--tokenizer"?'),
        (["--config.train.seed=-1"], "config.train.seed lies in"),
        (["--config.optim.lr=-1"], "config.optim.lr is above 0"),
        (["--config.model.grid=3x4"], "values with commas between them"),
        (["--init_from", "/nonexistent/run"], "does not exist"),
    ],
)
def test_train_refuses(tmp_path, capsys, no_compilation, arguments, message):
    config = tiny.write_config(tmp_path / "tiny.py")
    line = error_of(
        capsys, train.main, "--config", config, "--workdir", tmp_path / "run", *arguments
    )
    assert message in line
    assert not (tmp_path / "run").exists()


def test_missing_arguments(capsys, no_compilation):
    assert "--config" in error_of(capsys, train.main)
    assert "does not exist" in error_of(capsys, train.main, "--config", "nosuch.py")


def test_unwritable_workdir(tmp_path, capsys, no_compilation):
    config = tiny.write_config(tmp_path / "tiny.py")
    (tmp_path / "file").write_text("")
    for workdir in (tmp_path / "file", tmp_path / "file" / "run", "/proc/nothing/run"):
        line = error_of(capsys, train.main, "--config", config, "--workdir", workdir)
        assert f"cannot write to folder {workdir}" in line


def test_published_config_without_tokens(capsys, tmp_path, no_compilation):
    line = error_of(
        capsys, train.main, "--config", tiny.ROOT / "configs" / "llamagen_b.py",
        "--workdir", tmp_path / "run", "--config.data.dir", tmp_path,
    )  # fmt: skip
    for part in ("imagenet256_vq16", str(tmp_path), "gen.data.write_dataset", ":debug"):
        assert part in line


def test_data_that_does_not_fit(tmp_path, capsys, no_compilation):
    write_grid(tmp_path)
    for override, message in (
        ({}, None),
        ({"model.vocab_size": 12}, "the data has vocabulary 11, the model vocabulary 12"),
        ({"model.grid": [4, 3]}, "lattice 1x3x4"),
        ({"model.condition.num_classes": 4}, "the data has 5 classes, the model 4 classes"),
        (tiny.text(), "no captions"),
    ):
        config = tiny.write_config(tmp_path / "tiny.py", **{"data.name": "mine"}, **override)
        arguments = ["--config", config, "--workdir", tmp_path / "run"]
        arguments += ["--config.data.dir", tmp_path]
        if message is None:
            assert train.prepare([str(a) for a in arguments]).job.dataset.manifest.name == "mine"
        else:
            assert message in error_of(capsys, train.main, *arguments)


def test_damaged_record(tmp_path, capsys, no_compilation):
    manifest = write_grid(tmp_path)
    shard = next(tmp_path.rglob(next(iter(manifest.shards))))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    config = tiny.write_config(tmp_path / "tiny.py", **{"data.name": "mine"})
    line = error_of(
        capsys, train.main, "--config", config, "--workdir", tmp_path / "run",
        "--config.data.dir", tmp_path,
    )  # fmt: skip
    assert shard.name in line


def test_checkpoint_missing_or_cut(tmp_path, capsys, run_folder):
    assert "does not exist" in error_of(capsys, sample.main, tmp_path / "nosuch")
    (tmp_path / "empty").mkdir()
    assert "holds no checkpoint" in error_of(capsys, evaluate.main, tmp_path / "empty")
    copy = tmp_path / "copy"
    shutil.copytree(run_folder, copy)
    newest = max((copy / "checkpoints").iterdir(), key=lambda p: int(p.name))
    biggest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    biggest.write_bytes(biggest.read_bytes()[:-7])
    for main, arguments in (
        (sample.main, [copy]),
        (evaluate.main, [newest]),
        (train.main, ["--config", tiny.write_config(tmp_path / "c.py"), "--init_from", newest,
                      "--workdir", tmp_path / "run"]),
    ):  # fmt: skip
        line = error_of(capsys, main, *arguments)
        assert "is damaged" in line and biggest.name in line
    (newest / "sha256.json").unlink()
    shutil.rmtree(newest / "params")
    assert "cannot be read" in error_of(capsys, sample.main, newest)


def test_resuming_with_other_settings(tmp_path, capsys, run_folder):
    config = tiny.write_config(tmp_path / "tiny.py")
    line = error_of(
        capsys, train.main, "--config", config, "--workdir", run_folder,
        "--config.optim.lr=1", "--config.model.vocab_size=12", "--config.train.log_every=3",
    )  # fmt: skip
    assert "model.vocab_size, optim.lr" in line and "log_every" not in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "5"], "labels lie in [0, 5)"),
        (["--labels", "a"], "--labels takes numbers"),
        (["--num", "0"], "--num is at least 1"),
        (["--temperature", "-1"], "temperature is at least 0"),
        (["--guidance-interval", "-2"], "guidance_interval is at least -1, not -2"),
        (["--seed", "-1"], "a seed is a number from 0 to 4294967295, not -1"),
        (["--seed", "4294967296"], "not 4294967296"),
        (["--labels", ""], "--labels takes numbers"),
        (["--guidance", "nan"], "guidance is a finite number, not nan"),
        (["--out", "."], "--out is the start of file names, not ."),
        (["--temperature", "hot"], "--temperature must be float"),
        (["--top-k", "1.5"], "--top-k must be int"),
        (["--top-p", "0"], "top_p lies in (0, 1]"),
        (["--out", "/proc/nothing/samples"], "cannot write to folder"),
        (["--dtype", "int4"], "invalid choice"),
        (["--temprature=1"], 'unknown argument --temprature; did you mean "--temperature"?'),
        (["more"], "unrecognized arguments: more"),
    ],
)
def test_sample_refuses(run_folder, capsys, arguments, message):
    line = error_of(capsys, sample.main, run_folder, *arguments)
    assert message in line


def test_evaluate_refuses(run_folder, capsys):
    assert "nosuch" in error_of(capsys, evaluate.main, run_folder, "--split", "nosuch")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.sample.guidence=1", 'did you mean "guidance'),
        ("--config.sample.top_k=many", "must be int"),
        ("--config.optim.lr=1", "config.optim.lr is fixed here: only data, eval, sample"),
    ],
)
def test_evaluate_overrides(run_folder, capsys, override, message):
    assert message in error_of(capsys, evaluate.main, run_folder, override)


@pytest.mark.parametrize("command", [evaluate.main, sample.main])
def test_a_seed_that_cannot_be_is_refused_first(tmp_path, capsys, command):
    parts = ["--parts", "--out", tmp_path / "x"] if command is sample.main else []
    line = error_of(capsys, command, "no/such/run", "--seed", "-1", *parts)
    assert line == "a seed is a number from 0 to 4294967295, not -1"
    assert not list(tmp_path.iterdir())


def test_guidance_without_a_null_class():
    generator = tiny.generator(tiny.config(**{"model.condition.drop_rate": 0.0}))
    with pytest.raises(UserError, match="without a null condition"):
        generator.sample(0, num=2, guidance=2.0)
    with pytest.raises(UserError, match="no null condition"):
        generator.nll(np.zeros((2, 12), int), labels=[0, 1], null=True)


def test_a_run_leaves_what_it_promises(run_folder):
    result = json.loads((run_folder / "result.json").read_text())
    assert result["steps"] == 4 and result["parameters"] > 1000
    assert result["config"]["train"]["steps"] == 4
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    held_out = [line for line in lines if "valid/nats_per_token" in line]
    assert [line["step"] for line in held_out] == [2, 4]
    assert all(line["valid/bits_per_dim"] > 0 for line in held_out)
    for name in ("samples.png", "curves.png"):
        assert (run_folder / name).read_bytes().startswith(b"\x89PNG")
    assert event_scalars(run_folder / "tensorboard") >= {("loss", 4), ("valid/bits_per_dim", 2)}
    assert "tokens/embedding" in (run_folder / "parameters.txt").read_text()
    steps = {int(path.name) for path in (run_folder / "checkpoints").iterdir()}
    assert steps == {2, 4}


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param("llamagen_b.py:384,debug", marks=pytest.mark.slow),
        "llamagen_t2i_xl.py:debug",
    ],
)
def test_published_configs_run_without_data(tmp_path, spec):
    train.main(["--config", f"{tiny.ROOT}/configs/{spec}", "--workdir", str(tmp_path / "run")])
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 4 and np.isfinite(result["held_out"]["nats_per_token"])
    assert result["config"]["data"]["name"] == "random"
    assert (tmp_path / "run" / "samples.png").exists() == ("t2i" not in spec)


def test_a_run_too_short_for_its_averages_says_so(capsys):
    for decay, said in ((0.9, True), (0.4, False), (0.0, False)):
        train.note_averages(tiny.config(**{"optim.ema_decay": decay, "train.steps": 4}))
        told = capsys.readouterr().err
        assert ("66% of them is still the start" in told and "--raw" in told) == said
        assert bool(told) == said


def test_default_folder_tells_runs_apart():
    assert train.run_name("configs/llamagen_b.py") == "llamagen_b"
    assert train.run_name("configs/llamagen_b.py:384,debug") == "llamagen_b_384_debug"


def event_scalars(folder):
    """(tag, step) of every scalar in TensorBoard event files: length, two checksums, record."""
    from tensorboardX.proto.event_pb2 import Event

    found = set()
    for file in folder.iterdir():
        content = file.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + length])
            found |= {(value.tag, event.step) for value in event.summary.value}
            content = content[16 + length :]
    return found


def test_sample_writes_tokens_and_picture(run_folder, tmp_path):
    arguments = [str(run_folder), "--labels", "0,2-3", "--num", "7", "--guidance", "2"]
    arguments += ["--temperature", "0.9", "--top-k", "5", "--seed", "3"]
    sample.main([*arguments, "--out", str(tmp_path / "new" / "s")])
    stored = np.load(tmp_path / "new" / "s.npz")
    assert stored["labels"].tolist() == [0, 2, 3, 0, 2, 3, 0]
    assert stored["tokens"].shape == (7, 12)
    settings = json.loads(str(stored["settings"]))
    assert settings["guidance"] == 2.0 and settings["top_k"] == 5 and settings["seed"] == 3
    assert settings["dtype"] == "float32"
    assert (tmp_path / "new" / "s.png").stat().st_size > 100
    sample.main([*arguments, "--out", str(tmp_path / "again")])
    np.testing.assert_array_equal(stored["tokens"], np.load(tmp_path / "again.npz")["tokens"])


def test_evaluate_prints_json(run_folder, tmp_path, capsys):
    evaluate.main([str(run_folder), "--split", "test", "--out", str(tmp_path / "e.json")])
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "e.json").read_text())
    assert printed["held_out"]["count"] == 64
    nats = printed["held_out"]["nats_per_token"]
    assert np.isclose(printed["held_out"]["bits_per_dim"], nats / np.log(2))
    assert printed["dtype"] == "float32"


def test_evaluate_tells_what_a_dtype_costs(run_folder, capsys):
    found = {}
    for dtype in ("float32", "bfloat16", "int8"):
        evaluate.main([str(run_folder), "--split", "test", "--num-samples", "0", "--dtype", dtype])
        printed = json.loads(capsys.readouterr().out)
        assert printed["dtype"] == dtype
        found[dtype] = printed["held_out"]["nats_per_token"]
    exact = found.pop("float32")
    assert len(set(found.values())) == 2
    assert all(0 < abs(own - exact) < 0.05 for own in found.values())
