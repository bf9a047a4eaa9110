"""Ways to compute attention: which is chosen, and that all give the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental.pallas import tpu as pltpu

from gen import export
from gen.models import attention_kinds as kinds
from gen.models.attention import attend
from gen.models.backbone import Backbone
from tests import tiny

CASE = kinds.Case(B=2, S=128, T=128, H=4, K=2, E=64, dtype="bfloat16", dropped=False)


def test_what_can_compute_what():
    on = {p: kinds.available(CASE, p) for p in ("cpu", "gpu", "tpu", "other")}
    assert on["cpu"] == ["xla", "jax"] and on["other"] == ["xla"]
    single = CASE._replace(dtype="float32")
    assert kinds.available(single, "cpu") == ["xla", "jax"]  # all of few slots: nothing to win
    for change in ({"S": 2}, {"S": 512, "T": 512}):
        assert "heads" in kinds.available(single._replace(**change), "cpu"), change
    for change in ({"S": 1}, {"S": 2, "dtype": "bfloat16"}, {"S": 2, "dropped": True}):
        assert "heads" not in kinds.available(single._replace(**change), "cpu"), change
    assert on["gpu"] == ["xla", "jax", "cudnn"] and on["tpu"] == ["xla", "jax", "flash"]
    for change in ({"dtype": "float32"}, {"E": 60}, {"E": 256}, {"T": 129}, {"dropped": True}):
        assert "cudnn" not in kinds.available(CASE._replace(**change), "gpu"), change
    assert "cudnn" in kinds.available(CASE._replace(S=1, T=129), "gpu")
    for change in ({"S": 64}, {"T": 257}, {"dropped": True}):
        assert "flash" not in kinds.available(CASE._replace(**change), "tpu"), change
    assert kinds.available(CASE._replace(dropped=True), "cpu") == ["xla"]


def test_the_table_chooses_by_platform_dtype_and_queries(monkeypatch):
    monkeypatch.setattr(kinds, "CHOICES", {("gpu", "bfloat16", "all"): "cudnn"})
    assert kinds.choose(CASE) == "xla"  # of the CPU nothing is in this table
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert kinds.choose(CASE) == "cudnn"
    assert kinds.choose(CASE._replace(dtype="float32")) == "xla"
    assert kinds.choose(CASE._replace(S=1)) == "xla"
    assert kinds.choose(CASE._replace(T=129)) == "xla"  # chosen, but it can't
    with kinds.only("xla"):
        assert kinds.choose(CASE) == "xla"
    with kinds.only("jax"):
        assert kinds.choose(CASE) == "jax"
    assert kinds.choose(CASE) == "cudnn"


def test_entries_name_kinds_that_can():
    for (platform, dtype, queries), kind in kinds.CHOICES.items():
        case = CASE._replace(dtype=dtype, S={"one": 1, "some": 16, "all": 512}[queries], T=512)
        assert kinds.count(case) == queries
        assert kind in kinds.available(case, platform)


def arrays(S, T, *, H=4, K=2, E=8, batched=False):
    rng = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(rng.normal(size=(2, n, heads, E)), jnp.float32)
        for n, heads in ((S, H), (T, K), (T, K))
    )
    mask = rng.random((2, S, T) if batched else (S, T)) < 0.5
    mask[..., 0] = True
    return (q, k, v), mask


def both(kind, qkv, mask, scale):
    """Results and gradients: plain, and of the kind."""

    def square(*qkv):
        out = attend(*qkv, mask, scale)
        return jnp.sum(out**2), out

    found = []
    for name in ("xla", kind):
        with kinds.only(name), kinds.watched() as seen:
            # Another function each time: jit would keep what it traced.
            call = jax.jit(lambda *a: jax.grad(square, (0, 1, 2), has_aux=True)(*a))
            grads, out = call(*qkv)
        assert len(seen) == 1
        found.append((out, *grads))
    return found


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(("S", "T"), [(1, 7), (6, 6)])
def test_jax_gives_the_same(S, T, batched):
    qkv, mask = arrays(S, T, batched=batched)
    for plain, other in zip(*both("jax", qkv, mask, 0.7)):
        np.testing.assert_allclose(plain, other, atol=2e-6)
        assert np.any(plain != other) or S == 1  # it is another computation


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("mapped", [False, True])
def test_heads_give_the_same(batched, mapped, monkeypatch):
    """A step of several slots, with and without a loop over the rows."""
    monkeypatch.setattr(kinds, "MAPPED", 1 if mapped else 10**9)
    qkv, mask = arrays(3, 7, batched=batched)
    for plain, other in zip(*both("heads", qkv, mask, 0.7)):
        # Gradients of the plain ones are 9e-6 from those in float64, of these 3e-6.
        np.testing.assert_allclose(plain, other, atol=1e-5)
        assert np.any(plain != other)  # it is another computation
    monkeypatch.setattr(kinds, "LARGE", 1)
    qkv, mask = arrays(6, 6, batched=batched)
    for plain, other in zip(*both("heads", qkv, mask, None)):
        np.testing.assert_allclose(plain, other, atol=1e-5)


@pytest.mark.parametrize("batched", [False, True])
def test_flash_gives_the_same(batched, monkeypatch):
    """The kernel for TPUs, interpreted."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    qkv, mask = arrays(128, 128, H=2, K=1, E=64, batched=batched)
    called = []
    flash = kinds.KINDS["flash"]
    counted = flash._replace(call=lambda *a: called.append(1) or flash.call(*a))
    monkeypatch.setitem(kinds.KINDS, "flash", counted)
    with pltpu.force_tpu_interpret_mode():
        for plain, other in zip(*both("flash", qkv, mask, 0.2)):
            np.testing.assert_allclose(plain, other, atol=1e-4, rtol=1e-4)
    assert called == [1]


