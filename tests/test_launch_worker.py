"""What the launcher sends to a worker, read by bash there, is what was meant."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from tests import tiny
from tests.launch_helpers import World

TARGET = ("--name", "pod-1", "--zone", "us-west4-a")
HOSTILE = [
    "it's", 'say "hi"', "$(touch pwned)", "`touch pwned`", "a;touch pwned", "a&&b|c>d<e", "*",
    "?[a]", "two\nlines", "a\ttab", "\x1b[31m", "ünïcode ✓ 漢", "", " ", "  two  spaces  ", "--",
    "-n", "\\", "a\\", "!bang", "{a,b}", "~", "#no comment", "$HOME", "%TPU%", "=x", "A=b",
]  # fmt: skip
# Stands in for gen.train: writes down its arguments and variables, or works until told to stop.
JOB = """
import json, os, pathlib, signal, sys, time
if "--wait" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: (print("saving", flush=True), sys.exit(42)))
    print("working", flush=True)
    time.sleep(60)
pathlib.Path("seen.json").write_text(json.dumps([sys.argv[1:], dict(os.environ)]))
print("to stdout")
print("to stderr", file=sys.stderr)
sys.exit(int(os.environ.get("LEAVE_WITH", "0")))
"""


class Worker:
    """A home folder as `copy` and `install` leave it on a worker of the given host name."""

    def __init__(self, folder, host):
        self.home, self.code = folder, folder / "gen"
        shutil.copytree(tiny.ROOT / "launch", self.code / "launch")
        (self.code / "gen").mkdir()
        # A package of its own, or an installed gen would be found in its place.
        (self.code / "gen" / "__init__.py").touch()
        (self.code / "gen" / "train.py").write_text(JOB)
        (self.code / ".venv" / "bin").mkdir(parents=True)
        (self.code / ".venv" / "bin" / "python").symlink_to(sys.executable)
        self.host(host)

    def host(self, name):
        (self.home / "bin").mkdir(exist_ok=True)
        (self.home / "bin" / "hostname").write_text(f"#!/bin/bash\necho {name}\n")
        (self.home / "bin" / "hostname").chmod(0o755)

    def start(self, command):
        return subprocess.Popen(
            ["bash", "-c", command], cwd=self.home, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=os.environ | {"PATH": f"{self.home}/bin:{os.environ['PATH']}"},
        )  # fmt: skip

    def run(self, command, *, code=0):
        process = self.start(command)
        out, errors = process.communicate(timeout=60)
        assert process.returncode == code, errors
        return out, errors

    @property
    def log(self):
        return (self.code / "runs" / "job.log").read_text()


@pytest.fixture
def worker(tmp_path):
    (tmp_path / "home").mkdir()
    return Worker(tmp_path / "home", "t1v-n-0123-w-0")


def sent(tmp_path, *arguments, command="run"):
    """The text that the launcher hands to the shell of each worker."""
    world = World(tmp_path)
    world.launch(command, *TARGET, *arguments)
    (call,) = world.calls()
    (text,) = [word for word in call if word.startswith("--command=")]
    # gcloud takes the text apart at spaces, and ssh joins it again.
    assert "\n" not in text and text.isascii()
    return text.removeprefix("--command=")


def test_hostile_arguments_and_variables_arrive_unchanged(tmp_path, worker):
    variables = {f"V{index}": value for index, value in enumerate(HOSTILE)}
    options = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
    text = sent(tmp_path, *options, "--", *HOSTILE)
    assert subprocess.run(["bash", "-n", "-c", text]).returncode == 0
    out, _ = worker.run(text)
    arguments, environment = json.loads((worker.code / "seen.json").read_text())
    assert arguments == [*HOSTILE, "--distributed", "auto"]
    assert {name: environment[name] for name in variables} == variables
    assert out == "to stdout\nto stderr\n" and out in worker.log
    assert not list(tmp_path.rglob("pwned"))


def test_the_option_for_processes_is_not_given_twice(tmp_path):
    assert sent(tmp_path, "--", "--distributed=off").endswith("gen.train --distributed=off")


def test_other_workers_only_keep_a_log(tmp_path, worker):
    worker.host("t1v-n-0123-w-3")
    text = sent(tmp_path, "--env=LEAVE_WITH=7", "--", "--config", "c")
    out, errors = worker.run(text, code=7)
    assert out == "" and "to stdout\nto stderr\n" in worker.log
    assert errors.startswith("t1v-n-0123-w-3 left with 7:") and "to stderr" in errors


def wait_for_job(worker):
    while not (worker.code / "runs" / "job.log").exists() or "working" not in worker.log:
        time.sleep(0.02)


def test_stop_lets_a_job_save(tmp_path, worker):
    job = worker.start(sent(tmp_path / "a", "--", "--wait"))
    wait_for_job(worker)
    worker.run("bash gen/launch/on_worker.sh stop")
    job.communicate(timeout=60)
    assert job.returncode == 42
    worker.run("bash gen/launch/on_worker.sh stop")  # nothing runs: nothing to do


def test_a_new_job_takes_the_place_of_one_left_behind(tmp_path, worker):
    left = worker.start(sent(tmp_path / "a", "--", "--wait"))
    wait_for_job(worker)
    _, errors = worker.run(sent(tmp_path / "b", "--", "--config", "c"))
    left.communicate(timeout=60)
    assert left.returncode == 42 and "stopping job" in errors


def test_a_job_outlives_its_connection(tmp_path, worker):
    job = worker.start(sent(tmp_path, "--", "--wait"))
    wait_for_job(worker)
    job.stdout.close()
    worker.run("bash gen/launch/on_worker.sh stop")
    assert job.wait(timeout=60) == 42 and "saving" in worker.log


def test_run_before_install(tmp_path, worker):
    shutil.rmtree(worker.code / ".venv")
    _, errors = worker.run(sent(tmp_path, "--", "--config", "c"), code=2)
    assert errors == "on_worker.sh: error: run install first\n"


@pytest.mark.parametrize("found", ["python3.12", "python3.11", None])
def test_install_makes_one_environment(tmp_path, worker, found):
    shutil.rmtree(worker.code / ".venv")
    made = 'mkdir -p .venv/bin && cp "$0" .venv/bin/python'
    for name in ("python3.12", "python3.11", "python3"):
        # Records its arguments; only the Python that is found is new enough.
        script = f"""#!/bin/bash
echo "${{0##*/}} $*" >>calls
case "$*" in
  *version_info*) [[ ${{0##*/}} == {found} ]] ;;
  *"venv "*.venv) {made} ;;
esac
"""
        (worker.home / "bin" / name).write_text(script)
        (worker.home / "bin" / name).chmod(0o755)
    text = sent(tmp_path, command="install")
    for _ in range(2):
        worker.run(text)
    calls = (worker.code / "calls").read_text().splitlines()
    made_by = [call for call in calls if call.endswith(" .venv")]
    pip = "python -m pip install --quiet -e .[tpu]"
    assert made_by == [
        f"{found} -m venv .venv" if found
        else "python3 -m uv venv --quiet --seed --python 3.12 .venv"
    ]  # fmt: skip
    assert calls.count(pip) == 2
    assert ("python3 -m pip install --quiet --user uv" in calls) == (found is None)
