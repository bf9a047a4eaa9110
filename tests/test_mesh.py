"""One device and several meshes take the same steps, and each device holds its share.

The work is done by this file run as a program, in a process with eight fake devices.
"""

import json
import sys

import jax
import numpy as np
import pytest

from gen import sharding
from gen.api import Generator
from gen.training.state import Trainer
from tests import tiny

MESHES = {"1x1x1": 1, "8x1x1": 8, "2x2x2": 8, "1x4x2": 8}
STEPS = 20
ROWS = 16


def report(mesh_text: str) -> dict:
    """Losses of 20 steps on a mesh, and bytes per device against the whole."""
    sizes = [int(size) for size in mesh_text.split("x")]
    config = tiny.config(**{
        "model.vocab_size": 32,
        "model.condition.num_classes": 10,
        "model.backbone": {"depth": 2, "width": 64, "heads": 4, "ffn_multiple": 32},
        "mesh": dict(zip(sharding.AXES, sizes, strict=True)),
        "optim": {"lr": 3e-3, "ema_decay": 0.9, "warmup_steps": 5, "schedule": "cosine"},
        "train.steps": STEPS,
    })  # fmt: skip
    mesh = sharding.make_mesh(config.mesh, batch_size=ROWS, num_devices=int(np.prod(sizes)))
    trainer = Trainer(config, mesh)
    rng = np.random.default_rng(0)
    losses = []
    with jax.set_mesh(mesh):
        state, step = trainer.init(), trainer.jit_step()
        for _ in range(STEPS):
            label = rng.integers(0, 10, ROWS).astype(np.int32)
            # A rule that can be learnt, so that the losses of a working step fall.
            rows = {"tokens": (label[:, None] + np.arange(12, dtype=np.int32)) % 32, "label": label}
            state, metrics = step(state, jax.device_put(rows, sharding.batch_sharding(mesh)))
            losses.append(float(metrics["loss"]))
    bytes_of = lambda leaf: leaf.addressable_shards[0].data.nbytes  # noqa: E731
    kinds = {"params": state.params, "ema": state.ema, "optimizer": state.optimizer}
    held = {name: sum(map(bytes_of, jax.tree.leaves(tree))) for name, tree in kinds.items()}
    total = {name: sum(leaf.nbytes for leaf in jax.tree.leaves(t)) for name, t in kinds.items()}
    ways = sizes[1] * sizes[2]
    return {
        "losses": losses,
        "share": {name: held[name] * ways / total[name] for name in kinds},
        "specs": {sharding.path_of(path): str(leaf.sharding.spec)
                  for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)},
    }  # fmt: skip


def few_losses(mesh_text: str, overrides: dict) -> list[float]:
    """Losses of two steps of any family on random tokens."""
    sizes = [int(size) for size in mesh_text.split("x")]
    config = tiny.config(**overrides, mesh=dict(zip(sharding.AXES, sizes, strict=True)))
    mesh = sharding.make_mesh(config.mesh, batch_size=ROWS, num_devices=int(np.prod(sizes)))
    trainer = Trainer(config, mesh)
    layout, rng, losses = trainer.learner.data_layout, np.random.default_rng(0), []
    with jax.set_mesh(mesh):
        state, step = trainer.init(), trainer.jit_step()
        for _ in range(2):
            labels = np.arange(ROWS, dtype=np.int32) % 5
            rows = {"tokens": tiny.random_data(layout, ROWS, rng), "label": labels}
            state, metrics = step(state, jax.device_put(rows, sharding.batch_sharding(mesh)))
            losses.append(float(metrics["loss"]))
    return losses


