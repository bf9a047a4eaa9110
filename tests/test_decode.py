"""Cached decoding equals the full forward: for every family, condition, guidance and shape.

Axes: B samples, P positions, V vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gen.decoding import draws as drawing
from gen.decoding.guidance import guide, num_guided_steps
from gen.decoding.tokens import token_sampling
from gen.families import FAMILIES
from gen.families.base import abstract_model
from tests import tiny

BATCH = 3

CASES = {
    "class": {},
    "class, other shape, grouped keys": {
        "model.grid": [4, 5],
        "model.vocab_size": 7,
        "model.backbone": {
            "depth": 3,
            "width": 48,
            "heads": 4,
            "kv_heads": 2,
            "ffn_multiple": 8,
            "rope_base": 100.0,
        },
    },
    "class, caches of several lengths": {
        "model.grid": [8, 12],
        "model.backbone": {"depth": 1, "width": 16, "heads": 2, "ffn_multiple": 8},
    },
    "neighbours, class": tiny.neighbours(),
    "neighbours, other shape": tiny.neighbours(
        **{"model.grid": [5, 3], "model.backbone.depth": 4, "model.head_blocks": 2}
    ),
    "neighbours, long": tiny.neighbours(**{"model.grid": [11, 9]}),
    "neighbours, video": tiny.neighbours(
        **{"model.grid": [2, 3, 4], "model.positions": "learned", "model.backbone.depth": 3}
    ),
    "neighbours, fixed table": tiny.neighbours(
        **{"model.grid": [3, 2, 2], "model.positions": "fixed", "model.backbone.depth": 4}
    ),
    "neighbours, text": tiny.text(**tiny.neighbours()),
    "scales": tiny.scales(),
    "scales, shared modulation, equal sizes": tiny.scales(
        **{
            "model.backbone.shared": True,
            "model.quantizer.scales": [[1, 2], [2, 2], [2, 2], [4, 3]],
            "model.quantizer.num_mixers": 0,
        }
    ),
    "scales, plain attention": tiny.scales(
        **{"model.backbone.unit_heads": False, "model.quantizer.mixing": 0.0}
    ),
    "text": tiny.text(),
    "text, other shape": tiny.text(**{"model.grid": [4, 3], "model.vocab_size": 6}),
}


class Forced:
    """Noise that makes a family draw the given tokens, whatever positions it takes at a step."""

    def __init__(self, tokens_BP, family):
        targets = [t for phase in family.plan.phases for t in phase.target_NR]
        width = max(len(target) for target in targets)
        padded = np.full((len(targets), width), family.layout.num_positions)
        for row, target in zip(padded, targets):
            row[: len(target)] = target
        self.target_NR, self.tokens_BP = jnp.asarray(padded), tokens_BP

    def gumbel(self, purpose, step, shape):
        tokens_BR = self.tokens_BP[:, self.target_NR[step, : shape[0]]]
        return 1e6 * jax.nn.one_hot(tokens_BR, shape[1])


def step_of_positions(family):
    """The step that decodes each position, `(P,)`; each has one."""
    step_P = np.full(family.layout.num_positions + 1, -1)
    targets = [t for phase in family.plan.phases for t in phase.target_NR]
    for step, target_R in enumerate(targets):
        assert (step_P[target_R[target_R < len(step_P) - 1]] == -1).all(), "decoded twice"
        step_P[target_R] = step
    assert (step_P[:-1] >= 0).all()
    return step_P[:-1]


def decode(family, params, condition, tokens_BP, scale_N):
    """Cached decoding that is forced, by its noise, to draw the given tokens."""
    graphdef = nnx.split(abstract_model(family))[0]
    draws = Forced(jnp.asarray(tokens_BP), family)

    def run(params, condition, scale_N):
        return family.sample(
            family.lay_out(nnx.merge(graphdef, params)),
            condition,
            draws=draws,
            scale_N=scale_N,
            num_guided=num_guided,
            sampling=token_sampling(),
            keep_logits=True,
        )

    num_guided = num_guided_steps(scale_N)
    return jax.jit(run)(params, condition, scale_N)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("guidance", ["off", "on", "off midway"])
def test_cached_equals_full(case, guidance):
    config = tiny.config(**CASES[case])
    family = FAMILIES[config.family](config.model)
    params = tiny.random_params(family)
    rng = np.random.default_rng(1)
    tokens_BP = rng.integers(
        0, family.layout.vocab_sizes[0], (BATCH, family.layout.num_positions)
    ).astype(np.int32)
    if family.condition.kind == "class":
        condition = {"label": jnp.arange(BATCH) % family.condition.num_classes}
    else:
        features, valid = tiny.captions(family.condition, BATCH)
        condition = {"caption": jnp.asarray(features), "caption_valid": jnp.asarray(valid)}
    midway = 4 if family.plan.num_steps > 6 else 0
    arguments = {"off": (None, -1), "on": (2.5, -1), "off midway": (2.5, midway)}[guidance]
    scale_N = family.scales(*arguments)
    num_guided = num_guided_steps(scale_N)
    if guidance == "off midway":
        assert 0 < num_guided < len(scale_N)
    else:
        assert num_guided == {"off": 0, "on": len(scale_N)}[guidance]

    graphdef = nnx.split(abstract_model(family))[0]
    full = jax.jit(lambda p, drop_B: family.logits(
        nnx.merge(graphdef, p), tokens_BP, condition, drop_B=drop_B
    ))  # fmt: skip
    cond_BPV = full(params, np.zeros(BATCH, bool))
    null_BPV = full(params, np.ones(BATCH, bool))
    expected_BPV = guide(cond_BPV, null_BPV, scale_N[step_of_positions(family)][:, None])

    found = decode(family, params, condition, tokens_BP, scale_N)
    np.testing.assert_array_equal(found["tokens"], tokens_BP)
    assert np.std(expected_BPV) > 0.1, "the case would pass with a dead model"
    # Tokens were drawn at random, so most are not the greedy ones.
    assert np.mean(np.argmax(expected_BPV, -1) == tokens_BP) < 0.6
    np.testing.assert_allclose(found["logits"], expected_BPV, atol=1e-5, rtol=1e-5)


def test_plan_of_next_token():
    config = tiny.config(**{"model.grid": [8, 20]})
    plan = FAMILIES["next_token"](config.model).plan
    assert plan.num_steps == 160
    assert [phase.cache_length for phase in plan.phases] == [64, 128, 160]
    assert np.array_equal(plan.mask_SS, np.tril(np.ones((160, 160), bool)))
    assert sum(p.num_steps for p in plan.phases_cut_at(5)) == 160
    assert [p.first_step for p in plan.phases_cut_at(5)] == [0, 5, 64, 128]


def test_padding_of_a_caption_is_never_seen():
    config = tiny.config(**tiny.text())
    generator = tiny.generator(config)
    condition = generator.family.condition
    features, valid = tiny.captions(condition, 3)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 11, (3, 12))
    other = np.where(valid[..., None], features, 9.0)
    first = generator.logits(tokens, captions=(features, valid))
    np.testing.assert_array_equal(first, generator.logits(tokens, captions=(other, valid)))
    assert np.abs(first - generator.logits(tokens, captions=(features, None))).max() > 1e-3


def test_sample_i_is_the_same_whatever_the_batch():
    generator = tiny.generator(tiny.config())
    labels = np.arange(7) % 5
    whole = generator.sample(3, labels=labels, guidance=1.5, batch_size=7)
    for size in (1, 3):
        parts = generator.sample(3, labels=labels, guidance=1.5, batch_size=size)
        np.testing.assert_array_equal(whole, parts)
    assert (whole != generator.sample(4, labels=labels, guidance=1.5)).mean() > 0.3
    np.testing.assert_array_equal(
        whole, generator.sample(jax.random.key(3), labels=labels, guidance=1.5)
    )


def test_recorded_draws_decide_the_sample():
    generator = tiny.generator(tiny.config())
    noise = np.random.default_rng(0).gumbel(size=(12, 2, 1, 11)).astype(np.float32)
    draws = drawing.RecordedDraws({"token": jnp.asarray(noise)})
    tokens = generator.sample(0, labels=[1, 2], draws=draws)
    np.testing.assert_array_equal(tokens, generator.sample(9, labels=[1, 2], draws=draws))
    logits = generator.logits(tokens, labels=[1, 2])
    np.testing.assert_array_equal(tokens, np.argmax(logits + noise[:, :, 0].swapaxes(0, 1), -1))


def test_greedy_sampling_takes_the_most_likely_token():
    generator = tiny.generator(tiny.config())
    tokens = generator.sample(0, labels=[0, 3], temperature=0)
    logits = generator.logits(tokens, labels=[0, 3])
    np.testing.assert_array_equal(tokens, np.argmax(logits, -1))
