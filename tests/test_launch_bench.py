"""The one command that measures a GPU, tried on the CPU with shrunken models."""

import json
import os
import subprocess
import sys

import pytest

from tests import tiny


def run(*arguments, **env):
    return subprocess.run(
        [sys.executable, str(tiny.ROOT / "launch" / "bench_gpu.py"), *map(str, arguments)],
        capture_output=True, text=True, timeout=600, cwd=tiny.ROOT,
        env=os.environ | {"PYTHONPATH": str(tiny.ROOT)} | env,
    )  # fmt: skip


def test_commands_are_shown(tmp_path):
    done = run("--out", tmp_path, "--dry-run")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 12 and not list(tmp_path.iterdir())
    assert "llamagen_b.py:384 --batch 8 --guidance 4 --config.sample.top_k=2000" in lines[0]
    assert [line.split()[0] for line in lines if line.startswith("GEN_")] == [
        "GEN_XLA_FLAGS=gpu", "GEN_XLA_FLAGS=gpu_graphs", "GEN_XLA_FLAGS=gpu"
    ]  # fmt: skip
    for words in ("--train", "--attention", "--first", "var_d16.py", "maskgit_256.py", "flowar_s"):
        assert any(words in line for line in lines), words


def test_refusals(tmp_path):
    done = run("--out", tmp_path)
    assert done.returncode == 2 and "finds no accelerator" in done.stderr
    done = run("--out", tmp_path, "--only", "llamagen_b,nothing")
    assert done.returncode == 2 and "--only: no nothing in" in done.stderr
    done = run("--out", "/proc/none", "--debug")
    assert done.returncode == 2 and "cannot write to folder /proc/none" in done.stderr


def test_what_fails_is_told_and_what_is_there_stays(tmp_path):
    record = {"cold": {"until": {"sampled": 9.0}}, "warm": [{"until": {"sampled": 4.0}}]}
    found = {"first": record, "versions": {"device": "gpu: some"}}
    (tmp_path / "first.json").write_text(json.dumps(found))
    # A set of flags that is none: what names no set of its own fails at once.
    done = run("--out", tmp_path, "--only", "nar_b,first", "--debug", GEN_XLA_FLAGS="none")
    assert done.returncode == 1
    text = (tmp_path / "summary.md").read_text()
    assert "9.0 s cold, 4.0 s warm" in text and "device gpu: some" in text
    assert 'left out nar_b: exit code 2: gen: error: GEN_XLA_FLAGS: "none"' in text
    assert text.strip() == done.stdout.strip()


@pytest.mark.slow
def test_all_of_it_with_shrunken_models(tmp_path):
    done = run("--out", tmp_path, "--debug")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "summary.md").read_text()
    names = {path.stem for path in tmp_path.glob("*.json")}
    assert len(names) == 12 and all(f"| {n} |" in text for n in names - {"attention"})
    # The CPU computes attention in float32, whatever the dtype.
    assert "left out" not in text
    for queries in ("one", "all"):
        assert f'("cpu", "float32", "{queries}")' in text
