"""What each importer writes can be checked and trained on, and is the same whenever it is written.

LlamaGen's class-conditional folders are trained on in `tests/test_code_folders.py`.
"""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from gen import train
from gen.data import open_dataset
from gen.data.__main__ import main
from gen.errors import UserError
from tests import tiny
from tests.importer_files import (
    CLASSES,
    VOCAB,
    refusal,
    run,
    token_lines,
    write_codes,
    write_features,
    write_lines,
    write_moments,
)

SLOTS, DIM = 4, 6
CHANNELS = 3


def ten_crops(root):
    path = write_lines(root / "x.jsonl.gz", token_lines(9, 10)[0])
    return ["rar-jsonl", path, "--copies", "tencrop", "--classes", CLASSES, "--vocab", VOCAB]


def moments(root):
    write_moments(root / "cached", channels=CHANNELS, side=4)
    return ["mar-moments", root / "cached"]


def captioned(root):
    write_codes(root / "codes", 9)
    write_features(root / "t5", [1, 2, 3, 4, 5, 4, 3, 2, 1], DIM)
    return ["llamagen-t2i", root / "codes", "--features", root / "t5", "--length", SLOTS,
            "--vocab", VOCAB]  # fmt: skip


STACK = {"depth": 1, "width": 32, "heads": 4}
MODEL = {f"model.backbone.{name}": value for name, value in STACK.items()}
TOKENS = MODEL | {"model.grid": "4,4", "model.vocab_size": VOCAB}
CLASS = {"model.condition.num_classes": CLASSES}
# Made how; a config; fields that fit; one that does not, and what both sides have.
CASES = {
    "ten crops, next token": (
        ten_crops, "llamagen_b.py",
        TOKENS | CLASS,
        ("model.vocab_size", 16384, "the data has vocabulary 50, the model vocabulary 16384"),
    ),
    "ten crops, masked": (
        ten_crops, "maskgit_256.py",
        TOKENS | CLASS | {"model.backbone.ffn_width": 64},
        ("model.grid", "2,8", "the data has lattice 1x4x4, the model lattice 1x2x8"),
    ),
    "moments, flow": (
        moments, "flowar_s.py",
        {
            f"model.{stack}.{name}": value
            for stack in ("encoder", "decoder", "head") for name, value in STACK.items()
        } | CLASS | {"model.latents.channels": CHANNELS},
        ("model.latents.channels", 16,
         "has latents of 6 channels, the model latents of 32 channels"),
    ),
    "captions, next token": (
        captioned, "llamagen_t2i_xl.py",
        TOKENS | {"model.condition.caption_length": SLOTS, "model.condition.caption_dim": DIM},
        ("model.condition.caption_dim", 2048,
         "captions of 4 vectors of width 6, the model captions of 4 vectors of width 2048"),
    ),
}  # fmt: skip


def flags_of(fields):
    return [f"--config.{name}={value}" for name, value in fields.items()]


@pytest.mark.parametrize("case", CASES)
def test_imported_data_are_trained_on(tmp_path, capsys, case):
    make, config, fields, (name, value, message) = CASES[case]
    run(main, "import", *make(tmp_path), "--name", "x", "--dir", tmp_path, "--holdout", 1)
    config = f"{tiny.ROOT}/configs/{config}:debug"
    fitting, other = flags_of(fields), flags_of(fields | {name: value})
    check = ["check", tmp_path / "x", "--config", config]
    capsys.readouterr()
    run(main, *check, *fitting)
    assert f"\nfits {config}\n" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        run(main, *check, *other)
    assert stop.value.code == 2
    assert f"do not fit {config}: the data has" in (text := capsys.readouterr().out)
    assert message in text and "1 problem:" in text
    command = ["--config", config, "--workdir", tmp_path / "run", "--config.data.name=x"]
    command += ["--config.data.dir", tmp_path, "--config.data.valid=none"]
    command += ["--config.data.test=none", "--config.train.steps=2", "--config.train.batch_size=4"]
    command += ["--config.train.dtype=float32"]
    assert message in refusal(capsys, train.main, *command, *other)
    # Without what the command does at the end: programs that sample take longest to compile.
    prepared = train.prepare([str(argument) for argument in (*command, *fitting)])
    with jax.set_mesh(prepared.trainer.mesh):
        train.train(prepared)
    records = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    losses = [record["loss"] for record in records if "loss" in record]
    assert len(losses) == 2 and np.isfinite(losses).all()


@pytest.mark.parametrize("make", [ten_crops, moments, captioned])
def test_the_same_sources_give_the_same_shards(tmp_path, make):
    source = make(tmp_path)
    for name in ("one", "two"):
        run(main, "import", *source, "--name", "x", "--dir", tmp_path / name, "--holdout", 2)
    one, two = (tmp_path / name / "x" / "1.0.0" for name in ("one", "two"))
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir()) and len(names) == 5
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


# Ends at once, as a kill or a loss of power does, when so many records were handed out.
KILLED = """
import os, signal, sys
from gen.data import records
from gen.data.__main__ import main

before, left = records.RecordSpec.encode, [5]

def encode(self, record):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return before(self, record)

records.RecordSpec.encode = encode
main(sys.argv[1:])
"""


def test_a_killed_import_leaves_no_dataset(tmp_path):
    out = tmp_path / "out"
    command = list(map(str, ["import", *ten_crops(tmp_path), "--name", "x", "--dir", out]))
    found = subprocess.run(
        [sys.executable, "-c", KILLED, *command],
        env=os.environ | {"PYTHONPATH": str(tiny.ROOT)}, capture_output=True, timeout=120,
    )  # fmt: skip
    assert found.returncode == -9
    (left,) = out.iterdir()
    assert left.name.startswith(".partial-x-")
    with pytest.raises(UserError, match="x"):
        open_dataset("x", directory=out)
    run(main, *command)
    assert len(open_dataset("x", directory=out).split("train")) == 9