def samples(mesh_text: str) -> list:
    """Of both loops, guided: tokens drawn at once, and those a stream ends with."""
    sizes, found = [int(size) for size in mesh_text.split("x")], []
    for overrides in ({}, tiny.masked()):
        config = tiny.config(**overrides, mesh=dict(zip(sharding.AXES, sizes, strict=True)))
        mesh = sharding.make_mesh(config.mesh, batch_size=4, num_devices=int(np.prod(sizes)))
        params = tiny.generator(config).params
        params = jax.device_put(params, sharding.shardings(params, mesh))
        generator = Generator(config, params, mesh=mesh)
        with jax.set_mesh(mesh):
            found.append(generator.sample(0, num=4, guidance=2.0).tolist())
            *_, last = generator.stream(0, num=4, guidance=2.0, every=5)
            found.append(last.tokens.tolist())
    return found


def test_meshes_draw_and_stream_what_one_device_draws():
    run = tiny.run_module("tests.test_mesh", "samples", devices=8)
    assert run.returncode == 0, run.stderr[-3000:]
    one, many = json.loads(run.stdout.splitlines()[-1])
    assert one[0] == one[1] and one[2] == one[3] and np.ptp(one[0]) > 0
    assert many == one


OTHERS = {
    "video": tiny.neighbours(
        **{"model.grid": [2, 3, 2], "model.positions": "learned", "model.backbone.depth": 3}
    ),
    "scales": tiny.scales(),
    "masked": tiny.masked(),
    "flow": tiny.flow(),
}


SLOW = ("video", "masked")  # steps of the shapes that the others have


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.slow if c in SLOW else ()) for c in OTHERS]
)
def test_other_families_agree(case):
    run = tiny.run_module("tests.test_mesh", case, devices=8)
    assert run.returncode == 0, run.stderr[-3000:]
    one, many = np.array(json.loads(run.stdout.splitlines()[-1]))
    np.testing.assert_allclose(many[0], one[0], rtol=1e-6)
    np.testing.assert_allclose(many, one, rtol=1e-5)
    assert one[0] != one[-1]


@pytest.fixture(scope="module")
def reports():
    run = tiny.run_module("tests.test_mesh", *MESHES, devices=8)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("mesh", [name for name in MESHES if name != "1x1x1"])
def test_meshes_agree_with_one_device(reports, mesh):
    one, many = (np.array(reports[name]["losses"]) for name in ("1x1x1", mesh))
    assert len(one) == STEPS and one[-1] < one[0] - 0.2
    np.testing.assert_allclose(many[0], one[0], rtol=1e-6)
    np.testing.assert_allclose(many, one, rtol=1e-5)


@pytest.mark.parametrize("mesh", list(MESHES))
def test_each_device_holds_its_share(reports, mesh):
    for kind, share in reports[mesh]["share"].items():
        assert share <= 1.1, f"{kind} holds {share:.3f} of its share"


def test_rules_cut_as_written(reports):
    specs = reports["2x2x2"]["specs"]
    query = jax.sharding.PartitionSpec(None, "fsdp", "tensor")
    assert specs["backbone/blocks/attention/query/kernel"] == str(query)
    assert specs["tokens/embedding"] == str(jax.sharding.PartitionSpec(None, ("fsdp", "tensor")))


def test_axes_that_do_not_divide_move():
    spec = jax.sharding.PartitionSpec
    mesh = jax.sharding.AbstractMesh((2, 2, 2), sharding.AXES)
    assert sharding.fit(spec("fsdp", "tensor"), (64, 17), mesh) == spec(("fsdp", "tensor"), None)
    assert sharding.fit(spec("fsdp", "tensor"), (2, 17), mesh) == spec("fsdp", None)
    assert sharding.fit(spec("fsdp", "tensor"), (3, 5), mesh) == spec(None, None)


if __name__ == "__main__":
    if sys.argv[1] == "samples":
        found = [samples(name) for name in ("1x1x1", "2x2x2")]
    elif sys.argv[1] in OTHERS:
        found = [few_losses(name, OTHERS[sys.argv[1]]) for name in ("1x1x1", "2x2x2")]
    else:
        found = {name: report(name) for name in sys.argv[1:]}
    print(json.dumps(found))
