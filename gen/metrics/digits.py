"""Sample quality and memorisation on 8x8 digits, with scikit-learn networks and no download.

Axes: N generated samples, M training images, T test images, P = 64 pixels, F = 32 features.

Limits to keep in mind when reading the numbers:

- The usual split is by dataset order (first 1500 train, last 297 test), and the last images come
  from other writers. It is not i.i.d.: the training set itself has a Frechet distance of about 4
  to the test set, and the classifier that is right on all training images gets about 92 % of the
  test images. So both are reported, and 0 is not the floor of `frechet_test`. Likewise the
  `memorisation_ratio` of an honest sampler is about 0.9, not 1: that is what one random half of
  the training images gets when it is scored against the other half.
- The features come from a network trained to tell the classes apart, so the Frechet distance is
  nearly blind to structure within a class: independent pixels drawn per class and position score
  about 1 although they look like noise. `two_sample_accuracy` sees through them at once.
- `two_sample_accuracy` compares with training images. Samples that copy training images can fall
  well below 0.5, because the classifier met the same image under the other label: that is a sign
  of memorisation, not of quality. Read it beside `memorisation_ratio`.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from gen.errors import UserError
from gen.metrics.features import chunk_slices, frechet, precision_recall, squared_distances

NUM_PIXELS = 64
TOP_VALUE = 16
# Sizes of the two-sample test when there are samples enough: per side, to fit and to judge.
_FIT, _HELD_OUT = 750, 297
_LEAST_SAMPLES, _LEAST_TEST = 200, 50
# With Adam at its default rate all these fits stop by themselves before this many epochs.
_MAX_EPOCHS = 1000


def check_images(
    name: str, images: Any, labels: Any, least: int, num_pixels: int = NUM_PIXELS
) -> tuple:
    """float64 images (n, num_pixels) holding whole values 0..16, int64 labels (n,).

    Raises:
        UserError: wrong shapes or values, or fewer than `least`.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim != 2 or images.shape[1] != num_pixels:
        raise UserError(f"{name} must have shape (images, {num_pixels}), got {images.shape}")
    if len(images) < least:
        raise UserError(f"{name} has {len(images)} images; this needs at least {least}")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise UserError(
            f"labels of {name} must be {len(images)} integers, got {labels.dtype} {labels.shape}"
        )
    if images.dtype.kind not in "iuf":
        raise UserError(f"{name} must be numbers, got {images.dtype}")
    images = images.astype(np.float64)
    # NaN fails both comparisons.
    if not ((images >= 0) & (images <= TOP_VALUE)).all() or (images != np.rint(images)).any():
        raise UserError(f"{name} must hold whole values 0..{TOP_VALUE}")
    return images, labels.astype(np.int64)


def check_seeds(classifier_seeds: tuple[int, ...]) -> None:
    """Raises `UserError` where there is no seed for a classifier."""
    if len(classifier_seeds) == 0:
        raise UserError("classifier_seeds must name at least one seed")


def fit_classifier(
    hidden: tuple[int, ...], seed: int, images: np.ndarray, labels: np.ndarray
) -> Any:
    """A network fitted to images (n, P) of 0..16; its inputs are divided by `TOP_VALUE`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    network = MLPClassifier(hidden, random_state=seed, max_iter=_MAX_EPOCHS)
    with warnings.catch_warnings():
        # A two-sample test on equal distributions has nothing to converge to.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return network.fit(images / TOP_VALUE, labels)


def feature_network(images: np.ndarray, labels: np.ndarray) -> Any:
    """The MLP(64, 32) of seed 0 that judges classes and gives features; see `score_samples`."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return fit_classifier((64, 32), 0, images, labels)


def _features(network: Any, images_NP: np.ndarray) -> np.ndarray:
    """Last hidden layer after its ReLU, float64 (N, F)."""
    hidden = images_NP / TOP_VALUE
    for weights, bias in zip(network.coefs_[:-1], network.intercepts_[:-1], strict=True):
        hidden = np.maximum(hidden @ weights + bias, 0.0)
    return hidden


def two_sample(
    samples_NP: np.ndarray, train_MP: np.ndarray, test_TP: np.ndarray, seed: int
) -> float:
    """Accuracy of one classifier at telling held-out real images from held-out samples."""
    share = min(
        1.0,
        len(samples_NP) / (_FIT + _HELD_OUT),
        len(train_MP) / _FIT,
        len(test_TP) / _HELD_OUT,
    )
    fit, held_out = int(_FIT * share), int(_HELD_OUT * share)
    rng = np.random.default_rng(seed)
    samples_NP = rng.permutation(samples_NP)
    real_fit, real_held = rng.permutation(train_MP)[:fit], rng.permutation(test_TP)[:held_out]
    fake_fit, fake_held = samples_NP[:fit], samples_NP[fit : fit + held_out]
    network = fit_classifier(
        (64,), seed, np.concatenate([real_fit, fake_fit]), np.repeat(np.array([1, 0]), fit)
    )
    held = np.concatenate([real_held, fake_held])
    return float(network.score(held / TOP_VALUE, np.repeat(np.array([1, 0]), held_out)))


