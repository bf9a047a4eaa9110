"""TiTok's and MAGVIT's tokenizers against plain NumPy."""

import pytest

from tests import cases_tokenizers, parity
from tests.cases_tokenizers import PIXEL_DECODER


def holds(folder, capsys):
    passed = parity.main([str(folder)]) == 0
    assert passed, capsys.readouterr().out


@pytest.mark.parametrize(
    "changes",
    [
        {"pixel_decoder": PIXEL_DECODER},
        {"use_l2_norm": False, "vit_enc_patch_size": 4, "vit_dec_patch_size": 8},
        {
            "pixel_decoder": PIXEL_DECODER
            | {"channel_mult": [2, 1], "num_resolutions": 2, "groupnorm_groups": 8},
            "use_l2_norm": False,
            "vit_enc_model_size": "large",
            "vit_dec_model_size": "small",
            "vit_dec_patch_size": 2,
            "num_latent_tokens": 20,  # as many as channels
        },
        {"num_latent_tokens": 1, "token_size": 16, "vit_dec_model_size": "small"},
    ],
    ids=["legacy", "own pixels", "legacy of two levels", "one token"],
)
def test_titok_is_plain_numpy(changes, tmp_path, capsys):
    holds(cases_tokenizers.titok(tmp_path / "case", **changes), capsys)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "channel_multipliers": [2, 1, 1],
            "temporal_downsample": 1,
            "num_enc_res_blocks": 2,
            "num_dec_res_blocks": 1,
            "conv_downsample": True,
            "upsample": "deconv",
            "latent_normalize": True,
            "nest": "ema_params/",
        },
        {
            "channel_multipliers": [1, 2],
            "temporal_downsample": [True, True, False],
            "conv_downsample": True,
            "custom_conv_padding": "reflect",
            "activation_fn": "relu",
            "size": (6, 6, 2),
        },
        {
            "channel_multipliers": [2, 3],
            "temporal_downsample": [False],
            "custom_conv_padding": "symmetric_odd",
            "norm_type": "LN",
            "size": (1, 4, 6),
        },
        {"channel_multipliers": [1], "temporal_downsample": 0, "size": (3, 2, 5)},
    ],
    ids=["means", "learned", "reflected", "layer norms", "one level"],
)
def test_magvit_is_plain_numpy(changes, tmp_path, capsys):
    holds(cases_tokenizers.magvit(tmp_path / "case", **changes), capsys)