def test_calls_of_a_sampler_are_seen():
    generator = tiny.generator(tiny.config())
    with kinds.watched() as seen:
        generator.traced(0, num=2, guidance=2.0)
    assert {(case.B, case.H, case.E, case.dtype) for case in seen} == {(4, 4, 8, "float32")}
    assert any(case.S == 1 for case in seen) and not kinds._seen.get()


def test_an_export_for_several_platforms_takes_the_plain_one(monkeypatch):
    """Whatever this machine would choose; a program for it alone takes that."""
    every = {("cpu", "float32", n): "jax" for n in ("one", "some", "all")}
    monkeypatch.setattr(kinds, "CHOICES", every)
    chosen, choose = [], kinds.choose
    monkeypatch.setattr(kinds, "choose", lambda c: chosen.append(choose(c)) or chosen[-1])
    generator = tiny.generator(tiny.config())
    generator.traced(0, num=2)
    assert set(chosen) == {"jax"}
    settings = {"guidance": None, "guidance_interval": -1, "temperature": 1.0}
    for platforms, kind in {("cpu", "cuda"): "xla", ("cpu",): "jax"}.items():
        chosen.clear()
        export.lower(generator, settings | {"top_k": 0, "top_p": 1.0}, platforms=platforms)
        assert set(chosen) == {kind}


def test_bfloat16_is_computed_and_cached_in_float32_on_cpus(monkeypatch):
    rng = np.random.default_rng(0)
    parts = [jnp.asarray(rng.normal(size=(2, 5, 4, 8)), jnp.bfloat16) for _ in range(3)]
    mask = jnp.tril(jnp.ones((5, 5), bool))
    made = attend(*parts, mask)
    exact = attend(*(a.astype(jnp.float32) for a in parts), mask)
    assert made.dtype == jnp.bfloat16
    np.testing.assert_array_equal(made, exact.astype(jnp.bfloat16))

    config = tiny.config().model.backbone
    backbone = Backbone(config, dtype=jnp.dtype(jnp.bfloat16), rngs=nnx.Rngs(0))

    def cached():
        return {a.dtype for a in jax.tree.leaves(backbone.empty_cache(1, 2))}

    assert cached() == {jnp.dtype(jnp.float32)}
    with kinds.only(kinds.PLAIN):
        assert cached() == {jnp.dtype(jnp.bfloat16)}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert cached() == {jnp.dtype(jnp.bfloat16)}
