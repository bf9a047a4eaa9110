"""Published checkpoints: nesting, sizes, and problems."""

import numpy as np
import pytest
from safetensors.numpy import save_file

import gen
from gen import config as configs
from gen import published
from gen.errors import UserError
from gen.published.llamagen import LlamaGen, ModelArgs, model_config
from tests import cases, llamagen_numpy, tiny

SETTINGS = {"n_head": 3, "block_size": 9, "rope_base": 500.0}
CONFIG = cases.llamagen_config()
TOKENS = np.arange(18).reshape(2, 9)


@pytest.fixture(scope="module")
def weights():
    return llamagen_numpy.weights(CONFIG, seed=0)


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "c2i.safetensors"
    save_file(weights, path)
    return path


@pytest.fixture(scope="module")
def wanted(file):
    return gen.from_published("llamagen", file, CONFIG).logits(TOKENS, labels=[1, 2])


def refusal(*arguments, **keywords):
    with pytest.raises(UserError) as caught:
        gen.from_published(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def saved(path, tensors):
    save_file(tensors, path)
    return path


def test_sizes_are_inferred(file, wanted):
    model = gen.from_published("llamagen", file, SETTINGS)
    np.testing.assert_array_equal(model.logits(TOKENS, labels=[1, 2]), wanted)
    assert model.published["sha256"] == published.open_weights(file).sha256()
    assert model.published["settings"]["n_layer"] == 3


@pytest.mark.parametrize("prefix", ["model.", "module.", "state_dict.", "deep.down.inside."])
def test_nesting_is_found(weights, wanted, prefix, tmp_path):
    nested = {prefix + name: array for name, array in weights.items()}
    nested["optimizer.state.0.exp_avg"] = np.zeros(3, np.float32)
    path = saved(tmp_path / "nested.safetensors", nested)
    model = gen.from_published("llamagen", path, SETTINGS)
    np.testing.assert_array_equal(model.logits(TOKENS, labels=[1, 2]), wanted)


def test_one_of_several_models_is_chosen(weights, wanted, tmp_path):
    both = {f"ema.{name}": array for name, array in weights.items()}
    both |= {f"model.{name}": 2 * array for name, array in weights.items()}
    path = saved(tmp_path / "both.safetensors", both)
    model = gen.from_published("llamagen", path, SETTINGS, key="ema")
    np.testing.assert_array_equal(model.logits(TOKENS, labels=[1, 2]), wanted)
    plain = gen.from_published("llamagen", path, SETTINGS)
    assert not np.array_equal(
        plain.params["tokens"]["embedding"], both["ema.tok_embeddings.weight"]
    )
    assert '"ema", "model"' in refusal("llamagen", path, SETTINGS, key="emma")


def test_a_checkpoint_in_several_files(weights, wanted, tmp_path):
    names = list(weights)
    halves = [names[:5], names[5:]]
    paths = [
        saved(tmp_path / f"{i}.safetensors", {name: weights[name] for name in half})
        for i, half in enumerate(halves)
    ]
    model = gen.from_published("llamagen", {"model": paths}, SETTINGS)
    np.testing.assert_array_equal(model.logits(TOKENS, labels=[1, 2]), wanted)
    assert "both hold" in refusal("llamagen", [paths[0], paths[0]], SETTINGS)


def test_half_precision_and_caches(weights, tmp_path):
    halves = {name: array.astype(np.float16) for name, array in weights.items()}
    halves["layers.0.attention.kv_cache.k_cache"] = np.zeros((2, 3), np.float16)
    path = saved(tmp_path / "half.safetensors", halves)
    model = gen.from_published("llamagen", path, SETTINGS)
    found = model.params["tokens"]["embedding"]
    np.testing.assert_array_equal(found, halves["tok_embeddings.weight"].astype(np.float32))


def test_all_problems_at_once(weights, tmp_path):
    spoilt = dict(weights)
    del spoilt["layers.1.attention.wo.weight"]
    spoilt["layers.7.surprise"] = np.zeros(2, np.float32)
    spoilt["norm.weight"] = np.zeros(5, np.float32)
    spoilt["output.weight"] = np.zeros(CONFIG["vocab_size"] * 48, np.float32)
    spoilt["layers.0.ffn_norm.weight"] = np.zeros(48, np.int32)
    text = refusal("llamagen", saved(tmp_path / "x.safetensors", spoilt), SETTINGS)
    for part in (
        "1 missing: layers.1.attention.wo.weight",
        "1 unknown: layers.7.surprise",
        "3 of the wrong shape or type",
        "norm.weight (5,)",
        "output.weight (1776,)",
        "layers.0.ffn_norm.weight (dtype int32)",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "the weights do not tell block_size (tokens per image: 256 for 16x16, 576 for"),
        ({"block_size": 9}, "the weights do not tell n_head (attention heads)"),
        (SETTINGS | {"n_haed": 3}, 'no field "n_haed"; did you mean "n_head"?'),
        (SETTINGS | {"n_head": 5}, "width 48 is not divisible by 5 heads"),
        (SETTINGS | {"block_size": 10}, "block_size 10 is no square"),
        (SETTINGS | {"vocab_size": 38}, "tok_embeddings.weight (37, 48)"),
        (SETTINGS | {"n_layer": 4}, "missing: layers.3.attention.wqkv.weight"),
        (SETTINGS | {"multiple_of": 256}, "layers.0.feed_forward.w1.weight (180, 48)"),
        (SETTINGS | {"n_kv_head": 1}, "layers.0.attention.wqkv.weight (144, 48)"),
        (SETTINGS | {"attn_dropout_p": 0.5}, "attn_dropout_p must be 0"),
        (SETTINGS | {"rope_base": "much"}, "rope_base must be float"),
    ],
)
def test_settings_that_do_not_fit(file, settings, text):
    assert text in refusal("llamagen", file, settings)


