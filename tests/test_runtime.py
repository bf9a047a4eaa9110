"""The compilation cache of the commands, and the named sets of XLA flags."""

import importlib
import importlib.util
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import gen
import gen.__main__
from gen import runtime
from gen.errors import UserError
from tests import tiny

# Whether the programs of a process were loaded.
SCRIPT = """
from gen import runtime
runtime.start()
import jax, jax.numpy as jnp
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
print(float(jax.jit(lambda x: jnp.tanh(x @ x).sum())(jnp.ones((8, 8)))))
print("loaded", sum("cache_hits" in name for name in hits))
"""
ALL = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # however short its compilation


def run(code=SCRIPT, *, without=(), **env):
    """Runs code as a user's process would, in which nothing is said of a cache."""
    ours = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    inherited = {n: v for n, v in os.environ.items() if n not in (*ours, runtime.CACHE, *without)}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
        env=inherited | {"PYTHONPATH": str(tiny.ROOT)} | env,
    )  # fmt: skip


def programs(folder):
    return sorted(folder.rglob("*-cache"))


def test_the_second_process_loads_what_the_first_compiled(tmp_path):
    """By default, in silence, below the folder of the type of CPU."""
    first = run(HOME=str(tmp_path), **ALL)
    assert first.returncode == 0, first.stderr
    assert "loaded 0" in first.stdout and first.stderr == ""
    kept = programs(tmp_path)
    folder = tmp_path / ".cache" / "gen" / "compiled" / runtime.cpu_type()
    assert {path.parent for path in kept} == {folder}
    second = run(HOME=str(tmp_path), **ALL)
    assert f"loaded {len(kept)}" in second.stdout and second.stderr == ""
    assert first.stdout.splitlines()[0] == second.stdout.splitlines()[0]
    assert programs(tmp_path) == kept


def test_two_processes_at_once(tmp_path):
    done = []
    here = ALL | {runtime.CACHE: str(tmp_path)}
    threads = [threading.Thread(target=lambda: done.append(run(**here))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.returncode for process in done] == [0, 0]
    assert len({process.stdout.splitlines()[0] for process in done}) == 1
    assert f"loaded {len(programs(tmp_path))}" in run(**here).stdout


def test_off_and_what_jax_was_told(tmp_path):
    code = "from gen import runtime; runtime.start(); import jax;"
    code += "print(jax.config.jax_compilation_cache_dir)"
    home = {"HOME": str(tmp_path)}
    assert run(code, GEN_COMPILATION_CACHE="off", **home).stdout == "None\n"
    told = run(code, JAX_COMPILATION_CACHE_DIR="/elsewhere", **home)
    assert told.stdout == "/elsewhere\n" and told.stderr == ""
    assert run(code, JAX_ENABLE_COMPILATION_CACHE="0", **home).stdout == "None\n"
    assert not list(tmp_path.iterdir())
    here = run(code, GEN_COMPILATION_CACHE=str(tmp_path))
    assert here.stdout == f"{tmp_path / runtime.cpu_type()}\n"


def test_the_import_changes_nothing(tmp_path):
    code = "import os; before = dict(os.environ); import gen, gen.api, gen.runtime, jax;"
    code += "print(jax.config.jax_compilation_cache_dir, dict(os.environ) == before)"
    assert run(code, HOME=str(tmp_path)).stdout == "None True\n"


def test_commands_show_no_warnings_of_xla(monkeypatch):
    for first, level, shown in (("-m", None, "2"), ("-m", "0", "0"), ("notebook", None, None)):
        monkeypatch.setattr(sys, "argv", [first, "x"])
        monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
        if level:
            monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
        importlib.reload(gen)
        assert os.environ.get("TF_CPP_MIN_LOG_LEVEL") == shown


@pytest.mark.parametrize("name", ["foo", "cuda"])
def test_no_such_platform_is_one_line(name, tmp_path):
    if name == "cuda" and importlib.util.find_spec("jax_cuda12_plugin"):
        pytest.skip("there may be one")
    arguments = ("configs/llamagen_b.py:debug", "--workdir", tmp_path / "run")
    done = tiny.run_module("gen.train", "--config", *arguments, JAX_PLATFORMS=name)
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert done.stderr.startswith(
        f'gen: error: JAX finds no device here, with JAX_PLATFORMS="{name}"'
    )
    assert len(done.stderr.splitlines()) == 1


def test_the_package_names_its_commands():
    told = tiny.run_module("gen").stdout
    for name in gen.__main__.COMMANDS:
        assert f"`python -m gen.{name}" in told
    files = (tiny.ROOT / "gen").glob("*.py"), (tiny.ROOT / "gen").glob("*/__main__.py")
    entries = {p.stem for p in files[0] if "exit_on_user_error\ndef main" in p.read_text()}
    assert entries | {p.parent.name for p in files[1]} == set(gen.__main__.COMMANDS)


@pytest.mark.parametrize("taken", ["file", "nowhere"])
def test_a_folder_that_cannot_be_written_to_is_a_note(taken, tmp_path):
    (tmp_path / "file").write_text("")
    place = {"file": str(tmp_path / "file"), "nowhere": "/proc/none"}[taken]
    done = run("from gen import runtime; runtime.start()", GEN_COMPILATION_CACHE=place)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"gen: nothing compiled is kept: cannot write to folder {place}")


