"""Published files of TiTok's and MAGVIT's tokenizers: what they tell, and what does not fit."""

import json
import math
import re

import jax
import numpy as np
import pytest
from flax import serialization, traverse_util
from safetensors.numpy import load_file, save_file

from gen import convert, from_published, tokenizers
from gen.errors import UserError
from gen.models.vit import ViTConfig
from gen.published.titok_settings import SIZES
from gen.published.titok_tokenizer import TiTokVQ, titok_config
from gen.schema import build
from gen.tokenizers import MAGVITConfig, ProxyConfig, TiTokConfig, TiTokTokenizer
from tests import cases_tokenizers, magvit_numpy, titok_numpy
from tests.cases_tokenizers import PIXEL_DECODER

LEGACY = cases_tokenizers.titok_config(pixel_decoder=PIXEL_DECODER)
OWN = cases_tokenizers.titok_config(vit_dec_model_size="small", vit_dec_patch_size=8)
TABLE = {"size_table": LEGACY["size_table"]}
MAGVIT = cases_tokenizers.magvit_config(num_dec_res_blocks=1, channel_multipliers=[2, 1, 1])
LEARNED = cases_tokenizers.magvit_config(
    channel_multipliers=[1, 1], conv_downsample=True, upsample="deconv", norm_type="LN"
)
# What weights cannot tell.
GIVEN = {
    "legacy": {
        "model": {"vq_model": {"use_l2_norm": True}},
        "pixel_decoder": {"groupnorm_groups": 4},
        **TABLE,
    },
    "own": {"model": {"vq_model": {"use_l2_norm": False}}, **TABLE},
    "magvit": {"groupnorm_groups": 4},
    "learned": {"vqvae": {"temporal_downsample": [True]}},
}
SYSTEM = {
    **dict.fromkeys(("legacy", "own"), "titok-tokenizer"),
    **dict.fromkeys(("magvit", "learned"), "magvit-3dvq"),
}
SMALL, LARGE = ViTConfig(24, 2, 3, 96), ViTConfig(20, 3, 2, 80)
INFERRED = {
    "legacy": TiTokConfig(
        *(50, 5, 7, 16, 8, 4, SMALL, LARGE, True),
        proxy=ProxyConfig(30, 6, 8, (1, 3, 2), 2, norm_groups=4),
    ),
    "own": TiTokConfig(50, 5, 7, 16, 8, 8, SMALL, SMALL, False),
    "magvit": MAGVITConfig(40, 5, 8, (2, 1, 1), (True, True), 1, 1, norm_groups=4),
    "learned": MAGVITConfig(
        *(40, 5, 8, (1, 1), (True,), 1, 2), strided=True, transposed=True, layer_norm=True
    ),
}


def magvit_weights(config):
    made = magvit_numpy.Video(cases_tokenizers.magvit_settings(config), 0)
    made.decode(made.nearest(made.latents(np.zeros((1, 4, 4, 4, 3))))[0])
    return made.tensors


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    made = {
        "legacy": titok_numpy.weights(LEGACY, 0) | {"quantize.embed_prob": np.zeros(50, "f4")},
        "own": titok_numpy.weights(OWN, 0),
        "magvit": magvit_weights(MAGVIT),
        "learned": magvit_weights(LEARNED),
    }
    paths = {name: folder / f"{name}.safetensors" for name in made}
    for name, tensors in made.items():
        save_file(tensors, paths[name])
    return paths


@pytest.mark.parametrize("name", GIVEN)
def test_sizes_are_inferred(files, name, tmp_path):
    made = from_published(SYSTEM[name], files[name], GIVEN[name])
    assert made.config == INFERRED[name]
    # As published beside the weights, with what is of no concern here.
    settings = tmp_path / "config.json"
    training = {"experiment": {"name": "x"}, "training": {"seed": 1}, "losses": {"a": {"b": 1}}}
    settings.write_text(json.dumps(GIVEN[name] | (training if "model" in GIVEN[name] else {})))
    out = tmp_path / "t.safetensors"
    convert.main([SYSTEM[name], str(files[name]), str(out), "--settings", str(settings)])
    loaded = tokenizers.load(out)
    assert type(loaded) is type(made) and loaded.config == made.config
    assert loaded.meta["id"] == SYSTEM[name] and len(loaded.meta["sha256"]) == 64


STATE = {
    "global_step": 7,
    "metadata": {"lecam_ema_real": None, "note": "x"},
    "rng": np.zeros(2, np.uint32),
    "d_params": {"Conv_0": {"kernel": np.zeros(3, np.float32)}},
}


