"""MaskGIT's tokenizer and the KL autoencoder: contract, published files, and refusals."""

import re

import jax
import numpy as np
import pytest
from flax import serialization, traverse_util
from jax import export
from safetensors.numpy import load_file, save_file

from gen import convert, from_published, tokenizers
from gen.errors import UserError
from gen.layouts import Layout, grid
from gen.tokenizers import KLConfig, KLTokenizer, MaskGITVQConfig, MaskGITVQTokenizer
from tests import cases_vae, kl_numpy, maskgit_vq_numpy

KL = KLConfig(3, 4, 4, (1, 1), 1, 0.25, decoder_attention=(0,), norm_groups=2)
MASKGIT = MaskGITVQConfig(23, 5, 4, (1, 2), 1, norm_groups=2)
KINDS = {"kl": (KLTokenizer, KL), "maskgit": (MaskGITVQTokenizer, MASKGIT)}


def tokenizer(name, **options):
    """Every weight random; a fresh tokenizer takes long to draw."""
    kind, config = KINDS[name]
    rng = np.random.default_rng(0)
    flat = {
        path: (rng.normal(size=shape) * 0.3 + path.endswith("scale")).astype(np.float32)
        for path, shape in kind.shapes(config).items()
    }
    return kind(config, traverse_util.unflatten_dict(flat, sep="/"), **options)


@pytest.fixture(scope="module")
def kl():
    return tokenizer("kl")


@pytest.fixture(scope="module")
def maskgit():
    return tokenizer("maskgit")


def images(*shape, low=-1.0, seed=1):
    return np.random.default_rng(seed).uniform(low, 1, (*shape, 3)).astype(np.float32)


def test_kl_in_raster_order(kl):
    pixels = images(3, 4, 6)
    tokens, moments, latents = kl.encode(pixels), kl.moments(pixels), kl.latents(pixels)
    assert kl.layout((4, 6)) == Layout("grid", ((1, 2, 3),), channels=3)
    assert moments.dtype == tokens.dtype == np.float32 and moments.shape == (3, 2, 3, 6)
    np.testing.assert_allclose(latents, moments[..., :3] * np.float32(0.25), rtol=1e-6)
    np.testing.assert_array_equal(tokens.reshape(3, 2, 3, 3), latents)
    np.testing.assert_array_equal(kl.embed(tokens, (4, 6)), latents)
    decoded = kl.decode(tokens, (4, 6), batch_size=2)
    assert decoded.shape == pixels.shape
    np.testing.assert_allclose(decoded, kl.decode_latents(latents), atol=1e-5)
    assert kl.default_shape(9) == (6, 6)


def test_draws_from_the_posterior(kl):
    rng = np.random.default_rng(0)
    moments = rng.normal(size=(4, 20, 25, 6)).astype(np.float32)
    moments[..., 3:] = np.log([0.25, 1.0, 4.0])
    drawn = kl.draw(moments, seed=5)
    assert drawn.dtype == np.float32 and drawn.shape == (4, 20, 25, 3)
    noise = drawn / np.float32(0.25) - moments[..., :3]
    np.testing.assert_allclose(noise.std(axis=(0, 1, 2)), [0.5, 1, 2], rtol=0.06)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1
    np.testing.assert_array_equal(kl.draw(moments[2:4], seed=5, first=2), drawn[2:4])
    assert np.abs(kl.draw(moments, seed=6) - drawn).mean() > 0.1
    flat = moments.reshape(4, -1, 6)
    assert kl.draw(flat, seed=5).shape == (4, 500, 3)
    moments[..., 3:] = 1000
    assert np.isfinite(kl.draw(moments, seed=5)).all()


def test_maskgit_takes_pixels_from_0_to_1(maskgit):
    assert maskgit.pixel_range == (0, 1) and maskgit.downsample == (1, 2, 2)
    assert maskgit.layout((4, 6)) == grid(2, 3, 23)
    whole = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3)).astype(np.uint8)
    tokens = maskgit.encode(whole / 255)
    assert tokens.dtype == np.int32 and tokens.shape == (3, 6)
    np.testing.assert_array_equal(maskgit.encode(whole), tokens)
    np.testing.assert_array_equal(maskgit.to_uint8((whole / 255).astype(np.float32)), whole)
    np.testing.assert_array_equal(
        maskgit.codebook[tokens[0, 0]], maskgit.embed(tokens, (4, 6))[0, 0, 0]
    )
    with pytest.raises(UserError, match="lie from 0 to 1"):
        maskgit.encode(images(1, 4, 6))


