"""Distances between two sets of feature vectors, whatever network made the features.

Axes: N samples of the first set, M samples of the second, D features, B one chunk of samples.
"""

from __future__ import annotations

import numpy as np

from gen.errors import UserError

# A chunk of distances holds at most this many float64 values (64 MiB).
_CHUNK_VALUES = 2**23


def _check_features(name: str, x_ND: np.ndarray, least: int) -> np.ndarray:
    x_ND = np.asarray(x_ND, dtype=np.float64)
    if x_ND.ndim != 2 or x_ND.shape[1] == 0:
        raise UserError(f"{name} must have shape (samples, features), got {x_ND.shape}")
    if len(x_ND) < least:
        raise UserError(f"{name} has {len(x_ND)} samples; this measure needs at least {least}")
    if not np.isfinite(x_ND).all():
        raise UserError(f"{name} holds NaN or infinite values")
    return x_ND


def _check_same_width(x_ND: np.ndarray, y_MD: np.ndarray) -> None:
    if x_ND.shape[1] != y_MD.shape[1]:
        raise UserError(
            f"the two sets have {x_ND.shape[1]} and {y_MD.shape[1]} features; they must be equal"
        )


def squared_distances(x_ND: np.ndarray, y_MD: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances between all pairs, in one matrix product.

    Args:
        x_ND: float64 array.
        y_MD: float64 array.

    Returns:
        float64 (N, M), never negative; exact when both hold integers below 2**20 or so.
    """
    x2_N1 = np.square(x_ND).sum(axis=1, keepdims=True)
    y2_M = np.square(y_MD).sum(axis=1)
    return np.maximum(x2_N1 + y2_M - 2.0 * (x_ND @ y_MD.T), 0.0)


def chunk_slices(num_rows: int, num_columns: int) -> list[slice]:
    """Row ranges such that each (rows, num_columns) float64 block stays within 64 MiB."""
    rows = max(1, _CHUNK_VALUES // max(1, num_columns))
    return [slice(start, min(start + rows, num_rows)) for start in range(0, num_rows, rows)]


def _matrix_sqrt(s_DD: np.ndarray) -> np.ndarray:
    values_D, vectors_DD = np.linalg.eigh(s_DD)
    # A covariance has no negative eigenvalues; the ones seen are rounding.
    return (vectors_DD * np.sqrt(np.maximum(values_D, 0.0))) @ vectors_DD.T


def frechet(x_ND: np.ndarray, y_MD: np.ndarray) -> float:
    """Frechet distance between the Gaussians fitted to two sets of features.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^{1/2}), equation (6) of Heusel et al. 2017 (FID); with
    Inception features this is FID, with any others it must not be called so. The covariances
    divide by n - 1. The trace of the root is that of (S1^{1/2} S2 S1^{1/2})^{1/2}, which is
    symmetric, so `eigh` does and no complex rounding appears. The estimate is biased upwards for
    small sets: compare only values from equal sample counts.

    Args:
        x_ND: real array, features of one set.
        y_MD: real array, features of the other.

    Returns:
        The distance, in squared feature units; 0 for equal sets up to rounding.

    Raises:
        UserError: fewer than 2 samples, unequal widths, wrong rank, or non-finite values.
    """
    x_ND = _check_features("the first set", x_ND, 2)
    y_MD = _check_features("the second set", y_MD, 2)
    _check_same_width(x_ND, y_MD)
    shift_D = x_ND.mean(axis=0) - y_MD.mean(axis=0)
    s1_DD = np.atleast_2d(np.cov(x_ND, rowvar=False))
    s2_DD = np.atleast_2d(np.cov(y_MD, rowvar=False))
    root_DD = _matrix_sqrt(s1_DD)
    product_DD = root_DD @ s2_DD @ root_DD
    values_D = np.linalg.eigvalsh((product_DD + product_DD.T) / 2)
    root_trace = np.sqrt(np.maximum(values_D, 0.0)).sum()
    value = shift_D @ shift_D + np.trace(s1_DD) + np.trace(s2_DD) - 2.0 * root_trace
    return float(max(value, 0.0))


def _squared_radii(x_ND: np.ndarray, k: int) -> np.ndarray:
    """Squared distance (N,) from each sample to its k-th nearest other sample."""
    radii_N = np.empty(len(x_ND))
    for rows in chunk_slices(len(x_ND), len(x_ND)):
        d2_BN = squared_distances(x_ND[rows], x_ND)
        d2_BN[np.arange(len(d2_BN)), np.arange(rows.start, rows.stop)] = np.inf
        radii_N[rows] = np.partition(d2_BN, k - 1, axis=1)[:, k - 1]
    return radii_N


def _share_covered(
    queries_ND: np.ndarray, centres_MD: np.ndarray, radii_M: np.ndarray, slack: float
) -> float:
    covered = 0
    for rows in chunk_slices(len(queries_ND), len(centres_MD)):
        d2_BM = squared_distances(queries_ND[rows], centres_MD)
        covered += int((d2_BM <= radii_M + slack).any(axis=1).sum())
    return covered / len(queries_ND)


def precision_recall(
    real_ND: np.ndarray, fake_MD: np.ndarray, *, k: int = 3
) -> tuple[float, float]:
    """Improved precision and recall, Kynkaanniemi et al. 2019, equations (1) and (2).

    Each sample carries a ball that reaches its k-th nearest neighbour in its own set (itself not
    counted). Precision is the share of fakes inside at least one real ball, recall the share of
    reals inside at least one fake ball. Both depend on the sample counts: use equal ones.

    Args:
        real_ND: real array, features of the data.
        fake_MD: real array, features of the samples.
        k: which neighbour sets the radius; the paper uses 3.

    Returns:
        (precision, recall), each within 0..1. Memory stays bounded: distances come in chunks.

    Raises:
        UserError: k < 1, fewer than k + 1 samples, unequal widths, wrong rank, non-finite values.
    """
    if k < 1:
        raise UserError(f"k must be at least 1, got {k}")
    real_ND = _check_features("the real set", real_ND, k + 1)
    fake_MD = _check_features("the fake set", fake_MD, k + 1)
    _check_same_width(real_ND, fake_MD)
    # A common centre keeps the matrix-product distances accurate when the mean is large.
    centre_D = real_ND.mean(axis=0)
    real_ND, fake_MD = real_ND - centre_D, fake_MD - centre_D
    largest = max(np.square(real_ND).sum(axis=1).max(), np.square(fake_MD).sum(axis=1).max())
    # Equal points may come out a rounding error apart, which a ball of radius 0 must forgive.
    slack = 1e-13 * float(largest)
    precision = _share_covered(fake_MD, real_ND, _squared_radii(real_ND, k), slack)
    recall = _share_covered(real_ND, fake_MD, _squared_radii(fake_MD, k), slack)
    return precision, recall
