"""The config that a newcomer runs first reaches the figures that its header promises."""

import json

import pytest

from tests import tiny


@pytest.mark.slow
def test_digits_llamagen(tmp_path):
    run = tiny.run_module(
        "gen.train", "--config", "configs/digits_llamagen.py", "--workdir", tmp_path, timeout=1200
    )
    assert run.returncode == 0, run.stderr[-3000:]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["split"] == "test" and result["held_out"]["count"] == 297
    assert result["cpu_seconds"] <= 480
    assert result["held_out"]["bits_per_dim"] <= 1.72
    unguided, guided = result["digits"]["unguided"], result["digits"]["guided"]
    assert unguided["num_samples"] == 1500
    assert unguided["class_accuracy"] >= 0.90
    assert unguided["two_sample_accuracy"] <= 0.62
    assert unguided["exact_copies"] == 0
    assert 0.95 <= unguided["memorisation_ratio"] <= 1.15
    assert guided["class_accuracy"] >= 0.97