def test_other_mistakes(file, weights, tmp_path):
    assert 'did you mean "llamagen' in refusal("llamagan", file)
    assert "no tensor named quantize.embedding.weight" in refusal("llamagen-vq", file)
    assert "has the parts model; given: vae" in refusal("llamagen", {"vae": file})
    spoilt = weights | {"norm.weight": np.full(48, np.nan, np.float32)}
    path = saved(tmp_path / "nan.safetensors", spoilt)
    assert "norm.weight holds values that are no numbers" in refusal("llamagen", path, SETTINGS)


@pytest.mark.parametrize("name", ["b", "l", "xl", "xxl", "3b", "t2i_xl"])
def test_published_sizes_are_known(name):
    """Shapes of the real checkpoints give the configs that we ship, without any setting."""
    ours = configs.load(str(tiny.ROOT / "configs" / f"llamagen_{name}.py")).model
    backbone, text = ours.backbone, ours.condition.kind == "text"
    shapes = {
        "tok_embeddings.weight": (ours.vocab_size, backbone.width),
        "layers.0.feed_forward.w1.weight": (backbone.hidden_width, backbone.width),
        **{f"layers.{i}.attention_norm.weight": (backbone.width,) for i in range(backbone.depth)},
    }
    if text:
        shapes["cls_embedding.uncond_embedding"] = (120, 2048)
    else:
        shapes["cls_embedding.embedding_table.weight"] = (1001, backbone.width)
    stored = {"args.image_size": 16 * ours.grid[0], "args.downsample_size": 16}
    found = LlamaGen().infer({"model": shapes}, stored)
    known = {field: value for field, value in found.items() if value is not None}
    assert configs.dataclasses.replace(
        model_config(ModelArgs(**known)), backbone=backbone
    ) == configs.dataclasses.replace(ours, backbone=backbone)
    made = model_config(ModelArgs(**known)).backbone
    assert (made.heads, made.hidden_width) == (backbone.heads, backbone.hidden_width)
