"""Weights of 8 bits: what rounding does, and that products of few rows take them as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gen
from gen.bench.made_up import captions
from gen.errors import UserError
from gen.models import int8
from tests import tiny
from tests.test_compiled import inside_loops


def kernel(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_rounding_is_to_the_nearest_of_255_steps():
    kernel_LDF = kernel(3, 32, 5)
    kernel_LDF[1, :, 2] = 0
    made_LDF = np.asarray(int8.rounded(jnp.asarray(kernel_LDF)))
    largest_L1F = np.abs(kernel_LDF).max(axis=1, keepdims=True)
    assert (np.abs(made_LDF - kernel_LDF) <= largest_L1F / 254 * (1 + 1e-5)).all()
    steps_LDF = made_LDF / np.where(largest_L1F > 0, largest_L1F / 127, 1)
    np.testing.assert_allclose(steps_LDF, np.round(steps_LDF), atol=1e-4)
    assert np.abs(np.round(steps_LDF)).max() == 127 and (made_LDF[1, :, 2] == 0).all()
    again_LDF = int8.rounded(jnp.asarray(made_LDF))
    np.testing.assert_allclose(again_LDF, made_LDF, rtol=3e-7)


def test_what_is_stored_is_what_was_rounded():
    rounded_DF = int8.rounded(jnp.asarray(kernel(40, 7)))
    kernel_FD, scale_F = int8.stored(rounded_DF)
    assert kernel_FD.dtype == jnp.int8 and kernel_FD.shape == (7, 40)
    raised_DF = np.asarray(kernel_FD, np.float32).T * np.asarray(scale_F)
    np.testing.assert_allclose(raised_DF, rounded_DF, rtol=3e-7)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_products_keep_fifteen_bits_of_the_rows(rows):
    kernel_FD, scale_F = int8.stored(jnp.asarray(kernel(300, 11)))
    x_MD = kernel(rows, 300, seed=1) * np.array([[1e-3], [1.0], [50.0], [1.0], [1.0]])[:rows]
    x_MD[-1, 3] = 1000.0  # one that stands out takes bits from the others of its row alone
    x_MD[0] *= rows > 2  # a row of nothing
    made_MF = jax.jit(int8.product)(jnp.asarray(x_MD, jnp.float32), kernel_FD, scale_F)
    raised_FD = np.asarray(kernel_FD, np.float64) * np.asarray(scale_F, np.float64)[:, None]
    exact_MF = x_MD.astype(np.float64) @ raised_FD.T
    # Of each entry at most half a step is lost.
    lost_M1 = np.abs(x_MD).max(axis=1, keepdims=True) / (2 * 127 * 128)
    bound_MF = lost_M1 * np.abs(raised_FD).sum(axis=1) + 1e-6 * np.abs(exact_MF) + 1e-12
    assert (np.abs(made_MF - exact_MF) <= bound_MF).all()


@pytest.mark.parametrize("condition", ["class", "text"])
def test_a_model_samples_by_them_and_scores_as_rounded(condition):
    """Few rows take integers in the loop, many float32; both are the model of rounded weights.

    A text's prompt is fed in one step of many rows, which does not count.
    """
    config = tiny.config(**(tiny.text() if condition == "text" else {}))
    texts = captions(config.model.condition, 2)
    given = {"labels": [1, 2]} if texts is None else {"captions": texts}
    generator = tiny.generator(config, dtype="int8")
    single = tiny.generator(config)
    assert generator.dtype == jnp.float32
    before = jax.tree.map(np.array, generator.params)
    few, many = (
        generator.traced(0, num=n, guidance=2.0, captions=captions(config.model.condition, n))
        for n in (2, 3)
    )
    assert few[1][0].blocks[0].feed_forward.down.kernel[...].dtype == jnp.int8
    assert many[1][0].blocks[0].feed_forward.down.kernel[...].dtype == jnp.float32
    width = config.model.backbone.width
    text = "\n".join(inside_loops(few[0].lower().compile().as_text()))
    assert f"s8[{config.model.vocab_size},{width}]" in text
    jax.tree.map(np.testing.assert_array_equal, before, generator.params)

    drawn = generator.draw(0, **given, keep_logits=True)
    scored = np.asarray(generator.logits(drawn["tokens"], **given))
    np.testing.assert_allclose(drawn["logits"], scored, atol=2e-3 * np.abs(scored).max())
    exact = np.asarray(single.logits(drawn["tokens"], **given))
    assert np.abs(scored - exact).max() > 4 * np.abs(scored - drawn["logits"]).max()
    assert np.abs(scored - exact).max() < 0.1 * np.abs(exact).max()


def test_it_is_refused_where_it_was_not_measured(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(UserError, match="int8 is for CPUs; on gpu take bfloat16"):
        tiny.generator(tiny.config(), dtype="int8")


@pytest.mark.parametrize("name", ["int4", "INT8", "float16", None, 3, np.float64])
def test_other_dtypes_are_refused(name):
    told = "float64" if name is np.float64 else name
    message = f'float32, bfloat16 or int8, not "{told}"'
    with pytest.raises(UserError, match=message):
        tiny.generator(tiny.config(), dtype=name)
    with pytest.raises(UserError, match=message):
        gen.load("no such run", dtype=name)


def test_dtypes_of_jax_are_taken():
    assert tiny.generator(tiny.config(), dtype=jnp.bfloat16).dtype == jnp.bfloat16


def test_what_is_no_number_stays_none():
    kernel_FD, scale_F = int8.stored(jnp.asarray(kernel(6, 3)))
    made_MF = int8.product(jnp.ones((2, 6)).at[1, 4].set(jnp.nan), kernel_FD, scale_F)
    assert np.isfinite(made_MF[0]).all() and np.isnan(made_MF[1]).all()
