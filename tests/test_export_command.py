"""`gen.export`: one file draws what the API draws, at any batch size, without this package."""

import errno
import functools
import hashlib
import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import export as stablehlo

import gen
from gen import export
from gen.errors import UserError
from tests import tiny
from tests.test_cli import error_of

SMALL = {"model.grid": [2, 2], "model.backbone.depth": 1}
FILTERS = {"top_k": 5, "top_p": 0.9}
# Fields of the config, and settings of sampling. Not all steps are guided: two widths of a batch.
CASES = {
    "next token": ({**SMALL, "model.backbone.depth": 2}, FILTERS),
    "next token, text": (tiny.text(**SMALL), {}),
    "next neighbour": (tiny.neighbours(**{**SMALL, "model.backbone.depth": 2}), {"top_k": 5}),
    "next neighbour, video": (
        tiny.neighbours(
            **{"model.grid": [2, 2, 1], "model.positions": "learned", "model.backbone.depth": 3}
        ),
        {},
    ),
    "next scale": (
        tiny.scales(
            **{"model.quantizer.scales": [[1, 1], [1, 2], [2, 2]], "model.backbone.depth": 1}
        ),
        {},
    ),
    "masked": (tiny.masked(**{"model.grid": [2, 2]}), {"num_steps": 3, **FILTERS}),
    "flow": (tiny.flow(), {"num_steps": 4}),
    "flow, cross": (tiny.flow(**{"model.head.kind": "cross"}), {"num_steps": 4}),
}
SLOW = ("flow, cross",)
COMMON = {"guidance": 2.0, "guidance_interval": 0, "temperature": 0.7, "top_k": 0, "top_p": 1.0}
GRAY = {
    "model.gray_levels": 5,
    "model.quantizer.codebook_dim": 1,
    "model.quantizer.mixing": 0.0,
    "model.quantizer.scales": [[1, 1], [2, 2]],
    "model.backbone.depth": 1,
}


def condition_of(family, rows):
    """Arguments of the API and the fields of a batch that are the same."""
    if family.condition.kind == "text":
        caption, valid = tiny.captions(family.condition, rows)
        return {"captions": (caption, valid)}, {"caption": caption, "caption_valid": valid}
    labels = np.arange(rows, dtype=np.int32) % family.condition.num_classes
    return {"labels": labels}, {"label": labels}


@pytest.fixture
def quick_compiler():
    """What is compiled here runs for milliseconds."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def check_same(drawn, wanted):
    """Tokens are equal; sums of floats are rounded otherwise from one batch size to another."""
    assert drawn.keys() == wanted.keys()
    for name, array in wanted.items():
        assert drawn[name].dtype == array.dtype and drawn[name].shape == array.shape
        if np.issubdtype(array.dtype, np.floating):
            np.testing.assert_allclose(drawn[name], array, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(drawn[name], array)


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.slow if c in SLOW else ()) for c in CASES]
)
def test_a_program_draws_what_the_api_draws(case, quick_compiler):
    overrides, settings = CASES[case]
    generator, settings = tiny.generator(tiny.config(**overrides)), COMMON | settings
    family = generator.family
    given, condition = condition_of(family, 5)
    wanted = generator.draw(7, **given, **settings)
    assert len(np.unique(wanted["tokens"], axis=0)) == 5
    if family.data_layout != family.layout:
        wanted["data"] = generator.to_data(wanted["tokens"])

    program = export.lower(generator, settings)
    assert program.platforms == ("cpu", "cuda", "tpu")
    run = jax.jit(stablehlo.deserialize(program.serialize()).call)
    params = export.flat_params(generator)
    for rows in ([4, 1, 0, 2, 3], [2]):
        part = {name: array[rows] for name, array in condition.items()}
        drawn = run(params, part, np.uint32(7), np.array(rows, np.uint32))
        check_same(drawn, {name: array[rows] for name, array in wanted.items()})


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """Saved weights of a tiny model."""
    folder = tmp_path_factory.mktemp("weights") / "run"
    tiny.generator(tiny.config()).save(folder)
    return folder


# Nothing can be imported but what jax brings along, and flatbuffers.
ALONE = """
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder


