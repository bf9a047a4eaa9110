"""MaskGIT's tokenizer and the KL autoencoder against plain NumPy."""

import pytest

from tests import cases_vae, parity


def holds(folder, capsys):
    passed = parity.main([str(folder)]) == 0
    assert passed, capsys.readouterr().out


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "nest": "model.",
            "embed_dim": 4,
            "z_channels": 4,
            "ch_mult": [2, 1],
            "num_res_blocks": 2,
            "attn_resolutions": [128],
            "decoder_attn_resolutions": [128],
            "resolution": 256,
            "scale": 0.5,
            "groupnorm_groups": 8,
            "groupnorm_eps": 1e-2,
            "downsample": 2,
            "size": (12, 6),
        },
    ],
    ids=["two attend", "latent diffusion"],
)
def test_kl_is_plain_numpy(changes, tmp_path, capsys):
    holds(cases_vae.kl(tmp_path / "case", **changes), capsys)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "channel_mult": [2, 1],
            "num_resolutions": 2,
            "num_res_blocks": 1,
            "downsample": 2,
            "groupnorm_groups": 8,
            "groupnorm_eps": 1e-2,
            "size": (10, 6),
        },
    ],
    ids=["two blocks", "one block"],
)
def test_maskgit_is_plain_numpy(changes, tmp_path, capsys):
    holds(cases_vae.maskgit(tmp_path / "case", **changes), capsys)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_res_blocks": 2, "channel_multipliers": [3, 1], "num_groups": 8, "size": (6, 2)},
    ],
    ids=["one block", "two blocks"],
)
def test_the_original_maskgit_is_plain_numpy(changes, tmp_path, capsys):
    holds(cases_vae.maskgit_jax(tmp_path / "case", **changes), capsys)
