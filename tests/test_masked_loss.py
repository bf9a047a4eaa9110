"""Masked generation: the likelihood bound and the training loss.

Axes: B samples, P positions, V vocabulary.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from gen.families import masked as family_file
from gen.families.base import abstract_model
from tests import tiny
from tests.test_masked import family_of


def log_p(generator, canvas_BP, labels):
    """log p of all tokens at all positions, `(B, P, V)`."""
    graphdef = nnx.split(abstract_model(generator.family))[0]

    def run(params):
        model = nnx.merge(graphdef, params)
        prompt = model.condition({"label": jnp.asarray(labels)})
        return jax.nn.log_softmax(model.logits(jnp.asarray(canvas_BP), prompt))

    return np.asarray(jax.jit(run)(generator.params))


def test_bound_is_unbiased():
    """Against the mean over all masks of a sample."""
    overrides = {"model.grid": [2, 2], "model.vocab_size": 3}
    generator = tiny.generator(tiny.config(**tiny.masked(**overrides)))
    tokens, label = np.array([2, 0, 1, 1]), 3
    masks = [np.array(m, bool) for m in itertools.product([0, 1], repeat=4) if any(m)]
    chances = log_p(generator, [np.where(m, -1, tokens) for m in masks], [label] * len(masks))
    nll = -np.take_along_axis(chances, tokens[None, :, None], axis=-1)[..., 0]
    by_count = [
        np.mean([row[m].mean() for row, m in zip(nll, masks) if m.sum() == k]) for k in range(1, 5)
    ]
    rows = 4000
    found = generator.held_out(np.tile(tokens, (rows, 1)), labels=[label] * rows)
    sums = found["nll"].sum(axis=1)
    assert np.ptp(sums) > 0.1, "masks differ, so estimates must"
    assert abs(sums.mean() - sum(by_count)) < 4 * sums.std() / rows**0.5
    assert sums.std() / rows**0.5 < 0.01 * sum(by_count)
    # Four positions and four buckets: each holds one number of masked positions.
    for name, expected in zip(family_file.BUCKETS, by_count):
        values = found[f"nll/ratio_{name}"]
        assert abs(values.mean() - expected) < 4 * values.std() / rows**0.5 + 1e-6


def test_estimates_do_not_depend_on_the_batch():
    generator = tiny.generator(tiny.config(**tiny.masked()))
    tokens = np.random.default_rng(0).integers(0, 11, (5, 12))
    whole = generator.held_out(tokens, labels=np.arange(5))
    assert whole["nll"].shape == (5, 12) and whole["nll/ratio_00_25"].shape == (5,)
    part = generator.held_out(tokens[3:], labels=[3, 4], first=3)
    for name in whole:
        np.testing.assert_allclose(whole[name][3:], part[name], rtol=1e-5)
    null = generator.held_out(tokens, labels=np.arange(5), null=True)
    assert np.abs(whole["nll"] - null["nll"]).max() > 1e-2
    assert generator.family.is_bound


def loss_of(generator):
    """The compiled loss of (parameters, batch, key)."""
    graphdef = nnx.split(abstract_model(generator.family))[0]
    return jax.jit(
        lambda params, batch, key: generator.family.loss(nnx.merge(graphdef, params), batch, key)
    )


def still(**overrides):
    """A model without dropouts."""
    rates = ("token_dropout", "attention_dropout", "residual_dropout")
    off = {f"model.backbone.{name}": 0.0 for name in rates} | {"model.condition.drop_rate": 0.0}
    return tiny.generator(tiny.config(**tiny.masked(**off | overrides)))


def test_loss_is_smoothed_and_of_masked_positions_alone(monkeypatch):
    generator, labels = still(**{"model.label_smoothing": 0.2}), [0, 3]
    tokens = np.random.default_rng(0).integers(0, 11, (2, 12))
    mask = np.arange(24).reshape(2, 12) % 5 < 2
    seen = {}

    def chosen(noise_BP, length_B):
        seen["noise"], seen["lengths"] = noise_BP.shape, length_B.shape
        return jnp.asarray(mask)

    monkeypatch.setattr(family_file, "random_mask", chosen)
    monkeypatch.setattr(
        jax.random, "choice", lambda key, values, shape: jnp.asarray(mask.sum(axis=1))
    )
    batch = {"tokens": jnp.asarray(tokens), "label": jnp.asarray(labels)}
    loss, metrics = loss_of(generator)(generator.params, batch, jax.random.key(0))
    chances = log_p(generator, np.where(mask, -1, tokens), labels)[mask]
    target = np.full((mask.sum(), 11), 0.2 / 11)
    target[np.arange(mask.sum()), tokens[mask]] += 0.8
    np.testing.assert_allclose(loss, -(target * chances).sum(axis=-1).mean(), rtol=1e-5)
    nll = -np.take_along_axis(chances, tokens[mask][:, None], axis=-1)
    np.testing.assert_allclose(metrics["nll/masked"], nll.mean(), rtol=1e-5)
    assert seen == {"noise": (2, 12), "lengths": (2,)}


def test_masks_of_training():
    lengths = family_of().lengths_T
    assert lengths.min() == 1 and lengths.max() == 12
    # ceil(12 cos(pi r / 2)) for uniform r: 12 c > k for c = cos, so r < 2 / pi acos(k / 12).
    expected = [2 / np.pi * np.arccos(k / 12) for k in range(12)]
    np.testing.assert_allclose([(lengths > k).mean() for k in range(12)], expected, atol=1e-3)
    assert family_of(**{"model.min_mask_ratio": 0.5}).lengths_T.min() == 6
    noise = jax.random.uniform(jax.random.key(0), (500, 12))
    mask = family_file.random_mask(noise, jnp.arange(500) % 12 + 1)
    np.testing.assert_array_equal(mask.sum(axis=1), np.arange(500) % 12 + 1)
    assert np.abs(mask.mean(axis=0) - mask.mean()).max() < 0.1


def test_dropouts_and_the_null_class_need_the_key():
    generator = tiny.generator(tiny.config(**tiny.masked(**{"model.condition.drop_rate": 0.9})))
    tokens, loss = np.random.default_rng(0).integers(0, 11, (8, 12)), loss_of(generator)
    batch = {"tokens": jnp.asarray(tokens), "label": jnp.ones(8, int)}
    first, again, other = (
        loss(generator.params, batch, jax.random.key(seed))[0] for seed in (0, 0, 1)
    )
    assert first == again != other


def test_training_learns_what_the_class_says():
    """Class 0 shows a constant, class 1 a ramp."""
    generator = still(**{"model.label_smoothing": 0.0})
    family, graphdef = generator.family, nnx.split(abstract_model(generator.family))[0]
    pictures = jnp.stack([jnp.full(12, 7), jnp.arange(12) % 11])
    labels = jnp.arange(16) % 2
    batch = {"tokens": pictures[labels], "label": labels}
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(state, key):
        def loss(params):
            return family.loss(nnx.merge(graphdef, params), batch, key)[0]

        params, moments = state
        value, grads = jax.value_and_grad(loss)(params)
        updates, moments = optimizer.update(grads, moments)
        return (optax.apply_updates(params, updates), moments), value

    state, losses = (generator.params, optimizer.init(generator.params)), []
    for number in range(40):
        state, value = step(state, jax.random.key(number))
        losses.append(float(value))
    assert losses[-1] < 0.1 < 1.5 < losses[0]
    trained = type(generator)(generator.config, state[0])
    tokens = trained.sample(0, labels=[0, 1], num_steps=4)
    np.testing.assert_array_equal(tokens, pictures)