@pytest.mark.parametrize("name", KINDS)
def test_bfloat16_changes_the_decoder_alone(name, request):
    ours, coarse = request.getfixturevalue(name), tokenizer(name, dtype="bfloat16")
    pixels = images(2, 4, 6, low=0)
    tokens = ours.encode(pixels)
    np.testing.assert_array_equal(coarse.encode(pixels), tokens)
    exact, found = ours.decode(tokens, (4, 6)), coarse.decode(tokens, (4, 6))
    assert found.dtype == np.float32
    assert 1e-4 < np.abs(found - exact).mean() < 0.02 * np.abs(exact).max()


@pytest.mark.parametrize("method", ["encode", "decode"])
@pytest.mark.parametrize("name", KINDS)
def test_exports_for_accelerators(name, method, request):
    ours = request.getfixturevalue(name)
    layout = ours.layout((4, 6))
    dtype = np.float32 if layout.is_continuous else np.int32
    pixels = jax.ShapeDtypeStruct((2, 4, 6, 3), np.float32)
    tokens = jax.ShapeDtypeStruct((2, *layout.sample_shape), dtype)
    given, wanted = (pixels, tokens) if method == "encode" else (tokens, pixels)
    params = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), ours.params)
    program = export.export(ours.program(method, layout), platforms=("tpu", "cuda"))
    exported = program(params, given)
    assert (exported.out_avals[0].shape, exported.out_avals[0].dtype) == (
        wanted.shape,
        wanted.dtype,
    )
    assert len(exported.serialize()) > 1000


@pytest.mark.parametrize("name", KINDS)
def test_a_saved_file_comes_back(name, request, tmp_path):
    ours = request.getfixturevalue(name)
    tokenizers.save(ours, tmp_path / "t.safetensors")
    loaded = tokenizers.load(tmp_path / "t.safetensors")
    assert type(loaded) is type(ours) and loaded.config == ours.config


LATENTS = np.zeros((1, 6, 3), np.float32)
BAD_LATENTS = {
    "latents must be finite floats, not int64": (LATENTS.astype(int), (4, 6)),
    "latents must be finite floats": (LATENTS * np.nan, (4, 6)),
    "shape (B, 6, 3), not (1, 6, 4)": (np.zeros((1, 6, 4), np.float32), (4, 6)),
    "6 latents make no square": (LATENTS, None),
}