class Alone:
    parts = ("jax", "jaxlib", "numpy", "scipy", "ml_dtypes", "opt_einsum", "flatbuffers")
    allowed = {*parts, *sys.stdlib_module_names}

    def find_spec(self, name, path=None, target=None):
        first = name.partition(".")[0]
        if first in self.allowed or first.startswith("_sysconfigdata"):
            return PathFinder.find_spec(name, path, target)


sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Alone()]
"""
REPORT = """
assert not {"gen", "flax", "optax"} & {*sys.modules}
others = [sample(first=1, label=[1, 4, 0, 2, 3]), sample(first=2, label=[4])]
print(json.dumps([tokens.tolist(), *(drawn["tokens"].tolist() for drawn in others)]))
"""


def test_the_lines_of_the_readme_run_it_alone(run_folder, tmp_path, quick_compiler):
    out = tmp_path / "out" / "digits_sampler"
    export.main([str(run_folder), "--guidance", "2", "--top-k", "7", "--out", str(out)])
    text = (tiny.ROOT / "README.md").read_text()
    block = re.search(r"^### Export\n.*?^```python\n(.*?)^```$", text, re.M | re.S)[1]
    assert len(block.splitlines()) <= 20
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE + block + REPORT],
        capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )  # fmt: skip
    assert not done.returncode, done.stderr
    wanted = gen.load(run_folder).sample(0, labels=[3, 1, 4, 0, 2, 3], guidance=2.0, top_k=7)
    wanted = wanted.tolist()
    assert json.loads(done.stdout) == [wanted[:3], wanted[1:], wanted[2:3]]


def test_what_the_folder_says(run_folder, tmp_path, capsys):
    export.main([str(run_folder), "--out", str(tmp_path / "x"), "--platforms", "tpu, cpu"])
    assert "sampler.bin" in capsys.readouterr().out
    assert {path.name for path in tmp_path.rglob("*")} == {
        "x", "sampler.bin", "params.npz", "config.json",
    }  # fmt: skip
    about = json.loads((tmp_path / "x" / "config.json").read_text())
    for name, digest in about["sha256"].items():
        assert digest == hashlib.sha256((tmp_path / "x" / name).read_bytes()).hexdigest()
    assert about["platforms"] == ["tpu", "cpu"] and about["settings"]["guidance"] is None
    assert about["config"]["model"]["vocab_size"] == 11 and about["averaged"]
    assert about["inputs"]["condition"] == {"label": {"shape": ["b"], "dtype": "int32"}}
    assert about["outputs"] == {"tokens": {"shape": ["b", 12], "dtype": "int32"}}
    # Nothing of the machine that it was made on.
    assert str(tiny.ROOT).encode() not in (tmp_path / "x" / "sampler.bin").read_bytes()
    with np.load(tmp_path / "x" / "params.npz") as stored:
        shapes = {n: {"shape": [*a.shape], "dtype": a.dtype.name} for n, a in stored.items()}
    assert shapes == about["inputs"]["params"]


def test_flags_reach_the_weights_and_the_program(tmp_path, monkeypatch, quick_compiler):
    seen = []

    def load(run, *, averaged, dtype):
        seen.append((run, averaged, dtype))
        return tiny.generator(tiny.config(**tiny.scales(**GRAY)), dtype=dtype)

    monkeypatch.setattr(export, "load", load)
    flags = ["--raw", "--dtype", "bfloat16", "--temperature", "0.9", "--option", "more_smooth=true"]
    export.main(["RUN", "--out", str(tmp_path / "x"), "--platforms", "cpu", *flags])
    assert seen == [("RUN", False, "bfloat16")]
    program = stablehlo.deserialize(bytearray((tmp_path / "x" / "sampler.bin").read_bytes()))
    generator = load("", averaged=True, dtype="bfloat16")
    wanted = generator.draw(0, labels=[3, 1, 4], temperature=0.9, more_smooth=True)
    wanted["data"] = generator.to_data(wanted["tokens"])
    arguments = {"label": np.int32([3, 1, 4])}, np.uint32(0), np.arange(3, dtype=np.uint32)
    check_same(program.call(export.flat_params(generator), *arguments), wanted)
    about = json.loads((tmp_path / "x" / "config.json").read_text())
    assert (about["dtype"], about["averaged"]) == ("bfloat16", False)
    assert about["settings"]["more_smooth"] and "batch_size" not in about["settings"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--platforms", "cpu,gpu"], '--platforms: "gpu" is not one of cpu, cuda, tpu'),
        (["--platforms", ""], '--platforms: "" is not one of'),
        (["--out", "/proc/nothing/x"], "cannot write to folder /proc/nothing"),
        (["--temperature", "-1"], "temperature is at least 0"),
        (["--top-k", "1.5"], "--top-k must be int"),
        (["--option", "num_steps=3"], "there are none"),
        (["--seed", "1"], "unknown argument --seed (see --help)"),
    ],
)
def test_refusals(run_folder, tmp_path, capsys, arguments, message):
    line = error_of(capsys, export.main, run_folder, "--out", tmp_path / "x", *arguments)
    assert message in line and not (tmp_path / "x").exists()


def test_settings_that_do_not_fit_the_model(tmp_path, capsys, monkeypatch):
    cases = (
        ({"model.condition.drop_rate": 0.0}, ["--guidance", "2"], "without a null condition"),
        (tiny.flow(), ["--top-k", "5"], "latents of a flow have none"),
    )
    for overrides, flags, message in cases:
        generator = tiny.generator(tiny.config(**overrides))
        monkeypatch.setattr(export, "load", lambda *_, made=generator, **__: made)
        line = error_of(capsys, export.main, "RUN", "--out", tmp_path / "x", *flags)
        assert message in line and not (tmp_path / "x").exists()


def test_a_machine_knows_its_own_platform(monkeypatch):
    for backend, platform in (("cpu", "cpu"), ("gpu", "cuda"), ("tpu", "tpu")):
        monkeypatch.setattr(jax, "default_backend", lambda made=backend: made)
        assert export.this_platform() == platform and platform in export.PLATFORMS


def test_weights_of_8_bits_are_not_exported():
    generator = tiny.generator(tiny.config(), dtype="int8")
    with pytest.raises(UserError, match="int8 is not exported: load the generator in float32"):
        export.lower(generator, COMMON, platforms=("cpu",))


def test_what_is_there_stays(run_folder, tmp_path, capsys):
    assert "does not exist" in error_of(
        capsys, export.main, tmp_path / "nosuch", "--out", tmp_path / "x"
    )
    (tmp_path / "full").mkdir()
    for kept in (tmp_path / "full" / "sampler.bin", tmp_path / "file"):
        kept.write_text("mine")
    for out in ("full", "file"):
        line = error_of(capsys, export.main, run_folder, "--out", tmp_path / out)
        assert line == f"{tmp_path / out} exists: choose another place to write to"
    # Also what another process put there meanwhile.
    generator = gen.load(run_folder)
    program = export.lower(generator, COMMON, platforms=("cpu",))
    with pytest.raises(UserError, match="exists by now"):
        export.save(tmp_path / "full", program, generator, {})
    assert {path.name for path in tmp_path.rglob("*")} == {"full", "sampler.bin", "file"}
    assert (tmp_path / "full" / "sampler.bin").read_text() == "mine"


def test_a_full_disk_leaves_nothing(run_folder, tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    monkeypatch.setattr(export, "tqdm", functools.partial(export.tqdm, disable=True))
    line = error_of(capsys, export.main, run_folder, "--out", tmp_path / "x", "--platforms", "cpu")
    assert "No space left on device" in line and not any(tmp_path.iterdir())
