"""`python -m gen.bench --tokenizer FILE`: a tokenizer alone."""

import json

import jax
import numpy as np
import pytest

from gen import tokenizers
from gen.bench import __main__ as bench
from gen.bench import coding
from gen.bench.rates import Rates
from gen.models.residual_quantizer import QuantizerConfig

VQ = tokenizers.VQConfig(
    codebook_size=6, codebook_dim=2, width=4, encoder_multipliers=(1, 2),
    decoder_multipliers=(1, 2), blocks_per_level=1, z_channels=4, normalise_codes=True,
    norm_groups=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "vq.safetensors"
    tokenizers.save(tokenizers.VQTokenizer.fresh(VQ), path)
    return path


def run(saved, *arguments):
    bench.main(["--tokenizer", str(saved), "--size", "8,12", "--rounds", "2", *arguments])


def test_both_directions_by_the_command(saved, tmp_path, capsys):
    (tmp_path / "other.py").write_text("def slow():\n    pass\n")
    run(saved, "--batch", "1,3", "--out", str(tmp_path / "figures.json"))
    found = json.loads((tmp_path / "figures.json").read_text())
    names = [(record["direction"], record["batch"]) for record in found["coding"]]
    assert names == [("encode", 1), ("encode", 3), ("decode", 1), ("decode", 3)]
    one, three = found["coding"][2:]
    assert three["flops"] == pytest.approx(3 * one["flops"])
    for record in found["coding"]:
        assert len(record["seconds"]) == 2 and 0 < record["share_of_bound"] < 1
        assert record["samples_per_s"] == pytest.approx(record["batch"] / record["p50_s"])
    text = capsys.readouterr().out
    assert "ms/sample" in text and "vq, 8 x 12 pixels" in text


def test_another_implementation_in_turn(saved, tmp_path, capsys):
    (tmp_path / "other.py").write_text("def nothing():\n    pass\n")
    against = f"{tmp_path / 'other.py'}:nothing"
    run(saved, "--batch", "2", "--only", "decode", "--against", against)
    assert f"{against}: " in capsys.readouterr().out


def test_the_work_is_that_of_its_products():
    tokenizer = tokenizers.VQTokenizer.fresh(VQ)
    coder = coding.Coder(tokenizer, "decode", 2, (8, 12))
    # The last convolution, of 4 channels to 3 at full size, and one more of 2 to 4 channels at
    # half of it, are parts of it; one pass over the weights alone takes as long at a slow rate.
    parts = 2 * 2 * (8 * 12 * 9 * 4 * 3 + 4 * 6 * 2 * 4)
    assert coder.work.weight_flops > parts
    flops = coder.work.weight_flops + coder.work.other_flops
    assert coder.bound(Rates(1e30, 1e9)) == pytest.approx(flops / 1e9)
    weights = sum(np.size(leaf) for leaf in jax.tree.leaves(tokenizer.params))
    assert coder.bound(Rates(1e9, 1e30)) == pytest.approx(4 * weights / 1e9)


def test_sizes_beyond_the_budget_are_left_out():
    tokenizer = tokenizers.VQTokenizer.fresh(VQ)
    request = coding.Request(("decode",), [1, 2], (8, 8), 2, 1e-9, "float32")
    made, skipped = coding.make_coders(tokenizer, request, (8, 8))
    assert [coder.rows for coder in made] == [1]
    assert len(skipped) == 1 and skipped[0].startswith("decode batch 2: would take")


def test_sizes_where_none_is_asked_for():
    assert coding.shape_of(tokenizers.VQTokenizer.fresh(VQ), None) == (256, 256)
    quantizer = QuantizerConfig(
        codebook_size=4, codebook_dim=4, scales=((1, 1), (2, 3)), num_mixers=0
    )
    config = tokenizers.MSVQConfig(quantizer, 4, (1, 1), 1, norm_groups=2)
    assert coding.shape_of(tokenizers.MSVQTokenizer.fresh(config), None) == (4, 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "8,9"], "multiples of"),
        (["--size", "8,x"], "--size"),
        (["--guidance", "2"], "has no config, guidance"),
        (["--train"], "has no config, guidance"),
        (["--config.sample.top_k=2"], "has no config"),
        (["--against", "a.py:b", "--batch", "1"], "compares one thing"),
        (["--only", "encode", "--dtype", "bfloat16"], "encodes in float32 alone"),
    ],
)
def test_mistakes(saved, arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(saved, *arguments)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_nothing_to_time(saved, capsys):
    for arguments in ([], ["configs/digits_nar.py", "--size", "8,8"]):
        with pytest.raises(SystemExit) as stopped:
            bench.main(arguments)
        assert stopped.value.code == 2
    assert "name a config file" in capsys.readouterr().err
