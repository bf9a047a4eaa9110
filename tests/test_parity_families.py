"""NAR and VAR against plain NumPy."""

import numpy as np
import pytest

from gen.models import rope
from tests import cases_nar, cases_var, nar_numpy, parity

TEXT = {
    "model_type": "t2i",
    "cls_token_num": 6,
    "token_num": 6,
    "caption_dim": 10,
    "num_classes": 1000,
    "dim": 32,
    "n_head": 4,
    "block_size": 4,
}
DEEP = {"medusa_attention_num": 2, "multiple_of": 32, "ffn_dim_multiplier": None, "rope_base": 100}


def holds(folder, capsys):
    passed = parity.main([str(folder)]) == 0
    assert passed, capsys.readouterr().out


@pytest.mark.parametrize(
    "changes",
    [{"interval": 3, "guidance": 2.0, "plain": True}, DEEP, TEXT],
    ids=["class", "deep", "text"],
)
def test_nar_is_plain_numpy(changes, tmp_path, capsys):
    holds(cases_nar.image(tmp_path / "case", **changes), capsys)


@pytest.mark.parametrize(
    "changes",
    [{"interval": 4}, {"use_fixed_pe": True, "latent_shape": [2, 3, 2], "guidance": 4.0}],
    ids=["learned", "fixed"],
)
def test_nar_video_is_plain_numpy(changes, tmp_path, capsys):
    holds(cases_nar.video(tmp_path / "case", **changes), capsys)


@pytest.mark.parametrize(
    "changes",
    [
        {"var": {"depth": 1}, "v_patch_nums": [1, 2, 3], "without": ("sample_plain",)},
        {
            "var": {"shared_aln": True, "attn_l2_norm": False, "mlp_ratio": 2.5},
            "share_quant_resi": 1,
            "v_patch_nums": [1, 3, 3],
            "using_znorm": True,
            "without": ("sample_plain", "nll", "smooth", "filter"),
        },
        {
            "var": {"shared_aln": True, "depth": 1},
            "share_quant_resi": 0,
            "quant_resi": -0.4,
            "v_patch_nums": [2, 3],
            "smooth": {"top_k": 9, "top_p": 0.7},
            "cfg": 3.0,
            "without": ("sample", "nll", "fhat", "filter"),
        },
        {
            "var": {"attn_l2_norm": False, "mlp_ratio": 1.5},
            "quant_resi": 0.0,
            "v_patch_nums": [1, 1, 2],
            "without": ("sample_guided", "nll", "smooth", "enc", "filter"),
        },
    ],
    ids=["separate", "shared", "wide-start", "unmixed"],
)
def test_var_is_plain_numpy(changes, tmp_path, capsys):
    holds(cases_var.var(tmp_path / "case", **changes), capsys)


def test_fixed_positions():
    np.testing.assert_allclose(rope.sinusoids(25, 36), nar_numpy.fixed_positions(25, 36), atol=1e-6)
