"""What a tokenizer learns by: quantising, its terms, and the memory of its codes.

Axes: B images, H height, W width, N vectors, C channels, V codes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gen.autoencoding import discriminator, memory, perceptual
from gen.autoencoding.losses import entropy, reconstruction
from gen.autoencoding.quantised import TRAINABLE
from gen.errors import UserError
from gen.tokenizers import TOKENIZERS
from tests import msvq_numpy, vq_numpy

RNG = np.random.default_rng(0)
STACK = {"width": 4, "blocks_per_level": 1, "norm_groups": 2}
SCALES = {"codebook_size": 7, "codebook_dim": 3, "scales": ((1, 1), (2, 2), (4, 4))}


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def model_of(kind, **fields):
    """A tokenizer's module with codes large enough to tell apart."""
    config = TOKENIZERS[kind].Config(**STACK, **fields)
    model = TOKENIZERS[kind].build(config, nnx.Rngs(0), dtype=jnp.dtype("float32"))
    holder, name = TRAINABLE[kind].codebook
    codes = getattr(getattr(model, holder), name)
    codes[...] = jnp.asarray(normal(*codes.shape))
    return model


def vq(normalise=False):
    fields = {"codebook_size": 7, "codebook_dim": 3, "z_channels": 4}
    multipliers = {"encoder_multipliers": (1, 1), "decoder_multipliers": (1, 1)}
    return model_of("vq", **fields, **multipliers, normalise_codes=normalise)


def msvq(**fields):
    from gen.models.residual_quantizer import QuantizerConfig

    return model_of("msvq", multipliers=(1, 1), quantizer=QuantizerConfig(**SCALES, **fields))


def gradients(kind, model, z_BHWC, weight_BHWC):
    """Of sum(weight * latents), commitment and codebook term, by latents and by codes."""
    graphdef, params = nnx.split(model)

    def parts(z_BHWC, params):
        found = TRAINABLE[kind](nnx.merge(graphdef, params), z_BHWC)
        return jnp.sum(weight_BHWC * found.latents), found.commitment, found.codebook

    by_both = jax.jit(jax.jacrev(parts, argnums=(0, 1)))(z_BHWC, params)
    holder, name = TRAINABLE[kind].codebook
    by_latents, by_codes = zip(*by_both)
    return by_latents, [gradient[holder][name][...] for gradient in by_codes]


@pytest.mark.parametrize("normalise", [False, True])
def test_one_codebook(normalise):
    model, z_BHWC = vq(normalise), normal(2, 4, 4, 3)
    found = TRAINABLE["vq"](model, z_BHWC)
    rows_NC, codes_VC = z_BHWC.reshape(-1, 3), np.asarray(model.codebook.embedding[...])
    if normalise:
        rows_NC, codes_VC = vq_numpy.normalised(rows_NC), vq_numpy.normalised(codes_VC)
    ids_N = np.square(rows_NC[:, None] - codes_VC).sum(axis=-1).argmin(axis=1)
    np.testing.assert_array_equal(found.ids, ids_N)
    np.testing.assert_allclose(found.latents.reshape(-1, 3), codes_VC[ids_N], atol=1e-6)
    error = np.square(rows_NC - codes_VC[ids_N]).mean()
    np.testing.assert_allclose([found.commitment, found.codebook], error, rtol=1e-5)
    np.testing.assert_allclose(found.rows, rows_NC, atol=1e-6)
    assert bool(TRAINABLE["vq"].by_direction(model)) == normalise


def test_gradients_go_straight_through():
    model, z_BHWC, weight_BHWC = vq(), normal(2, 4, 4, 3), normal(2, 4, 4, 3)
    by_latents, by_codes = gradients("vq", model, z_BHWC, weight_BHWC)
    ids_N = np.asarray(TRAINABLE["vq"](model, z_BHWC).ids)
    codes_VC = np.asarray(model.codebook.embedding[...])
    apart = 2 * (z_BHWC.reshape(-1, 3) - codes_VC[ids_N]) / z_BHWC.size
    np.testing.assert_allclose(by_latents[0], weight_BHWC, atol=1e-6)
    np.testing.assert_allclose(by_latents[1].reshape(-1, 3), apart, atol=1e-6)
    pulled = np.zeros_like(codes_VC)
    np.add.at(pulled, ids_N, -apart)
    np.testing.assert_allclose(by_codes[2], pulled, atol=1e-6)
    for nothing in (by_latents[2], by_codes[0], by_codes[1]):
        assert not np.any(nothing)


