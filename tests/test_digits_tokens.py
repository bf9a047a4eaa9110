"""The digits' generators on tokens of the digits' own tokenizers, by their configs alone."""

import json

import numpy as np
import pytest

from gen import config as configs
from gen import data, sample, tokenizers, train
from gen.images import DigitImages
from gen.tokenizers import TOKENIZERS
from tests import tiny

SHORT = ["--config.train.steps=2", "--config.train.batch_size=8", "--config.optim.warmup_steps=0"]
SHORT += ["--config.model.backbone.depth=1", "--config.model.backbone.unroll=1"]


@pytest.mark.parametrize(
    ("spec", "tokenizer_config"),
    [
        pytest.param("digits_llamagen.py:vq", "digits_vq.py", marks=pytest.mark.slow),
        ("digits_var.py:msvq", "digits_msvq.py"),
    ],
)
def test_a_generator_is_trained_on_its_tokens(tmp_path, spec, tokenizer_config):
    run = configs.load(f"{tiny.ROOT}/configs/{tokenizer_config}")
    kind = TOKENIZERS[run.tokenizer]
    name = configs.load(f"{tiny.ROOT}/configs/{spec}").data.name
    file = tmp_path / "tokenizer.safetensors"
    tokenizer = kind.fresh(run.model, meta={"id": name})
    tokenizers.save(tokenizer, file)
    digits = DigitImages("train")
    pixels = np.stack([digits.read(index) for index in range(len(digits))])
    labels = np.array([digits.label(index) for index in range(len(digits))])
    tokens = tokenizer.encode(pixels[:100], batch_size=100)
    tokens = np.concatenate([np.tile(tokens, (15, 1))])  # the splits of the config need 1500
    data.write_dataset(
        tmp_path,
        name=name,
        splits={
            "train": {"tokens": tokens, "label": labels},
            "test": {"tokens": tokens[:20], "label": labels[:20]},
        },
        layout=tokenizer.layout((8, 8)),
        condition={"kind": "class", "num_classes": 10, "names": None},
        tokenizer={"id": name, "sha256": None},
    )
    given = ["--tokenizer", str(file)] if "var" in spec else []
    workdir = str(tmp_path / "run")
    train.main([
        "--config", f"{tiny.ROOT}/configs/{spec}", "--workdir", workdir, *given, *SHORT,
        f"--config.data.dir={tmp_path}", "--config.data.valid=none",
    ])  # fmt: skip
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["held_out"]["nats_per_token"] > 0
    out = tmp_path / "samples"
    sample.main(
        [workdir, "--labels", "3", "--num", "2", "--tokenizer", str(file), "--out", str(out)]
    )
    assert np.load(f"{out}.npz")["tokens"].shape == (2, tokenizer.layout((8, 8)).num_positions)
