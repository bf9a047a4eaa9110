"""The multi-scale tokenizer and VAR's weights, against plain NumPy; its contract and refusals."""

import re

import jax
import numpy as np
import pytest
from flax import traverse_util
from jax import export
from safetensors.numpy import load_file, save_file

from gen import convert, from_published, tokenizers
from gen.errors import UserError
from gen.layouts import Layout
from gen.models.residual_quantizer import QuantizerConfig
from gen.published import SYSTEMS, system_named
from gen.tokenizers import TOKENIZERS, MSVQConfig, MSVQTokenizer, VQConfig, VQTokenizer
from tests import cases, cases_msvq, parity
from tests.test_tokenizers import published_count

# No square, and two scales of one size.
SCALES = ((1, 1), (1, 2), (2, 3), (2, 3), (4, 6))
SMALL = MSVQConfig(QuantizerConfig(13, 4, SCALES), 8, (1, 1), 1, norm_groups=4)


PUBLISHED = {
    "four mixers, a size twice": {},
    "one each, cosine, 1x1": {
        "share_quant_resi": 0,
        "using_znorm": True,
        "quant_conv_ks": 1,
        "phi_of_scale": [0, 1],
    },
    "one mixer": {"share_quant_resi": 1, "quant_resi": -0.3, "phi_of_scale": [0, 0]},
    "three mixers": {"share_quant_resi": 3, "phi_of_scale": [0, 2]},
    "none": {"quant_resi": 0.0, "phi_of_scale": [0, 3]},
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_published_is_plain_numpy(case, tmp_path, capsys):
    # One of them in full; the others differ in the quantiser alone.
    quick = {"decode": False, "ch_mult": [1], "v_patch_nums": [2, 3]} if PUBLISHED[case] else {}
    folder = cases_msvq.msvq(tmp_path / "case", **PUBLISHED[case], **quick)
    passed = parity.main([str(folder)]) == 0
    assert passed, capsys.readouterr().out


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("var")
    return cases_msvq.msvq(folder / "case", decode=False) / "weights.safetensors"


def test_sizes_are_inferred(file):
    made = from_published("var-vqvae", file, {"v_patch_nums": [1, 2, 2, 3, 4]})
    assert made.config == cases_msvq.our_config(cases_msvq.msvq_config())
    for shared, mixers in ((0, 5), (1, 1), (3, 3)):
        config = cases_msvq.msvq_config(share_quant_resi=shared)
        params = {"quantizer/codebook": np.zeros((40, 6), np.float32)}
        params["quantizer/mixer_kernels"] = np.zeros((mixers, 3, 3, 6, 6), np.float32)
        params["quantizer/mixer_biases"] = np.zeros((mixers, 6), np.float32)
        shapes = {name: a.shape for name, a in cases_msvq.published(config, params).items()}
        told = SYSTEMS["var-vqvae"].infer({"model": shapes}, {})
        assert (told["share_quant_resi"], told["vocab_size"], told["z_channels"]) == (shared, 40, 6)
        assert told.get("default_qresi_counts", 0) == (0 if shared else 5)


SCALES_GIVEN = {"v_patch_nums": [1, 2, 2, 3, 4]}
REFUSED = {
    "do not tell v_patch_nums (sides of the scales": {"v_patch_nums": None},
    "phi_of_scale (0, 0, 0, 0, 0) against (0, 1, 2, 2, 3)": {"phi_of_scale": [0] * 5},
    "downsample 16 against 2 from ch_mult": {"downsample": 16},
    "using_sa must be True": {"using_sa": False},
    "pixel_range must be (-1.0, 1.0)": {"pixel_range": [0, 1]},
    "kernel_size must be odd, not 2": {"quant_conv_ks": 2},
    "2 missing: quantize.quant_resi.qresi.weight, quantize.quant_resi.qresi.bias; 8 unknown": {
        "share_quant_resi": 1
    },
    "8 unknown: quantize.quant_resi.qresi_ls.0.": {"quant_resi": 0},
    "the last is largest": {"v_patch_nums": [4, 2, 1]},
    'no field "v_patch_num"; did you mean "v_patch_nums"?': {"v_patch_num": [1]},
}


@pytest.mark.parametrize("message", REFUSED)
def test_settings_that_do_not_fit(file, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        from_published("var-vqvae", file, SCALES_GIVEN | REFUSED[message])
    assert "\n" not in str(caught.value)


def test_files_that_do_not_fit(file, tmp_path):
    weights = load_file(file)
    whole = weights.pop("encoder.mid.attn_1.qkv.weight")
    save_file(weights, tmp_path / "part.safetensors")
    with pytest.raises(UserError, match=r"1 missing: encoder\.mid\.attn_1\.qkv\.weight"):
        from_published("var-vqvae", tmp_path / "part.safetensors", SCALES_GIVEN)
    weights["encoder.mid.attn_1.qkv.weight"] = np.ascontiguousarray(whole[:-2])
    save_file(weights, tmp_path / "cut.safetensors")
    with pytest.raises(UserError, match="wrong shape"):
        from_published("var-vqvae", tmp_path / "cut.safetensors", SCALES_GIVEN)
    other = cases.vq(tmp_path / "other") / "weights.safetensors"
    with pytest.raises(UserError, match=r"no tensor named encoder\.down\.0"):
        from_published("var-vqvae", other, SCALES_GIVEN)
    assert system_named("var-vqvae").output("indices_x") is None


def test_a_converted_file_comes_back(file, tmp_path):
    out = tmp_path / "var.safetensors"
    convert.main(["var-vqvae", str(file), str(out), "--set", "v_patch_nums=1,2,2,3,4"])
    loaded = tokenizers.load(out)
    assert type(loaded) is MSVQTokenizer and loaded.meta["id"] == "var-vqvae"
    assert loaded.config == cases_msvq.our_config(cases_msvq.msvq_config())


def random_tokenizer(kind, config):
    """Every weight random; a fresh tokenizer takes long to draw."""
    rng = np.random.default_rng(0)
    flat = {
        path: rng.normal(size=shape).astype(np.float32) * np.float32(0.3)
        for path, shape in kind.shapes(config).items()
    }
    return kind(config, traverse_util.unflatten_dict(flat, sep="/"))


@pytest.fixture(scope="module")
def small():
    return random_tokenizer(MSVQTokenizer, SMALL)


def test_tokenizer(small):
    layout = Layout("scales", ((1, 1, 1), (1, 1, 2), (1, 2, 3), (1, 2, 3), (1, 4, 6)), (13,))
    assert small.layout((8, 12)) == layout and small.default_shape(39) == (8, 12)
    assert TOKENIZERS["msvq"] is MSVQTokenizer and small.codebook.shape == (13, 4)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3)).astype(np.uint8)
    tokens = small.encode(pixels)
    assert tokens.shape == (3, 39) and len(np.unique(tokens)) > 2
    decoded, latents = small.decode(tokens), small.embed(tokens)
    assert decoded.shape == (3, 8, 12, 3) and latents.shape == (3, 4, 6, 4)
    np.testing.assert_allclose(small.decode_latents(latents, batch_size=2), decoded, atol=1e-5)
    scales = small.decode_scales(tokens)
    assert scales.shape == (3, 5, 8, 12, 3)
    np.testing.assert_allclose(scales[:, -1], decoded, atol=1e-5)
    assert np.abs(scales[:, 0] - decoded).max() > 1e-4
    coarse = MSVQTokenizer(SMALL, small.params, dtype="bfloat16")
    np.testing.assert_array_equal(coarse.embed(tokens), latents)
    assert np.abs(coarse.decode(tokens) - decoded).mean() > 1e-5


