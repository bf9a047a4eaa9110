"""Temperature, top-k, top-p and guidance against slow, plain versions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen.decoding import guidance
from gen.decoding.tokens import NEVER, choose, filter_logits, most_likely, token_sampling
from gen.errors import UserError


def plain_filter(logits_V, temperature, top_k, top_p):
    """The published filter, one row at a time, in float64."""
    kept = np.asarray(logits_V, np.float64) / temperature
    if top_k:
        kept = np.where(kept < np.sort(kept)[-top_k], -np.inf, kept)
    order = np.argsort(-kept, kind="stable")
    probs = np.exp(kept - kept.max()) / np.exp(kept - kept.max()).sum()
    total = 0.0
    for index in order:
        if total > top_p:
            kept[index] = -np.inf
        total += probs[index]
    return kept


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [0, 1, 5, 400])
@pytest.mark.parametrize("top_p", [0.1, 0.8, 1.0])
def test_filter(temperature, top_k, top_p):
    logits = np.random.default_rng(0).normal(size=(4, 30)).astype(np.float32) * 2
    sampling = token_sampling(temperature, top_k=top_k, top_p=top_p)
    found = np.asarray(filter_logits(jnp.asarray(logits), sampling))
    for row, logits_V in zip(found, logits, strict=True):
        wanted = plain_filter(logits_V, temperature, min(top_k, 30), top_p)
        np.testing.assert_array_equal(row <= NEVER, np.isinf(wanted))
        kept = np.isfinite(wanted)
        np.testing.assert_allclose(row[kept], wanted[kept], rtol=1e-5)


def test_ties_with_the_kth_token_stay():
    logits = jnp.array([[1.0, 2.0, 2.0, 0.0]])
    kept = filter_logits(logits, token_sampling(top_k=1)) > NEVER
    assert kept.tolist() == [[False, True, True, False]]


def test_gumbel_noise_draws_the_softmax():
    probs = np.array([0.5, 0.3, 0.15, 0.05])
    noise = jnp.asarray(np.random.default_rng(0).gumbel(size=(20000, 4)))
    drawn, _ = choose(jnp.log(jnp.tile(probs, (20000, 1))), token_sampling(), noise)
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 20000, probs, atol=0.015)


@pytest.mark.parametrize(
    "arguments",
    [{"temperature": -1}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0}, {"top_p": 2}],
)
def test_settings_out_of_range(arguments):
    with pytest.raises(UserError):
        token_sampling(**arguments)


def test_guidance_schedule():
    assert guidance.constant(3.0, 4).tolist() == [3.0] * 4
    assert guidance.constant(3.0, 4, last_step=1).tolist() == [3, 3, 1, 1]
    assert guidance.num_guided_steps(np.array([1.0, 2.0, 1.0, 2.0, 1.0])) == 4
    assert guidance.num_guided_steps(np.ones(3)) == 0
    assert float(guidance.guide(jnp.array(2.0), jnp.array(1.0), jnp.array(3.0))) == 4.0


def test_most_likely_is_the_first_of_the_largest():
    rng = np.random.default_rng(0)
    scores = rng.integers(-3, 3, (40, 3, 9)).astype(np.float32)  # with many ties
    scores[0] = NEVER
    scores[1, :, 4:] = -np.inf
    found = jax.jit(most_likely)(scores)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, scores.argmax(axis=-1))
    # What is no number gives an id all the same.
    assert most_likely(np.full((1, 5), np.nan, np.float32))[0] in range(5)
