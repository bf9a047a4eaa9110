"""Masked generation: the loop, its schedules, what is known in advance, and the likelihood bound.

Axes: B samples, N steps, P positions, V vocabulary.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gen.decoding import draws as drawing
from gen.decoding import trace
from gen.decoding.mask_schedule import MaskOptions, mask_lengths, mask_ratio
from gen.families.base import abstract_model
from gen.families.masked import Masked
from tests import tiny
from tests.data_helpers import error_of

LABELS = [0, 3, 1]


def family_of(**overrides):
    return Masked(tiny.config(**tiny.masked(**overrides)).model)


@pytest.fixture(scope="module")
def generator():
    return tiny.generator(tiny.config(**tiny.masked()))


def partly_known(rows, seed=0):
    """Tokens of which each row knows another number, -1 elsewhere."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 11, (rows, 12))
    return np.where(rng.uniform(size=(rows, 12)) < np.linspace(0, 1, rows)[:, None], tokens, -1)


def fed(drawn, start_BP):
    """The canvas that each step was fed, `(B, N, P)`."""
    return trace.canvases(start_BP, drawn["trace_positions"], drawn["trace_tokens"])[:, :-1]


# Schedules


def test_ratios_follow_their_formulas():
    r = np.linspace(0.05, 1, 20)
    expected = {
        "uniform": 1 - r,
        "pow2": 1 - r**2,
        "pow0.5": 1 - np.sqrt(r),
        "cosine": np.cos(np.pi / 2 * r),
        "log": -np.log(r) / np.log(64),
        "exp": 1 - 64 ** -(1 - r),
    }
    for name, ratio in expected.items():
        for dtype, error in ((np.float64, 1e-12), (np.float32, 1e-6)):
            found = mask_ratio(name, r.astype(dtype), 64)
            assert found.dtype == dtype
            np.testing.assert_allclose(found, np.clip(ratio, 1e-6, 1), atol=error, err_msg=name)


def test_lengths_are_those_of_jax_in_float32():
    totals = np.arange(2, 33) ** 2  # the cosine of XLA may be an ulp off: not in these
    for steps in (3, 8, 12, 18, 31, 64):
        ratio_N = 1.0 * (jnp.arange(steps) + 1) / steps
        ratio_N = jnp.clip(jnp.cos(math.pi / 2.0 * ratio_N), 1e-6, 1.0)
        wanted_BN = np.asarray(jnp.floor(totals[:, None] * ratio_N), int)
        found_BN = mask_lengths(totals, MaskOptions(num_steps=steps))
        for total, wanted_N, found_N in zip(totals, wanted_BN, found_BN, strict=True):
            left, expected = total, []
            for number in wanted_N:
                left = max(1, min(left - 1, number))
                expected.append(left)
            np.testing.assert_array_equal(found_N, expected, err_msg=f"{steps} steps of {total}")