@pytest.mark.parametrize("cosine", [False, True])
def test_many_scales(cosine):
    model = msvq(normalise_search=cosine)
    quantizer = model.quantizer
    plain = msvq_numpy.Quantizer(
        quantizer.codebook[...], quantizer.mixer_kernels[...], quantizer.mixer_biases[...],
        scales=SCALES["scales"], mixing=0.5, mixer_of_scale=quantizer.config.mixer_of_scale,
        cosine=cosine,
    )  # fmt: skip
    z_BHWC = normal(2, 4, 4, 3)
    found = TRAINABLE["msvq"](model, z_BHWC)
    ids, margin = plain.encode(z_BHWC)
    assert margin > 1e-5
    ids_BP = np.concatenate(ids, axis=1)
    np.testing.assert_array_equal(found.ids.reshape(2, -1), ids_BP)
    np.testing.assert_array_equal(found.ids.reshape(2, -1), quantizer.encode(z_BHWC))
    sums = plain.sums(ids_BP)
    np.testing.assert_allclose(found.latents, sums[-1], atol=1e-5)
    error = np.mean([np.square(z_BHWC - part).mean() for part in sums])
    np.testing.assert_allclose([found.commitment, found.codebook], error, rtol=1e-5)
    assert found.rows.shape == (2 * 21, 3)
    np.testing.assert_allclose(found.rows[0], z_BHWC[0].mean(axis=(0, 1)), atol=1e-6)
    assert TRAINABLE["msvq"].by_direction(model) == cosine


def test_gradients_of_many_scales():
    model, z_BHWC, weight_BHWC = msvq(), normal(1, 4, 4, 3), normal(1, 4, 4, 3)
    by_latents, by_codes = gradients("msvq", model, z_BHWC, weight_BHWC)
    np.testing.assert_allclose(by_latents[0], weight_BHWC, atol=1e-6)
    quantizer = model.quantizer
    sums = np.stack(quantizer.partial_sums(quantizer.encode(z_BHWC)))
    np.testing.assert_allclose(
        by_latents[1], 2 * (z_BHWC - sums).mean(axis=0) / z_BHWC.size, atol=1e-6
    )
    assert np.any(by_codes[2])
    for nothing in (by_latents[2], by_codes[0], by_codes[1]):
        assert not np.any(nothing)


def test_reconstruction_terms():
    wanted, made = normal(3, 2, 2, 3), normal(3, 2, 2, 3)
    found = [reconstruction(name, wanted, made) for name in ("l1", "l2")]
    apart = wanted - made
    np.testing.assert_allclose(found, [np.abs(apart).mean(), (apart**2).mean()], rtol=1e-5)


def test_entropy_term():
    rows_NC, codes_VC = normal(12, 3).astype(np.float64), normal(5, 3).astype(np.float64)
    badness_NV = np.square(rows_NC[:, None] - codes_VC).sum(axis=-1) / 0.7
    share_NV = np.exp(-badness_NV)
    share_NV /= share_NV.sum(axis=1, keepdims=True)
    mean_V = share_NV.mean(axis=0)
    expected = -(share_NV * np.log(share_NV)).sum(axis=1).mean() + (mean_V * np.log(mean_V)).sum()
    np.testing.assert_allclose(entropy(rows_NC, codes_VC, 0.7), expected, rtol=1e-4)
    # Each vector on its own code, far from the others: the least there is, and no NaN.
    sure = entropy(100 * np.eye(4), 100 * np.eye(4), 0.01)
    np.testing.assert_allclose(sure, -np.log(4), rtol=1e-6)


def fresh_memory(codes_VC, *, revive_after, is_ema):
    made = memory.Memory(jnp.asarray(codes_VC), revive_after=revive_after, is_ema=is_ema)
    return nnx.to_pure_dict(nnx.state(made))


