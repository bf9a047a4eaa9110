"""Several processes take the steps of one, stop together, and refuse what cannot work.

The parts that need two processes but no training run in this file as a program.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util

import gen
from gen import data, distributed, tokenizers, train
from gen.errors import UserError
from gen.training.stop import RESTART
from tests import tiny, tiny_tokenizers

STEPS = 25
SETTINGS = {
    "model.backbone.depth": 1,
    "mesh": {"fsdp": 2, "tensor": 2},
    "data": {"name": "random", "valid": "test[:16]", "test": "test[16:32]"},
    "train.steps": STEPS,
    "train.save_every": 1000,
    "train.eval_every": 1000,
    "eval.batch_size": 16,
}


def start(module, *arguments, devices):
    """Starts the two processes of one run, joined by the variables on a free port."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    return [
        subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            env=os.environ | tiny.fake_devices(devices) | {
                "PYTHONPATH": str(tiny.ROOT),
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(index),
            },
            cwd=tiny.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in range(2)
    ]  # fmt: skip


def finish(processes, *, code=0):
    """Waits for all; their (stdout, stderr)."""
    try:
        outputs = [process.communicate(timeout=200) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs):
        assert process.returncode == code, errors[-3000:]
    return outputs


def train_pair(config, workdir):
    arguments = ("--config", config, "--workdir", workdir, "--distributed", "auto")
    return start("gen.train", *arguments, devices=2)


def metrics(workdir):
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines]
    return [{k: v for k, v in r.items() if k != "samples_per_second"} for r in records]


def assert_same_run(a, b):
    """Equal parameters, raw and averaged, reports and pictures of samples."""
    for averaged in (False, True):
        first, second = (
            traverse_util.flatten_dict(gen.load(run, averaged=averaged).params, sep="/")
            for run in (a, b)
        )
        assert first.keys() == second.keys()
        for path in first:
            np.testing.assert_allclose(first[path], second[path], rtol=0, atol=1e-6, err_msg=path)
    for one, two in zip(metrics(a), metrics(b), strict=True):
        assert one.keys() == two.keys()
        np.testing.assert_allclose(list(one.values()), list(two.values()), rtol=1e-5)
    assert (a / "samples.png").read_bytes() == (b / "samples.png").read_bytes()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A config whose parameters are cut over processes and devices, and its run in one process."""
    folder = tmp_path_factory.mktemp("alone")
    config = tiny.write_config(folder / "tiny.py", **SETTINGS)
    run = tiny.run_module(
        "gen.train", "--config", config, "--workdir", folder / "run", devices=4
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return config, folder / "run"


def test_two_processes_take_the_steps_of_one(alone, tmp_path):
    config, expected = alone
    (out, errors), (out_1, errors_1) = finish(train_pair(config, tmp_path))
    assert_same_run(expected, tmp_path)
    assert [r["step"] for r in metrics(tmp_path) if "loss" in r] == list(range(1, STEPS + 1))
    results = [json.loads((run / "result.json").read_text()) for run in (expected, tmp_path)]
    nats = [result["held_out"]["nats_per_token"] for result in results]
    np.testing.assert_allclose(*nats, rtol=1e-6)
    assert "process 0 of 2" in errors and "process 1 of 2" in errors_1
    assert "2 of 4 devices" in errors_1
    assert f'"steps": {STEPS}' in out and "mesh 1x2x2" in errors
    assert '"steps"' not in out_1 and "training" not in errors_1


@pytest.mark.slow
def test_two_processes_train_one_tokenizer(tmp_path):
    """Its running means and revived codes are those of all processes' images."""
    overrides = {"mesh": {"fsdp": 2}, "train.save_every": 4, "train.eval_every": 4}
    config = tiny_tokenizers.write_config(tmp_path / "tiny.py", "vq", **overrides)
    arguments = ("--config", config, "--workdir", tmp_path / "one")
    alone = tiny.run_module("gen.train", *arguments, devices=4)
    assert alone.returncode == 0, alone.stderr[-3000:]
    finish(train_pair(config, tmp_path / "two"))
    one, two = (tokenizers.load(tmp_path / run / "tokenizer.safetensors") for run in ("one", "two"))
    np.testing.assert_allclose(one.codebook, two.codebook, atol=1e-5)
    for first, second in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert first == pytest.approx(second, rel=1e-4)
    for name in ("tokenizer.safetensors", "reconstructions.png", "result.json"):
        assert (tmp_path / "two" / name).exists()


def test_a_signal_to_one_process_stops_all_and_the_run_goes_on(alone, tmp_path):
    config, expected = alone
    pair = train_pair(config, tmp_path)
    while not metrics(tmp_path):
        assert pair[0].poll() is None, finish(pair)
        time.sleep(0.01)
    pair[1].send_signal(signal.SIGTERM)
    (_, errors), _ = finish(pair, code=RESTART)
    stopped = metrics(tmp_path)[-1]["step"]
    assert 0 < stopped < STEPS and f"stopped at step {stopped};" in errors
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [str(stopped)]
    assert (tmp_path / "checkpoints" / str(stopped) / "sha256.json").exists()
    (_, errors), _ = finish(train_pair(config, tmp_path))
    assert f"going on from step {stopped} " in errors
    assert_same_run(expected, tmp_path)