def test_float32_and_float64_differ_at_two_thirds():
    for steps, differs in ((6, True), (8, False), (12, True), (16, False), (18, True)):
        first, second = (
            mask_lengths(np.array([256]), MaskOptions(num_steps=steps, schedule_dtype=dtype))[0]
            for dtype in ("float32", "float64")
        )
        assert np.array_equal(np.flatnonzero(first != second), [2 * steps // 3 - 1] * differs)
        if differs:
            assert (first[2 * steps // 3 - 1], second[2 * steps // 3 - 1]) == (127, 128)


def test_lengths_fall_and_stay_above_zero():
    options = MaskOptions(num_steps=12, start_step=2)
    lengths_BN = mask_lengths(np.array([6, 1, 0, 12]), options)
    assert lengths_BN.dtype == np.int32 and lengths_BN.shape == (4, 10)
    np.testing.assert_array_equal(lengths_BN[0], [5, 4, 3, 2, 1, 1, 1, 1, 1, 1])
    assert (lengths_BN[1:3] == 1).all()
    for name in ("uniform", "pow3", "log", "exp"):
        lengths_BN = mask_lengths(np.arange(40), MaskOptions(schedule=name))
        assert (lengths_BN >= 1).all() and (np.diff(lengths_BN) <= 0).all()


# Sampling


def test_decoding_step_by_step(generator):
    """The loop against one written out, with guidance that ends midway and filters."""
    family, known_BP, labels = generator.family, partly_known(6), np.arange(6) % 5
    rng = np.random.default_rng(1)
    noise = {
        "token": rng.gumbel(size=(7, 6, 12, 11)).astype(np.float32),
        "confidence": rng.gumbel(size=(7, 6, 12)).astype(np.float32),
    }
    drawn = generator.draw(
        0, labels=labels, known=known_BP, guidance=2.5, guidance_interval=1, temperature=0.7,
        top_k=5, draws=drawing.RecordedDraws(noise), num_steps=7, start_step=1, keep_trace=True,
        choice_temperature=0.5, keep_logits=True,
    )  # fmt: skip
    fed_BNP = fed(drawn, known_BP)
    graphdef = nnx.split(abstract_model(family))[0]

    @jax.jit
    def forward(params, canvas_BP, drop_B):
        model = nnx.merge(graphdef, params)
        return model.logits(canvas_BP, model.condition({"label": jnp.asarray(labels)}, drop_B))

    scale_N = family.scales(2.5, 1, MaskOptions(num_steps=7, start_step=1))
    np.testing.assert_array_equal(scale_N, [2.5, 2.5, 2.5, 1, 1, 1])
    canvas_BP, kept_BPV = known_BP, np.zeros((6, 12, 11))
    for number, scale in enumerate(scale_N):
        step, unknown_BP = number + 1, canvas_BP == -1
        np.testing.assert_array_equal(fed_BNP[:, number], canvas_BP)
        cond, null = (forward(generator.params, canvas_BP, np.full(6, d)) for d in (False, True))
        logits_BPV = np.asarray(null + scale * (cond - null))
        kept_BPV = np.where(unknown_BP[..., None], logits_BPV, kept_BPV)
        least = np.sort(logits_BPV, axis=-1)[..., -5, None]
        noisy_BPV = np.where(logits_BPV < least, -np.inf, logits_BPV / 0.7 + noise["token"][step])
        tokens_BP = np.where(unknown_BP, noisy_BPV.argmax(axis=-1), canvas_BP)
        np.testing.assert_array_equal(drawn["trace_tokens"][:, number], tokens_BP)
        log_p_BPV = np.asarray(jax.nn.log_softmax(logits_BPV))
        sure_BP = np.take_along_axis(log_p_BPV, tokens_BP[..., None], axis=-1)[..., 0]
        chance_BP = np.where(unknown_BP, np.exp(sure_BP), np.nan)
        np.testing.assert_allclose(drawn["trace_confidence"][:, number], chance_BP, atol=1e-5)
        sure_BP = sure_BP + 0.5 * (1 - (step + 1) / 7) * noise["confidence"][step]
        canvas_BP = tokens_BP.copy()
        for row in range(6):
            start, left = (known_BP[row] == -1).sum(), unknown_BP[row].sum()
            length = max(1, min(left - 1, int(start * np.cos(np.pi / 2 * (step + 1) / 7))))
            places = np.flatnonzero(unknown_BP[row])
            canvas_BP[row, places[np.argsort(sure_BP[row, places])[:length]]] = -1
    np.testing.assert_array_equal(drawn["tokens"], tokens_BP)
    np.testing.assert_allclose(drawn["logits"], kept_BPV, atol=1e-5)


@pytest.mark.parametrize("order, size", [("confidence", 1), ("random", 3)])
def test_sample_i_is_the_same_whatever_the_batch(generator, order, size):
    known_BP, settings = partly_known(7), {"order": order, "num_steps": 5}
    labels = np.arange(7) % 5
    whole = generator.sample(3, labels=labels, known=known_BP, **settings)
    parts = generator.sample(3, labels=labels, known=known_BP, batch_size=size, **settings)
    np.testing.assert_array_equal(whole, parts)
    other = generator.sample(4, labels=labels, known=known_BP, **settings)
    assert (whole != other)[known_BP == -1].mean() > 0.3


@pytest.mark.parametrize("settings", [{}, {"order": "random", "num_steps": 12, "start_step": 2}])
def test_known_tokens_stay_and_the_rest_is_made(generator, settings):
    known_BP = partly_known(6)
    assert (known_BP == -1).all(axis=1).any() and (known_BP >= 0).all(axis=1).any()
    tokens_BP = generator.sample(0, labels=[2] * 6, known=known_BP, **settings)
    np.testing.assert_array_equal(tokens_BP[known_BP >= 0], known_BP[known_BP >= 0])
    assert tokens_BP.min() >= 0 and tokens_BP.max() < 11 and tokens_BP.dtype == np.int32


def test_a_box_is_made_anew_for_another_class(generator):
    """Class-conditional editing, as published: steps 2 to 12, the box unknown, another class."""
    picture_BP = generator.sample(0, labels=LABELS)
    box = np.zeros((3, 4), bool)
    box[1:, 1:3] = True
    known_BP = np.where(box.ravel(), -1, picture_BP)
    settings = {"known": known_BP, "num_steps": 12, "start_step": 2}
    settings |= {"keep_trace": True, "keep_logits": True}
    four, two = (generator.draw(1, labels=[label] * 3, **settings) for label in (4, 2))
    np.testing.assert_array_equal(four["tokens"][:, ~box.ravel()], picture_BP[:, ~box.ravel()])
    assert four["trace_tokens"].shape == (3, 10, 12)
    assert np.abs(four["logits"] - two["logits"])[:, box.ravel()].max() > 1e-2
    assert (four["logits"][:, ~box.ravel()] == 0).all()


def test_one_program_whatever_is_known():
    generator = tiny.generator(tiny.config(**tiny.masked()))
    for known in (None, *(partly_known(3, seed) for seed in range(3))):
        generator.sample(0, labels=LABELS, known=known)
    compiled = generator._programs._compiled
    (program,) = (compiled[key] for key in compiled if key[0] == "sample")
    assert program._cache_size() == 1


def test_order_of_what_stays(generator):
    """By confidence the surest stay; at random each position is as likely to."""
    params = jax.tree.map(np.copy, generator.params)
    params["positions"][1] *= 0
    params["positions"][1:4] += 3.0  # some positions are unlike the others
    sure = type(generator)(generator.config, params)
    settings = {"labels": [1] * 600, "num_steps": 2, "keep_trace": True, "batch_size": 600}
    start_BP = np.full((600, 12), -1)
    by_choice = fed(sure.draw(0, choice_temperature=0.0, **settings), start_BP)[:, 1] == -1
    at_random = fed(sure.draw(0, order="random", **settings), start_BP)[:, 1] == -1
    length = mask_lengths(np.array([12]), MaskOptions(num_steps=2))[0, 0]
    assert (by_choice.sum(axis=1) == length).all() and (at_random.sum(axis=1) == length).all()
    error = math.sqrt(length / 12 * (1 - length / 12) / 600)
    assert np.abs(at_random.mean(axis=0) - length / 12).max() < 4 * error
    assert np.abs(by_choice.mean(axis=0) - length / 12).max() > 8 * error


def test_wrong_settings_are_refused(generator):
    for settings, expected in (
        ({"schedule": "cosin"}, 'schedule "cosin" is unknown'),
        ({"schedule": "pow"}, "unknown"),
        ({"order": "halton"}, "confidence, random"),
        ({"start_step": 16}, "start_step 16"),
        ({"num_steps": 0}, "num_steps is at least 1"),
        ({"schedule_dtype": "int32"}, "float32 or float64"),
        ({"choice_temperature": -1.0}, "at least 0"),
        ({"num_step": 3}, "num_steps"),
        ({"known": np.full((3, 12), -2)}, "token ids"),
        ({"known": np.zeros((2, 12), int)}, "2 rows"),
    ):
        assert expected in error_of(lambda s=settings: generator.draw(0, labels=LABELS, **s))
    for fields, expected in (
        ({"model.condition.kind": "text"}, "conditioned on classes"),
        ({"model.num_draws": 6}, "multiple of 4"),
        ({"model.mask_schedule": "sine"}, "unknown"),
        ({"model.min_mask_ratio": 1.0}, "min_mask_ratio"),
    ):
        assert expected in error_of(lambda f=fields: family_of(**f))
    plain = tiny.generator(tiny.config(**tiny.masked(**{"model.condition.drop_rate": 0.0})))
    assert plain.params["condition"]["table"]["embedding"].shape == (5, 32)
    assert plain.sample(0, labels=[1]).shape == (1, 12)
    assert "null condition" in error_of(lambda: plain.sample(0, labels=[1], guidance=2.0))