def test_another_cpu_has_another_folder(monkeypatch):
    here = runtime.cpu_type()
    assert here == runtime.cpu_type() and len(here) == 12
    text = "model name\t: X\nflags\t\t: fpu sse2 avx2\n\nmodel name\t: X\nflags\t\t: fpu\n"
    names = []
    for told in (text, text.replace("avx2", "avx512f"), text.replace(": X", ": Y")):
        monkeypatch.setattr(Path, "read_text", lambda self, told=told: told)
        names.append(runtime.cpu_type())
    # The clock's speed changes from one moment to the next, the type does not.
    monkeypatch.setattr(Path, "read_text", lambda self: "cpu MHz\t: 2500\n" + text)
    assert len({here, *names}) == 4 and runtime.cpu_type() == names[0]


def test_trim_keeps_what_was_used_last(tmp_path):
    now = time.time()
    for age, name in enumerate(["new", "middle", "old"]):
        path = tmp_path / f"{name}-cache"
        path.write_bytes(b"x" * 100)
        os.utime(path, (now - age, now - age))
    (tmp_path / "empty-cache").write_bytes(b"")
    (tmp_path / "other").write_bytes(b"x" * 1000)
    runtime.trim(tmp_path, 300)
    assert {path.name for path in tmp_path.iterdir()} == {
        "new-cache", "middle-cache", "old-cache", "other"
    }  # fmt: skip
    os.utime(tmp_path / "old-cache", (now + 9, now - 9))  # read since it was written
    runtime.trim(tmp_path, 200)
    assert {path.name for path in tmp_path.glob("*-cache")} == {"new-cache", "old-cache"}
    runtime.trim(tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.fixture
def no_flags(monkeypatch):
    for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_the_users_flags_win(no_flags):
    no_flags.setenv("XLA_FLAGS", "--xla_gpu_graph_min_graph_size=7 --xla_dump_to=x")
    runtime.add_flags("gpu_graphs")
    flags = os.environ["XLA_FLAGS"].split()
    assert flags[-2:] == ["--xla_gpu_graph_min_graph_size=7", "--xla_dump_to=x"]
    assert flags[:-2] == ["--xla_gpu_enable_command_buffer=+WHILE,+CONDITIONAL"]
    runtime.add_flags("gpu_graphs")  # as a process does that inherits both variables
    assert os.environ["XLA_FLAGS"].split() == flags
    runtime.add_flags("tpu_mesh")
    assert "--xla_enable_async_all_gather=true" in os.environ["LIBTPU_INIT_ARGS"].split()
    assert os.environ["XLA_FLAGS"].split() == flags


def test_refusals(no_flags):
    with pytest.raises(UserError, match=r'GEN_XLA_FLAGS: "gpu_mash" is no set.*"gpu_mesh"'):
        runtime.add_flags("gpu_mash")
    no_flags.setenv("XLA_FLAGS", "flags.txt")
    with pytest.raises(UserError, match="XLA_FLAGS names a file"):
        runtime.add_flags("gpu")


ADDED = "from gen import runtime; {}; runtime.start(); import jax; print(jax.devices())"


@pytest.mark.parametrize(
    "name", [name for name, chosen in runtime.FLAG_SETS.items() if chosen.variable == "XLA_FLAGS"]
)
def test_this_jaxlib_knows_the_flags(name):
    done = run(ADDED.format("pass"), GEN_XLA_FLAGS=name, without=["XLA_FLAGS"])
    assert done.returncode == 0, done.stderr


def test_flags_reach_xla():
    """The test above can fail: XLA reads what `start` adds, and ends at what it does not know."""
    wrong = "runtime.FLAG_SETS['gpu'].flags['xla_gpu_no_such_flag'] = '1'"
    done = run(ADDED.format(wrong), GEN_XLA_FLAGS="gpu", without=["XLA_FLAGS"])
    assert done.returncode != 0 and "xla_gpu_no_such_flag" in done.stderr


@pytest.mark.parametrize(
    "module", ["train", "sample", "evaluate", "export", "bench.__main__", "compare.__main__"]
)
def test_every_command_starts_with_it(module, monkeypatch, capsys):
    """Before it looks at anything else: no argument here is any good."""
    command = importlib.import_module(f"gen.{module}")
    monkeypatch.setenv(runtime.FLAGS, "no such set")
    with pytest.raises(SystemExit) as raised:
        command.main(["--no-such-option"])
    assert raised.value.code == 2 and "is no set of flags" in capsys.readouterr().err
