"""The multi-scale residual quantiser and its resize rules, against plain NumPy."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gen.errors import UserError
from gen.models.layers import Buffer
from gen.models.residual_quantizer import QuantizerConfig, ResidualQuantizer
from gen.models.resize import area_matrix, bicubic_matrix, resize
from tests import msvq_numpy

# No square, and two scales of one size.
SCALES = ((1, 1), (1, 2), (2, 3), (2, 3), (4, 6))


def test_resize_matrices_are_their_definitions():
    for n_in in range(1, 18):
        for n_out in range(1, 18):
            for rule, ours in (("area", area_matrix), ("bicubic", bicubic_matrix)):
                found = ours(n_in, n_out)
                assert found.dtype == np.float64 and found.shape == (n_out, n_in)
                np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-13)
                expected = getattr(msvq_numpy, rule)(n_in, n_out)
                np.testing.assert_allclose(found, expected, atol=1e-13)
    np.testing.assert_allclose(area_matrix(3, 2), [[0.5, 0.5, 0], [0, 0.5, 0.5]])
    taps = [-0.03515625, 0.26171875, 0.87890625, -0.10546875]
    np.testing.assert_allclose(bicubic_matrix(8, 16)[4], [*taps, *[0] * 4], atol=1e-13)


def test_resize_takes_rows_and_columns():
    x = np.random.default_rng(0).normal(size=(2, 5, 3, 4))
    found = resize(jnp.asarray(x, jnp.bfloat16), area_matrix(5, 2), bicubic_matrix(3, 7))
    expected = np.einsum("ph,bhwc->bpwc", msvq_numpy.area(5, 2), x)
    expected = np.einsum("qw,bpwc->bpqc", msvq_numpy.bicubic(3, 7), expected)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=0.03)


MIXERS = {
    (10, 4): (0, 0, 1, 1, 1, 2, 2, 3, 3, 3),
    (6, 4): (0, 0, 1, 2, 3, 3),
    (5, 4): (0, 1, 2, 2, 3),
    (5, 3): (0, 0, 1, 2, 2),
    (4, 4): (0, 1, 2, 3),
    (5, 1): (0,) * 5,
    (5, 0): (0, 1, 2, 3, 4),
    (1, 4): (0,),
    (2, 7): (0, 6),
}


@pytest.mark.parametrize("case", MIXERS, ids=str)
def test_which_mixer_serves_which_scale(case):
    count, shared = case
    config = QuantizerConfig(5, 2, ((3, 3),) * count, num_mixers=shared)
    assert config.mixer_of_scale == MIXERS[case]


QUANTIZERS = {
    "four": ({}, (0, 1, 2, 2, 3)),
    "three": ({"num_mixers": 3, "mixing": 0.2}, (0, 0, 1, 2, 2)),
    "one": ({"num_mixers": 1, "mixing": 1.0}, (0,) * 5),
    "one each, by cosine": ({"num_mixers": 0, "normalise_search": True}, (0, 1, 2, 3, 4)),
    "none": ({"mixing": 0.0}, None),
    "one scale": ({"scales": ((3, 2),)}, (0,)),
}


def pair(changes, mixer_of_scale, seed=0):
    """Our quantiser with buffers for weights, and the NumPy one."""
    config = dataclasses.replace(QuantizerConfig(30, 4, SCALES), **changes)
    ours = nnx.eval_shape(lambda: ResidualQuantizer(config, variable=Buffer, rngs=nnx.Rngs(0)))
    graphdef, abstract = nnx.split(ours)
    assert not jax.tree.leaves(nnx.state(ours, nnx.Param))
    rng = np.random.default_rng(seed)
    params = {}
    for name, leaf in nnx.to_pure_dict(abstract).items():
        params[name] = rng.normal(size=leaf.shape).astype(np.float32)
        params[name] *= 0.2 if name.startswith("mixer") else 1
    reference = msvq_numpy.Quantizer(
        params["codebook"],
        params.get("mixer_kernels"),
        params.get("mixer_biases"),
        scales=config.scales,
        mixing=config.mixing,
        mixer_of_scale=mixer_of_scale,
        cosine=config.normalise_search,
    )
    return nnx.merge(graphdef, jax.tree.map(jnp.asarray, params)), reference


@pytest.mark.parametrize("case", QUANTIZERS)
def test_quantizer_is_plain_numpy(case):
    ours, reference = pair(*QUANTIZERS[case])
    config = ours.config
    graphdef, state = nnx.split(ours)

    @jax.jit
    def found(state, z):
        ours = nnx.merge(graphdef, state)
        ids = ours.encode(z)
        return ids, ours.accumulate(ids), ours.accumulate(ids, 1), ours.inputs(ids)

    z = np.random.default_rng(1).normal(size=(3, *config.size, 4)).astype(np.float32)
    expected, margin = reference.encode(z)
    assert margin > 1e-5
    ids, latent, first, inputs = found(state, z)
    assert ids.dtype == np.int32 and config.bounds[-1] == ids.shape[1]
    np.testing.assert_array_equal(ids, np.concatenate(expected, axis=1))
    sums = reference.sums(ids)
    np.testing.assert_allclose(latent, sums[-1], atol=2e-6)
    np.testing.assert_allclose(first, sums[0], atol=2e-6)
    assert inputs.shape == (3, config.bounds[-1] - config.bounds[1], 4)
    if len(sums) > 1:
        np.testing.assert_allclose(inputs, reference.inputs(ids), atol=2e-6)


def test_decoding_scale_by_scale_is_the_whole():
    ours, reference = pair({}, QUANTIZERS["four"][1])
    ids = np.random.default_rng(2).integers(0, 30, (2, ours.config.bounds[-1]))

    @jax.jit
    def decode(ids):
        f_hat, fed = jnp.zeros((2, 4, 6, 4)), []
        bounds = ours.config.bounds
        for scale in range(len(SCALES) - 1):
            f_hat += ours.embed_scale(ids[:, bounds[scale] : bounds[scale + 1]], scale)
            fed.append(ours.next_input(f_hat, scale))
        return jnp.concatenate(fed, axis=1)

    np.testing.assert_allclose(decode(ids), reference.inputs(ids), atol=2e-6)
    # Means of codes, as smooth sampling takes them.
    weights = np.random.default_rng(3).dirichlet(np.ones(30), size=(2, 6)).astype(np.float32)
    rows = weights @ reference.codes
    found = ours.contribution(jnp.asarray(rows), 2)
    np.testing.assert_allclose(found, reference.contribution(rows, 2), atol=1e-6)


@pytest.mark.parametrize("cosine", [False, True])
def test_the_first_of_equal_codes_wins(cosine):
    ours, _ = pair({"normalise_search": cosine, "scales": ((2, 2), (4, 6))}, None)
    ours.codebook[...] = jnp.tile(ours.codebook[...][:10], (3, 1))
    ids = jax.jit(ours.encode)(np.random.default_rng(4).normal(size=(3, 4, 6, 4)))
    assert ids.max() < 10 and len(np.unique(ids)) > 3


def test_a_fresh_quantizer():
    config = QuantizerConfig(400, 8, ((2, 2),), num_mixers=3)
    fresh = ResidualQuantizer(config, rngs=nnx.Rngs(0))
    assert len(jax.tree.leaves(nnx.state(fresh, nnx.Param))) == 3
    codes, kernels = fresh.codebook[...], np.asarray(fresh.mixer_kernels[...])
    assert np.abs(codes).max() <= 1 / 400 and codes.std() > 0.4 / 400
    assert kernels.shape == (3, 3, 3, 8, 8) and kernels.std() == pytest.approx(72**-0.5, rel=0.1)


BAD_QUANTIZERS = {
    "2 codes and 1 channel": {"codebook_size": 1},
    "at least one of them: ()": {"scales": ()},
    "(height, width), at least one": {"scales": ((0, 1), (2, 2))},
    "the last is largest: ((4, 4), (2, 8))": {"scales": ((4, 4), (2, 8))},
    "at least 0, not -1.0 and 4": {"mixing": -1.0},
    "at least 0, not 0.5 and -2": {"num_mixers": -2},
}


@pytest.mark.parametrize("message", BAD_QUANTIZERS)
def test_bad_quantizers(message):
    with pytest.raises(UserError, match=re.escape(message)):
        dataclasses.replace(QuantizerConfig(13, 4, SCALES), **BAD_QUANTIZERS[message])
