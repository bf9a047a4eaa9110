"""`gen.sample --parts` killed at any moment, and shared by processes, gives the set of one run."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np

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


def kill_at(moment, process, out, rng):
    """Kills the process at that moment; False if it was over before."""
    if moment == "starting":
        time.sleep(rng.uniform(0.1, 2.0))
    elif moment == "sampling":
        before = parts_in(out)
        wait_until(process, lambda: parts_in(out) - before)
        time.sleep(rng.uniform(0.0, 0.2))
    elif moment == "merging":
        wait_until(process, (out.parent / f".{out.name}.npz.partial").exists)
    else:
        wait_until(process, out.with_suffix(".npz").exists)
    process.kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGKILL), errors[-3000:]
    return process.returncode != 0


def assert_whole(out, expected):
    found, wanted = stored(out.with_suffix(".npz")), stored(expected)
    assert found.keys() == wanted.keys() and len(found["tokens"]) == NUM
    for name, array in wanted.items():
        if name != "settings":
            np.testing.assert_array_equal(found[name], array, err_msg=name)
    leavings = [path.name for path in out.parent.iterdir() if path.name.startswith(".")]
    assert not out.exists() and not leavings


def test_five_kills_and_two_processes_change_nothing(tmp_path):
    model, expected = tmp_path / "model", tmp_path / "whole.npz"
    tiny.generator(tiny.config()).save(model)
    process = tiny.run_module(*command(model, tmp_path / "whole"))
    assert process.returncode == 0, process.stderr[-3000:]

    rng, runs = random.Random(0), 0
    moments = ["sampling", "starting", "sampling", "merging", "removing"]
    out = tmp_path / "run-0"
    while moments:
        before = parts_in(out)
        if kill_at(moments[0], start(model, out), out, rng):
            merged = out.with_suffix(".npz").exists()
            assert merged or before <= parts_in(out), "a kill lost a part"
            moments.pop(0)
        else:  # over before the kill: begin again, so that all five count
            assert_whole(out, expected)
            runs += 1
            out = tmp_path / f"run-{runs}"
    _, errors = start(model, out).communicate(timeout=100)
    assert_whole(out, expected)

    pair = start_pair(*command(model, tmp_path / "pair"), "--distributed", "auto", devices=1)
    (printed, _), (printed_1, errors) = finish(pair)
    assert "process 1 of 2" in errors and f"{NUM} samples" in printed and not printed_1
    assert_whole(tmp_path / "pair", expected)
