"""Published files of NAR and VAR: what they tell, what does not fit, and the shipped recipes."""

import numpy as np
import pytest
from flax import nnx, traverse_util
from safetensors.numpy import save_file

import gen
from gen import config as configs
from gen.errors import UserError
from gen.families.base import abstract_model
from gen.published.nar import Nar
from gen.published.nar_video import NarVideo
from gen.training.optimizer import decay_mask
from tests import cases_nar, cases_var, nar_numpy, tiny, var_numpy

DEEP = {"medusa_attention_num": 2, "multiple_of": 32, "ffn_dim_multiplier": None}


def saved(path, tensors):
    save_file(tensors, path)
    return path


def refusal(*arguments):
    with pytest.raises(UserError) as caught:
        gen.from_published(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def nar_file(tmp_path_factory):
    weights = nar_numpy.weights(cases_nar.image_config(**DEEP), 0)
    return saved(tmp_path_factory.mktemp("nar") / "nar.safetensors", weights)


@pytest.mark.parametrize(
    ("settings", "taps"),
    [
        ({}, (3, 4)),
        ({"medusa_attention_num": None}, (3, 4)),
        ({"medusa_attention_num": 2}, (2, 4)),
        ({"n_layer": 2}, (2, 4)),
        ({"n_layer": 3, "medusa_attention_num": 1}, (3, 4)),
    ],
)
def test_blocks_between_the_heads_of_nar(nar_file, settings, taps):
    model = gen.from_published("nar", nar_file, {"n_head": 3, "block_size": 9} | settings)
    assert model.config.model.taps == taps
    assert model.published["settings"]["n_layer"] == taps[0]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"medusa_attention_num": "2"}, "medusa_attention_num must be int"),
        ({"medusa_attention_num": 9}, "leaves no block before the first of 2 heads"),
        ({"medusa_attention_num": 0}, "0 blocks apart"),
        ({"n_layer": 3, "medusa_attention_num": 2}, "layers.4.attention.wqkv.weight"),
    ],
)
def test_blocks_that_do_not_fit(nar_file, settings, text):
    assert text in refusal("nar", nar_file, {"n_head": 3, "block_size": 9} | settings)


def test_settings_of_nar_video(tmp_path):
    weights = nar_numpy.weights(cases_nar.video_config(use_fixed_pe=True), 0)
    file = saved(tmp_path / "video.safetensors", weights)
    model = gen.from_published("nar-video", file, {"n_head": 3, "latent_shape": [3, 2, 4]})
    assert model.config.model.positions == "learned"
    shapes = {"model": {name: array.shape for name, array in weights.items()}}
    assert NarVideo().infer(shapes, {"model.args.use_fixed_pe": True})["use_fixed_pe"]
    for settings, text in (
        ({"n_head": 3}, "latent_shape (4, 16, 16) has 1024 tokens, the position table 24"),
        ({"latent_shape": [3, 2, 4]}, "the weights do not tell n_head"),
        ({"attn_num_back": 2}, "attn_num_back must be 1"),
        ({"attn_dropout_p": 0.1}, "attn_dropout_p must be 0"),
    ):
        assert text in refusal("nar-video", file, settings)


def test_sizes_of_nar_are_known():
    for name, depth in (("b", 12), ("m", 18), ("l", 24), ("xl", 36), ("xxl", 48)):
        ours = configs.load(str(tiny.ROOT / "configs" / f"nar_{name}.py")).model.backbone
        shapes = {f"layers.{i}.attention_norm.weight": (ours.width,) for i in range(depth + 1)}
        shapes["tok_embeddings.weight"] = (16384, ours.width)
        found = Nar().infer({"model": shapes}, {})
        assert (found["n_layer"], found["n_head"]) == (depth, ours.heads)


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("var_d16", {"condition/table/embedding"}),
        ("var_d36", {"condition/table/embedding"}),
        ("nar_b", {"condition/table/embedding", "tokens/embedding"}),
        ("nar_video_s", set()),
    ],
)
def test_what_decays(name, others):
    """Linear maps and what else the published recipe decays, of all that is trained."""
    config = configs.load(f"{tiny.ROOT}/configs/{name}.py:debug")
    model = abstract_model(configs.FAMILIES[config.family](config.model))
    trained = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    mask = traverse_util.flatten_dict(decay_mask(trained, config.optim.no_decay), sep="/")
    decayed = {path for path, is_decayed in mask.items() if is_decayed}
    assert decayed == {path for path in mask if path.endswith("kernel")} | others


