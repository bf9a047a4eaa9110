"""The training step: optimiser rules, accumulation, averages, freezing, dropout, precision."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, traverse_util

from gen import sharding
from gen.errors import UserError
from gen.families import FAMILIES
from gen.settings import OptimConfig
from gen.training.optimizer import decay_mask, make_optimizer, make_schedule
from gen.training.state import Trainer, join, split
from tests import tiny

NO_DROPOUT = {f"model.backbone.{name}_dropout": 0.0 for name in ("token", "residual", "ffn")}


def trainer(**overrides):
    config = tiny.config(**overrides)
    return Trainer(config, sharding.make_mesh(config.mesh, batch_size=8))


def batch(seed=0, rows=8):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 11, (rows, 12)).astype(np.int32)
    return {"tokens": tokens, "label": rng.integers(0, 5, rows).astype(np.int32)}


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


def test_decay_is_the_reference_rule():
    # LlamaGen decays what has two or more dimensions in its own, unstacked shape.
    t = trainer()
    params = t.abstract.params
    mask = flat(decay_mask(params, OptimConfig(lr=1.0).no_decay))
    for path, leaf in flat(params).items():
        dims = leaf.ndim - ("backbone/blocks" in path)
        assert mask[path] == (dims >= 2), path


def test_schedules():
    warm = {"lr": 1.0, "warmup_steps": 4, "final_lr": 0.1}
    for name, middle in (("constant", 1.0), ("linear", 0.55), ("cosine", 0.55)):
        schedule = make_schedule(OptimConfig(schedule=name, **warm), 14)
        assert np.allclose([schedule(k) for k in range(5)], [0.25, 0.5, 0.75, 1.0, 1.0])
        assert np.isclose(schedule(9), middle)
        assert np.isclose(schedule(14), 1.0 if name == "constant" else 0.1)
    with pytest.raises(UserError, match="warmup_steps"):
        make_schedule(OptimConfig(**warm), 4)


def test_adamw_step_by_hand():
    config = OptimConfig(lr=0.1, weight_decay=0.5, clip_norm=1.0, eps=1e-3)
    params = {"a": jnp.array([[2.0, -1.0]]), "norm": jnp.array([3.0])}
    grads = {"a": jnp.array([[3.0, 0.0]]), "norm": jnp.array([4.0])}
    optimizer = make_optimizer(config, 10)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    moved = optax.apply_updates(params, updates)
    clipped = 3.0 / 5.0  # global norm 5 is cut to 1
    expected = 2.0 - 0.1 * (clipped / (clipped + 1e-3) + 0.5 * 2.0)
    assert np.isclose(moved["a"][0, 0], expected, rtol=1e-5)
    assert np.isclose(moved["norm"][0], 3.0 - 0.1 * (0.8 / (0.8 + 1e-3)), rtol=1e-5)


def test_accumulation_equals_one_pass():
    whole = trainer(**NO_DROPOUT, **{"model.condition.drop_rate": 0.0})
    parts = trainer(**NO_DROPOUT, **{"model.condition.drop_rate": 0.0, "optim.accumulate": 4})
    key = jax.random.key(0)
    params = tiny.random_params(whole.learner)
    loss, _, grads = jax.jit(whole.gradients)(whole.init_from(params), batch(), key)
    loss_4, _, grads_4 = jax.jit(parts.gradients)(parts.init_from(params), batch(), key)
    np.testing.assert_allclose(loss, loss_4, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grads, grads_4)


def test_averages_follow_their_formula():
    t = trainer()
    state, step = t.init(), jax.jit(t.step)
    first = flat(state.params)
    for seed in range(2):
        before = flat(state.ema)
        state, _ = step(state, batch(seed))
        for path, new in flat(state.ema).items():
            expected = 0.9 * before[path] + 0.1 * flat(state.params)[path]
            np.testing.assert_allclose(new, expected, atol=1e-6)
    assert max(np.abs(flat(state.params)[p] - first[p]).max() for p in first) > 1e-3
    averaged = flat(t.averaged(state))
    assert all(np.array_equal(averaged[p], flat(state.ema)[p]) for p in averaged)
    assert trainer(**{"optim.ema_decay": 0.0}).abstract.ema == {}


def test_frozen_parts_stay_and_keep_no_moments():
    t = trainer(**{"train.freeze": ("backbone", "tokens")})
    state = t.init()
    before = flat(state.params)
    state, _ = jax.jit(t.step)(state, batch())
    after = flat(state.params)
    for path in before:
        frozen = path.startswith(("backbone", "tokens"))
        # The head starts at zero, so no gradient reaches the condition in the first step.
        if frozen or path.startswith("head/logits"):
            assert np.array_equal(before[path], after[path]) == frozen, path
    moments = [sharding.path_of(p) for p, _ in jax.tree_util.tree_leaves_with_path(state.optimizer)]
    assert any("head" in path for path in moments)
    assert not any(re.search("backbone|tokens", path) for path in moments)
    assert not any(path.startswith(("backbone", "tokens")) for path in flat(state.ema))


def test_null_caption_is_stored_but_never_trained():
    t = trainer(**tiny.text())
    assert "condition/null_caption" in flat(t.abstract.params)
    assert "condition/null_caption" not in t.trained
    features, valid = tiny.captions(t.learner.condition, 8)
    rows = {"tokens": batch()["tokens"], "caption": features, "caption_valid": valid}
    state = t.init()
    before = np.asarray(state.params["condition"]["null_caption"])
    state, _ = jax.jit(t.step)(state, rows)
    assert np.array_equal(before, state.params["condition"]["null_caption"])


@pytest.mark.parametrize(
    ("freeze", "message"), [(("backbon_",), "matches no parameter"), ((".",), "every parameter")]
)
def test_freeze_that_makes_no_sense(freeze, message):
    with pytest.raises(UserError, match=message):
        trainer(**{"train.freeze": freeze})


def test_split_and_join():
    tree = {"a": {"b": 1, "c": 2}, "d": 3}
    first, second = split(tree, frozenset({"a/b", "d"}))
    assert (first, second) == ({"a": {"b": 1}, "d": 3}, {"a": {"c": 2}})
    assert join(first, second) == tree


def test_update_that_is_not_finite_is_left_out():
    t = trainer()
    state = t.init()
    broken = dataclasses.replace(
        state, params=jax.tree.map(lambda a: a.at[(0,) * a.ndim].set(jnp.nan), state.params)
    )
    step = jax.jit(t.step)
    after, metrics = step(broken, batch())
    assert not np.isfinite(metrics["loss"])
    assert int(after.skipped) == 1
    for old, new in zip(jax.tree.leaves(broken.params), jax.tree.leaves(after.params), strict=True):
        np.testing.assert_array_equal(old, new)
    after, _ = step(dataclasses.replace(after, params=state.params), batch())
    assert int(after.skipped) == 0


def loss_of(key, **overrides):
    t = trainer(**overrides)
    model = nnx.merge(t.graphdef, tiny.random_params(t.learner))
    loss = jax.jit(lambda key: t.learner.loss(model, batch(), key)[0])
    return float(loss(jax.random.key(key)))


@pytest.mark.parametrize(
    "option",
    [
        "model.condition.drop_rate",
        "model.backbone.token_dropout",
        "model.backbone.residual_dropout",
        "model.backbone.ffn_dropout",
        "model.backbone.drop_path",
    ],
)
def test_each_dropout_acts_and_is_a_function_of_the_key(option):
    off = NO_DROPOUT | {"model.condition.drop_rate": 0.0}
    on = off | {option: 0.5}
    assert loss_of(0, **off) == loss_of(1, **off)
    assert loss_of(0, **on) == loss_of(0, **on)
    assert loss_of(0, **on) != loss_of(1, **on)


def test_drop_path_rises_to_the_last_block():
    # With a rate of nearly 1 the last block is always dropped and the first one never.
    overrides = NO_DROPOUT | {
        "model.condition.drop_rate": 0.0,
        "model.backbone.drop_path": 0.999999,
    }
    one_block = NO_DROPOUT | {"model.condition.drop_rate": 0.0, "model.backbone.depth": 1}
    t = trainer(**overrides)
    params = tiny.random_params(t.learner)
    first = jax.tree.map(lambda a: a[:1], params["backbone"])
    model = nnx.merge(t.graphdef, params)
    dropped = t.learner.loss(model, batch(), jax.random.key(0))[0]
    t = trainer(**one_block)
    model = nnx.merge(t.graphdef, params | {"backbone": first})
    np.testing.assert_allclose(dropped, t.learner.loss(model, batch(), jax.random.key(0))[0])


@pytest.mark.parametrize("option", [{"remat": True}, {"unroll": 2}])
def test_remat_and_unroll_change_no_result(option):
    def gradients(**options):
        t = trainer(**{f"model.backbone.{name}": value for name, value in options.items()})
        return jax.jit(t.gradients)(t.init_from(tiny.random_params(t.learner)), batch(),
                                    jax.random.key(0))  # fmt: skip

    (loss, _, grads), (loss_r, _, grads_r) = gradients(), gradients(**option)
    np.testing.assert_allclose(loss, loss_r, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grads, grads_r)


def test_taps_are_the_hidden_states_between_blocks():
    family = FAMILIES["next_token"](tiny.config(**{"model.backbone.depth": 3}).model)
    model = family.build(nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 4, 32))
    mask = jnp.tril(jnp.ones((4, 4), bool))
    first, last = model.backbone(x, mask=mask, taps=(1, 3))
    by_hand = x
    for number, block in enumerate(model.backbone.unstack(), start=1):
        by_hand, _ = block(by_hand, mask=mask)
        if number == 1:
            np.testing.assert_allclose(first, by_hand, atol=1e-5)
    np.testing.assert_allclose(last, by_hand, atol=1e-5)


def test_bfloat16_computes_low_and_keeps_float32(monkeypatch):
    t = trainer(**{"train.dtype": "bfloat16"})
    state = t.init()
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    model = nnx.merge(t.graphdef, tiny.random_params(t.learner))
    rows = batch()
    prompt = model.condition({"label": rows["label"]})
    x_BSD = t.learner.inputs(model, rows["tokens"], prompt)
    assert x_BSD.dtype == jnp.bfloat16
    hidden = model.backbone(x_BSD, mask=jnp.asarray(t.learner.plan.mask_SS))
    assert hidden[-1].dtype == jnp.bfloat16
    logits = t.learner.logits(model, rows["tokens"], {"label": rows["label"]})
    assert logits.dtype == jnp.float32
    exact = tiny.generator(tiny.config()).logits(rows["tokens"], labels=rows["label"])
    assert 1e-5 < np.abs(logits - exact).max() < 0.1
    # No matrix product in float32 is left in the blocks, but on CPUs the two of attention.
    for platform, singles in {"cpu": 2, "tpu": 0}.items():
        monkeypatch.setattr(jax, "default_backend", lambda p=platform: p)
        text = jax.jit(lambda x: model.backbone(x, mask=jnp.asarray(t.learner.plan.mask_SS))).lower(
            x_BSD
        ).as_text()  # fmt: skip
        found = re.findall(r"dot_general.*: \(tensor<[^>]*x(\w+)>, tensor<[^>]*x(\w+)>\)", text)
        assert found.count(("f32", "f32")) == singles
        assert found.count(("bf16", "bf16")) == len(found) - singles > 4


@pytest.mark.parametrize("std", [0.02, 0.1])
def test_initialisation_is_the_reference_one(std):
    backbone = {"depth": 2, "width": 128, "heads": 4}
    t = trainer(**{"model.backbone": backbone | ({"init_std": std} if std != 0.02 else {})})
    params = flat(t.init().params)
    for path, leaf in params.items():
        if path == "head/logits/kernel":
            assert np.all(leaf == 0)
        elif path.endswith("scale"):
            assert np.all(leaf == 1)
        else:
            assert abs(np.std(leaf) / std - 1) < 0.15, path
    layers = params["backbone/blocks/attention/query/kernel"]
    assert not np.array_equal(layers[0], layers[1])