def test_latents_of_a_grid():
    config = VQConfig(9, 3, 8, (1, 1), (1, 1), 1, 5, True, norm_groups=4)
    ours = random_tokenizer(VQTokenizer, config)
    tokens = np.arange(6)[None] % 9
    latents = ours.embed(tokens, (4, 6))
    np.testing.assert_allclose(ours.decode_latents(latents), ours.decode(tokens, (4, 6)), atol=1e-5)


REFUSALS = {
    "those of images of (height, width) (8, 12), not (12, 8)": (
        lambda t: t.encode(np.zeros((1, 12, 8, 3), np.uint8))
    ),
    "multiples of (2, 2), not (9, 12)": lambda t: t.encode(np.zeros((1, 9, 12, 3), np.uint8)),
    "must have shape (B, 39), not (1, 24)": lambda t: t.decode(np.zeros((1, 24), int)),
    "ids lie in [0, 13), found 0 to 13": lambda t: t.decode_scales(np.arange(39)[None] % 14),
    "(B, [frames,] h, w, C), not (4, 6)": lambda t: t.decode_latents(np.zeros((4, 6))),
    "of shape (B, 4, 6, 4); these are (1, 4, 6, 3)": (
        lambda t: t.decode_latents(np.zeros((1, 4, 6, 3)))
    ),
    "must be finite": lambda t: t.decode_latents(np.full((1, 4, 6, 4), np.nan)),
    "(8, 12), not (4, 4)": lambda t: t.decode_latents(np.zeros((1, 2, 2, 4))),
}


@pytest.mark.parametrize("message", REFUSALS)
def test_refusals(small, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        REFUSALS[message](small)
    assert "\n" not in str(caught.value)


def test_published_sizes():
    scales = tuple((side, side) for side in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
    config = MSVQConfig(QuantizerConfig(4096, 32, scales), 160, (1, 1, 2, 2, 4), 2)
    count = sum(int(np.prod(shape)) for shape in MSVQTokenizer.shapes(config).values())
    # As a plain tokenizer with 1x1 maps; here these are 3x3, and there are four mixers of 3x3.
    plain = published_count(160, config.multipliers, 2, 32, 4096, 32)
    assert count == plain - 2 * (32 * 32 + 32) + 6 * (9 * 32 * 32 + 32) == 108_948_355
    assert config.image == (256, 256) and config.quantizer.bounds[-1] == 680


@pytest.mark.parametrize("method", ["encode", "decode", "decode_scales"])
def test_exports_for_accelerators(small, method):
    rows = {"encode": ((2, 8, 12, 3), np.float32)}.get(method, ((2, 39), np.int32))
    params = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), small.params)
    program = small.program(method, small.layout((8, 12)))
    exported = export.export(program, platforms=("tpu", "cuda"))(
        params, jax.ShapeDtypeStruct(*rows)
    )
    shape = {"encode": (2, 39), "decode": (2, 8, 12, 3), "decode_scales": (2, 5, 8, 12, 3)}
    assert exported.out_avals[0].shape == shape[method]
