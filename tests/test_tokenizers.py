"""The VQ tokenizer against plain NumPy, its contract, and its bad inputs."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from flax import traverse_util
from jax import export

from gen import sharding
from gen.errors import UserError
from gen.layouts import grid
from gen.tokenizers import TOKENIZERS, VQConfig, VQTokenizer
from tests import tiny
from tests.vq_numpy import Reference

# Four pixels a cell, widths that rise and fall, so that shortcuts map up and down in both stacks.
CONFIG = VQConfig(
    codebook_size=23,
    codebook_dim=5,
    width=8,
    encoder_multipliers=(1, 3, 2),
    decoder_multipliers=(2, 1, 3),
    blocks_per_level=1,
    z_channels=6,
    normalise_codes=True,
    norm_groups=4,
)
# Quicker to compile, where the numbers do not matter.
SMALL = dataclasses.replace(CONFIG, encoder_multipliers=(1, 1), decoder_multipliers=(1, 1))
CASES = {
    "three levels": {},
    "codes of any length": {"normalise_codes": False},
    "two levels, two blocks": {
        "encoder_multipliers": (3, 1),
        "decoder_multipliers": (1, 2),
        "blocks_per_level": 2,
        "norm_groups": 8,
        "norm_eps": 1e-2,
    },
    "one level": {"encoder_multipliers": (1,), "decoder_multipliers": (2,)},
}


def random_params(config, seed=0):
    """Every entry random, at a size that keeps signals near one; norm scales around one."""
    rng = np.random.default_rng(seed)
    flat = {}
    for path, shape in VQTokenizer.shapes(config).items():
        draw = rng.normal(size=shape).astype(np.float32)
        fan_in = np.prod(shape[:-1]) if path.endswith("kernel") else 25
        draw *= 1 if path.startswith("codebook") else fan_in**-0.5
        flat[path] = 1 + draw if path.endswith("scale") else draw
    return flat


def tokenizer(config=CONFIG, seed=0, **options):
    params = traverse_util.unflatten_dict(random_params(config, seed), sep="/")
    return VQTokenizer(config, params, **options)


def images(*shape, seed=1):
    return np.random.default_rng(seed).uniform(-1, 1, (*shape, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def ours():
    return tokenizer(SMALL)


@pytest.mark.parametrize("case", CASES)
def test_equals_plain_numpy(case):
    config = dataclasses.replace(CONFIG, **CASES[case])
    ours, reference = tokenizer(config), Reference(random_params(config), config)
    pixels = images(4, 8, 20)
    np.testing.assert_allclose(ours.latents(pixels), reference.latents(pixels), atol=2e-5)
    ids, margin_BP = reference.encode(pixels)
    assert margin_BP.min() > 1e-5 and len(np.unique(ids)) > 2
    tokens = ours.encode(pixels)
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens, ids)
    rows, columns = 8 // config.cell, 20 // config.cell
    assert ours.layout((8, 20)) == grid(rows, columns, config.codebook_size)
    decoded = ours.decode(tokens, (8, 20))
    assert decoded.dtype == np.float32 and decoded.shape == pixels.shape
    np.testing.assert_allclose(decoded, reference.decode(ids, rows, columns), atol=2e-5)
    np.testing.assert_allclose(ours.codebook, reference.codes(), atol=1e-6)
    looked_up = reference.codes()[ids].reshape(4, rows, columns, -1)
    np.testing.assert_allclose(ours.embed(tokens, (8, 20)), looked_up, atol=1e-6)


def test_odd_sizes_round_down():
    ours = tokenizer()
    # No tokens are made of such an image, but its padding shows that of the published network.
    pixels = images(1, 13, 10)
    found = ours.program("latents", ours.layout((4, 4)))(ours.params, pixels)
    assert found.shape == (1, 3, 2, 5)
    expected = Reference(random_params(CONFIG), CONFIG).latents(pixels)
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("normalise", [True, False])
def test_the_first_of_equal_codes_wins(normalise):
    config = dataclasses.replace(SMALL, codebook_size=40, normalise_codes=normalise)
    flat = random_params(config)
    flat["codebook/embedding"] = np.tile(flat["codebook/embedding"][:10], (4, 1))
    ours = VQTokenizer(config, traverse_util.unflatten_dict(flat, sep="/"))
    tokens = ours.encode(images(3, 8, 8))
    assert tokens.max() < 10 and len(np.unique(tokens)) > 3


def test_batch_size_changes_nothing(ours):
    pixels = images(3, 8, 8)
    whole = ours.encode(pixels)
    decoded = ours.decode(whole)
    assert decoded.shape == (3, 8, 8, 3)
    np.testing.assert_array_equal(ours.encode(pixels, batch_size=2), whole)
    np.testing.assert_allclose(ours.decode(whole, batch_size=2), decoded, atol=1e-5)


def test_uint8_and_floats_agree(ours):
    whole = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    for floats in ((whole / 255 - 0.5) / 0.5, (whole / 127.5 - 1).astype(np.float32)):
        np.testing.assert_array_equal(ours.to_uint8(floats), whole)
        np.testing.assert_array_equal(ours.encode(floats), ours.encode(whole))
        np.testing.assert_allclose(ours.latents(floats), ours.latents(whole), atol=1e-5)
    outside = np.array([[-9.0, -1.01, 0.0, 1.01, 9.0]])
    np.testing.assert_array_equal(ours.to_uint8(outside), [[0, 0, 128, 255, 255]])


def test_bfloat16_changes_the_decoder_alone(ours):
    coarse = tokenizer(SMALL, dtype="bfloat16")
    pixels = images(3, 8, 8)
    tokens = ours.encode(pixels)
    np.testing.assert_array_equal(coarse.latents(pixels), ours.latents(pixels))
    exact, found = ours.decode(tokens), coarse.decode(tokens)
    assert found.dtype == np.float32
    assert 1e-4 < np.abs(found - exact).mean() < 0.02 * np.abs(exact).max()


def test_a_fresh_tokenizer_is_ready_for_training():
    config = VQConfig(200, 8, 8, (1,), (1,), 1, 8, True, norm_groups=4)
    fresh = VQTokenizer.fresh(config, seed=3, meta={"id": "mine"})
    assert fresh.meta == {"id": "mine", "sha256": None, "source": ""}
    np.testing.assert_allclose(np.linalg.norm(fresh.codebook, axis=1), 1, atol=1e-5)
    raw = VQTokenizer.fresh(dataclasses.replace(config, normalise_codes=False)).codebook
    assert np.abs(raw).max() <= 1 / 200 and raw.std() == pytest.approx(1 / 200 / 3**0.5, rel=0.1)
    kernel = np.asarray(fresh.params["encoder"]["levels"]["0"]["blocks"]["0"]["conv2"]["kernel"])
    assert kernel.std() == pytest.approx((9 * 8) ** -0.5, rel=0.1)
    assert fresh.downsample == (1, 1, 1) and fresh.pixel_range == (-1, 1)
    assert TOKENIZERS[fresh.kind] is VQTokenizer


BAD_PIXELS = {
    "three axes": (images(8, 8), "(B, height, width, 3)"),
    "four channels": (np.zeros((1, 8, 8, 4), np.uint8), "(1, 8, 8, 4)"),
    "empty": (images(0, 8, 8), "(0, 8, 8, 3)"),
    "a video": (images(1, 2, 8, 8), "(2, 8, 8)"),
    "height": (images(1, 9, 8), "multiples of (2, 2), not (9, 8)"),
    "ints": (np.zeros((1, 8, 8, 3), int), "uint8, or floats from -1 to 1, not int64"),
    "range": (images(1, 8, 8) * 255, "lie from -1 to 1"),
    "nan": (images(1, 8, 8) * np.nan, "found nan to nan"),
}


@pytest.mark.parametrize("case", BAD_PIXELS)
def test_bad_pixels(ours, case):
    pixels, message = BAD_PIXELS[case]
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        ours.encode(pixels)
    assert "\n" not in str(caught.value)


BAD_TOKENS = {
    "floats": (np.zeros((1, 16)), None, "must be integers"),
    "one axis": (np.zeros(4, int), None, "0 tokens make no square"),
    "no square": (np.zeros((1, 6), int), None, "6 tokens make no square"),
    "another shape": (np.zeros((1, 6), int), (8, 8), "must have shape (B, 16), not (1, 6)"),
    "shape in cells": (np.zeros((1, 6), int), (2, 3), "multiples of (2, 2), not (2, 3)"),
    "one size": (np.zeros((1, 16), int), 8, "multiples of (2, 2), not (8,)"),
    "negative": (np.full((1, 16), -1), None, "ids lie in [0, 23), found -1"),
    "too large": (np.full((1, 16), 23), None, "ids lie in [0, 23), found 23"),
}


@pytest.mark.parametrize("case", BAD_TOKENS)
def test_bad_tokens(ours, case):
    tokens, shape, message = BAD_TOKENS[case]
    with pytest.raises(UserError, match=re.escape(message)):
        ours.decode(tokens, shape)


BAD_CONFIGS = {
    "as many": {"encoder_multipliers": (1, 2)},
    "2 codes": {"codebook_size": 1},
    "divisible by 3 norm_groups": {"norm_groups": 3},
    "at least 1": {"blocks_per_level": 0},
    "convolutional stack": {"encoder_multipliers": (), "decoder_multipliers": ()},
}


@pytest.mark.parametrize("message", BAD_CONFIGS)
def test_bad_configs(message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **BAD_CONFIGS[message])


def test_other_bad_arguments(ours):
    for size in (0, 1.5):
        with pytest.raises(UserError, match="batch_size must be a whole number from 1"):
            ours.encode(images(1, 8, 8), batch_size=size)
    with pytest.raises(UserError, match='float32 or bfloat16, not "float16"'):
        tokenizer(dtype="float16")
    with pytest.raises(UserError, match="id is text"):
        tokenizer(meta={"id": 3})
    with pytest.raises(UserError, match="must be JSON"):
        tokenizer(meta={"path": tiny.ROOT})
    for pixels in (np.zeros((1, 8, 8, 3), np.uint8), np.full((1, 8, 8, 3), np.nan)):
        with pytest.raises(UserError, match="decoded pixels"):
            ours.to_uint8(pixels)
    with pytest.raises(UserError) as caught:
        VQTokenizer(dataclasses.replace(SMALL, z_channels=7), ours.params)
    assert "; quant/kernel has shape (1, 1, 6, 5) for (1, 1, 7, 5)" in str(caught.value)
    with pytest.raises(UserError, match=r"; and \d+ more$"):
        VQTokenizer(dataclasses.replace(SMALL, width=16), ours.params)


def published_count(width, multipliers, blocks, z, codes, code_dim):
    """Parameters by hand, from the description of the network."""

    def conv(fan_in, fan_out, size):
        return size * size * fan_in * fan_out + fan_out

    def res(fan_in, out):
        shortcut = conv(fan_in, out, 1) if fan_in != out else 0
        return 2 * fan_in + conv(fan_in, out, 3) + 2 * out + conv(out, out, 3) + shortcut

    widths = [width * multiplier for multiplier in multipliers]
    low = widths[-1]
    attention = 2 * low + 4 * conv(low, low, 1)
    middle = 2 * res(low, low) + attention
    total = 2 * middle + codes * code_dim + conv(z, code_dim, 1) + conv(code_dim, z, 1)
    total += conv(3, width, 3) + 2 * low + conv(low, z, 3)
    total += conv(z, low, 3) + 2 * widths[0] + conv(widths[0], 3, 3)
    for fan_in, out in zip([width, *widths], widths):
        total += res(fan_in, out) + (blocks - 1) * res(out, out)
    for fan_in, out in zip([low, *widths[::-1]], widths[::-1]):
        total += res(fan_in, out) + blocks * res(out, out)
    total += sum(conv(size, size, 3) for size in [*widths[:-1], *widths[1:]])
    return total + (2 * blocks + 1) * attention


@pytest.mark.parametrize("multipliers", [(1, 1, 2, 2, 4), (1, 2, 2, 4)], ids=["VQ-16", "VQ-8"])
def test_published_sizes(multipliers):
    config = VQConfig(16384, 8, 128, multipliers, multipliers, 2, 256, True)
    count = sum(int(np.prod(shape)) for shape in VQTokenizer.shapes(config).values())
    assert count == published_count(128, multipliers, 2, 256, 16384, 8)
    assert count // 10**6 == {5: 71, 4: 70}[len(multipliers)]


@pytest.mark.parametrize("method", ["encode", "decode"])
def test_exports_for_accelerators(ours, method):
    layout = ours.layout((4, 6))
    rows = {"encode": ((2, 4, 6, 3), np.float32), "decode": ((2, 6), np.int32)}[method]
    params = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), ours.params)
    program = ours.program(method, layout)
    exported = export.export(program, platforms=("tpu", "cuda"))(
        params, jax.ShapeDtypeStruct(*rows)
    )
    other = {"encode": (2, 6), "decode": (2, 4, 6, 3)}[method]
    assert exported.out_avals[0].shape == other
    assert len(exported.serialize()) > 1000


def check_two_devices():
    mesh = sharding.make_mesh(sharding.MeshConfig(data=-1), batch_size=2)
    one, two, pixels = tokenizer(SMALL), tokenizer(SMALL, mesh=mesh), images(3, 8, 8)
    assert len(two.params["quant"]["bias"].devices()) == mesh.size == 2
    tokens = one.encode(pixels)
    np.testing.assert_array_equal(two.encode(pixels), tokens)
    np.testing.assert_allclose(two.decode(tokens), one.decode(tokens), atol=1e-5)


def test_two_devices_give_the_same():
    done = tiny.run_module("tests.test_tokenizers", devices=2)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    check_two_devices()
