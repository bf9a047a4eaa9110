"""The launcher, against a gcloud that only writes down how it was called.

`GEN_GOLDEN=1 pytest tests/test_launch.py` writes the expected dry runs in tests/launch/ anew.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import tiny
from tests.launch_helpers import HERE, World

TARGET = ("--name", "pod-1", "--zone", "us-west4-a")
JOB = ("--config", "configs/llamagen_b.py", "--workdir", "/mnt/runs/b", "--x=it's * ;\n$(id)")
CASES = {
    "create": ("--type", "v5litepod-16", "--spot", "--project", "mine"),
    "copy": (),
    "install": ("--setup", "sudo mount -t nfs 10.0.0.2:/runs /mnt/runs"),
    "run": ("--env", "LIBTPU_INIT_ARGS=--a=1 --b=2", "--", *JOB),
    "stop": (),
    "collect": ("--folder", "/mnt/runs/b"),
    "delete": (),
    "all": ("--type", "v4-32", "--module", "my.job", "--", "--steps", "3"),
}


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.mark.parametrize("command", list(CASES))
def test_dry_run_is_as_written_down(world, command):
    run = world.launch(command, *TARGET, "--dry-run", *CASES[command])
    printed = run.stdout.replace(str(world.root), "ROOT")
    golden = HERE / f"{command}.txt"
    if os.environ.get("GEN_GOLDEN"):
        golden.write_text(printed)
    assert printed == golden.read_text()
    assert not run.stderr and not world.calls()


@pytest.mark.parametrize("command", list(CASES))
def test_pasting_the_dry_run_does_what_the_command_does(world, command):
    world.launch(command, *TARGET, *CASES[command])
    done = world.calls()
    if command in ("collect", "all"):  # the dry run can't know the number of workers
        asked = [index for index, call in enumerate(done) if "len" in call[2]]
        assert done[asked[0] + 2][2] == "runs/pod-1/worker-1.log"
        del done[asked[0] + 2], done[asked[0]]
    pasted = world.launch(command, *TARGET, "--dry-run", *CASES[command]).stdout
    assert world.bash("-c", pasted).returncode == 0
    assert world.calls() == done and len(done) >= 1


def test_archive_holds_the_code_alone(world):
    world.launch("copy", *TARGET)
    archive = world.root / "runs" / "pod-1" / "gen.tar.gz"
    names = subprocess.run(["tar", "-tzf", archive], capture_output=True, text=True).stdout
    assert "./gen/a file" in names.splitlines() and "./launch/on_worker.sh" in names.splitlines()
    for absent in ("runs", ".git", ".venv", "__pycache__"):
        assert absent not in names
    (unpack,) = [c for call in world.calls() for c in call if c.startswith("--command=")]
    worker = world.folder / "worker"
    for old in ("gen/runs/mine", "gen/.venv/mine", "gen/gen/deleted.py", "gen/.hidden/x"):
        (worker / old).parent.mkdir(parents=True, exist_ok=True)
        (worker / old).write_text("")
    shutil.copy(archive, worker)
    subprocess.run(["bash", "-c", unpack.removeprefix("--command=")], cwd=worker, check=True)
    kept = {str(p.relative_to(worker)) for p in worker.rglob("*") if p.is_file()}
    assert kept >= {"gen/runs/mine", "gen/.venv/mine", "gen/gen/a file"}
    assert not {"gen/gen/deleted.py", "gen/.hidden/x"} & kept


def test_dry_run_shows_no_secrets(world):
    secrets = ("HF_TOKEN=hush", "my_api_key=hush", "db_password=hush", "PLAIN=shown")
    arguments = [word for secret in secrets for word in ("--env", secret)]
    printed = world.launch("run", "--dry-run", *TARGET, *arguments, "--", *JOB).stdout
    assert "hush" not in printed and "PLAIN=shown" in printed
    assert all(secret.split("=")[0] + "=" in printed for secret in secrets)
    world.launch("run", *TARGET, *arguments, "--", *JOB)
    assert "hush" in str(world.calls())


def test_shellcheck():
    checker = Path(sys.executable).with_name("shellcheck")  # of the extra `test`
    scripts = sorted((tiny.ROOT / "launch").glob("*.sh"))
    run = subprocess.run([checker, *scripts], capture_output=True, text=True)
    assert run.returncode == 0 and len(scripts) == 2, run.stdout


def test_stock_outs_and_failing_ssh_are_tried_again(world):
    world.fail("create", 1, 1)
    world.fail("ssh", 255)
    world.launch("all", *TARGET, "--type", "v6e-8", "--", "--config", "c.py")
    assert world.verbs() == [
        "describe", "create", "create", "create", "scp", "ssh", "ssh", "ssh", "ssh",
        "scp", "describe", "scp", "scp", "delete",
    ]  # fmt: skip
    assert world.sleeps() == [10, 20, 10]


@pytest.mark.parametrize(
    ("failing", "codes", "expected", "exit_code"),
    [
        ("create", [1, 1], "describe create create delete", 1),
        ("scp", [9, 9, 0], "describe create scp scp scp describe scp scp delete", 9),
        ("ssh", [0, 0, 2], "describe create scp ssh ssh ssh scp describe scp scp delete", 2),
        ("delete", [1, 1], "describe create scp ssh ssh ssh scp describe scp scp delete delete", 1),
    ],
)
def test_all_deletes_whatever_happened(world, failing, codes, expected, exit_code):
    world.fail(failing, *codes)
    arguments = (*TARGET, "--type", "v6e-8", "--retries", "1", "--", "--config", "c.py")
    run = world.launch("all", *arguments, code=exit_code)
    assert world.verbs() == expected.split()
    assert ("may still run, and cost money" in run.stderr) == (failing == "delete")


def test_all_can_keep_and_leaves_others_alone(world):
    arguments = (*TARGET, "--type", "v6e-8", "--", "--config", "c.py")
    world.launch("all", "--keep", *arguments)
    assert "delete" not in world.verbs()
    (world.folder / "exists").touch()
    run = world.launch("all", *arguments, code=2)
    assert "exists in us-west4-a already" in run.stderr and world.verbs() == ["describe"]


def test_an_interrupted_all_deletes_too(world):
    hang = world.folder / "hang"
    hang.touch()
    script = world.root / "launch" / "tpu_vm.sh"
    arguments = (*TARGET, "--type", "v6e-8", "--", "--config", "c.py")
    # Tests started in the background of a shell ignore Ctrl-C, and so would the launcher.
    heeding = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL)"
    heeding += "; os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", heeding, world.bin / "bash", script, "all", *arguments],
        env=world.env, start_new_session=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not hang.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert world.verbs() == ["describe", "create", "scp", "ssh", "delete"]


@pytest.mark.parametrize(
    ("codes", "exit_code", "runs"),
    [([42, 134], 0, 3), ([143, 255, 42], 42, 3), ([2], 2, 1), ([1], 1, 1)],
)
def test_restarts_follow_the_exit_code(world, codes, exit_code, runs):
    world.fail("ssh", *codes)
    world.launch("run", *TARGET, "--restart", "2", "--", "--config", "c.py", code=exit_code)
    assert world.verbs() == ["ssh"] * runs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly", *TARGET], "no command fly"),
        (["delete", "--name", "Pod", "--zone", "us-west4-a"], "not Pod"),
        (["delete", "--name", "a;b\nc", "--zone", "us-west4-a"], r"not $'a;b\nc'"),
        (["delete", "--name", "x" * 64, "--zone", "us-west4-a"], "at most 63"),
        (["delete", "--name", "pod"], "--zone takes a zone"),
        (["create", *TARGET], "--type takes a type"),
        (["create", *TARGET, "--type", "v4"], "not v4"),
        (["create", *TARGET, "--type", "v4-8", "--version", "$(id)"], "--version takes a name"),
        (["run", *TARGET], "give the job's arguments after --"),
        (["run", *TARGET, "--env", "1A=secret", "--"], "--env takes NAME=VALUE"),
        (["run", *TARGET, "--module", "-c", "--"], "--module takes a module"),
        (["run", *TARGET, "--restart", "x", "--"], "--restart takes a number"),
        (["collect", *TARGET, "--folder", "a b"], "--folder, else the job's --workdir"),
        (["delete", *TARGET, "--colour", "red"], "unknown argument --colour"),
        (["delete", *TARGET, "--project"], "--project needs a value"),
    ],
)
def test_a_mistake_is_one_line(world, arguments, message):
    run = world.launch(*arguments, code=2)
    (line,) = run.stderr.splitlines()
    assert line.startswith("tpu_vm.sh: error: ") and message in line and "secret" not in line
    assert not world.calls()
