"""Next-scale generation of latents: cached decoding, guidance, loss, training.

Axes: B samples, P positions of all scales, L scales, R positions of one scale, C channels.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from gen.decoding import draws as drawing
from gen.decoding import ode
from gen.decoding.guidance import num_guided_steps
from gen.decoding.ode import EulerOptions
from gen.decoding.tokens import token_sampling
from gen.errors import UserError
from gen.families.base import abstract_model
from gen.families.flow_scale import FlowScale, FlowScaleConfig
from gen.models.conditioning import ConditionConfig
from gen.models.flow_block import FlowStackConfig
from gen.models.flow_head import FlowHeadConfig
from gen.models.latents import LatentConfig
from tests import tiny

BATCH = 2
SIX = ((1, 1), (1, 2), (2, 2))


def make(kind="adaptive", *, scales=((1, 1), (2, 3)), **changes):
    """A tiny family, and random parameters of it."""
    config = FlowScaleConfig(
        scales=scales,
        latents=LatentConfig(3),
        condition=ConditionConfig(num_classes=5),
        encoder=FlowStackConfig(1, 16, 2),
        decoder=FlowStackConfig(1, 16, 2),
        head=FlowHeadConfig(1, 16, 2, kind=kind),
    )
    family = FlowScale(dataclasses.replace(config, **changes))
    return family, tiny.random_params(family)


def model_of(family, params):
    return nnx.merge(nnx.split(abstract_model(family))[0], params)


def sampler(family, params, number=None, *, interval=-1, **options):
    """A function of labels, and of seed and temperature, that is compiled for each batch size."""
    options = EulerOptions(**options)
    scale_N = family.scales(number, interval, options)

    @jax.jit
    def run(params, label_B, draws, sampling):
        return family.sample(
            family.lay_out(model_of(family, params)), {"label": label_B}, draws=draws,
            scale_N=scale_N, num_guided=num_guided_steps(scale_N), sampling=sampling,
            options=options,
        )  # fmt: skip

    def sample(labels, seed=0, temperature=1.0):
        draws = drawing.keyed(seed, np.arange(len(labels)))
        found = run(params, jnp.asarray(labels), draws, token_sampling(temperature))
        return {name: np.asarray(array) for name, array in found.items()}

    return sample


def uncached(family, params, labels, scale_N, options):
    """The same without a cache: the whole teacher-forced forward anew for each scale."""
    draws, times = drawing.keyed(0, np.arange(len(labels))), ode.time_grid(options.num_steps)
    tokens_BPC = jnp.zeros((len(labels), *family.layout.sample_shape))

    @jax.jit
    def told(params, tokens_BPC, label_B):
        model = model_of(family, params)
        prompt = model.condition({"label": label_B})
        return family.predict(model, family.hidden(model, tokens_BPC, prompt), prompt)

    @jax.jit
    def velocity(params, x_BPC, time, told_BPD):
        time_BL, head = jnp.full((1, len(scale_N)), time), model_of(family, params).flow
        where = {"rope": family.head_rope_P2C, "scale_R": family.pyramid.scale_P}
        return head(x_BPC, time_BL, told_BPD, **where)

    for k, w in enumerate(scale_N):
        own, whom = family.pyramid.slots(k), (labels, np.full_like(labels, 5))
        cond, null = (told(params, tokens_BPC, jnp.asarray(who)) for who in whom)
        x = tokens_BPC.at[:, own].set(draws.normal("flow", k, (own.stop - own.start, 3)))
        for now, after in itertools.pairwise(times):
            v = velocity(params, x, np.float32(now), cond)
            if w > 1 and now <= options.guided_below:
                other = velocity(params, x, np.float32(now), null)
                v = other + w * (v - other)
            x = x + np.float32(after - now) * v
        tokens_BPC = tokens_BPC.at[:, own].set(x[:, own])
    return np.asarray(tokens_BPC)


@pytest.mark.parametrize(
    ("case", "number", "interval", "options"),
    [
        ({"head": FlowHeadConfig(2, 16, 4)}, 3.0, -1, {"num_steps": 6, "guided_below": 0.6}),
        ({"kind": "cross", "scales": SIX}, 2.0, 0, {"num_steps": 4, "guided_below": 1.0}),
        ({"kind": "cross", "encoder": FlowStackConfig(2, 16, 4)}, None, -1, {"num_steps": 5}),
    ],
    ids=["window", "off midway", "unguided, other heads"],
)
def test_cached_equals_full(case, number, interval, options):
    family, params = make(**case)
    labels, options = np.array([1, 4]), EulerOptions(**options)
    scale_N = family.scales(number, interval, options)
    expected = uncached(family, params, labels, scale_N, options)
    arguments = {"interval": interval, **dataclasses.asdict(options)}
    found = sampler(family, params, number, **arguments)(labels)
    assert np.std(expected) > 0.3
    np.testing.assert_allclose(found["tokens"], expected, atol=1e-5, rtol=1e-5)
    last = expected[:, family.pyramid.slots(-1)].reshape(2, *family.pyramid.size, 3)
    np.testing.assert_allclose(found["latents"], last, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["adaptive", "cross"])
def test_one_pass_over_all_scales_is_the_head_on_each(kind):
    """Training runs the head once under a mask; sampling runs it on a scale alone."""
    family, params = make(kind)
    model, rng = model_of(family, params), np.random.default_rng(0)
    shape = (BATCH, *family.layout.sample_shape)
    tokens_BPC, noise_BPC = jnp.asarray(rng.normal(size=(2, *shape)), jnp.float32)
    told_BPD = jnp.asarray(rng.normal(size=(BATCH, shape[1], 16)), jnp.float32)
    time_BL = jnp.asarray(rng.uniform(size=(BATCH, 2)), jnp.float32)
    at = {"time_BL": time_BL, "noise_BRC": noise_BPC}
    whole = jax.jit(lambda: family.velocity(model, tokens_BPC, told_BPD, **at))()
    own, t = family.pyramid.slots(1), time_BL[:, 1, None, None]
    x = (1 - t) * tokens_BPC[:, own] + t * noise_BPC[:, own]
    where = {"rope": family.head_rope_P2C[own], "blocks": model.flow.backbone.unstack()}
    alone = jax.jit(lambda: model.flow(x, time_BL[:, 1:], told_BPD[:, own], **where))()
    np.testing.assert_allclose(whole[:, own], alone, atol=1e-5)
    # An error is the mean square over channels of what is missing to noise less data.
    errors = family.errors(model, tokens_BPC, told_BPD, **at)
    np.testing.assert_allclose(
        errors, np.mean((whole - (noise_BPC - tokens_BPC)) ** 2, axis=-1), rtol=1e-4
    )


def test_sample_i_is_the_same_whatever_the_batch():
    family, params = make()
    sample = sampler(family, params, 3.0, num_steps=4, guided_below=1.0)
    whole = sample([0, 2, 4])["tokens"]
    first = sample([0])["tokens"]
    np.testing.assert_allclose(whole[:1], first, atol=1e-6)
    assert np.abs(first - sample([0], seed=1)["tokens"]).max() > 0.1
    calm = sample([0, 0, 0], temperature=1e-9)["tokens"]
    np.testing.assert_allclose(calm[0], calm[1], atol=1e-6)


def test_guidance_numbers():
    family, _ = make(scales=SIX)
    options = EulerOptions()
    np.testing.assert_allclose(family.scales(4.0, -1, options), [1.0, 2.5, 4.0])
    np.testing.assert_allclose(family.scales(4.0, 0, options), [1.0, 2.5, 1.0])
    np.testing.assert_allclose(family.scales(0.5, -1, options), [1.0, 1.0, 1.0])


def test_loss_is_the_weighted_sum_over_scales():
    family, params = make(condition=ConditionConfig(num_classes=5, drop_rate=0.5))
    model, rng = model_of(family, params), np.random.default_rng(0)
    data = jnp.asarray(rng.normal(size=(64, 6, 3)), jnp.float32)
    batch = {"tokens": data, "label": jnp.arange(64) % 5}
    loss, means = jax.jit(lambda key: family.loss(model, batch, key))(jax.random.key(0))
    coarse, fine = means["flow_loss/scale_00"], means["flow_loss/scale_01"]
    np.testing.assert_allclose(loss, coarse / 6 + fine, rtol=1e-5)


def test_held_out_is_the_same_whatever_the_batch():
    family, params = make()
    model, rng = model_of(family, params), np.random.default_rng(0)
    tokens = jnp.asarray(rng.normal(size=(3, *family.layout.sample_shape)), jnp.float32)

    @jax.jit
    def held_out(tokens, label_B, rows_B):
        draws = drawing.keyed(0, rows_B)
        return family.held_out(model, tokens, {"label": label_B}, draws=draws)

    whole = held_out(tokens, jnp.array([1, 2, 3]), jnp.arange(3))
    last = held_out(tokens[2:], jnp.array([3]), jnp.array([2]))
    assert whole["flow_loss"].shape == (3, 7)
    np.testing.assert_allclose(whole["flow_loss"][2:], last["flow_loss"], rtol=1e-4)
    means = np.mean(whole["flow_loss"][:, 1:], axis=1)
    np.testing.assert_allclose(whole["flow_loss/scale_01"], means, rtol=1e-5)


def test_training_lowers_the_loss():
    """Latents that their class decides: the loss falls below that of a class that says nothing."""
    family, params = make("cross", scales=((1, 1), (2, 2)))
    graphdef = nnx.split(abstract_model(family))[0]
    optimizer = optax.adam(5e-3)
    values = np.random.default_rng(0).choice([-1.0, 1.0], size=(5, 4, 3)).astype(np.float32)

    @jax.jit
    def step(carry, key):
        params, moments = carry
        label_B = jax.random.randint(key, (32,), 0, 5)
        batch = {"tokens": jnp.asarray(values)[label_B], "label": label_B}

        def loss(params):
            return family.loss(nnx.merge(graphdef, params), batch, key)[0]

        found, grads = jax.value_and_grad(loss)(params)
        updates, moments = optimizer.update(grads, moments)
        return (optax.apply_updates(params, updates), moments), found

    keys = jax.random.split(jax.random.key(0), 200)
    carry = (params, optimizer.init(params))
    carry, losses = jax.jit(lambda c: jax.lax.scan(step, c, keys))(carry)
    first, last = float(losses[:5].mean()), float(losses[-20:].mean())
    assert last < 0.55 * first, (first, last)


def test_refusals():
    family, params = make()
    model = model_of(family, params)
    for changes, text in (
        ({"scales": ((2, 2), (4, 4))}, "the first scale is"),
        ({"scales": ((1, 1), (4, 4), (2, 8))}, "from coarse to fine"),
        ({"encoder": FlowStackConfig(1, 32, 2)}, "one width"),
        ({"condition": ConditionConfig(kind="text")}, "conditioned on classes"),
    ):
        with pytest.raises(UserError, match=text):
            make(**changes)
    with pytest.raises(UserError, match="num_steps"):
        EulerOptions(num_steps=1)
    with pytest.raises(UserError, match="no logits"):
        family.logits(model, None, {})
    arguments = {
        "draws": drawing.keyed(0, np.arange(1)),
        "scale_N": np.ones(2, np.float32),
        "num_guided": 0,
        "options": EulerOptions(),
    }
    batch, laid_out = {"label": jnp.array([0])}, family.lay_out(model)
    with pytest.raises(UserError, match="no logits"):
        family.sample(laid_out, batch, sampling=token_sampling(), keep_logits=True, **arguments)
    with pytest.raises(UserError, match="top-k"):
        family.sample(laid_out, batch, sampling=token_sampling(top_k=3), **arguments)


def test_shrunken():
    family, _ = make(scales=((1, 1), (2, 2), (8, 8)))
    small = FlowScale(family.config.shrunken())
    assert small.pyramid.scales == ((1, 1), (2, 2))
    assert small.config.head.kind == "adaptive"