def _nearest(images_NP: np.ndarray, train_MP: np.ndarray) -> np.ndarray:
    """Euclidean pixel distance (N,) to the nearest training image; exact 0 for a copy."""
    rows = chunk_slices(len(images_NP), len(train_MP))
    return np.sqrt(
        np.concatenate([squared_distances(images_NP[r], train_MP).min(axis=1) for r in rows])
    )


def memorisation(
    samples_NP: np.ndarray, train_MP: np.ndarray, test_TP: np.ndarray
) -> dict[str, float]:
    """Exact copies of training images, and nearest distances; see `score_samples`."""
    nearest_samples_N = _nearest(samples_NP, train_MP)
    nearest_test = float(_nearest(test_TP, train_MP).mean())
    if nearest_test == 0:
        raise UserError("every test image is also a training image; pass images not trained on")
    nearest_samples = float(nearest_samples_N.mean())
    return {
        "exact_copies": int((nearest_samples_N == 0).sum()),
        "nearest_train_samples": nearest_samples,
        "nearest_train_test": nearest_test,
        "memorisation_ratio": nearest_samples / nearest_test,
    }


def _feature_scores(
    network: Any, samples_NP: np.ndarray, train_MP: np.ndarray, test_TP: np.ndarray
) -> dict[str, float]:
    samples_NF, train_MF, test_TF = (_features(network, x) for x in (samples_NP, train_MP, test_TP))
    # Both measures move with the set sizes, so the larger set is thinned, always the same way.
    rng = np.random.default_rng(0)
    count = min(len(samples_NF), len(train_MF))
    precision, recall = precision_recall(
        rng.permutation(train_MF)[:count], rng.permutation(samples_NF)[:count]
    )
    return {
        "precision": precision,
        "recall": recall,
        "frechet_train": frechet(samples_NF, train_MF),
        "frechet_test": frechet(samples_NF, test_TF),
    }


def score_samples(
    samples_NP: Any,
    labels_N: Any,
    *,
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    classifier_seeds: tuple[int, ...] = (0, 1, 2),
    network: Any = None,
) -> dict[str, Any]:
    """Scores generated 8x8 digits against real ones; the module's docstring tells the limits.

    Classifier two-sample test: Lopez-Paz & Oquab 2017. For each seed, `default_rng(seed)` permutes
    samples, training and test images in turn; the first 750 training images and 750 samples fit an
    MLP(64), 297 test images and the next 297 samples judge it. With fewer samples (or images) all
    four counts shrink by one factor, so compare only runs of equal `num_samples`. Precision and
    recall: Kynkaanniemi et al. 2019, k = 3, on equal counts. The feature network is an
    MLP(64, 32) of seed 0 fitted to the training labels; its last hidden layer gives the features.

    Args:
        samples_NP: (N, 64) whole values 0..16, integer or float, N >= 200; 1500 for the anchors.
        labels_N: (N,) int, the class that each sample was asked for.
        train: images (M, 64) and labels (M,) that the generator was trained on, M >= 200.
        test: images (T, 64) and labels (T,) that it was not trained on, T >= 50.
        classifier_seeds: one two-sample classifier each; at least one.
        network: what `feature_network` made of `train`, to be shared by several calls.

    Returns:
        `num_samples`; `class_accuracy` of the feature network on the samples and
        `classifier_test_accuracy` on the test images; `two_sample_accuracy` (0.5: cannot be told
        apart, 1: always told apart) and the list `two_sample_accuracy_seeds`; `precision`,
        `recall`, `frechet_train`, `frechet_test`; `exact_copies` (samples equal to a training
        image); `nearest_train_samples` and `nearest_train_test` (mean Euclidean distance in gray
        levels to the nearest training image, of samples and of test images) and their quotient
        `memorisation_ratio`: about 1 when samples keep as far from the training images as unseen
        real ones do, below 1 when they hug them. The same input gives the same output.

    Raises:
        UserError: wrong shapes, values or labels, too few images, no seed, or a test set that
            lies wholly within the training set.
    """
    from threadpoolctl import threadpool_limits

    samples_NP, labels_N = check_images("samples", samples_NP, labels_N, _LEAST_SAMPLES)
    train_MP, train_M = check_images("training images", *train, _LEAST_SAMPLES)
    test_TP, test_T = check_images("test images", *test, _LEAST_TEST)
    if unknown := sorted(set(labels_N.tolist()) - set(train_M.tolist())):
        raise UserError(f"labels of samples name classes without training images: {unknown}")
    check_seeds(classifier_seeds)
    scores: dict[str, Any] = {"num_samples": len(samples_NP)}
    copies = memorisation(samples_NP, train_MP, test_TP)
    # One thread: these matrices are too small to share, and sums keep one order.
    with threadpool_limits(1):
        network = network or feature_network(train_MP, train_M)
        scores["class_accuracy"] = float(network.score(samples_NP / TOP_VALUE, labels_N))
        scores["classifier_test_accuracy"] = float(network.score(test_TP / TOP_VALUE, test_T))
        seeds = [two_sample(samples_NP, train_MP, test_TP, s) for s in classifier_seeds]
        scores["two_sample_accuracy"] = float(np.mean(seeds))
        scores["two_sample_accuracy_seeds"] = seeds
        scores |= _feature_scores(network, samples_NP, train_MP, test_TP)
    return scores | copies
