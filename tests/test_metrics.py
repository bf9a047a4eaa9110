"""Metrics against closed forms and constructed cases."""

import math
import subprocess
import sys

import numpy as np
import pytest

from gen.errors import UserError
from gen.metrics import features
from gen.metrics.features import frechet, precision_recall
from gen.metrics.likelihood import bits_per_dim, histogram_baseline, summarise_nll


def exact_gaussian(rng, mean_D, cov_DD, count):
    """Samples whose sample mean and covariance (n - 1) are exactly the given ones."""
    x_ND = rng.standard_normal((count, len(mean_D)))
    x_ND -= x_ND.mean(axis=0)
    whiten_DD = np.linalg.inv(np.linalg.cholesky(np.cov(x_ND, rowvar=False))).T
    return x_ND @ whiten_DD @ np.linalg.cholesky(cov_DD).T + mean_D


# Features.


def test_frechet_closed_form_commuting():
    rng = np.random.default_rng(0)
    a_D, b_D, shift_D = np.array([1.0, 4.0, 9.0]), np.array([4.0, 1.0, 0.25]), np.array([1, -2, 3])
    x_ND = exact_gaussian(rng, np.zeros(3), np.diag(a_D), 40)
    y_MD = exact_gaussian(rng, shift_D, np.diag(b_D), 70)
    expected = 14 + ((np.sqrt(a_D) - np.sqrt(b_D)) ** 2).sum()
    assert frechet(x_ND, y_MD) == pytest.approx(expected, rel=1e-9)


def test_frechet_closed_form_rotated():
    # For 2 x 2 matrices tr sqrt(S) = sqrt(tr S + 2 sqrt(det S)), also where they do not commute.
    rng = np.random.default_rng(1)
    s1, s2 = np.array([[2.0, 0.9], [0.9, 1.0]]), np.array([[1.0, -0.6], [-0.6, 3.0]])
    x_ND, y_MD = (exact_gaussian(rng, np.zeros(2), s, 50) for s in (s1, s2))
    root = math.sqrt(np.trace(s1 @ s2) + 2 * math.sqrt(np.linalg.det(s1 @ s2)))
    expected = np.trace(s1) + np.trace(s2) - 2 * root
    assert frechet(x_ND, y_MD) == pytest.approx(expected, rel=1e-9)


def test_frechet_identity_symmetry_and_one_feature():
    rng = np.random.default_rng(2)
    # Fewer samples than features: a singular covariance must not make NaN.
    x_ND, y_MD = rng.standard_normal((8, 12)), rng.standard_normal((9, 12)) + 1
    assert frechet(x_ND, x_ND) == pytest.approx(0, abs=1e-6)
    assert frechet(x_ND, y_MD) == pytest.approx(frechet(y_MD, x_ND), rel=1e-6)
    assert frechet([[0.0], [2.0]], [[3.0], [5.0]]) == pytest.approx(9)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.zeros((1, 3)), np.zeros((5, 3)), "at least 2"),
        (np.zeros((5, 3)), np.zeros((5, 4)), "must be equal"),
        (np.zeros(5), np.zeros((5, 4)), "shape"),
        (np.full((5, 4), np.nan), np.zeros((5, 4)), "NaN"),
    ],
)
def test_frechet_refuses(x, y, words):
    with pytest.raises(UserError, match=words):
        frechet(x, y)


def test_precision_recall_counts():
    # Real points 0, 1, 2, 10 on a line have k=1 radii 1, 1, 1, 8; fakes 0.5, 30, 31 have 29.5, 1, 1
    real_ND = np.array([[0.0], [1.0], [2.0], [10.0]])
    fake_MD = np.array([[0.5], [30.0], [31.0]])
    precision, recall = precision_recall(real_ND, fake_MD, k=1)
    assert precision == pytest.approx(1 / 3)
    assert recall == 1.0
    # With k=2 the real radii are 2, 1, 2, 9, which still reaches neither 30 nor 31.
    assert precision_recall(real_ND, fake_MD, k=2) == (pytest.approx(1 / 3), 1.0)


