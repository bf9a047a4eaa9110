"""Starting from other weights: all of them, other classes, frozen parts, and misfits."""

import json

import numpy as np
import pytest
from flax import traverse_util

import gen
from gen import sharding, tokenizers, train
from gen.errors import UserError
from gen.evaluate import held_out
from gen.families import FAMILIES
from gen.tokenizers import MSVQTokenizer
from gen.training import checkpoint
from gen.training.init_from import Start, adapt, start_from
from gen.training.logs import Logs, read_metrics
from gen.training.state import Trainer
from tests import tiny, tiny_tokenizers
from tests.test_cli import error_of


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    config = tiny.write_config(folder / "tiny.py", **{"optim.lr": 0.05})
    train.main(["--config", str(config), "--workdir", str(folder / "run")])
    return folder / "run"


def flat(tree):
    return {k: np.asarray(v) for k, v in traverse_util.flatten_dict(tree, sep="/").items()}


def started(source, **overrides):
    config = tiny.config(**overrides)
    trainer = Trainer(config, sharding.make_mesh(config.mesh, batch_size=8))
    return trainer, start_from(checkpoint.find(source), trainer)


def test_takes_the_averaged_weights(source):
    _, state = started(source)
    wanted, found = flat(gen.load(source).params), flat(state.params)
    raw = flat(gen.load(source, averaged=False).params)
    for path in wanted:
        np.testing.assert_array_equal(found[path], wanted[path])
    assert any(not np.array_equal(raw[path], wanted[path]) for path in wanted)
    assert int(state.step) == 0
    assert not any(np.any(leaf) for leaf in flat(state.optimizer[1][0].mu).values())


def test_other_classes_start_fresh_but_for_the_null_class(source):
    _, state = started(source, **{"model.condition.num_classes": 8})
    wanted, found = flat(gen.load(source).params), flat(state.params)
    table = "condition/table/embedding"
    assert found[table].shape == (9, 32)
    np.testing.assert_array_equal(found[table][-1], wanted[table][-1])
    assert abs(np.std(found[table][:-1]) - 0.02) < 0.005
    others = [path for path in wanted if path != table]
    assert all(np.array_equal(found[path], wanted[path]) for path in others)


def test_frozen_parts_train_on_nothing(source, tmp_path):
    config = tiny.write_config(tmp_path / "tiny.py")
    train.main([
        "--config", str(config), "--workdir", str(tmp_path / "run"), "--init_from", str(source),
        "--config.train.freeze=backbone,tokens",
    ])  # fmt: skip
    before, after = (
        flat(gen.load(source).params),
        flat(gen.load(tmp_path / "run").params),
    )
    for path in before:
        frozen = path.startswith(("backbone", "tokens"))
        assert np.array_equal(before[path], after[path]) == frozen, path


def test_first_loss_is_that_of_the_weights(source, tmp_path):
    dropout = ("token_dropout", "residual_dropout", "ffn_dropout")
    config = tiny.write_config(tmp_path / "tiny.py")
    arguments = ["--config", str(config), "--init_from", str(source)]
    arguments += [f"--config.model.backbone.{name}=0" for name in dropout]
    arguments += ["--config.model.condition.drop_rate=0.0001", "--workdir", str(tmp_path / "run")]
    train.main(arguments)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    start, first = map(json.loads, lines[:2])
    run = train.prepare(arguments[:-1] + [str(tmp_path / "other")])
    rows = next(run.job.batches(0))
    nll = gen.load(source).nll(np.asarray(rows["tokens"]), labels=np.asarray(rows["label"]))
    np.testing.assert_allclose(first["loss"], nll.mean(), rtol=1e-5)
    # Before the first step the run scores what `gen.evaluate` does.
    scores = held_out(gen.load(source), run.job.dataset.split("test"), batch_size=64)
    assert start["step"] == 0 and first["step"] == 1
    np.testing.assert_allclose(start["valid/nats_per_token"], scores["nats_per_token"], rtol=1e-6)


