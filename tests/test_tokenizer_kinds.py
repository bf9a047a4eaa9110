"""TiTok and MAGVIT's tokenizer: contract, files, refusals, several devices."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from flax import traverse_util
from jax import export

from gen import sharding, tokenizers
from gen.errors import UserError
from gen.layouts import Layout, grid
from gen.models.vit import ViTConfig
from gen.tokenizers import (
    MAGVITConfig,
    MAGVITTokenizer,
    ProxyConfig,
    TiTokConfig,
    TiTokTokenizer,
)
from tests import tiny

TITOK = TiTokConfig(
    codebook_size=23,
    codebook_dim=3,
    num_tokens=5,
    image_size=8,
    encoder_patch=4,
    decoder_patch=2,
    encoder=ViTConfig(16, 1, 2, 32),
    decoder=ViTConfig(8, 1, 2, 16),
    normalise_codes=True,
    proxy=ProxyConfig(9, 4, 4, (1, 2), 1, norm_groups=2),
)
MAGVIT = MAGVITConfig(23, 5, 4, (1, 2), (True,), 1, 1, norm_groups=2)
KINDS = {"titok": (TiTokTokenizer, TITOK), "vq3d": (MAGVITTokenizer, MAGVIT)}
SHAPES = {"titok": (8, 8), "vq3d": (4, 4, 6)}
LAYOUTS = {"titok": Layout("line", ((1, 1, 5),), (23,)), "vq3d": grid(2, 3, 23, frames=2)}
LATENTS = {"titok": (1, 5, 3), "vq3d": (2, 2, 3, 5)}


def tokenizer(name, **options):
    """Every weight random; a fresh tokenizer takes long to draw."""
    kind, config = KINDS[name]
    rng = np.random.default_rng(0)
    flat = {
        path: (rng.normal(size=shape) * 0.3 + path.endswith("scale")).astype(np.float32)
        for path, shape in kind.shapes(config).items()
    }
    return kind(config, traverse_util.unflatten_dict(flat, sep="/"), **options)


def pixels_of(name, count=3):
    shape = (count, *SHAPES[name], 3)
    return np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)


@pytest.fixture(scope="module")
def made():
    return {name: tokenizer(name) for name in KINDS}


@pytest.mark.parametrize("name", KINDS)
def test_pixels_to_tokens_and_back(name, made):
    ours, whole = made[name], pixels_of(name)
    assert ours.pixel_range == (0, 1) and ours.layout(SHAPES[name]) == LAYOUTS[name]
    tokens, latents = ours.encode(whole), ours.latents(whole)
    assert tokens.dtype == np.int32 and tokens.shape == (3, LAYOUTS[name].num_positions)
    assert len(np.unique(tokens)) > 3 and latents.shape == (3, *LATENTS[name])
    np.testing.assert_array_equal(ours.encode(whole / 255), tokens)
    np.testing.assert_array_equal(ours.encode(whole, batch_size=2), tokens)
    embedded = ours.embed(tokens, SHAPES[name])
    np.testing.assert_array_equal(embedded, ours.codebook[tokens].reshape(latents.shape))
    decoded = ours.decode(tokens, SHAPES[name], batch_size=2)
    assert decoded.dtype == np.float32 and decoded.shape == whole.shape
    np.testing.assert_allclose(ours.decode_latents(embedded), decoded, atol=1e-5)
    assert ours.pixel_shape(LAYOUTS[name].shapes[0]) == SHAPES[name]


def test_a_shape_where_none_is_given(made):
    tokens = made["titok"].encode(pixels_of("titok"))
    assert made["titok"].decode(tokens).shape == (3, 8, 8, 3)
    with pytest.raises(UserError, match="12 tokens may be videos of several shapes: give the"):
        made["vq3d"].decode(np.zeros((1, 12), int))
    assert made["vq3d"].decode(np.zeros((1, 6), int), (2, 4, 6)).shape == (1, 2, 4, 6, 3)


def test_tokens_of_titok_stand_for_no_place(made):
    """Each token changes all of the image, unlike those of a grid."""
    tokens = made["titok"].encode(pixels_of("titok", 1))
    other = tokens.copy()
    other[0, 2] = (other[0, 2] + 1) % 23
    changed = np.abs(made["titok"].decode(tokens) - made["titok"].decode(other))
    assert (changed > 1e-6).mean() > 0.9


@pytest.mark.parametrize("name", KINDS)
def test_bfloat16_changes_the_decoder_alone(name, made):
    ours, coarse, whole = made[name], tokenizer(name, dtype="bfloat16"), pixels_of(name)
    tokens = ours.encode(whole)
    np.testing.assert_array_equal(coarse.encode(whole), tokens)
    np.testing.assert_array_equal(coarse.latents(whole), ours.latents(whole))
    exact, found = (each.decode(tokens, SHAPES[name]) for each in (ours, coarse))
    assert found.dtype == np.float32
    assert 1e-4 < np.abs(found - exact).mean() < 0.03 * np.abs(exact).max()


@pytest.mark.parametrize("method", ["encode", "decode"])
@pytest.mark.parametrize("name", KINDS)
def test_exports_for_accelerators(name, method, made):
    ours, layout = made[name], LAYOUTS[name]
    pixels = jax.ShapeDtypeStruct((2, *SHAPES[name], 3), np.float32)
    tokens = jax.ShapeDtypeStruct((2, *layout.sample_shape), np.int32)
    given, wanted = (pixels, tokens) if method == "encode" else (tokens, pixels)
    params = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), ours.params)
    program = export.export(ours.program(method, layout), platforms=("tpu", "cuda"))
    exported = program(params, given).out_avals[0]
    assert (exported.shape, exported.dtype) == (wanted.shape, wanted.dtype)


def test_products_are_exact_where_accelerators_round(made):
    """A latent that is rounded may have another nearest code."""
    for name, ours in made.items():
        pixels = jax.ShapeDtypeStruct((1, *SHAPES[name], 3), np.float32)
        text = ours.program("encode", LAYOUTS[name]).lower(ours.params, pixels).as_text()
        products = [
            line for line in text.splitlines() if re.search("dot_general|convolution", line)
        ]
        assert len(products) > 5
        for line in products:
            assert re.search("HIGHEST", line), line


@pytest.mark.parametrize("name", KINDS)
def test_a_saved_file_comes_back(name, made, tmp_path):
    ours, path = made[name], tmp_path / "t.safetensors"
    tokenizers.save(ours, path)
    loaded = tokenizers.load(path)
    assert type(loaded) is type(ours) and loaded.config == ours.config and loaded.kind == name
    tokens = ours.encode(pixels_of(name))
    np.testing.assert_array_equal(loaded.encode(pixels_of(name)), tokens)


def test_fresh_tokenizers_are_ready_for_training():
    plain = dataclasses.replace(TITOK, encoder=TITOK.decoder, proxy=None)
    flat = dataclasses.replace(MAGVIT, multipliers=(1,), halve_frames=(), width=8)
    for kind, config in ((TiTokTokenizer, plain), (MAGVITTokenizer, flat)):
        fresh = traverse_util.flatten_dict(kind.fresh(config, seed=1).params, sep="/")
        for path, leaf in fresh.items():
            expected = {"scale": (1, 0), "bias": (0, 0)}.get(path.rpartition("/")[2])
            spread = np.mean(leaf), np.std(leaf)
            assert expected == spread if expected else 0.01 < spread[1] < 1


BAD_PIXELS = {
    "images of (height, width) (8, 8), not (8, 4)": ("titok", (1, 8, 4, 3)),
    "images of (height, width) (8, 8), not (2, 8, 8)": ("titok", (1, 2, 8, 8, 3)),
    "videos whose (frames, height, width) are multiples of (2, 2, 2), not (3, 4, 4)": (
        "vq3d",
        (1, 3, 4, 4, 3),
    ),
    "multiples of (2, 2, 2), not (4, 4)": ("vq3d", (1, 4, 4, 3)),
}


@pytest.mark.parametrize("message", BAD_PIXELS)
def test_bad_pixels(message, made):
    name, shape = BAD_PIXELS[message]
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        made[name].encode(np.zeros(shape, np.uint8))
    assert "\n" not in str(caught.value)


def test_other_bad_arguments(made):
    for tokens, shape, message in (
        (np.zeros((1, 6), int), None, "must have shape (B, 5), not (1, 6)"),
        (np.full((1, 5), 23), None, "ids lie in [0, 23), found 23"),
        (np.zeros((1, 5), int), 8, "(8, 8), not (8,)"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            made["titok"].decode(tokens, shape)
    for name, shape in (("titok", (1, 1, 4, 3)), ("titok", (1, 2, 2, 3)), ("vq3d", (1, 2, 3, 5))):
        with pytest.raises(UserError):
            made[name].decode_latents(np.zeros(shape, np.float32))


BAD_CONFIGS = {
    "2 codes": (TITOK, {"codebook_size": 1}),
    "1 token at least": (TITOK, {"num_tokens": 0}),
    "have no patches of 3": (TITOK, {"encoder_patch": 3}),
    "cells of 2 pixels, the patches have 4": (TITOK, {"decoder_patch": 4}),
    "a proxy needs 1 code": (TITOK, {"proxy": ProxyConfig(0, 4, 4, (1, 2), 1, 2)}),
    "1 channel at least": (MAGVIT, {"codebook_dim": 0}),
    "2 levels have 1 steps between them, halve_frames tells of 2": (
        MAGVIT,
        {"halve_frames": (True, True)},
    ),
    "padding is one of constant, edge": (MAGVIT, {"padding": "zeros"}),
    "activation is one of swish, relu, not gelu": (MAGVIT, {"activation": "gelu"}),
    "padding constant alone": (MAGVIT, {"transposed": True, "padding": "edge"}),
    "not divisible by 3": (MAGVIT, {"norm_groups": 3}),
}


@pytest.mark.parametrize("message", BAD_CONFIGS)
def test_bad_configs(message):
    config, changes = BAD_CONFIGS[message]
    with pytest.raises(UserError, match=message):
        type(config)(**(vars(config) | changes))


def test_bad_transformers():
    with pytest.raises(UserError, match="width 16 is not divisible by 3 heads"):
        ViTConfig(16, 1, 3, 32)
    with pytest.raises(UserError, match="at least 1"):
        ViTConfig(16, 0, 2, 32)


def check_two_devices():
    mesh = sharding.make_mesh(sharding.MeshConfig(data=-1), batch_size=2)
    for name in KINDS:
        one, two, whole = tokenizer(name), tokenizer(name, mesh=mesh), pixels_of(name)
        assert len(jax.tree.leaves(two.params)[0].devices()) == mesh.size == 2
        tokens = one.encode(whole)
        np.testing.assert_array_equal(two.encode(whole), tokens)
        decoded = (each.decode(tokens, SHAPES[name]) for each in (two, one))
        np.testing.assert_allclose(*decoded, atol=1e-5)


def test_two_devices_give_the_same():
    done = tiny.run_module("tests.test_tokenizer_kinds", devices=2)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    check_two_devices()
