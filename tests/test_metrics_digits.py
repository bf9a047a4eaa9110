"""Digit scores against the known numbers of real, copied, histogram and uniform samples."""

import numpy as np
import pytest

from gen.errors import UserError
from gen.metrics.digits import score_samples
from gen.metrics.likelihood import histogram_baseline


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (images[:1500], labels[:1500]), (images[1500:], labels[1500:])


@pytest.fixture(scope="module")
def histogram_samples(digits):
    """Every pixel drawn by itself from the training images of the class."""
    (images, labels), _ = digits
    rng = np.random.default_rng(0)
    samples = np.zeros_like(images)
    for label in range(10):
        of_class = np.flatnonzero(labels == label)
        for pixel in range(64):
            samples[of_class, pixel] = images[rng.choice(of_class, len(of_class)), pixel]
    return samples


def test_histogram_baseline_anchor(digits):
    (train, train_labels), (test, test_labels) = digits
    sizes = {"vocab_size": 17, "num_classes": 10}
    tokens = train.astype(int), train_labels, test.astype(int), test_labels
    assert histogram_baseline(*tokens, **sizes) == pytest.approx(2.189, abs=1e-3)
    with pytest.raises(UserError, match=r"train tokens reach .* outside 0\.\.15"):
        histogram_baseline(*tokens, vocab_size=16, num_classes=10)
    with pytest.raises(UserError, match="test tokens must be integers"):
        histogram_baseline(*tokens[:2], test, test_labels, **sizes)
    with pytest.raises(UserError, match="64 positions"):
        histogram_baseline(*tokens[:2], tokens[2][:, :9], test_labels, **sizes)


def test_training_set_as_samples(digits):
    train, test = digits
    scores = score_samples(*train, train=train, test=test, classifier_seeds=(0,))
    assert scores["exact_copies"] == 1500
    assert scores["memorisation_ratio"] == 0.0
    assert scores["nearest_train_test"] == pytest.approx(18.694, abs=1e-3)
    assert (scores["precision"], scores["recall"]) == (1.0, 1.0)
    assert scores["frechet_train"] == pytest.approx(0, abs=1e-6)
    assert scores["frechet_test"] == pytest.approx(4.33, abs=0.5)
    assert scores["class_accuracy"] > 0.99
    assert scores["classifier_test_accuracy"] == pytest.approx(0.919, abs=0.03)
    # Copies confuse the classifier beyond chance.
    assert 0.3 < scores["two_sample_accuracy"] < 0.52


def test_fresh_real_images_look_real(digits):
    (images, labels), test = digits
    order = np.random.default_rng(0).permutation(1500)
    one, other = order[:750], order[750:]
    train = images[one], labels[one]
    scores = score_samples(images[other], labels[other], train=train, test=test)
    assert scores["num_samples"] == 750
    assert 0.42 < scores["two_sample_accuracy"] < 0.58
    assert len(scores["two_sample_accuracy_seeds"]) == 3
    mean = np.mean(scores["two_sample_accuracy_seeds"])
    assert scores["two_sample_accuracy"] == pytest.approx(mean)
    assert scores["exact_copies"] == 0
    assert 0.8 < scores["memorisation_ratio"] < 1.1
    assert scores["precision"] > 0.8
    assert scores["recall"] > 0.8


def test_histogram_samples_are_told_apart_where_frechet_is_blind(digits, histogram_samples):
    train, test = digits
    scores = score_samples(
        histogram_samples, train[1], train=train, test=test, classifier_seeds=(1,)
    )
    assert scores["two_sample_accuracy"] > 0.85
    assert scores["class_accuracy"] > 0.9
    assert 0.4 < scores["frechet_train"] < 1.5
    assert 0.5 < scores["precision"] < 0.8
    assert scores["memorisation_ratio"] > 1.2


def test_uniform_samples(digits):
    train, test = digits
    noise = np.random.default_rng(0).integers(0, 17, (1500, 64), dtype=np.uint8)
    scores = score_samples(noise, train[1], train=train, test=test, classifier_seeds=(0,))
    assert scores["two_sample_accuracy"] > 0.98
    assert scores["class_accuracy"] < 0.2
    assert scores["precision"] < 0.3
    assert scores["frechet_train"] > 40


def test_few_samples_copies_and_determinism(digits, histogram_samples):
    (images, labels), test = digits
    train = images[:300], labels[:300]
    samples = histogram_samples[:220].copy()
    samples[:7] = train[0][10:17]
    arguments = {"train": train, "test": test, "classifier_seeds": (0,)}
    scores = score_samples(samples, labels[:220], **arguments)
    assert scores["exact_copies"] == 7
    assert scores == score_samples(samples, labels[:220], **arguments)
    assert scores != score_samples(samples, labels[:220], **arguments | {"classifier_seeds": (5,)})


def test_memorisation_ratio_by_hand(digits):
    (images, labels), _ = digits
    # Training images of even values only: a step of 1 in some pixels has a known distance.
    even = 2 * (images[:200] // 2)
    samples, test = even.copy(), even[:50].copy()
    samples[:, 0], test[:, :4] = (
        1,
        np.where(even[:50, :4] > 8, even[:50, :4] - 1, even[:50, :4] + 1),
    )
    scores = score_samples(
        samples,
        labels[:200],
        train=(even, labels[:200]),
        test=(test, labels[:50]),
        classifier_seeds=(0,),
    )
    assert scores["nearest_train_samples"] == pytest.approx(1.0)
    assert scores["nearest_train_test"] == pytest.approx(2.0)
    assert scores["memorisation_ratio"] == pytest.approx(0.5)
    assert scores["exact_copies"] == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"samples": np.zeros((300, 8, 8))}, "shape"),
        ({"samples": np.zeros((199, 64)), "labels": np.zeros(199, int)}, "at least 200"),
        ({"samples": np.full((300, 64), 0.5)}, "whole values"),
        ({"samples": np.full((300, 64), 17)}, "whole values 0..16"),
        ({"samples": np.full((300, 64), np.nan)}, "whole values"),
        ({"labels": np.zeros(299, int)}, "labels"),
        ({"labels": np.zeros(300)}, "integers"),
        ({"labels": np.full(300, 10)}, "without training images"),
        ({"seeds": ()}, "at least one seed"),
        ({"test": (np.zeros((50, 64)), np.zeros(49, int))}, "labels of test images"),
        ({"test": "train"}, "every test image"),
    ],
)
def test_score_samples_refuses(digits, change, words):
    train, test = digits
    given = {"samples": train[0][:300], "labels": train[1][:300], "test": test, "seeds": (0,)}
    given |= change
    test = train if isinstance(given["test"], str) else given["test"]
    with pytest.raises(UserError, match=words):
        score_samples(
            given["samples"],
            given["labels"],
            train=train,
            test=test,
            classifier_seeds=given["seeds"],
        )
