"""Tokenizers trained by gen.train: the run, its result, resuming, meshes and mistakes."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gen import config as configs
from gen import sample, sharding, tokenizers, train
from gen.autoencoding import perceptual
from gen.images.config import ImagesConfig
from gen.images.training import held_out_crops, open_pictures
from gen.jobs import TokenizerJob
from gen.metrics import pixels
from gen.training import checkpoint
from gen.training.state import Trainer
from tests import tiny, tiny_tokenizers
from tests.test_autoencoding import TINY_VGG, vgg

STEPS = 24
MESHES = ("1x1x1", "2x2x2")


def run(tmp_path, kind="vq", *arguments, **overrides):
    config = tiny_tokenizers.write_config(tmp_path / "tiny.py", kind, **overrides)
    folder = tmp_path / "run"
    train.main(["--config", str(config), "--workdir", str(folder), *map(str, arguments)])
    return folder, json.loads((folder / "result.json").read_text())


def arrays(folder, step):
    """Every array of a checkpoint, bit for bit."""
    config = configs.from_json(checkpoint.read_meta(folder / "checkpoints" / str(step))["config"])
    trainer = Trainer(config, sharding.make_mesh(config.mesh, batch_size=8))
    saved = checkpoint.Checkpoints(folder, keep=2, meta={})
    state = saved.restore_latest(trainer.abstract)
    saved.close()
    assert int(state.step) == step
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {sharding.path_of(path): np.asarray(leaf) for path, leaf in leaves}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of four steps, and its result."""
    return run(tmp_path_factory.mktemp("trained"))


# By other losses than the default, and long enough to learn something.
LEARNT = {"loss.reconstruction": "l1", "loss.codebook": "gradient", "train.steps": 60}
LEARNT |= {"train.log_every": 30, "train.eval_every": 30, "train.save_every": 60}


