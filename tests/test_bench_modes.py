"""The benchmark's other modes: the ways to compute attention, and a process's first sample."""

import json

import jax.numpy as jnp
import pytest

from gen.bench import __main__ as bench
from gen.bench import attention, first
from gen.models import attention_kinds as kinds
from tests import tiny


def test_attention_by_the_command(tmp_path, capsys):
    path = tiny.write_config(tmp_path / "config.py")
    out = tmp_path / "figures.json"
    bench.main([str(path), "--attention", "--batch", "2", "--rounds", "2", "--out", str(out)])
    found = json.loads(out.read_text())["attention"]
    for record in found:
        assert set(record["seconds"]) == {"xla", "jax"} and not record["failed"]
        assert all(len(taken) == 2 and min(taken) > 0 for taken in record["seconds"].values())
        assert (record["H"], record["E"], record["chosen"]) == (4, 8, "xla")
    # Steps of one query for the two samples, and all 12 slots of 8 training examples.
    steps = [r for r in found if r["S"] == 1]
    assert {(r["B"], r["gradient"]) for r in steps} == {(2, False)}
    trained = [r for r in found if r["B"] == 8]
    assert {(r["S"], r["T"], r["gradient"]) for r in trained} == {(12, 12, False), (12, 12, True)}
    text = capsys.readouterr().out
    assert "xla ms" in text and '("cpu", "float32", "one"): fastest is' in text


CASE = kinds.Case(B=1, S=1, T=5, H=2, K=1, E=4, dtype="float32", dropped=False)


def measured(monkeypatch, call, **limits):
    monkeypatch.setitem(kinds.KINDS, "jax", kinds.KINDS["jax"]._replace(call=call))
    return attention.measure(CASE, False, **{"rounds": 2, "budget_s": 60.0} | limits)


def test_what_is_wrong_fails_or_is_slow_is_left_out(monkeypatch):
    def fails(*_):
        raise RuntimeError("cuDNN is not\n detected")

    found = measured(monkeypatch, lambda q, k, v, mask, scale: jnp.zeros_like(q))
    assert list(found["seconds"]) == ["xla"]
    assert found["failed"] == {"jax": "results differ by 1 of the largest"}
    found = measured(monkeypatch, fails)
    assert found["failed"] == {"jax": "RuntimeError: cuDNN is not detected"}
    found = measured(monkeypatch, kinds.by_jax("xla"), budget_s=1e-9)
    assert set(found["failed"]) == {"xla", "jax"} and not found["seconds"]


def test_advice(monkeypatch):
    def record(slots, **seconds):
        case = CASE._replace(T=slots, E=64, dtype="bfloat16")
        return case._asdict() | {"seconds": {name: [s] * 3 for name, s in seconds.items()}}

    # What is fastest over all calls together, of the kinds that can do all of them.
    records = [record(64, xla=3.0, cudnn=1.0), record(65, xla=1.0, cudnn=1.0)]
    (line,) = attention.advise(records, "gpu")
    assert line == (
        '("gpu", "bfloat16", "one"): fastest is cudnn, 2.00 times as fast as xla, which is chosen'
    )
    monkeypatch.setitem(kinds.CHOICES, ("gpu", "bfloat16", "one"), "cudnn")
    (line,) = attention.advise([*records, record(66, xla=1.0, cudnn=1.0, flash=0.1)], "gpu")
    assert line.endswith("fastest is cudnn, which is chosen")
    (line,) = attention.advise([record(64, xla=1.0)], "gpu")
    assert line.endswith("fastest is xla, but cudnn is chosen, which could not be timed")
    # What none of the calls can take is not what is chosen for them.
    single = record(64, xla=1.0) | {"dtype": "float32"}
    monkeypatch.setitem(kinds.CHOICES, ("gpu", "float32", "one"), "cudnn")
    assert attention.advise([single], "gpu")[0].endswith("fastest is xla, which is chosen")


def test_first_by_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(first, "WARM", 1)
    path = tiny.write_config(tmp_path / "config.py")
    out = tmp_path / "figures.json"
    bench.main([str(path), "--first", "--guidance", "2", "--out", str(out)])
    found = json.loads(out.read_text())["first"]
    for record in (found["cold"], *found["warm"]):
        until = [record["until"][stage] for stage in first.STAGES]
        assert until == sorted(until) and until[0] > 0.2 and until[-1] < 60
    assert found["cold"]["loaded"] == 0 < found["cold"]["compiled"]
    assert found["warm"][0]["loaded"] == found["warm"][0]["compiled"]
    table, _, last = capsys.readouterr().out.partition("first batch after")
    assert [line.split()[0] for line in table.splitlines()] == ["cache", "empty", "warm"]
    assert "cold" in last and "batch 1, float32" in last


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--first", "--train"], "--train, --attention and --first are one at a time"),
        (["--first", "--config.sample.topk=3"], "top_k"),
        (["--train", "--dtype", "int8"], "--train takes --dtype float32 or bfloat16"),
        (["--attention", "--dtype", "int8"], "--attention takes --dtype float32 or bfloat16"),
    ],
)
def test_refusals(arguments, words, tmp_path, capfd):
    path = tiny.write_config(tmp_path / "config.py")
    with pytest.raises(SystemExit) as raised:
        bench.main([str(path), *arguments])
    told = [line for line in capfd.readouterr().err.splitlines() if "error" in line]
    assert raised.value.code == 2 and len(told) == 1 and words in told[0]


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_dtype_tells_what_it_costs(dtype, tmp_path, capsys):
    path, out = tiny.write_config(tmp_path / "config.py"), tmp_path / "figures.json"
    bench.main([
        str(path), "--batch", "1", "--guidance", "none", "--rounds", "2",
        "--dtype", dtype, "--out", str(out),
    ])  # fmt: skip
    found = json.loads(out.read_text())["precision"]
    assert found["measure"] == "nll" and 1.0 < found["float32"] < 5.0
    assert 0.0 < found["mean_difference"] <= found["largest_difference"] < 0.1
    assert abs(found["own"] - found["float32"]) <= found["mean_difference"]
    assert "nll of random tokens" in capsys.readouterr().out