@pytest.fixture(scope="module")
def decisions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decisions")
    outputs = finish(start("tests.test_distributed", folder, devices=2))
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


def test_processes_decide_together(decisions):
    for report in decisions:
        assert report["any"] == [False, True]
        assert report["feed"] == [True] * 5
        assert report["shared"] is None
        assert "not the same folder for all 2 processes" in report["not shared"]
    assert [report["together"] for report in decisions] == [
        "another process failed in this test: its own output tells why",
        "only here",
    ]


def test_processes_agree_on_the_step_to_stop_after(decisions):
    first, second = (report["stops"] for report in decisions)
    assert first == second and 3 <= first <= 6


def decide(folder):
    """What both processes find out; printed as JSON."""
    from gen import sharding
    from gen.training.feed import feed
    from gen.training.stop import StopSignal

    distributed.start("auto")
    distributed.VISIBLE_S = 0.5
    index = jax.process_index()
    report = {"any": [distributed.any_process(False), distributed.any_process(index == 1)]}
    try:
        with distributed.together("this test"):
            if index == 1:
                raise UserError("only here")
    except UserError as error:
        report["together"] = str(error)
    for name, path in (("shared", folder), ("not shared", folder / str(index))):
        path.mkdir(exist_ok=True)
        try:
            report[name] = distributed.check_shared(path)
        except UserError as error:
            report[name] = str(error)
    config = tiny.config(**{"data.shift": {"cells": 1, "rate": 0.5, "steps": 2}})
    split = data.random_dataset(gen.layouts.grid(3, 4, 11), {
        "kind": "class", "num_classes": 5, "names": None,
    }, num_examples=20).split("train")  # fmt: skip
    mesh = sharding.make_mesh(config.mesh, batch_size=8)
    whole = data.batches(split, batch_size=8, seed=0, shift=config.data.shift)
    stream = feed(config, split, mesh, start=1)
    report["feed"] = [
        all(
            np.array_equal(shard.data, whole.batch(step)[name][shard.index])
            for name, array in next(stream).items()
            for shard in array.addressable_shards
        )
        for step in range(1, 6)
    ]
    stream.close()
    with StopSignal() as stop:
        step = 1
        while not stop.agreed():
            step += 1
            if index == 0 and step == 3:
                signal.raise_signal(signal.SIGTERM)
    report["stops"] = step
    distributed.barrier()
    print(json.dumps(report))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({1: "2", 2: "0"}, "but not JAX_COORDINATOR_ADDRESS: set all or none"),
        ({0: "localhost:1", 2: "0"}, "but not JAX_NUM_PROCESSES"),
        ({0: "localhost", 1: "2", 2: "0"}, 'HOST:PORT of process 0, not "localhost"'),
        ({0: "localhost:99999", 1: "2", 2: "0"}, "HOST:PORT"),
        ({0: "localhost:1", 1: "two", 2: "0"}, 'from 1, not "two"'),
        ({0: "localhost:1", 1: "2", 2: "2"}, 'from 0 to 1, not "2"'),
        ({0: "localhost:1", 1: "2", 2: "-1"}, 'from 0 to 1, not "-1"'),
    ],
)
def test_a_wrong_environment_is_one_line(monkeypatch, tmp_path, capsys, values, message):
    for index, value in values.items():
        monkeypatch.setenv(distributed.VARIABLES[index], value)
    arguments = ["--config", str(tiny.write_config(tmp_path / "tiny.py"))]
    arguments += ["--workdir", str(tmp_path / "run"), "--distributed", "auto"]
    with pytest.raises(SystemExit) as stop:
        train.main(arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gen: error: ") and message in line


def test_process_0_does_not_answer(monkeypatch):
    with socket.socket() as probe:  # bound but not listening: nobody answers
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
        for name, value in zip(distributed.VARIABLES, (address, "2", "1")):
            monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=f"does not answer at {address}"):
            distributed.start("auto", timeout=1)


def test_several_processes_need_the_option(monkeypatch):
    for name, value in zip(distributed.VARIABLES, ("localhost:1", "2", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="give --distributed auto"):
        distributed.start("off")


def test_auto_without_a_cluster(tmp_path):
    config = tiny.write_config(tmp_path / "tiny.py")
    run = tiny.run_module("gen.train", "--config", config, "--distributed", "auto")
    assert run.returncode == 2
    assert run.stderr.startswith("gen: error: --distributed auto found no cluster")
    assert len(run.stderr.splitlines()) == 1


if __name__ == "__main__":
    decide(Path(sys.argv[1]))
