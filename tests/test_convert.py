"""`gen.convert`, and what can be done with what it writes: load, sample, evaluate, train on."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

import gen
from gen import convert, data, evaluate, layouts, published, sample, tokenizers, train
from gen.errors import UserError
from gen.sharding import MeshConfig, make_mesh
from gen.tokenizers import VQConfig, VQTokenizer
from gen.training.checkpoint import Checkpoints
from gen.training.state import Trainer
from tests import cases, llamagen_numpy, tiny

SETTINGS = {"n_head": 3, "block_size": 9, "rope_base": 500.0}
CONFIG = cases.llamagen_config()
TOKENS = np.arange(18).reshape(2, 9)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "c2i.safetensors"
    save_file(llamagen_numpy.weights(CONFIG, seed=0), path)
    return path


@pytest.fixture(scope="module")
def wanted(file):
    return gen.from_published("llamagen", file, CONFIG).logits(TOKENS, labels=[1, 2])


@pytest.fixture(scope="module")
def converted(file, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "c2i"
    settings = out.parent / "settings.json"
    settings.write_text(json.dumps({"n_head": 3, "block_size": 4, "rope_base": 500}))
    convert.main(
        ["llamagen", str(file), str(out), "--settings", str(settings), "--set", "block_size=9"]
    )
    return out


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
    folder = cases.vq(tmp_path_factory.mktemp("vq") / "case", codebook_size=37)
    out = folder / "vq.safetensors"
    given = ["--set", "groupnorm_groups=4"]
    convert.main(["llamagen-vq", str(folder / "weights.safetensors"), str(out), *given])
    return out


def test_convert(converted, wanted, file):
    model = gen.load(converted)
    np.testing.assert_array_equal(model.logits(TOKENS, labels=[1, 2]), wanted)
    assert model.published["files"] == {file.name: published.open_weights(file).sha256()}
    assert model.config.sample.guidance == 2.0


def test_convert_by_part(file, tmp_path, wanted):
    settings = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    convert.main(["llamagen", str(tmp_path / "out"), "--part", f"model={file}", *settings])
    model = gen.load(tmp_path / "out")
    np.testing.assert_array_equal(model.logits(TOKENS, labels=[1, 2]), wanted)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["llamagan", "FILE", "OUT"], "did you mean"),
        (["llamagen", "OUT"], "give WEIGHTS and then OUT"),
        (
            ["llamagen", "FILE", "OUT", "--part", "model=FILE"],
            "give the weights of part model once",
        ),
        (["llamagen", "FILE", "OUT", "--part", "model"], "--part takes NAME=VALUE"),
        (["llamagen", "FILE", "OUT", "--set", "n_head"], "--set takes NAME=VALUE"),
        (["llamagen", "FILE", "OUT", "--set", "n_head=x"], "n_head must be int or none"),
        (["llamagen", "FILE", "OUT", "--settings", "none.json"], "cannot be read"),
        (["llamagen", "FILE", "FILE"], "exists: choose another place"),
        (["llamagen", "absent.pt", "OUT"], "absent.pt"),
    ],
)
def test_convert_refuses(arguments, text, file, tmp_path, capsys):
    places = {"FILE": str(file), "OUT": str(tmp_path / "out"), "model=FILE": f"model={file}"}
    with pytest.raises(SystemExit) as caught:
        convert.main([places.get(argument, argument) for argument in arguments])
    said = capsys.readouterr().err
    assert caught.value.code == 2 and text in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_converted_weights_are_no_run(converted):
    """Training into the folder of converted weights is refused and harms nothing."""
    trainer = Trainer(gen.load(converted).config, make_mesh(MeshConfig(), batch_size=1))
    saved = Checkpoints(converted, keep=1, meta={})
    with pytest.raises(UserError, match="holds weights, not a run: give --init_from"):
        saved.restore_latest(trainer.abstract)
    saved.close()
    gen.load(converted)


def test_sample_pixels(converted, tokenizer_file, tmp_path, capsys):
    out = tmp_path / "some" / "samples"
    arguments = [str(converted), "--labels", "0-2", "--num", "5", "--out", str(out)]
    sample.main([*arguments, "--tokenizer", str(tokenizer_file)])
    stored = np.load(out.with_name("samples.npz"))
    assert stored["tokens"].shape == (5, 9) and stored["labels"].tolist() == [0, 1, 2, 0, 1]
    files = sorted(path.name for path in out.iterdir())
    assert files == [f"{i:05d}.png" for i in range(5)]
    from PIL import Image

    tokenizer = tokenizers.load(tokenizer_file)
    pixels = tokenizer.to_uint8(tokenizer.decode(stored["tokens"]))
    for index, name in enumerate(files):
        np.testing.assert_array_equal(np.asarray(Image.open(out / name)), pixels[index])
    assert out.with_name("samples.png").stat().st_size > 1000


def test_a_tokenizer_of_other_tokens(converted, tmp_path, capsys):
    config = VQConfig(36, 4, 4, (1, 1), (1, 1), 1, 4, True, norm_groups=2)
    tokenizers.save(VQTokenizer.fresh(config), tmp_path / "other.safetensors")
    arguments = [str(converted), "--num", "2", "--out", str(tmp_path / "s")]
    with pytest.raises(SystemExit):
        sample.main([*arguments, "--tokenizer", str(tmp_path / "other.safetensors")])
    assert "vocab_sizes (37,) against (36,)" in capsys.readouterr().err


def test_training_goes_on_from_converted_weights(converted, tmp_path, capsys):
    """The loss that `gen.evaluate` prints is the one that training starts from."""
    rng = np.random.default_rng(0)
    data.write_dataset(
        tmp_path / "data",
        name="codes",
        splits={"train": {"tokens": rng.integers(0, 37, (16, 9)), "label": np.arange(16) % 6}},
        layout=layouts.grid(3, 3, 37),
        condition={"kind": "class", "num_classes": 6, "names": None},
    )
    fields = {"config.data.name": "codes", "config.data.dir": str(tmp_path / "data")}
    flags = [f"--{name}={value}" for name, value in fields.items()]
    evaluate.main([str(converted), "--split", "train", *flags])
    printed = json.loads(capsys.readouterr().out)["held_out"]
    model = json.loads(json.dumps(gen.load(converted).config.to_json()))["model"]
    config = tiny.write_config(tmp_path / "tiny.py", model=model)
    run = tmp_path / "run"
    train.main([
        "--config", str(config), "--workdir", str(run), "--init_from", str(converted), *flags,
        "--config.data.valid=train", "--config.train.steps=2",
    ])  # fmt: skip
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert first["step"] == 0
    for name, value in printed.items():
        np.testing.assert_allclose(first[f"valid/{name}"], value, rtol=1e-6)


def test_saving_over_checkpoints_is_refused(converted, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(converted, copy)
    with pytest.raises(UserError, match="holds checkpoints already"):
        gen.load(converted).save(copy)
    damaged = copy / "checkpoints" / "0" / "meta" / "metadata"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged"):
        gen.load(copy)