def test_step_0_is_logged_once(tmp_path):
    def records(start):
        logs = Logs(tmp_path, start=start, total=3, curves={}, unit="nats")
        if not start:
            logs.write(0, {"valid/nats_per_token": 2.0})
        logs.write(start + 1, {"loss": 2.0})
        logs.close()
        return [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")]

    assert records(0) == [0, 1]
    assert records(0) == [0, 1]  # killed before its first checkpoint
    assert records(1) == [0, 1, 2]


def test_all_misfits_are_named(source):
    with pytest.raises(UserError) as error:
        started(source, **{"model.vocab_size": 12, "model.backbone.depth": 3})
    for part in ("tokens/embedding has shape (11, 32) for (12, 32)", "head/logits/kernel",
                 "backbone/blocks/attention/query/kernel"):  # fmt: skip
        assert part in str(error.value)
    a, b = np.zeros(2), np.zeros(2)
    with pytest.raises(UserError, match=r"y is not in this model; x is missing"):
        adapt({"y": a}, {"x": b}, nulls=(True, True))


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
    """A tokenizer with the quantiser of the tiny model of scales."""
    quantizer = tiny.config(**tiny.scales()).model.quantizer
    config = MSVQTokenizer.Config(quantizer, 8, (1, 1), 1, norm_groups=4)
    path = tmp_path_factory.mktemp("tokenizer") / "t.safetensors"
    tokenizers.save(MSVQTokenizer.fresh(config, seed=5), path)
    return path


def test_a_model_starts_on_the_codes_of_its_tokenizer(tokenizer_file):
    config = tiny.config(**tiny.scales())
    trainer = Trainer(config, sharding.make_mesh(config.mesh, batch_size=8))
    start = Start.checked(trainer.learner, init_from=None, tokenizer=str(tokenizer_file))
    params = start.state(trainer).params
    wanted = tokenizers.load(tokenizer_file).params["quantizer"]
    fresh = trainer.init().params
    assert np.abs(fresh["quantizer"]["codebook"] - wanted["codebook"]).max() > 1e-3
    for name, array in traverse_util.flatten_dict(params, sep="/").items():
        part, _, rest = name.partition("/")
        source = wanted if part == "quantizer" else fresh[part]
        expected = traverse_util.flatten_dict(source, sep="/")[rest] if rest else source
        np.testing.assert_array_equal(array, expected, err_msg=name)


def test_a_tokenizer_that_does_not_fit(tokenizer_file, source):
    def refusal(init_from=None, tokenizer=tokenizer_file, **changes):
        config = tiny.config(**changes)
        family = FAMILIES[config.family](config.model)
        with pytest.raises(UserError) as caught:
            Start.checked(family, init_from=init_from, tokenizer=tokenizer).check_enough(family)
        return str(caught.value)

    other = tiny.scales(**{"model.quantizer.mixing": 0.25})
    assert "quantizer is not the model's: mixing 0.5 for 0.25" in refusal(**other)
    assert "holds no part of its tokenizer" in refusal()
    assert "leave --tokenizer out" in refusal(init_from=source, **tiny.scales())
    assert "give --tokenizer FILE" in refusal(tokenizer=None, **tiny.scales())
    gray = {
        "model.gray_levels": 5,
        "model.quantizer.codebook_dim": 1,
        "model.quantizer.mixing": 0.0,
    }
    assert "holds no part" in refusal(
        **tiny.scales(**gray, **{"model.quantizer.codebook_size": 21})
    )


def test_other_runs_are_refused(source, tmp_path, capsys):
    file = tiny_tokenizers.write_config(tmp_path / "tiny.py")
    train.main(["--config", str(file), "--workdir", str(tmp_path / "vq")])
    capsys.readouterr()
    cases = (
        (tiny.masked(), source, "it is a model of the family next_token, which this run's is not"),
        ({}, tmp_path / "vq", "--init_from: this is a run of a tokenizer"),
    )
    for overrides, other, message in cases:
        config = tiny.write_config(tmp_path / "config.py", **overrides)
        arguments = ("--config", config, "--workdir", tmp_path / "run", "--init_from", other)
        assert message in error_of(capsys, train.main, *arguments)
        assert not (tmp_path / "run").exists()


def test_weights_are_not_read_again(source, tmp_path, capsys):
    """A run that goes on says so: the command may be that of its start."""
    config = tiny.write_config(tmp_path / "tiny.py")
    arguments = ["--config", str(config), "--workdir", str(tmp_path / "run")]
    arguments += ["--init_from", str(source)]
    train.main(arguments)
    assert "is not read again" not in capsys.readouterr().err
    train.main(arguments)
    told = capsys.readouterr().err
    assert f"--init_from {source} is not read again: {tmp_path / 'run'} goes on" in told