@pytest.mark.parametrize(
    ("kind", "overrides"), [("vq", None), ("msvq", {}), ("maskgit_vq", LEARNT)]
)
def test_a_run_makes_a_tokenizer_like_any_other(tmp_path, trained, kind, overrides):
    folder, result = trained if overrides is None else run(tmp_path, kind, **overrides)
    tokenizer = tokenizers.load(folder / "tokenizer.safetensors")
    assert tokenizer.kind == kind and tokenizer.meta["id"].startswith(kind)
    assert tokenizer.meta["sha256"] == result["sha256"] and len(result["sha256"]) == 64
    config = ImagesConfig(name="random", size=(8, 8), valid_crops=6)
    crops = held_out_crops(open_pictures(config)[1], config)
    tokens = tokenizer.encode(crops)
    made = tokenizer.to_uint8(tokenizer.decode(tokens, (8, 8)))
    found = {"psnr": pixels.mean_psnr(crops, made), **pixels.code_use(tokens, 12)}
    assert result["held_out"] == pytest.approx(found, rel=1e-4)
    assert result["bits_per_pixel"] == pytest.approx(tokens.shape[1] * np.log2(12) / 64)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "valid/psnr" in line]
    assert steps == [result["steps"] // 2, result["steps"]]
    if overrides:
        found = [line["reconstruction"] for line in lines if "loss" in line]
        assert found[-1] < 0.85 * found[0]
    terms = {"reconstruction", "commitment", "codebook", "psnr", "usage", "perplexity"}
    assert all(terms <= line.keys() and "share" not in line for line in lines if "loss" in line)
    for name in ("reconstructions.png", "curves.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def start(workdir, config):
    return subprocess.Popen(
        [sys.executable, "-m", "gen.train", "--config", config, "--workdir", workdir],
        env=os.environ | {"PYTHONPATH": str(tiny.ROOT)},
        cwd=tiny.ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_kill_changes_nothing(tmp_path):
    overrides = {"train.steps": STEPS, "train.save_every": 4, "train.eval_every": 12}
    overrides |= {"data.flip": True, "loss.quantise_after": 6}
    folder, _ = run(tmp_path, "msvq", **overrides)
    other = tmp_path / "killed"
    process = start(other, tmp_path / "tiny.py")
    while process.poll() is None and not checkpoint.steps_in(other / "checkpoints"):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert max(checkpoint.steps_in(other / "checkpoints")) < STEPS, "it was done before the kill"
    train.main(["--config", str(tmp_path / "tiny.py"), "--workdir", str(other)])
    first, second = arrays(folder, STEPS), arrays(other, STEPS)
    assert first.keys() == second.keys()
    assert {"params/memory/idle", "params/memory/total"} <= first.keys()
    for path, array in first.items():
        np.testing.assert_array_equal(array, second[path], err_msg=path)
    files = [path / "tokenizer.safetensors" for path in (folder, other)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_all_terms_at_once(tmp_path, monkeypatch):
    from safetensors.numpy import save_file

    monkeypatch.setattr(perceptual, "WIDTHS", TINY_VGG)
    save_file(vgg(TINY_VGG), tmp_path / "vgg.safetensors")
    terms = {
        "loss.perceptual": {"weight": 0.5, "files": [str(tmp_path / "vgg.safetensors")]},
        "loss.adversarial": {"weight": 0.1, "start": 2, "width": 2, "layers": 1},
        "loss.entropy": {"weight": 0.1, "temperature": 0.5},
        "data.size": [16, 16],
    }
    folder, _ = run(tmp_path, **terms, **{"optim.accumulate": 2})
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "loss" in line]
    assert all(line["perceptual"] > 0 and line["entropy"] < 0 for line in lines)
    weights = {"reconstruction": 1, "commitment": 0.25, "codebook": 1, "perceptual": 0.5}
    for line in lines:
        total = sum(weight * line[name] for name, weight in weights.items())
        total += 0.1 * line["entropy"]
        if line["step"] > 2:  # counted in updates that are done
            total += 0.1 * line["adversarial"] + line["discriminator"]
        np.testing.assert_allclose(line["loss"], total, rtol=1e-4)
    stored = arrays(folder, 4)
    assert any(path.startswith("params/perceptual") for path in stored)
    assert not any(path.startswith("ema/perceptual") for path in stored)
    names = tokenizers.load(folder / "tokenizer.safetensors").params
    assert sorted(names) == ["codebook", "decoder", "encoder", "post_quant", "quant"]


def test_quantising_begins_later():
    fields = tiny_tokenizers.values(**{"loss.quantise_after": 2, "loss.commitment": 5.0})
    learner = configs.from_json(fields).learner()
    graphdef, params = nnx.split(learner.build(nnx.Rngs(0)))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    loss = jax.jit(
        lambda p: learner.loss(nnx.merge(graphdef, p), {"pixels": pixels}, jax.random.key(0))
    )
    tokenizer = nnx.merge(graphdef, params).tokenizer
    wanted = learner.scaled(pixels)
    z_BHWC = tokenizer.latents(wanted, learner.layout)
    tokens = tokenizer.encode(wanted, learner.layout)
    as_they_are = tokenizer.decode_latents(z_BHWC, learner.layout)
    for updates, made in ((1, as_they_are), (2, tokenizer.decode(tokens, learner.layout))):
        params["memory"]["updates"][...] = jnp.int32(updates)
        total, seen = loss(params)
        error = np.square(wanted - made).mean()
        np.testing.assert_allclose(seen["reconstruction"], error, rtol=1e-5)
        weighted = error + seen["codebook"] + (5 * seen["commitment"] if updates == 2 else 0)
        np.testing.assert_allclose(total, weighted, rtol=1e-5)


def test_from_another_tokenizer(tmp_path, trained):
    folder, _ = trained
    file = folder / "tokenizer.safetensors"
    still = {"optim.lr": 1e-9, "train.steps": 2, "loss.ema_decay": 0.99999}
    other, result = run(tmp_path, "vq", "--init_from", file, **still)
    lines = [json.loads(line) for line in (other / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["step"] == 0 and lines[0]["valid/psnr"] > 0
    before, after = (tokenizers.load(path / "tokenizer.safetensors") for path in (folder, other))
    np.testing.assert_allclose(before.codebook, after.codebook, atol=1e-3)
    assert result["held_out"]["psnr"] == pytest.approx(lines[0]["valid/psnr"], abs=1e-2)


@pytest.mark.parametrize(
    ("kind", "arguments", "overrides", "message"),
    [
        ("vq", [], {"data.name": "folder"}, "config.data.dir is missing"),
        ("vq", [], {"data.name": "foldr"}, 'did you mean "folder"'),
        ("vq", [], {"data.name": "folder", "data.dir": "no/such"}, "is no folder of images"),
        ("vq", [], {"data.size": [7, 8]}, "multiples of"),
        ("msvq", [], {"data.size": [16, 16]}, "are those of images of"),
        ("vq", [], {"loss.codebook": "emu"}, 'did you mean "ema"'),
        ("vq", [], {"loss.perceptual.weight": 1.0}, "give a weight and files"),
        ("vq", [], {"loss.adversarial.weight": 1.0}, "needs crops of 24 pixels"),
        ("vq", ["--tokenizer", "x"], {}, "this run trains one itself"),
        ("vq", ["--init_from", "no.safetensors"], {}, "does not exist"),
        ("vq", [], {"loss.quantise_after": 4}, "must be below config.train.steps 4"),
        ("vq", [], {"tokenizer": "kl"}, 'config.tokenizer "kl" is unknown'),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, kind, arguments, overrides, message):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, kind, *arguments, **overrides)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and message in said and said.count("\n") == 1


def test_a_perceptual_file_that_is_missing(tmp_path, capsys):
    terms = {"loss.perceptual": {"weight": 0.5, "files": ["none.pth"]}, "data.size": [16, 16]}
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, **terms)
    assert stop.value.code == 2 and "none.pth" in capsys.readouterr().err


def test_other_tokenizers_weights_are_refused(tmp_path, trained, capsys):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, "msvq", "--init_from", trained[0] / "tokenizer.safetensors")
    assert stop.value.code == 2 and "this run trains a msvq" in capsys.readouterr().err


def test_a_tokenizers_run_is_no_generator(tmp_path, trained, capsys):
    with pytest.raises(SystemExit) as stop:
        sample.main([str(trained[0]), "--out", str(tmp_path / "s")])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "run of a tokenizer" in said and said.count("\n") == 1


@pytest.mark.parametrize("command", ["compare", "bench", "data"])
def test_commands_of_generators_refuse_its_config(tmp_path, capsys, command):
    config = str(tiny_tokenizers.write_config(tmp_path / "tiny.py"))
    arguments = {
        "compare": [config, "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")],
        "bench": [config],
        "data": ["check", str(tmp_path), "--config", config],
    }[command]
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(f"gen.{command}.__main__").main(arguments)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "run of a tokenizer" in said and said.count("\n") == 1


def losses(mesh_text):
    """A held-out score, and what three steps report, with every term that fits small crops."""
    sizes = [int(size) for size in mesh_text.split("x")]
    terms = {"loss.adversarial.weight": 0.1, "loss.adversarial.width": 4}
    terms |= {"loss.adversarial.layers": 1, "loss.entropy.weight": 0.1}
    fields = tiny_tokenizers.values("msvq", **terms)
    fields["mesh"] = dict(zip(sharding.AXES, sizes, strict=True))
    config = configs.from_json(fields)
    mesh = sharding.make_mesh(config.mesh, batch_size=16, num_devices=int(np.prod(sizes)))
    trainer, rng, found = Trainer(config, mesh), np.random.default_rng(0), []
    with jax.set_mesh(mesh):
        state, step = trainer.init(), trainer.jit_step()
        job = TokenizerJob(trainer, init_from=None, tokenizer=None, is_new=True)
        found.append(job.held_out(state.params)["psnr"])
        for _ in range(3):
            crops = rng.integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
            rows = jax.device_put({"pixels": crops}, sharding.batch_sharding(mesh))
            state, metrics = step(state, rows)
            found += [float(metrics[name]) for name in ("loss", "grad_norm", "perplexity")]
    return found


def test_meshes_agree():
    done = tiny.run_module("tests.test_tokenizer_training", *MESHES, devices=8)
    assert done.returncode == 0, done.stderr[-3000:]
    one, many = np.array(json.loads(done.stdout.splitlines()[-1]))
    np.testing.assert_allclose(many[1], one[1], rtol=1e-6)
    np.testing.assert_allclose(many, one, rtol=1e-4)
    assert one[1] != one[-3]


if __name__ == "__main__":
    print(json.dumps([losses(mesh) for mesh in sys.argv[1:]]))
