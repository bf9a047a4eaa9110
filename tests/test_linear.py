"""Linear maps whose gradients are written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gen.models import linear as linears
from gen.models.layers import linear


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3)])
def test_gradients_are_those_of_the_product(shape, dtype):
    rng = np.random.default_rng(0)
    x, kernel_DF = (jnp.asarray(rng.normal(size=s), dtype) for s in (shape, (3, 4)))
    weight = jnp.asarray(rng.normal(size=(*shape[:-1], 4)), dtype)

    def loss(product, x, kernel_DF):
        return jnp.sum((product(x, kernel_DF) * weight).astype(jnp.float32))

    plain, own = (
        jax.jit(jax.value_and_grad(lambda x, k, p=product: loss(p, x, k), (0, 1)))(x, kernel_DF)
        for product in (jnp.matmul, linears.times)
    )
    tolerance = {"float32": 1e-6, "bfloat16": 2e-2}[dtype]
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(own), strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        np.testing.assert_allclose(
            np.asarray(one, np.float32), np.asarray(other, np.float32),
            rtol=tolerance, atol=tolerance,
        )  # fmt: skip


@pytest.mark.parametrize("bias", [False, True])
def test_large_maps_take_them(bias, monkeypatch):
    layer = linear(6, 4, dtype=jnp.float32, rngs=nnx.Rngs(0), bias=bias)
    x = jax.random.normal(jax.random.key(0), (2, 5, 6))
    small = layer(x)
    assert "custom_vjp" not in str(jax.make_jaxpr(lambda x: layer(x))(x))
    monkeypatch.setattr(linears, "LARGE", 24)
    assert "custom_vjp" in str(jax.make_jaxpr(lambda x: layer(x))(x))
    np.testing.assert_array_equal(small, layer(x))
    np.testing.assert_array_equal(layer.product(x), layer.product(x, jnp.float32))
    # Sums in another dtype than the rows' are not what is written out.
    half = x.astype(jnp.bfloat16)
    assert "custom_vjp" not in str(jax.make_jaxpr(lambda x: layer.product(x, jnp.float32))(half))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "custom_vjp" not in str(jax.make_jaxpr(lambda x: layer(x))(x))


@pytest.mark.parametrize("storage", [linears.Storage[n] for n in ("WIDE", "NARROW", "FEW")])
@pytest.mark.parametrize("rows", [1, 2, 5, 15, 16, 30])
@pytest.mark.parametrize("outputs", [48, 64])
def test_halves_are_the_product_of_bfloat16(outputs, rows, storage):
    """Exact products of halves, summed in float32 and rounded once."""
    rng = np.random.default_rng(rows)
    layer = linear(64, outputs, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x = jnp.asarray(rng.normal(size=(rows, 64)), jnp.bfloat16)
    kernel_DF = np.asarray(layer.kernel[...].astype(jnp.bfloat16), np.float64)
    exact = np.asarray(x, np.float64) @ kernel_DF
    linears.flip(layer, storage)
    # With few rows, a map to fewer outputs is left as it is.
    few = storage == linears.Storage.FEW and outputs == 64
    assert layer.flipped == (storage == linears.Storage.NARROW or few)
    made = layer(x)
    assert made.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(made, np.float64), exact, rtol=2**-8, atol=1e-6)
    single = layer.product(x, jnp.float32)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 4, 5, 26, 64])
def test_flipped_maps_give_the_same(rows):
    layer = linear(6, 4, dtype=jnp.float32, rngs=nnx.Rngs(0), bias=True)
    x = jax.random.normal(jax.random.key(rows), (rows, 6))
    before = layer(x)
    linears.flip(layer, linears.Storage.WIDE)
    assert not layer.flipped
    linears.flip(layer, linears.Storage.NARROW)
    assert layer.flipped and layer.kernel[...].shape == (4, 6)
    np.testing.assert_allclose(layer(x), before, atol=1e-6)
    assert linears.padded(rows) == {1: 1, 4: 4, 5: 8, 26: 32, 64: 64}[rows]


def test_storage_suits_rows_and_precision(monkeypatch):
    kinds = linears.Storage
    asked = {
        ("float32", 2, False): kinds.NARROW,
        ("float32", 64, False): kinds.NARROW,
        ("float32", 65, False): kinds.WIDE,
        ("float32", 4, True): kinds.INT8,
        ("float32", 5, True): kinds.NARROW,
        ("bfloat16", 15, False): kinds.FEW,
        ("bfloat16", 16, False): kinds.NARROW,
        ("bfloat16", 256, False): kinds.NARROW,
        ("bfloat16", 257, False): kinds.WIDE,
    }
    for (dtype, rows, is_rounded), storage in asked.items():
        found = linears.storage_for(rows, jnp.dtype(dtype), is_rounded=is_rounded)
        assert found == storage, (dtype, rows, is_rounded)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert linears.storage_for(15, jnp.dtype("bfloat16")) == kinds.NARROW
