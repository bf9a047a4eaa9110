"""Parts of the flow families: times, pyramid, moments, attention weights that are dropped.

Axes: B samples, H height, W width, C channels, S slots, E channels of a head.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen.decoding import ode
from gen.errors import UserError
from gen.layouts import Layout
from gen.models import attention
from gen.models.flow_block import FlowStackConfig
from gen.models.flow_head import FlowHeadConfig
from gen.models.latents import LatentConfig
from gen.models.pyramid import Pyramid
from tests import msvq_numpy, tiny


def test_time_grid():
    """The times of the published sampler as recorded, and what the network is told of them."""
    stored = np.load(tiny.ROOT / "tests/goldens/flowar-s/io.npz")
    for name, count in (("sample", 8), ("sample_cfg_alt", 50)):
        times = ode.time_grid(count)
        np.testing.assert_array_equal(times, stored[f"{name}_tsteps_f64"])
        told = np.asarray(jnp.trunc(jnp.asarray(times[:-1].astype(np.float32)) * 1000))
        np.testing.assert_array_equal(told, stored[f"{name}_tint"])
    assert len(ode.time_grid(25)) == 25
    assert ode.time_grid(3).tolist() == [1.0, 0.25, 0.0]


def test_euler_takes_the_slope_at_the_beginning():
    times = np.array([1.0, 0.5, 0.25])
    found = ode.euler(lambda x, time: x * time, jnp.ones((1, 1, 1)), times)
    assert float(found[0, 0, 0]) == (1 - 0.5 * 1.0) * (1 - 0.25 * 0.5)


def test_pyramid():
    pyramid, rng = Pyramid(((1, 1), (2, 3), (4, 5))), np.random.default_rng(0)
    z = rng.normal(size=(2, 4, 5, 2)).astype(np.float32)
    found = pyramid.averaged(jnp.asarray(z))
    assert found.shape == (2, 27, 2)
    np.testing.assert_allclose(found[:, 0], z.mean(axis=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(found[:, pyramid.slots(-1)], z.reshape(2, 20, 2), atol=1e-6)
    middle = np.asarray(found[:, pyramid.slots(1)]).reshape(2, 2, 3, 2)
    large = msvq_numpy.resized(middle, msvq_numpy.bicubic, (4, 5))
    np.testing.assert_allclose(pyramid.start(found, 2), large.reshape(2, 20, 2), atol=1e-5)
    assert pyramid.starts(found).shape == (2, 26, 2)


def test_latents_of_moments():
    latents = LatentConfig(3, moments=True, scale=0.5)
    assert latents.layout((2, 3)) == Layout("grid", ((1, 2, 3),), channels=6)
    mean, log_variance = np.full((40, 6, 3), 2.0), np.full((40, 6, 3), np.log(9.0))
    log_variance[:, 0] = 1e4  # clamped to 20
    data = jnp.asarray(np.concatenate([mean, log_variance], axis=-1))
    calm = latents.from_data(data, (2, 3))
    np.testing.assert_allclose(calm, np.ones((40, 2, 3, 3)), atol=1e-6)
    drawn = latents.from_data(data, (2, 3), jax.random.key(0))
    spread = np.std(np.asarray(drawn), axis=(0, 3))
    np.testing.assert_allclose(spread[0, 0], 0.5 * np.exp(10.0), rtol=0.2)
    np.testing.assert_allclose(spread[1], 1.5, rtol=0.2)
    back = latents.to_data(calm.reshape(40, 6, 3))
    np.testing.assert_allclose(back, np.concatenate([mean, np.full_like(mean, -30.0)], -1))


def test_latents_as_they_are():
    latents, data = LatentConfig(2, scale=0.5), jnp.arange(12.0).reshape(1, 6, 2)
    made = latents.from_data(data, (2, 3))
    np.testing.assert_allclose(made.reshape(1, 6, 2), data / 2)
    np.testing.assert_allclose(latents.to_data(made.reshape(1, 6, 2)), data)


def test_latents_of_gray_levels():
    latents = LatentConfig(1, gray_levels=17)
    data = np.random.default_rng(0).integers(0, 17, (3, 6))
    made = latents.from_data(jnp.asarray(data), (2, 3))
    assert float(made.min()) >= -1.0 and float(made.max()) <= 1.0
    np.testing.assert_array_equal(latents.to_data(made.reshape(3, 6, 1)), data)
    assert latents.to_data(jnp.array([[[1.3], [-5.0]]])).tolist() == [[16, 0]]
    assert latents.layout((2, 3)).vocab_sizes == (17,)


def test_dropping_attention_weights():
    rng = np.random.default_rng(0)
    q_BSHE = jnp.asarray(rng.normal(size=(2, 5, 4, 8)), jnp.float32)
    k_BSKE, v_BSKE = jnp.asarray(rng.normal(size=(2, 2, 5, 2, 8)), jnp.float32)
    mask = jnp.asarray(np.tril(np.ones((5, 5), bool)))
    keys = jax.random.split(jax.random.key(0), 400)
    plain = attention.attend(q_BSHE, k_BSKE, v_BSKE, mask)

    oracle = jax.nn.dot_product_attention(q_BSHE, k_BSKE, v_BSKE, mask=mask[None, None])
    np.testing.assert_allclose(plain, oracle, atol=1e-6)

    def dropped(key):
        return attention.attend(q_BSHE, k_BSKE, v_BSKE, mask, rate=0.3, key=key)

    many = jax.jit(jax.vmap(dropped))(keys)
    np.testing.assert_allclose(many.mean(axis=0), plain, atol=0.25)
    # The first slot sees itself alone: its weight stays, at 1 / 0.7, or goes.
    gone = np.all(np.asarray(many[:, :, 0]) == 0, axis=-1).mean()
    assert 0.25 < gone < 0.35
    np.testing.assert_allclose(many[:, :, 0].max(axis=0), np.maximum(plain[:, 0] / 0.7, 0), 1e-4)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: LatentConfig(3, gray_levels=17), "gray levels are 2 or more, of one channel"),
        (lambda: LatentConfig(0), "1 channel or more"),
        (lambda: FlowStackConfig(1, 12, 2), "no multiples of 4 channels"),
        (lambda: FlowStackConfig(0, 16, 2), "at least 1"),
        (lambda: FlowStackConfig(1, 16, 2, dropout=1.0), "dropout is a probability below 1"),
        (lambda: FlowHeadConfig(1, 16, 2, kind="mlp"), '"adaptive" or "cross", not "mlp"'),
    ],
)
def test_refusals(make, text):
    with pytest.raises(UserError, match=text):
        make()
