"""Published systems against their reference cases and against plain NumPy."""

import json
import shutil

import numpy as np
import pytest

from tests import cases, parity, tiny

GOLDENS = sorted((tiny.ROOT / "tests" / "goldens").iterdir())


@pytest.mark.parametrize("folder", GOLDENS, ids=lambda path: path.name)
def test_goldens(folder, capsys):
    passed = parity.main([str(folder)]) == 0
    assert passed, capsys.readouterr().out


@pytest.mark.parametrize(
    "changes",
    [
        {"interval": 3},
        {"n_kv_head": 1, "ffn_dim_multiplier": None, "guidance": 7.5, "block_size": 4},
        {
            "model_type": "t2i",
            "cls_token_num": 7,
            "token_num": 7,
            "caption_dim": 10,
            "dim": 32,
            "n_head": 4,
            "num_classes": 1000,
        },
    ],
    ids=["class", "grouped", "text"],
)
def test_llamagen_is_plain_numpy(changes, tmp_path, capsys):
    folder = cases.llamagen(tmp_path / "case", **changes)
    passed = parity.main([str(folder)]) == 0
    assert passed, capsys.readouterr().out


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "codebook_l2_norm": False,
            "encoder_ch_mult": [2, 1],
            "decoder_ch_mult": [1, 2],
            "num_res_blocks": 2,
            "downsample": None,
        },
    ],
    ids=["unequal", "unnormalised"],
)
def test_llamagen_vq_is_plain_numpy(changes, tmp_path, capsys):
    folder = cases.vq(tmp_path / "case", **changes)
    passed = parity.main([str(folder)]) == 0
    assert passed, capsys.readouterr().out


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return cases.llamagen(tmp_path_factory.mktemp("small") / "case", block_size=4, n_layer=1)


def changed(folder, copy, *, arrays=None, meta=None):
    """A copy of a case with other arrays or another description."""
    shutil.copytree(folder, copy)
    with np.load(folder / "io.npz") as stored:
        kept = dict(stored)
    np.savez(copy / "io.npz", **(arrays(kept) if arrays else kept))
    if meta:
        about = json.loads((copy / "meta.json").read_text())
        meta(about)
        (copy / "meta.json").write_text(json.dumps(about))
    return copy


@pytest.mark.parametrize(
    "names",
    [["sample_guided"], ["logits", "logits_uncond", "nll", "sample_plain", "filter_out"]],
    ids=["one", "several"],
)
def test_every_output_counts(small, tmp_path, names, capsys):
    def spoil(arrays):
        for name in names:
            arrays[name].flat[np.argmax(arrays[name])] += 1
        return arrays

    assert parity.main([str(changed(small, tmp_path / "spoilt", arrays=spoil))]) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in said if line.startswith("      FAIL")] == names


def test_intermediates_decide_nothing(small, tmp_path):
    def add(meta):
        meta["arrays"]["logits"]["role"] = "intermediate"
        meta["arrays"]["unheard_of"] = {"role": "intermediate", "atol": 0.1}

    def spoil(arrays):
        arrays["logits"] = arrays["logits"] + 1
        return arrays | {"unheard_of": np.zeros(3)}

    folder = changed(small, tmp_path / "other", arrays=spoil, meta=add)
    assert parity.main([str(folder)]) == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda meta: [about.update(role="input") for about in meta["arrays"].values()],
        lambda meta: meta["arrays"].update(logits_2=dict(meta["arrays"]["logits"])),
        lambda meta: meta["decode"]["sample_plain"].update(function="another"),
        lambda meta: meta["arrays"]["nll"].pop("atol") and meta["arrays"]["nll"].pop("rtol"),
        lambda meta: meta.update(system="unheard-of"),
        lambda meta: meta["config"].update(vocab_size=38),
        lambda meta: meta.pop("config"),
    ],
    ids=["no-output", "unknown-output", "function", "no-tolerance", "system", "config", "broken"],
)
def test_what_cannot_be_checked_fails(small, tmp_path, spoil):
    def arrays(stored):
        return stored | {"logits_2": stored["logits"]}

    folder = changed(small, tmp_path / "spoilt", arrays=arrays, meta=spoil)
    assert parity.main([str(folder)]) == 1


def test_one_failing_case_fails_all(small, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert parity.main([str(small), str(small)]) == 0
    assert parity.main([str(empty), str(small)]) == 1


def test_outputs_never_reach_the_model(small):
    case = parity.Case(small)
    roles = {name: about["role"] for name, about in case.meta["arrays"].items()}
    assert {roles[name] for name in case.inputs} == {"input"}
    # An output that the reference fed back into itself is computed, not looked up.
    case.expected.clear()
    own = case._argument("nll (own output)")
    assert own.shape == case.inputs["tokens"].shape
    np.testing.assert_array_equal(case._argument("nll[:, -2:], the last two"), own[:, -2:])
    np.testing.assert_array_equal(case._argument("tokens[1]"), case.inputs["tokens"][1])


@pytest.mark.parametrize("text", ["tokens[]", "tokens[:,]", "tokens[len]", "tokens[...]", "other"])
def test_arguments_are_arrays_and_slices_of_them(small, text):
    with pytest.raises(LookupError):
        parity.Case(small)._argument(text)


def test_a_run_that_gives_several_arrays(small, tmp_path):
    def add(meta):
        meta["decode"]["again"] = {"same_run_as": "sample_guided", "cfg_scale": 1.0}
        meta["arrays"]["again"] = meta["arrays"]["sample_plain"]

    def arrays(stored):
        return stored | {"again": stored["sample_plain"]}

    folder = changed(small, tmp_path / "again", arrays=arrays, meta=add)
    assert parity.main([str(folder)]) == 0