def test_running_means_by_hand():
    codes_VC, decay = normal(4, 2), 0.9
    state = fresh_memory(codes_VC, revive_after=0, is_ema=True)
    count_V, total_VC = np.full(4, 1 / 4), codes_VC / 4
    found_VC = codes_VC
    for seed in range(3):
        rows_NC, ids_N = normal(10, 2), np.random.default_rng(seed).integers(0, 3, 10)
        note = memory.noted(jnp.asarray(rows_NC), jnp.asarray(ids_N), 4, jax.random.key(0))
        # Two passes of one batch: halves of it, or the whole twice, are the same to the means.
        notes = {name: jnp.stack([array, array]) for name, array in note.items()}
        state, found_VC = memory.updated(state, found_VC, notes, decay=decay, revive_after=0)
        count_V = decay * count_V + (1 - decay) * np.bincount(ids_N, minlength=4) / 10
        for code in range(4):
            mine = rows_NC[ids_N == code].sum(axis=0) / 10
            total_VC[code] = decay * total_VC[code] + (1 - decay) * mine
    np.testing.assert_allclose(found_VC, total_VC / count_V[:, None], rtol=1e-5)
    np.testing.assert_allclose(found_VC[3], codes_VC[3], rtol=1e-5)  # never chosen, never moved
    assert state["idle"].tolist()[3] == 3 and int(state["updates"]) == 3


def test_a_code_that_fades_stays_where_it_is():
    codes_VC = normal(2, 2)
    state = fresh_memory(codes_VC, revive_after=0, is_ema=True)
    notes = {"share": jnp.array([[1.0, 0.0]]), "total": jnp.array([[[1.0, 2.0], [0.0, 0.0]]])}
    notes["candidates"] = jnp.zeros((1, 2, 2))
    found_VC = codes_VC
    for _ in range(60):
        state, found_VC = memory.updated(state, found_VC, notes, decay=0.1, revive_after=0)
    np.testing.assert_allclose(found_VC, [[1, 2], codes_VC[1]], rtol=1e-4)


@pytest.mark.parametrize("is_ema", [False, True])
def test_dead_codes_become_vectors_of_the_batch(is_ema):
    codes_VC, rows_NC = normal(5, 2), normal(6, 2)
    state = fresh_memory(codes_VC, revive_after=3, is_ema=is_ema)
    options = {"decay": 0.5, "revive_after": 3}

    def batch(state, codes_VC, ids, seed):
        note = memory.noted(
            jnp.asarray(rows_NC), jnp.asarray(ids, jnp.int32), 5, jax.random.key(seed)
        )
        notes = {name: array[None] for name, array in note.items()}
        return memory.updated(state, codes_VC, notes, **options)

    # The first batch makes the codebook: only what it chose was there before.
    state, first_VC = batch(state, codes_VC, [0, 0, 0, 1, 1, 1], 0)
    is_row_V = [any(np.array_equal(code, row) for row in rows_NC) for code in first_VC]
    assert is_row_V == [False, False, True, True, True]
    if not is_ema:
        np.testing.assert_array_equal(first_VC[:2], codes_VC[:2])
    # Then two updates without a code change nothing of it, and the third replaces it.
    now_VC = first_VC
    for seed in (1, 2):
        state, now_VC = batch(state, now_VC, [0, 1, 2, 3, 0, 1], seed)
        np.testing.assert_allclose(now_VC[4], first_VC[4], rtol=1e-6)
    state, now_VC = batch(state, now_VC, [0, 1, 2, 3, 0, 1], 5)
    drawn_V = np.asarray(jax.random.randint(jax.random.key(5), (5,), 0, 6))
    np.testing.assert_array_equal(now_VC[4], rows_NC[drawn_V[4]])
    assert state["idle"].tolist() == [0] * 5


def test_adversary_against_numpy():
    model = discriminator.Discriminator(2, 2, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(1))
    real, made = normal(2, 16, 16, 3), normal(2, 16, 16, 3)
    params = nnx.to_pure_dict(nnx.state(model))

    class Sizes:
        norm_groups, norm_eps = 2, 1e-6

    flat = {
        "/".join(map(str, path)): a for path, a in nnx.traversals.flatten_mapping(params).items()
    }
    plain = vq_numpy.Reference(flat, Sizes)

    def judged(x):
        for number, stride in enumerate((2, 2, 1)):
            x = plain.conv(x, f"convs/{number}", stride, (1, 1))
            if number:
                Sizes.norm_groups = x.shape[-1]  # as many groups as channels, up to 32
                x = plain.norm(x, f"norms/{number - 1}")
            x = np.where(x > 0, x, 0.2 * x)
        return plain.conv(x, "out", 1, (1, 1))[..., 0]

    np.testing.assert_allclose(model(real), judged(real), atol=1e-5)
    fooling, telling = discriminator.adversarial(model, real, made)
    hinges = np.maximum(0, 1 - judged(real)).mean() + np.maximum(0, 1 + judged(made)).mean()
    np.testing.assert_allclose([fooling, telling], [-judged(made).mean(), hinges / 2], atol=1e-5)
    with pytest.raises(UserError, match="crops of 24 pixels"):
        discriminator.check_size((16, 16), 3)


