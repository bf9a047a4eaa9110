"""FlowAR against plain NumPy, what its files tell, and what does not fit."""

import pytest
from safetensors.numpy import save_file

import gen
from gen.errors import UserError
from tests import cases_flowar, flowar_numpy, parity


@pytest.mark.parametrize(
    "changes",
    [
        {"cross": True, "diffloss_d": 2, "samplers": [(3.5, 0.7, 8)]},
        {
            "scale": [1, 3, 4],
            "encoder_depth": 2,
            "encoder_num_heads": 3,
            "decoder_num_heads": 1,
            "vae_embed_dim": 2,
            "samplers": [(0.5, 0.9, 25)],
        },
        {
            "encoder_embed_dim": 32,
            "decoder_embed_dim": 32,
            "mlp_ratio": 2.5,
            "diffloss_w": 128,
            "decoder_depth": 2,
            "cross": True,
            "samplers": [(2.0, 0.9, 50)],
        },
    ],
    ids=["cross", "other heads", "cross, wide"],
)
def test_flowar_is_plain_numpy(changes, tmp_path, capsys):
    folder = cases_flowar.flowar(tmp_path / "case", **changes)
    passed = parity.main([str(folder)]) == 0
    assert passed, capsys.readouterr().out


CONFIG = cases_flowar.flowar_config(
    encoder_num_heads=3, decoder_depth=2, mlp_ratio=2.5, diffloss_w=128, cross=True
)


@pytest.fixture(scope="module")
def weights():
    return flowar_numpy.weights(CONFIG, 0)


def file_of(folder, weights):
    save_file(weights, folder / "flowar.safetensors")
    return folder / "flowar.safetensors"


def test_sizes_are_known(weights, tmp_path):
    model = gen.from_published("flowar", file_of(tmp_path, weights), {"scale": [1, 2, 3]})
    told = model.published["settings"]
    same = ("depth", "embed_dim", "num_heads")
    names = [f"{stack}_{name}" for stack in ("encoder", "decoder") for name in same]
    for name in (*names, "vae_embed_dim", "diffloss_d", "diffloss_w", "cross"):
        assert told[name] == CONFIG[name], name
    inner = flowar_numpy.hidden(24, 2.5)
    assert model.config.model.encoder.hidden_width == inner
    assert model.config.model.head.heads == 2


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "the weights do not tell scale (sides of the scales)"),
        ({"scale": [1, 2, 3], "img_size": 256}, "img_size 256 over vae_stride 16"),
        ({"scale": [1, 2, 3], "patch_size": 2}, "patch_size must be 1"),
        ({"scale": [1, 2, 3], "buffer_size": 64}, "buffer_size must be 0"),
        ({"scale": [1, 2, 4]}, "encoder_pos_embed_learned (1, 14, 24)"),
        ({"scale": [2, 3]}, "the first scale is (1, 1)"),
        ({"scale": [1, 2, 3], "cross": False}, "flownet.res_blocks.0.ada_lin.weight"),
        ({"scale": [1, 2, 3], "decoder_embed_dim": 48}, "one width"),
    ],
)
def test_settings_that_do_not_fit(weights, settings, text, tmp_path):
    with pytest.raises(UserError) as caught:
        gen.from_published("flowar", file_of(tmp_path, weights), settings)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_heads_without_their_wavelengths(weights, tmp_path):
    bare = {name: array for name, array in weights.items() if not name.endswith("rope.freqs")}
    with pytest.raises(UserError, match=r"encoder_num_heads .*, decoder_num_heads"):
        gen.from_published("flowar", file_of(tmp_path, bare), {"scale": [1, 2, 3]})
    heads = {"encoder_num_heads": 3, "decoder_num_heads": 2}
    model = gen.from_published("flowar", file_of(tmp_path, bare), {"scale": [1, 2, 3], **heads})
    assert model.config.model.decoder.heads == 2
