"""The benchmark: its counts against counts by hand, its table, its refusals."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen.bench import __main__ as bench
from gen.bench import rival, timing
from gen.bench.work import count
from tests import tiny


def work_of(function, weights, *others, scopes=()):
    jaxpr = jax.make_jaxpr(function)(weights, *others)
    return count(jaxpr, len(jax.tree.leaves(weights)), scopes)


def test_products_and_weights_by_hand():
    weights = {"w": jnp.ones((8, 16)), "b": jnp.ones((16,))}
    found = work_of(lambda p, x: x @ p["w"] + p["b"], weights, jnp.ones((3, 8)))[""]
    assert found.weight_flops == 2 * 3 * 8 * 16 and found.other_flops == 0
    assert found.weight_bytes == 4 * (8 * 16 + 16)


def test_loops_count_as_often_as_they_run():
    weights = jnp.ones((5, 8, 8))  # five layers, scanned over

    def layers(p, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p)[0]

    def steps(p, x):
        blocks = [p[i] for i in range(5)]

        def step(x, _):
            for block in blocks:
                x = jnp.tanh(x @ block)
            return x, None

        return jax.lax.scan(step, x, None, length=7)[0]

    one = work_of(layers, weights, jnp.ones((2, 8)))[""]
    assert one.weight_flops == 5 * 2 * 2 * 64 and one.weight_bytes == 5 * 4 * 64
    seven = work_of(jax.jit(steps), weights, jnp.ones((2, 8)))[""]
    assert seven.weight_flops == 7 * one.weight_flops
    assert seven.weight_bytes == 7 * one.weight_bytes


def test_attention_looked_up_rows_and_converted_weights():
    weights = {"table": jnp.ones((1000, 4)), "w": jnp.ones((4, 4))}

    def attend(p, ids):
        x = p["table"][ids]  # three rows of a thousand are read
        q, k = x @ p["w"].astype(jnp.bfloat16).astype(jnp.float32), x
        return q @ k.T

    found = work_of(attend, weights, jnp.arange(3))[""]
    assert found.other_flops == 2 * 3 * 3 * 4
    assert found.weight_flops == 2 * 3 * 4 * 4
    # The weight's bytes are those of its shortest form.
    assert found.weight_bytes == 3 * 4 * 4 + 2 * 16


def test_work_by_scope():
    def two(w, x):
        with jax.named_scope("first"):
            x = x @ w
        with jax.named_scope("second"):
            return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=3)[0]

    found = work_of(jax.jit(two), jnp.ones((4, 4)), jnp.ones((1, 4)), scopes=("first", "second"))
    assert found["first"].weight_flops == 2 * 16
    assert found["second"].weight_flops == 3 * 2 * 16


@pytest.fixture(autouse=True)
def small_probes(monkeypatch):
    monkeypatch.setattr("gen.bench.rates.PROBE_BYTES", 4e6)


CASES = {
    "next token": {},
    "next neighbour": tiny.neighbours(),
    "next scale": tiny.scales(),
    "masked": tiny.masked(),
    "flow": tiny.flow(),
}


@pytest.mark.parametrize("case", CASES)
def test_every_family_by_the_command(case, tmp_path, capsys):
    path = tiny.write_config(tmp_path / "config.py", **CASES[case], **{"sample.guidance": 2.0})
    out = tmp_path / "figures.json"
    # Both branches are compiled for one family alone.
    guidance = "both" if case == "next token" else "2"
    arguments = ["--batch", "2", "--rounds", "2", "--guidance", guidance, "--out", str(out)]
    bench.main([str(path), *arguments])
    rows = json.loads(out.read_text())["sampling"]
    assert (rows[0]["batch"], rows[0]["guidance"]) == (2, 2.0)
    for row in rows:
        assert row["p50_s"] > 0 and len(row["seconds"]) == 2
        assert 0 < row["bound_s"] < row["p50_s"]
        assert row["ms_per_call"] == pytest.approx(1e3 * row["p50_s"] / row["calls_per_sample"])
    if len(rows) > 1:
        guided, plain = rows[0]["work"], rows[1]["work"]
        assert rows[1]["guidance"] is None
        assert 1.5 < guided["weight_flops"] / plain["weight_flops"] <= 2.0
    table = capsys.readouterr().out
    assert "ms/call" in table and "GB/s read" in table and jax.__version__ in table


def test_bound_of_next_token_by_hand():
    """Weights once a call, cache slots filled so far, products of one row a branch."""
    from gen.bench.rates import Rates
    from gen.bench.sampling import Sampler

    generator = tiny.generator(tiny.config())
    sampler = Sampler(generator, 2, {"guidance": None}, None)
    config = generator.config.model
    width, depth, hidden = 32, 2, config.backbone.hidden_width
    steps = config.grid[0] * config.grid[1]
    layer = 4 * width * width + 3 * width * hidden + 2 * width
    weights = depth * layer + width * config.vocab_size + width
    slots = steps * (steps + 1) // 2
    cache = 2 * slots * depth * 2 * width
    embedded = 2 * width * steps  # a row of a table for each sample and step
    only_bytes = sampler.bound(Rates(1.0, 1e30))
    assert only_bytes == pytest.approx(4 * (steps * weights + cache + embedded), rel=0.02)
    products = 2 * 2 * steps * (depth * (layer - 2 * width) + width * config.vocab_size)
    attention = 2 * slots * depth * 4 * width
    assert sampler.bound(Rates(1e30, 1.0)) == pytest.approx(products + attention, rel=0.02)


def test_training_by_the_command(tmp_path, capsys):
    path = tiny.write_config(tmp_path / "config.py")
    out = tmp_path / "figures.json"
    bench.main([str(path), "--train", "--rounds", "2", "--out", str(out)])
    found = json.loads(out.read_text())["training"]
    assert found["tokens_per_s"] == pytest.approx(8 * 12 / found["p50_s"])
    assert found["flops"] > 3 * 2 * 8 * 12 * 2 * (4 * 32 * 32)
    assert "tokens/s" in capsys.readouterr().out


def test_in_turn_and_ratios():
    order, now = [], [0.0]

    def call(name, seconds):
        order.append(name)
        now[0] += seconds

    calls = {"a": lambda: call("a", 2.0), "b": lambda: call("b", 1.0)}
    times = timing.interleave(calls, rounds=3, clock=lambda: now[0])
    assert order == ["a", "b"] * 3
    assert times["a"].seconds == (2.0, 2.0, 2.0) and times["b"].median == 1.0
    slow, fast = timing.Times((2.0, 6.0, 3.0)), timing.Times((1.0, 2.0, 1.5))
    assert timing.ratios(slow, fast) == (2.0, 2.0, 3.0)


def test_against_another(tmp_path, capsys):
    path = tiny.write_config(tmp_path / "config.py")
    other = tmp_path / "other.py"
    other.write_text("import time\n\n\ndef batch():\n    time.sleep(0.05)\n")
    bench.main(
        [str(path), "--batch", "1", "--guidance", "none", "--rounds", "2",
         "--against", f"{other}:batch"]
    )  # fmt: skip
    assert f"{other}:batch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--batch", "0"], "--batch takes sizes"),
        (["--batch", "one"], "--batch takes sizes"),
        (["--guidance", "much"], "--guidance takes a number, none or both"),
        (["--rounds", "1"], "--rounds is at least 2, not 1"),
        (["--budget-s", "-3"], "--budget-s is above 0, not -3"),
        (["--guidance", "nan", "--batch", "1"], "guidance is a finite number, not nan"),
        (["--out", str(tiny.ROOT / "configs")], "configs is a folder: name a file"),
        (["--first", "--batch", "2"], "--first samples a batch of 1"),
        (["--against", "nowhere.py:f", "--batch", "1", "--guidance", "none"], "no file nowhere.py"),
        (["--against", "nowhere.py"], "takes FILE.py:callable"),
        (["--config.sample.topk=3"], "top_k"),
    ],
)
def test_refusals(change, words, tmp_path, capsys):
    path = tiny.write_config(tmp_path / "config.py")
    with pytest.raises(SystemExit) as raised:
        bench.main([str(path), *change])
    assert raised.value.code == 2 and words in capsys.readouterr().err


def test_sizes_beyond_the_budget_are_told(tmp_path, capsys):
    path = tiny.write_config(tmp_path / "config.py")
    bench.main([str(path), "--guidance", "none", "--batch", "2,1,100000", "--budget-s", "2",
                "--rounds", "2"])  # fmt: skip
    table, _, rest = capsys.readouterr().out.partition("bound:")
    assert [line.split()[0] for line in table.splitlines()] == ["batch", "1", "2"]
    assert "skipped batch 100000: would take" in rest


def test_rival_files(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("raise OSError('no weights')\n")
    other = tmp_path / "other.py"
    other.write_text("def batch():\n    pass\n")
    from gen.errors import UserError

    with pytest.raises(UserError, match="fails: OSError: no weights"):
        rival.load(f"{broken}:batch")
    with pytest.raises(UserError, match='did you mean "batch"'):
        rival.load(f"{other}:bach")
    assert rival.load(f"{other}:batch")() is None
    assert np.isfinite(timing.Times((1.0, 2.0)).percentile(95))


def test_without_the_data_stack(tmp_path):
    """Sampling and its benchmark run where nothing can read datasets."""
    path = tiny.write_config(tmp_path / "config.py")
    absent = ("tensorflow_datasets", "grain", "clu", "tensorboardX", "array_record")
    script = f"""
import sys
sys.modules.update(dict.fromkeys({absent!r}))
import gen.export, gen.sample
from gen.bench import rates
from gen.bench.__main__ import main
rates.PROBE_BYTES = 4e6
main([{str(path)!r}, "--batch", "1", "--guidance", "none", "--rounds", "2"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ms/call" in done.stdout
