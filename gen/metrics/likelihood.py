"""Negative log-likelihood, its units, and a baseline to read it against.

Axes: N samples (or training samples), M test samples, P positions of a sample.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gen.errors import UserError


def bits_per_dim(nats_per_sample: Any, num_dims: int) -> Any:
    """Bits per dimension: nats / (dims * ln 2), as in Theis et al. 2016, section 3.1.

    Args:
        nats_per_sample: scalar or array, negative log-likelihood of a whole sample in nats.
        num_dims: values in one sample (pixels times channels). For codes of a tokenizer the
            honest unit is bits per token, so pass the number of tokens there.

    Returns:
        float or float64 array of the same shape, in bits.

    Raises:
        UserError: num_dims is below 1.
    """
    if num_dims < 1:
        raise UserError(f"num_dims must be at least 1, got {num_dims}")
    bits = np.asarray(nats_per_sample, dtype=np.float64) / (num_dims * math.log(2.0))
    return float(bits) if bits.ndim == 0 else bits


def summarise_nll(nll_NP: Any, *, num_dims: int) -> dict[str, float]:
    """Means of per-token negative log-likelihoods over a set of samples.

    Args:
        nll_NP: real array, nats per token; axes after the first are summed over a sample.
        num_dims: values in one sample, see `bits_per_dim`.

    Returns:
        `nats_per_token`, `nats_per_sample`, `bits_per_dim`, `bits_per_dim_stderr` (standard
        error of the mean over samples, n - 1; NaN for one sample) and `count` (samples). The
        standard error covers the choice of test samples, not the training seed.

    Raises:
        UserError: fewer than two axes, no samples or tokens, NaN, or num_dims below 1.
    """
    nll_NP = np.asarray(nll_NP, dtype=np.float64)
    if nll_NP.ndim < 2 or nll_NP.size == 0:
        raise UserError(f"nll must have shape (samples, tokens), got {nll_NP.shape}")
    if np.isnan(nll_NP).any():
        raise UserError("nll holds NaN values")
    nats_N = nll_NP.reshape(len(nll_NP), -1).sum(axis=1)
    bits_N = bits_per_dim(nats_N, num_dims)
    count = len(nats_N)
    stderr = bits_N.std(ddof=1) / math.sqrt(count) if count > 1 else math.nan
    return {
        "nats_per_token": float(nll_NP.mean()),
        "nats_per_sample": float(nats_N.mean()),
        "bits_per_dim": float(bits_N.mean()),
        "bits_per_dim_stderr": float(stderr),
        "count": count,
    }


def summarise_loss(rows_NP: Any, *, name: str) -> dict[str, float]:
    """Mean of a loss per position over a set of samples, with its standard error.

    Args:
        rows_NP: real array, axes after the first are averaged over a sample.
        name: what the loss is called.

    Returns:
        `name`, `name_stderr` (over samples, n - 1; NaN for one sample) and `count`.

    Raises:
        UserError: fewer than two axes, no samples, or NaN.
    """
    rows_NP = np.asarray(rows_NP, dtype=np.float64)
    if rows_NP.ndim < 2 or rows_NP.size == 0 or np.isnan(rows_NP).any():
        raise UserError(f"{name} must be numbers of shape (samples, positions): {rows_NP.shape}")
    rows_N = rows_NP.reshape(len(rows_NP), -1).mean(axis=1)
    count = len(rows_N)
    stderr = rows_N.std(ddof=1) / math.sqrt(count) if count > 1 else math.nan
    return {name: float(rows_N.mean()), f"{name}_stderr": float(stderr), "count": count}


def _check_tokens(name: str, tokens: Any, labels: Any, vocab_size: int, num_classes: int) -> tuple:
    """int64 (tokens, labels), known to be in range."""
    tokens, labels = np.asarray(tokens), np.asarray(labels)
    if tokens.ndim != 2 or tokens.size == 0 or tokens.dtype.kind not in "iu":
        raise UserError(
            f"{name} tokens must be integers of shape (samples, positions), "
            f"got {tokens.dtype} {tokens.shape}"
        )
    if labels.shape != tokens.shape[:1] or labels.dtype.kind not in "iu":
        raise UserError(
            f"{name} labels must be {len(tokens)} integers, got {labels.dtype} {labels.shape}"
        )
    for what, values, limit in (("tokens", tokens, vocab_size), ("labels", labels, num_classes)):
        if values.min() < 0 or values.max() >= limit:
            raise UserError(
                f"{name} {what} reach from {values.min()} to {values.max()}, outside 0..{limit - 1}"
            )
    return tokens.astype(np.int64), labels.astype(np.int64)


def histogram_baseline(
    train_tokens_NP: Any,
    train_labels_N: Any,
    test_tokens_MP: Any,
    test_labels_M: Any,
    *,
    vocab_size: int,
    num_classes: int,
    pseudo_count: float = 0.5,
) -> float:
    """Bits per token of the model that knows only the class and the position.

    p(token | position, class) = (count + pseudo_count) / (class size + pseudo_count * vocab).
    A model that learnt nothing about how tokens depend on one another scores about this, so
    evaluation shows it beside the model's number. On scikit-learn's digits (first 1500 train,
    last 297 test, 17 levels) it is 2.189. Use one class for unlabelled data.

    Args:
        train_tokens_NP: int array in 0..vocab_size-1.
        train_labels_N: int array in 0..num_classes-1.
        test_tokens_MP: int array, same positions.
        test_labels_M: int array.
        vocab_size: number of token values.
        num_classes: number of labels.
        pseudo_count: added to every count; above 0 so that unseen tokens stay possible.

    Returns:
        Mean over test tokens, in bits (bits per dimension where a token is a pixel value).

    Raises:
        UserError: wrong shapes or dtypes, values out of range, or pseudo_count not above 0.
    """
    if not pseudo_count > 0:
        raise UserError(f"pseudo_count must be above 0, got {pseudo_count}")
    train_NP, train_N = _check_tokens(
        "train", train_tokens_NP, train_labels_N, vocab_size, num_classes
    )
    test_MP, test_M = _check_tokens("test", test_tokens_MP, test_labels_M, vocab_size, num_classes)
    num_positions = train_NP.shape[1]
    if test_MP.shape[1] != num_positions:
        raise UserError(f"train has {num_positions} positions, test has {test_MP.shape[1]}")

    def keys(tokens_NP: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
        cell_NP = labels_N[:, None] * num_positions + np.arange(num_positions)
        return (cell_NP * vocab_size + tokens_NP).ravel()

    # Counts by search in the sorted keys: a full (class, position, token) table would need
    # gigabytes for a large codebook, of which the data fills next to nothing.
    seen = np.sort(keys(train_NP, train_N))
    wanted = keys(test_MP, test_M)
    count = np.searchsorted(seen, wanted, "right") - np.searchsorted(seen, wanted, "left")
    class_size_M1 = np.bincount(train_N, minlength=num_classes)[test_M][:, None]
    total_MP = class_size_M1 + pseudo_count * vocab_size
    prob_MP = (count.reshape(test_MP.shape) + pseudo_count) / total_MP
    return float(-np.log2(prob_MP).mean())