@pytest.mark.parametrize(
    ("nests", "key", "chosen"),
    [
        (["g_opt_state/0/mu", "g_params", "ema_params"], None, "ema_params"),
        (["g_opt_state/0/mu", "g_params", "ema_params"], "g_params", "g_params"),
        (["g_opt_state/0/mu", "g_params"], None, "g_params"),
        (["g_optimizer/target", "g_optimizer/state/mu"], None, "g_optimizer/target"),
    ],
)
def test_a_train_state_of_flax(files, nests, key, chosen, tmp_path, capsys):
    tensors, flat = load_file(files["magvit"]), {}
    for place, nest in enumerate(nests, 1):
        flat |= {f"{nest}/{path}": array * place for path, array in tensors.items()}
    path = tmp_path / "checkpoint_7"
    path.write_bytes(serialization.to_bytes(STATE | traverse_util.unflatten_dict(flat, sep="/")))
    found = from_published("magvit-3dvq", path, GIVEN["magvit"], key=key)
    wanted = from_published("magvit-3dvq", files["magvit"], GIVEN["magvit"])
    times = 1 + nests.index(chosen)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b * times), found.params, wanted.params
    )
    if key is None:
        assert f'taking "{chosen}"' in capsys.readouterr().err


def test_a_key_that_is_not_there(files, tmp_path):
    with pytest.raises(
        UserError, match='no model under "ema"; quantizer/codebook is found under ""'
    ):
        from_published("magvit-3dvq", files["magvit"], GIVEN["magvit"], key="ema")


def vq_model(**changes):
    return {"model": {"vq_model": changes}}


REFUSED = {
    "do not tell model.vq_model.use_l2_norm (whether codes have length 1: true for L-32": (
        "legacy",
        vq_model(use_l2_norm=None),
    ),
    "do not tell model.vq_model.vit_enc_model_size (its width and depth are those of no row": (
        "own",
        {"size_table": None},
    ),
    'model.vq_model.quantize_mode "vae" is not supported': ("own", vq_model(quantize_mode="vae")),
    'vit_dec_model_size "huge" is not one of small, base, large': (
        "own",
        vq_model(vit_dec_model_size="huge"),
    ),
    "is_legacy True with finetune_decoder False": ("legacy", vq_model(finetune_decoder=False)),
    "35 of the wrong shape or type: latent_tokens (7, 24) (for encoder/queries": (
        "own",
        vq_model(vit_enc_model_size="base"),
    ),
    "z_channels 7 against 6": ("legacy", {"pixel_decoder": {"z_channels": 7}}),
    "num_resolutions 5 against 3": ("legacy", {"pixel_decoder": {"num_resolutions": 5}}),
    "pixel_decoder.num_channels must be 3": ("legacy", {"pixel_decoder": {"num_channels": 1}}),
    "pixel_range_native must be (0.0, 1.0)": ("own", {"pixel_range_native": [-1, 1]}),
    "norms.type must be LayerNorm": ("own", {"norms": {"type": "RMSNorm"}}),
    "images of 20 pixels have no patches of 8": (
        "own",
        {"dataset": {"preprocessing": {"crop_size": 20}}},
    ),
    'did you mean "crop_size"': ("own", {"dataset": {"preprocessing": {"crop_siz": 16}}}),
    "width 24 is not divisible by 5 heads": (
        "own",
        {"size_table": {"small": {"width": 24, "layers": 2, "heads": 5}}},
    ),
    "do not tell vqvae.temporal_downsample (for each step between levels": (
        "learned",
        {"vqvae": {"temporal_downsample": None}},
    ),
    "temporal_downsample (True,) does not fit 2 steps": (
        "magvit",
        {"vqvae": {"temporal_downsample": [True]}},
    ),
    "temporal_downsample 3 does not fit 2 steps": ("magvit", {"vqvae": {"temporal_downsample": 3}}),
    "vqvae.architecture 2plus1dcnn is not supported: 3dcnn": (
        "magvit",
        {"vqvae": {"architecture": "2plus1dcnn"}},
    ),
    "vqvae.upsample depth_to_space is not supported": (
        "magvit",
        {"vqvae": {"upsample": "depth_to_space"}},
    ),
    "vqvae.custom_conv_padding zeros is not supported": (
        "magvit",
        {"vqvae": {"custom_conv_padding": "zeros"}},
    ),
    "defined for padding constant alone": ("learned", {"vqvae": {"custom_conv_padding": "edge"}}),
    "layout must be BTHWC": ("magvit", {"layout": "BCTHW"}),
    "encoder/Conv_1/kernel (1, 1, 1, 8, 5)": ("magvit", {"vqvae": {"conv_downsample": True}}),
    "missing: decoder/ConvTranspose_0/kernel": ("magvit", {"vqvae": {"upsample": "deconv"}}),
    "width 16 is not divisible by 32": ("magvit", {"groupnorm_groups": 32}),
}


