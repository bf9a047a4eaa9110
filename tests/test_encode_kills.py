"""`gen.encode` killed at any moment, or shared by shards, makes the files of one quiet run."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from gen import tokenizers
from gen.data import Manifest, check_dataset
from gen.images import ImageFolder
from gen.training.stop import RESTART
from tests import tiny
from tests.encode_helpers import image_folder, vq


class Work:
    """A folder of images to be encoded, two of them broken."""

    def __init__(self, folder, count, part_size):
        self.images, self.tokenizer = folder / "zoo", folder / "vq.safetensors"
        self.part_size, self.parts = part_size, -(-count // part_size)
        tokenizers.save(vq(), self.tokenizer)
        found = ImageFolder.find(image_folder(self.images, count))
        self.broken = [found.key(index) for index in (count // 3, count // 2)]
        for key in self.broken:
            (self.images / key).write_bytes(b"no image")

    def start(self, out, *arguments):
        arguments = (
            "gen.encode", "images", self.images, "--tokenizer", self.tokenizer, "--name", "codes",
            "--dir", out, "--size", "8,8", "--batch-size", 4, "--part-size", self.part_size,
            "--holdout", 7, "--bad-files", 2, *arguments,
        )  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-m", *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": str(tiny.ROOT)}, cwd=tiny.ROOT,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def finish(self, out, *arguments):
        """Runs to the end and returns the manifest, if the dataset is there."""
        process = self.start(out, *arguments)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
        there = (out / "codes").exists()
        return Manifest.read(out / "codes" / "1.0.0") if there else None

    def kill(self, out, rng):
        """Kills a run some time after its first new part; returns whether something was left."""
        before = parts_in(out)
        process = self.start(out)
        while process.poll() is None and not parts_in(out) - before:
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.1))
        process.kill()
        _, errors = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL), errors[-3000:]
        assert process.returncode == 0 or before <= parts_in(out), "a kill lost a part"
        return process.returncode != 0 and len(before) < len(parts_in(out)) < self.parts


def parts_in(out):
    return set((out / "codes.parts").glob("part_*.npz"))


def survive(work, out, kills, seed=0):
    """Kills so many runs with parts left to do, then finishes; returns the manifest.

    A busy machine may leave a run alone until it is done, which is no kill: then from the start.
    """
    rng = random.Random(seed)
    for _ in range(5):
        if all(work.kill(out, rng) for _ in range(kills)):
            return work.finish(out)
        shutil.rmtree(out)
    pytest.fail("runs were always done before they could be killed")


def assert_clean(out, broken):
    assert sorted(path.name for path in out.iterdir()) == ["codes", "codes.bad.txt"]
    listed = (out / "codes.bad.txt").read_text().splitlines()
    assert {line.split("\t")[0] for line in listed} == set(broken)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return Work(tmp_path_factory.mktemp("work"), 200, 2)


@pytest.fixture(scope="module")
def quiet(work, tmp_path_factory):
    """The manifest of a run that nothing disturbed; it holds the hashes of all files."""
    out = tmp_path_factory.mktemp("quiet")
    manifest = work.finish(out)
    assert sum(manifest.splits.values()) == 198 and set(manifest.details["bad"]) == set(work.broken)
    assert not check_dataset(out / "codes")["problems"]
    assert_clean(out, work.broken)
    return manifest


def test_killed_three_times(work, quiet, tmp_path):
    assert survive(work, tmp_path, 3) == quiet
    assert_clean(tmp_path, work.broken)


def test_two_shards_of_which_one_is_told_to_stop(work, quiet, tmp_path):
    assert work.finish(tmp_path, "--shard", "1/2") is None
    process = work.start(tmp_path, "--shard", "0/2")
    before = parts_in(tmp_path)
    while process.poll() is None and not parts_in(tmp_path) - before:
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == RESTART and "the same command goes on" in errors
    assert work.finish(tmp_path, "--shard", "0/2") == quiet
    assert_clean(tmp_path, work.broken)


@pytest.mark.slow
def test_2000_images_in_every_way(tmp_path):
    work = Work(tmp_path, 2000, 16)
    whole = work.finish(tmp_path / "whole")
    assert sum(whole.splits.values()) == 1998
    assert survive(work, tmp_path / "killed", 3) == whole
    assert work.finish(tmp_path / "shards", "--shard", "0/2") is None
    assert work.finish(tmp_path / "shards", "--shard", "1/2") == whole