VAR = cases_var.var_config({"depth": 1})
SIDES = {"patch_nums": [1, 2, 3, 4]}
REST = (
    "encoder.conv_in.weight",
    "decoder.conv_out.bias",
    "quant_conv.bias",
    "post_quant_conv.bias",
)


@pytest.fixture(scope="module")
def var_weights():
    """Tensors of the transformer, and of the whole VQVAE."""
    everything = var_numpy.weights(VAR, 0)
    vae = {name: everything.pop(name) for name in list(everything) if name.startswith("vae.")}
    vae = {name.removeprefix("vae."): array for name, array in vae.items()}
    return everything, vae | {name: np.zeros(3, np.float32) for name in REST}


@pytest.fixture(scope="module")
def var_files(var_weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("var")
    pairs = zip(("model", "vae"), var_weights, strict=True)
    return {part: saved(folder / f"{part}.safetensors", tensors) for part, tensors in pairs}


def same_params(one, other):
    flat = [traverse_util.flatten_dict(model.params, sep="/") for model in (one, other)]
    assert flat[0].keys() == flat[1].keys()
    return all(np.array_equal(flat[0][path], flat[1][path]) for path in flat[0])


@pytest.mark.parametrize(
    "settings",
    [
        VAR,
        {"var": SIDES},
        {"vae": {"v_patch_nums": [1, 2, 3, 4]}},
        {"var": SIDES | {"cond_drop_rate": 0.0}, "vae": {"quant_resi": 0.5}},
        {"var": None, "vae": {"v_patch_nums": [1, 2, 3, 4]}},
    ],
)
def test_what_the_files_of_var_tell(var_files, var_weights, settings, tmp_path):
    # Heads of 64 channels are a guess that the sharpness of each head makes unneeded.
    model = gen.from_published("var", var_files, settings)
    assert model.config.model.backbone.heads == 3 and model.family.condition.has_null
    nests = "trainer.var_wo_ddp.", "trainer.vae_local."
    nested = {"trainer.var_opt.state.0.exp_avg": np.zeros(2, np.float32)}
    for nest, tensors in zip(nests, var_weights, strict=True):
        nested |= {nest + name: array for name, array in tensors.items()}
    resumed = gen.from_published("var", saved(tmp_path / "c.safetensors", nested), settings)
    assert same_params(model, resumed)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "the weights do not tell patch_nums (sides of the scales"),
        ({"var": SIDES, "vae": {"v_patch_nums": [1, 2]}}, "against v_patch_nums (1, 2)"),
        ({"var": {"patch_num": [1]}}, 'no field "patch_num"; did you mean "patch_nums"?'),
        ({"var": {"patch_nums": [1, 2, 3]}}, "lvl_embed.weight (4, 36)"),
        ({"var": SIDES | {"shared_aln": True}}, "missing: shared_ada_lin.1.weight"),
        ({"var": SIDES, "vae": {"quant_resi": 0.0}}, "8 unknown: quantize.quant_resi.qresi_ls.0"),
        ({"var": SIDES | {"attn_drop_rate": 0.1}}, "attn_drop_rate must be 0"),
    ],
)
def test_settings_of_var_that_do_not_fit(var_files, settings, text):
    assert text in refusal("var", var_files, settings)


def test_var_needs_its_quantiser(var_files):
    assert "part vae is not given" in refusal("var", var_files["model"], {"var": SIDES})
