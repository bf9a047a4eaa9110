"""A run that is killed, stopped or damaged goes on and ends as one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from gen import train
from gen.errors import UserError
from gen.training import checkpoint
from tests import tiny

STEPS = 150
OVERRIDES = {"train.steps": STEPS, "train.save_every": 6, "train.eval_every": 50}


def start(workdir, config):
    environment = os.environ | {"PYTHONPATH": str(tiny.ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "gen.train", "--config", config, "--workdir", workdir],
        env=environment,
        cwd=tiny.ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(workdir, config):
    process = start(workdir, config)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return errors


def final_arrays(workdir):
    """Every array of the last checkpoint, bit for bit."""
    import jax

    from gen import sharding
    from gen.config import from_json
    from gen.training.state import Trainer

    folder = workdir / "checkpoints" / str(STEPS)
    config = from_json(checkpoint.read_meta(folder)["config"])
    trainer = Trainer(config, sharding.make_mesh(config.mesh, batch_size=8))
    saved = checkpoint.Checkpoints(workdir, keep=2, meta={})
    state = saved.restore_latest(trainer.abstract)
    saved.close()
    assert int(state.step) == STEPS
    return {
        sharding.path_of(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def without_times(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k != "samples_per_second"} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its config file and folder."""
    folder = tmp_path_factory.mktemp("whole")
    config = tiny.write_config(folder / "tiny.py", **OVERRIDES)
    finish(folder / "first", config)  # fills the compilation cache
    finish(folder / "run", config)
    return config, folder / "run"


def assert_same(a, b):
    first, second = final_arrays(a), final_arrays(b)
    assert first.keys() == second.keys()
    for path, array in first.items():
        np.testing.assert_array_equal(array, second[path], err_msg=path)
    assert without_times(a) == without_times(b)


def test_two_runs_of_one_seed_are_identical(whole):
    _, run = whole
    assert_same(run, run.parent / "first")


def wait_for_training(process, workdir):
    """Returns when the process has saved a checkpoint of its own, or has ended."""
    folder = workdir / "checkpoints"
    known = checkpoint.steps_in(folder)[:1]
    while process.poll() is None and checkpoint.steps_in(folder)[:1] == known:
        time.sleep(0.01)


def test_ten_random_kills_change_nothing(whole, tmp_path):
    config, run = whole
    rng = random.Random(0)
    folder, kills, progress, resumed, runs = tmp_path / "run-0", 0, 0, 0, 0
    while kills < 10:
        process = start(folder, config)
        if kills % 4 == 3:  # while it starts, reads or restores
            time.sleep(rng.uniform(0.5, 3.0))
        else:  # while it steps, saves, prunes or finishes
            wait_for_training(process, folder)
            time.sleep(rng.uniform(0.0, 1.0))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        _, errors = process.communicate(timeout=300)
        assert process.returncode in (0, -signal.SIGKILL), errors[-3000:]
        now = max(checkpoint.steps_in(folder / "checkpoints"), default=0)
        assert now >= progress, "a kill lost a checkpoint"
        resumed += 0 < progress < STEPS
        progress = now
        if now == STEPS:  # done: begin again from nothing, so that all ten kills count
            finish(folder, config)
            assert_same(run, folder)
            runs, progress = runs + 1, 0
            folder = tmp_path / f"run-{runs}"
    assert resumed >= 3, "hardly a kill hit a run between its first and last checkpoint"
    finish(folder, config)
    assert_same(run, folder)


def test_stop_signal_saves_and_asks_for_a_restart(whole, tmp_path):
    config, run = whole
    process = start(tmp_path / "run", config)
    while not checkpoint.steps_in(tmp_path / "run" / "checkpoints"):
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    if process.returncode:  # it may have been done already
        assert process.returncode == train.RESTART, errors[-2000:]
        assert "stopped at step" in errors
    finish(tmp_path / "run", config)
    assert_same(run, tmp_path / "run")


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "empty folder"])
def test_damaged_newest_checkpoint_falls_back(whole, tmp_path, damage, capsys):
    import shutil

    config, run = whole
    shutil.copytree(run, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / str(STEPS)
    files = [path for path in (newest / "params").rglob("*") if path.is_file()]
    target = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(target.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 4
        target.write_bytes(content)
    elif damage == "cut":
        target.write_bytes(content[: len(content) // 2])
    elif damage == "remove":
        target.unlink()
    else:
        shutil.rmtree(newest)
        newest.mkdir()
    train.main(["--config", str(config), "--workdir", str(tmp_path / "run")])
    assert f"going on from step {STEPS - 6}" in capsys.readouterr().err
    assert_same(run, tmp_path / "run")


def test_all_checkpoints_damaged(whole, tmp_path, capsys):
    import shutil

    config, run = whole
    shutil.copytree(run, tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints").rglob("*"):
        if file.is_file() and "ocdbt.process" in str(file) and file.stat().st_size > 100:
            file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(SystemExit) as stop:
        train.main(["--config", str(config), "--workdir", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert "no checkpoint of this run is whole" in capsys.readouterr().err


def test_every_changed_file_is_noticed(whole, tmp_path):
    import shutil

    _, run = whole
    newest = run / "checkpoints" / str(STEPS)
    names = [p.relative_to(newest) for p in sorted(newest.rglob("*")) if p.is_file()]
    assert len(names) > 10
    for name in names:
        copy = tmp_path / "copy"
        shutil.copytree(newest, copy)
        content = bytearray((copy / name).read_bytes())
        if not content or name.name == checkpoint.MANIFEST:
            shutil.rmtree(copy)
            continue
        content[-1] ^= 1
        (copy / name).write_bytes(content)
        with pytest.raises(UserError, match="is damaged"):
            checkpoint.verify(copy)
        shutil.rmtree(copy)


def test_updates_that_are_never_finite_end_the_run(tmp_path, capsys):
    config = tiny.write_config(
        tmp_path / "tiny.py", **{"optim.lr": 1e38, "train.steps": 40, "train.max_skipped": 3}
    )
    with pytest.raises(SystemExit) as stop:
        train.main(["--config", str(config), "--workdir", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert "were not finite" in capsys.readouterr().err