def merged(below, above):
    """Nested settings with others over them."""
    both = {
        name: merged(below[name], above[name])
        for name in below.keys() & above.keys()
        if isinstance(below[name], dict) and isinstance(above[name], dict)
    }
    return below | above | both


@pytest.mark.parametrize("message", REFUSED)
def test_settings_that_do_not_fit(files, message):
    name, settings = REFUSED[message]
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        from_published(SYSTEM[name], files[name], merged(GIVEN[name], settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", GIVEN)
def test_files_that_do_not_fit(files, name, tmp_path):
    weights = load_file(files[name])
    system, path = SYSTEM[name], tmp_path / "part.safetensors"
    left_out = max(each for each in weights if "ln_2" in each or "Norm_1" in each)
    odd = "quantize.embedding.weight" if "titok" in system else "quantizer/codebook"
    spoilt = weights | {"extra": np.zeros(3, np.float32), odd: np.zeros((9, 9, 9), np.float32)}
    del spoilt[left_out]
    save_file(spoilt, path)
    with pytest.raises(UserError) as caught:
        from_published(system, path, GIVEN[name])
    text = str(caught.value)
    for part in (f"1 missing: {left_out}", "1 unknown: extra", f"{odd} (9, 9, 9)"):
        assert part in text
    other = "magvit" if "titok" in system else "own"
    with pytest.raises(UserError, match="no tensor named"):
        from_published(system, files[other], GIVEN[name])


def test_continuous_tokens_are_refused(files, tmp_path):
    weights = load_file(files["own"])
    del weights["quantize.embedding.weight"]
    save_file(weights, tmp_path / "vae.safetensors")
    with pytest.raises(UserError, match='quantize_mode "vae" is not supported'):
        from_published("titok-tokenizer", tmp_path / "vae.safetensors", GIVEN["own"])


def test_stage_one_makes_no_pixels(files, tmp_path):
    weights = {n: a for n, a in load_file(files["legacy"]).items() if not n.startswith("pixel_")}
    save_file(weights, tmp_path / "stage1.safetensors")
    with pytest.raises(UserError, match="models of the first stage make no pixels"):
        from_published("titok-tokenizer", tmp_path / "stage1.safetensors", GIVEN["legacy"])


PUBLISHED = {  # encoder, decoder, tokens, whether legacy, parameters in millions (TiTok, table 2)
    "L-32": ("large", "large", 32, True, 641),
    "B-64": ("base", "base", 64, True, 205),
    "S-128": ("small", "small", 128, True, 84),
    "SL-256": ("small", "large", 256, False, None),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_known(name):
    """Shapes of the real checkpoints give the tokenizer without a setting but one."""
    encoder, decoder, count, legacy, millions = PUBLISHED[name]
    shapes = {
        "latent_tokens": (count, SIZES[encoder][0]),
        "quantize.embedding.weight": (4096, 12) if legacy else (8192, 64),
        "encoder.patch_embed.weight": (SIZES[encoder][0], 3, 16, 16),
    }
    for stack, row in (("encoder", encoder), ("decoder", decoder)):
        width, depth, _ = SIZES[row]
        shapes[f"{stack}.class_embedding"] = (1, width)
        shapes[f"{stack}.positional_embedding"] = (257, width)
        shapes |= {f"{stack}.transformer.{i}.ln_1.weight": (width,) for i in range(depth)}
    if legacy:
        shapes |= {"decoder.ffn.2.weight": (1024, 1, 1, 1)}
        shapes["pixel_quantize.embedding.weight"] = (1024, 256)
        for level, width in enumerate((128, 128, 256, 256, 512)):
            for block in range(2):
                name = f"pixel_decoder.up.{level}.block.{block}.conv1.weight"
                shapes[name] = (width, width, 3, 3)
    found = TiTokVQ().infer({"model": shapes}, {})
    found["model"]["vq_model"]["use_l2_norm"] = legacy
    config = titok_config(build(TiTokVQ.Settings, found, "settings"))
    assert config.encoder.heads == config.encoder.width // 64
    assert config.image == (256, 256) and config.decoder_patch == 16
    total = sum(math.prod(shape) for shape in TiTokTokenizer.shapes(config).values())
    assert millions is None or round(total / 1e6) == millions
