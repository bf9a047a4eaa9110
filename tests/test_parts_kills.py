"""`gen.sample --parts` killed at any moment, and shared by processes, gives the set of one run."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from gen.training.stop import RESTART
from tests import tiny
from tests.test_distributed import finish
from tests.test_distributed import start as start_pair
from tests.test_parts import stored

NUM, BATCH = 480, 4


def command(model, out):
    sizes = ("--num", NUM, "--batch-size", BATCH)
    return ["gen.sample", *map(str, (model, *sizes, "--parts", "--out", out))]


def start(model, out):
    return subprocess.Popen(
        [sys.executable, "-m", *command(model, out)],
        env=os.environ | {"PYTHONPATH": str(tiny.ROOT)},
        cwd=tiny.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def parts_in(out):
    return set(out.glob("part_*.npz"))


def wait_until(process, happened):
    while process.poll() is None and not happened():
        time.sleep(0.001)


def partial(out):
    """What the merged file is called until it is whole."""
    return out.parent / f".{out.name}.npz.partial"


def kill_at(moment, process, out, rng):
    """Kills the process at that moment; False if the moment was missed."""
    before = parts_in(out)
    if moment == "starting":
        time.sleep(rng.uniform(0.1, 2.0))
    elif moment == "sampling":
        wait_until(process, lambda: parts_in(out) - before)
        time.sleep(rng.uniform(0.0, 0.2))
    elif moment == "merging":
        wait_until(process, partial(out).exists)
    else:
        wait_until(process, out.with_suffix(".npz").exists)
    process.kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGKILL), errors[-3000:]
    if process.returncode == 0:
        return False
    if not out.with_suffix(".npz").exists():
        assert before <= parts_in(out), "a kill lost a part"
    return moment != "merging" or partial(out).exists()


def assert_whole(out, expected):
    found, wanted = stored(out.with_suffix(".npz")), stored(expected)
    assert found.keys() == wanted.keys() and len(found["tokens"]) == NUM
    for name, array in wanted.items():
        if name != "settings":
            np.testing.assert_array_equal(found[name], array, err_msg=name)
    leavings = [path.name for path in out.parent.iterdir() if path.name.startswith(".")]
    assert not out.exists() and not leavings


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A saved model, and the samples of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    tiny.generator(tiny.config()).save(folder / "model")
    process = tiny.run_module(*command(folder / "model", folder / "x"))
    assert process.returncode == 0, process.stderr[-3000:]
    return folder / "model", folder / "x.npz"


def test_five_random_kills_change_nothing(whole, tmp_path):
    model, expected = whole
    rng, runs, resumed = random.Random(0), 0, 0
    moments = ["sampling", "starting", "sampling", "merging", "removing"]
    out = tmp_path / "run-0"
    while moments:
        resumed += 0 < len(parts_in(out)) < NUM // BATCH
        if kill_at(moments[0], start(model, out), out, rng):
            moments.pop(0)
        else:  # begin again from nothing, so that all five count
            start(model, out).communicate(timeout=100)
            assert_whole(out, expected)
            runs += 1
            out = tmp_path / f"run-{runs}"
    assert resumed, "no kill left a set half made"
    process = start(model, out)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors[-3000:]
    assert_whole(out, expected)


def test_two_processes_share_stop_and_go_on(whole, tmp_path):
    model, expected = whole
    out = tmp_path / "x"
    arguments = (*command(model, out), "--distributed", "auto")
    pair = start_pair(*arguments, devices=1)
    wait_until(pair[0], lambda: parts_in(out))
    pair[1].send_signal(signal.SIGTERM)  # to one: both stop
    finish(pair, code=RESTART)
    before = parts_in(out)
    assert 0 < len(before) < NUM // BATCH and not out.with_suffix(".npz").exists()
    (printed, _), (printed_1, errors) = finish(start_pair(*arguments, devices=1))
    assert "process 1 of 2" in errors
    assert f"{NUM} samples" in printed and "samples" not in printed_1
    assert_whole(out, expected)