@pytest.mark.parametrize("message", BAD_LATENTS)
def test_bad_latents(kl, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        kl.decode(*BAD_LATENTS[message])
    assert "\n" not in str(caught.value)


def test_other_bad_arguments(kl):
    with pytest.raises(UserError, match=r"of shape \(B, 2, 3, 3\)"):
        kl.decode_latents(np.zeros((1, 2, 3, 4), np.float32))
    with pytest.raises(UserError, match="no codebook"):
        kl.codebook  # noqa: B018
    for moments, message in (
        (np.zeros((1, 4, 3)), "floats of 6 channels"),
        (np.zeros((1, 4, 6), int), "not int64"),
        (np.full((1, 4, 6), np.inf), "no numbers"),
    ):
        with pytest.raises(UserError, match=message):
            kl.draw(moments, 0)
    for config, message in (
        ({"scale": 0.0}, "above 0, not 0.0"),
        ({"scale": float("nan")}, "above 0, not nan"),
        ({"channels": 0}, "1 channel at least"),
        ({"encoder_attention": (2,)}, "attention at levels"),
        ({"norm_groups": 3}, "not divisible by 3"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            KLConfig(**(vars(KL) | config))
    with pytest.raises(UserError, match="2 codes"):
        MaskGITVQConfig(1, 5, 4, (1,), 1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of each published system, and a Flax tree of the original MaskGIT."""
    folder = tmp_path_factory.mktemp("vae")
    port = maskgit_vq_numpy.port_weights(cases_vae.maskgit_config(), 0)
    original = maskgit_vq_numpy.Original(cases_vae.maskgit_jax_config(), 0)
    original.decode(original.latents(np.zeros((1, 8, 8, 3)))[..., 0].astype(int))
    made = {
        "kl-vae": kl_numpy.weights(cases_vae.kl_config(), 0),
        "maskgit-vqgan": port,
        "maskgit-vqgan-jax": {f"params/{path}": a for path, a in original.tensors.items()},
    }
    paths = {name: folder / f"{name}.safetensors" for name in made}
    for name, tensors in made.items():
        save_file(tensors, paths[name])
    tree = traverse_util.unflatten_dict(made["maskgit-vqgan-jax"], sep="/")
    paths["msgpack"] = folder / "tokenizer_imagenet256_checkpoint"
    paths["msgpack"].write_bytes(serialization.to_bytes(tree))
    return paths


GIVEN = {
    # What weights cannot tell; attention at 16 and 32 of 64 lies at 64 and 128 of 256.
    "kl-vae": {"scale": 0.2325, "groupnorm_groups": 4},
    "maskgit-vqgan": {"groupnorm_groups": 4},
    "maskgit-vqgan-jax": {"num_groups": 4},
}
INFERRED = {
    "kl-vae": KLConfig(3, 5, 8, (1, 3, 2), 1, 0.2325, (1, 2), (), 4),
    "maskgit-vqgan": MaskGITVQConfig(50, 6, 8, (1, 3, 2), 2, 4),
    "maskgit-vqgan-jax": MaskGITVQConfig(40, 5, 8, (1, 2, 2, 1), 1, 4),
}


@pytest.mark.parametrize("system", GIVEN)
def test_sizes_are_inferred(files, system, tmp_path):
    made = from_published(system, files[system], GIVEN[system])
    assert made.config == INFERRED[system]
    out = tmp_path / "t.safetensors"
    flags = [f"--set={name}={value}" for name, value in GIVEN[system].items()]
    convert.main([system, str(files[system]), str(out), *flags])
    loaded = tokenizers.load(out)
    assert type(loaded) is type(made) and loaded.config == made.config
    assert loaded.meta["id"] == system and len(loaded.meta["sha256"]) == 64


def test_the_original_checkpoint_is_a_flax_tree(files):
    flat, tree = (
        from_published("maskgit-vqgan-jax", files[name], {"num_groups": 4})
        for name in ("maskgit-vqgan-jax", "msgpack")
    )
    assert jax.tree.structure(flat.params) == jax.tree.structure(tree.params)
    jax.tree.map(np.testing.assert_array_equal, flat.params, tree.params)


def test_resolution_moves_attention(files):
    weights = {"resolution": 64, **GIVEN["kl-vae"]}
    assert from_published("kl-vae", files["kl-vae"], weights).config == INFERRED["kl-vae"]
    given = {"attn_resolutions": [32, 16], "decoder_attn_resolutions": [], **weights}
    assert from_published("kl-vae", files["kl-vae"], given).config == INFERRED["kl-vae"]


REFUSED = {
    "do not tell scale (what latents are multiplied by, published: 0.2325": (
        "kl-vae",
        {"scale": None},
    ),
    "downsample 8 against 4 from ch_mult": ("kl-vae", {"downsample": 8}),
    "use_variational must be True": ("kl-vae", {"use_variational": False}),
    "missing: decoder.up.2.attn.0.norm.weight": ("kl-vae", {"decoder_attn_resolutions": [64]}),
    "unknown: encoder.down.1.attn.0": ("kl-vae", {"attn_resolutions": [64]}),
    "z_channels 7 against 6 from embedding_dim": ("maskgit-vqgan", {"z_channels": 7}),
    "num_resolutions 5 against 3 from channel_mult": ("maskgit-vqgan", {"num_resolutions": 5}),
    "pixel_range_native must be (0.0, 1.0)": (
        "maskgit-vqgan",
        {"pixel_range_native": [-1, 1]},
    ),
    "conv_downsample must be False": ("maskgit-vqgan-jax", {"conv_downsample": True}),
    "width 8 is not divisible by 32": ("maskgit-vqgan-jax", {"num_groups": 32}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_settings_that_do_not_fit(files, message):
    system, settings = REFUSED[message]
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        from_published(system, files[system], GIVEN[system] | settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("system", GIVEN)
def test_files_that_do_not_fit(files, system, tmp_path):
    weights = load_file(files[system])
    left_out = next(name for name in reversed(weights) if "norm1" in name or "GroupNorm_1" in name)
    del weights[left_out]
    save_file(weights, tmp_path / "part.safetensors")
    with pytest.raises(UserError, match=f"1 missing: {re.escape(left_out)}"):
        from_published(system, tmp_path / "part.safetensors", GIVEN[system])
    other = next(name for name in GIVEN if name != system)
    with pytest.raises(UserError, match="no tensor named"):
        from_published(system, files[other], GIVEN[system])