def test_each_side_of_the_adversary_moves_its_own():
    model = discriminator.Discriminator(2, 2, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(1))
    graphdef, params = nnx.split(model)
    real, made = normal(2, 16, 16, 3), normal(2, 16, 16, 3)

    def both(params, made):
        return discriminator.adversarial(nnx.merge(graphdef, params), real, made)

    by_params, by_made = zip(*jax.jit(jax.jacrev(both, argnums=(0, 1)))(params, made))
    size = lambda tree: max(np.abs(leaf).max() for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert size(by_params[0]) == 0 and size(by_params[1]) > 1e-3
    assert size(by_made[1]) == 0 and size(by_made[0]) > 1e-5


def vgg(widths, with_maps=True):
    """Tensors of a tiny VGG under torchvision's names, and those of LPIPS."""
    tensors, fan_in = {}, 3
    for stage, (numbers, sizes) in enumerate(zip(perceptual.NUMBERS, widths)):
        for number, width in zip(numbers, sizes):
            tensors[f"features.{number}.weight"] = normal(width, fan_in, 3, 3) / 3
            tensors[f"features.{number}.bias"] = normal(width) / 3
            fan_in = width
        if with_maps:
            tensors[f"lin{stage}.model.1.weight"] = np.abs(normal(1, fan_in, 1, 1))
    return tensors


TINY_VGG = ((2, 3), (3, 2), (2, 2, 3), (4, 3, 2), (2, 3, 3))


@pytest.mark.parametrize("with_maps", [True, False])
def test_perceptual_distance_against_numpy(monkeypatch, with_maps):
    monkeypatch.setattr(perceptual, "WIDTHS", TINY_VGG)
    tensors = vgg(TINY_VGG, with_maps)
    graphdef, _ = nnx.split(perceptual.Perceptual())
    model = nnx.merge(graphdef, perceptual.read(tensors, tensors.__getitem__))
    pair = np.clip(normal(2, 2, 16, 16, 3), -1, 1)
    total = 0.0
    mean, deviation = [-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]
    x = (pair.reshape(4, 16, 16, 3).astype(np.float64) - mean) / deviation
    for stage, numbers in enumerate(perceptual.NUMBERS):
        if stage:
            side = x.shape[1] // 2
            x = x.reshape(4, side, 2, side, 2, -1).max(axis=(2, 4))
        for number in numbers:
            kernel = tensors[f"features.{number}.weight"].transpose(2, 3, 1, 0)
            layer = {"a/kernel": kernel, "a/bias": tensors[f"features.{number}.bias"]}
            x = np.maximum(vq_numpy.Reference(layer, None).conv(x, "a"), 0)
        unit = x / np.maximum(np.sqrt((x**2).sum(axis=-1, keepdims=True)), 1e-10)
        weights = tensors.get(f"lin{stage}.model.1.weight", np.full(x.shape[-1], 1 / x.shape[-1]))
        total += (((unit[:2] - unit[2:]) ** 2) * weights.reshape(-1)).sum(axis=-1).mean()
    np.testing.assert_allclose(model(*pair), total, rtol=1e-4)
    assert np.isclose(model(pair[0], pair[0]), 0)


def test_perceptual_files_that_do_not_fit(monkeypatch):
    monkeypatch.setattr(perceptual, "WIDTHS", TINY_VGG)
    tensors = vgg(TINY_VGG)
    cut = {name: tensor for name, tensor in tensors.items() if name != "features.28.bias"}
    with pytest.raises(UserError, match=r"features\.28\.bias is in none"):
        perceptual.read(cut, cut.__getitem__)
    with pytest.raises(UserError, match="has shape"):
        perceptual.read(tensors, lambda name: tensors[name][:1])