def test_precision_recall_extremes():
    rng = np.random.default_rng(3)
    real_ND = rng.standard_normal((60, 5))
    assert precision_recall(real_ND, real_ND) == (1.0, 1.0)
    assert precision_recall(real_ND, real_ND + 1000) == (0.0, 0.0)
    # All fakes near one real point: faithful but without variety.
    collapsed = real_ND[:1] + 1e-3 * rng.standard_normal((60, 5))
    precision, recall = precision_recall(real_ND, collapsed)
    assert precision == 1.0
    assert recall <= 1 / 60


def test_precision_recall_duplicates_far_from_zero():
    # Balls of radius 0: rounding must not push a point out of its ball. It does so without any
    # allowance in about one of five such draws.
    for seed in range(30):
        rng = np.random.default_rng(seed)
        points_ND = rng.standard_normal((9, rng.integers(5, 60))) + 100
        real_ND, fake_MD = np.repeat(points_ND, 5, axis=0), np.repeat(points_ND, 7, axis=0)
        assert precision_recall(real_ND, rng.permutation(fake_MD)) == (1.0, 1.0)


def test_precision_recall_chunks_agree(monkeypatch):
    rng = np.random.default_rng(5)
    real_ND, fake_MD = rng.standard_normal((50, 3)), rng.standard_normal((70, 3)) + 0.7
    whole = precision_recall(real_ND, fake_MD)
    monkeypatch.setattr(features, "_CHUNK_VALUES", 210)
    assert precision_recall(real_ND, fake_MD) == whole
    assert 0 < whole[0] < 1
    assert 0 < whole[1] < 1


def test_precision_recall_refuses():
    with pytest.raises(UserError, match="at least 4"):
        precision_recall(np.zeros((3, 2)), np.zeros((9, 2)))
    with pytest.raises(UserError, match="k must be"):
        precision_recall(np.zeros((9, 2)), np.zeros((9, 2)), k=0)


# Likelihood.


def test_bits_per_dim():
    assert bits_per_dim(64 * math.log(17), 64) == pytest.approx(math.log2(17))
    np.testing.assert_allclose(bits_per_dim([math.log(2), 0.0], 2), [0.5, 0.0])
    with pytest.raises(UserError, match="num_dims"):
        bits_per_dim(1.0, 0)


def test_summarise_nll():
    nll_NP = np.log(2) * np.array([[1.0, 3.0], [2.0, 6.0], [0.0, 0.0]])
    summary = summarise_nll(nll_NP, num_dims=4)
    assert summary["nats_per_token"] == pytest.approx(2 * math.log(2))
    assert summary["nats_per_sample"] == pytest.approx(4 * math.log(2))
    assert summary["bits_per_dim"] == pytest.approx(1.0)
    assert summary["bits_per_dim_stderr"] == pytest.approx(1 / math.sqrt(3))
    assert summary["count"] == 3
    assert summarise_nll(nll_NP.reshape(3, 1, 2), num_dims=4) == summary
    with pytest.raises(UserError, match="shape"):
        summarise_nll(nll_NP[0], num_dims=4)
    with pytest.raises(UserError, match="NaN"):
        summarise_nll(nll_NP * np.nan, num_dims=4)


def test_histogram_baseline_by_hand():
    # Class 0 saw tokens 1, 1, 0 at its one position: p(1) = 2.5/4, p(0) = 1.5/4; class 1 nothing.
    bits = histogram_baseline(
        [[1], [1], [0]], [0, 0, 0], [[1], [0], [1]], [0, 0, 1], vocab_size=2, num_classes=2
    )
    assert bits == pytest.approx(-(math.log2(2.5 / 4) + math.log2(1.5 / 4) + math.log2(0.5)) / 3)


def test_import_is_cheap():
    code = (
        "import sys, gen.pictures;"
        "from gen.metrics import digits, features, likelihood;"
        "sys.exit(any(name in sys.modules for name in ('sklearn', 'scipy', 'PIL', 'jax')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
