"""Quality of clips of moving digits: their class, and whether a digit keeps its shape and path.

Axes: N clips, M training clips, T frames, H and W height and width of a frame, P = T * H * W.

`motion` compares each frame with the one before it, moved by every whole shift of up to two
cells. Real clips fit exactly; of pairs of different digits of one class, put in the same place,
1 % fit within `LARGEST_RESIDUAL`; with a gray level more or less in two thirds of the cells, 57 %
of real clips do, and all keep their path.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from gen.errors import UserError
from gen.metrics.digits import (
    TOP_VALUE,
    check_images,
    check_seeds,
    feature_network,
    memorisation,
    two_sample,
)

FARTHEST = 2
LARGEST_RESIDUAL = 0.03
_LEAST_SAMPLES, _LEAST_TEST = 200, 50


def moved(frames_NHW: np.ndarray, down: int, right: int) -> np.ndarray:
    """The frames moved by some cells, fewer than their sides; zeros move in. Shape as given."""
    _, height, width = frames_NHW.shape
    moved_NHW = np.zeros_like(frames_NHW)
    to_rows, from_rows = _overlap(down, height)
    to_columns, from_columns = _overlap(right, width)
    moved_NHW[:, to_rows, to_columns] = frames_NHW[:, from_rows, from_columns]
    return moved_NHW


def _overlap(shift: int, size: int) -> tuple[slice, slice]:
    """Where a row of cells lies after a shift, and where it was before."""
    first, last = max(shift, 0), size + min(shift, 0)
    return slice(first, last), slice(first - shift, last - shift)


def best_shifts(before_NHW: np.ndarray, after_NHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The whole shift that best turns one frame into the next.

    Returns:
      shifts (N, 2) int64, cells down and right, within 2 either way, (0, 0) where nothing fits
      better; residuals (N,) float64: the sum of squares that the shift leaves, as a share of the
      mean sum of squares of the two frames (of 1 where both are blank).
    """
    reach = range(-FARTHEST, FARTHEST + 1)
    # The shorter comes first, so that ties go to it: argmin takes the first.
    shifts = sorted(itertools.product(reach, reach), key=lambda shift: np.square(shift).sum())
    before_NHW, after_NHW = before_NHW.astype(np.float64), after_NHW.astype(np.float64)
    left_KN = np.stack(
        [np.square(after_NHW - moved(before_NHW, *shift)).sum(axis=(1, 2)) for shift in shifts]
    )
    energy_N = (np.square(before_NHW) + np.square(after_NHW)).sum(axis=(1, 2)) / 2
    best_N = left_KN.argmin(axis=0)
    return np.array(shifts)[best_N], left_KN.min(axis=0) / np.maximum(energy_N, 1.0)


def motion(clips_NTHW: np.ndarray) -> dict[str, float]:
    """Shares of clips in which the digit keeps its path, its shape, and both.

    Args:
      clips_NTHW: gray levels, at least two frames of three cells or more a side.

    Returns:
      `path`: the best shift is the same at all steps and is not none; `shape`: no step leaves a
      residual above `LARGEST_RESIDUAL`; `path_and_shape`; and `residual`, the mean over clips of
      the largest one.

    Raises:
      UserError: fewer frames or cells.
    """
    _, frames, height, width = clips_NTHW.shape
    if frames < 2 or min(height, width) <= FARTHEST:
        raise UserError(f"motion needs 2 frames of {FARTHEST + 1} cells: {clips_NTHW.shape}")
    steps = [best_shifts(clips_NTHW[:, t], clips_NTHW[:, t + 1]) for t in range(frames - 1)]
    shifts_TN2, residuals_TN = (np.stack(part) for part in zip(*steps))
    path_N = (shifts_TN2 == shifts_TN2[0]).all(axis=(0, 2)) & shifts_TN2[0].any(axis=1)
    shape_N = residuals_TN.max(axis=0) <= LARGEST_RESIDUAL
    return {
        "path": float(path_N.mean()),
        "shape": float(shape_N.mean()),
        "path_and_shape": float((path_N & shape_N).mean()),
        "residual": float(residuals_TN.max(axis=0).mean()),
    }


def last_frames(clips_NP: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """The cells of the last frames, `(N, H * W)`."""
    return clips_NP.reshape(len(clips_NP), size[0], -1)[:, -1]


def frame_network(clips_NP: np.ndarray, labels_N: np.ndarray, size: tuple[int, int, int]) -> Any:
    """The `feature_network` of last frames."""
    return feature_network(last_frames(clips_NP, size), labels_N)


def score_clips(
    clips_NP: Any,
    labels_N: Any,
    *,
    size: tuple[int, int, int],
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    classifier_seeds: tuple[int, ...] = (0, 1, 2),
    network: Any = None,
) -> dict[str, Any]:
    """Scores generated clips of moving digits against real ones.

    The classifier is the MLP(64, 32) of `gen.metrics.digits`, fitted to the last frames of the
    training clips. Two-sample test and memorisation are those of that module too, on whole clips;
    its remarks on them, and on the split by writers, hold here as well.

    Args:
      clips_NP: (N, P) whole values 0..16, N >= 200.
      labels_N: (N,) int, the class that each clip was asked for.
      size: (T, H, W).
      train: clips (M, P) and labels (M,) that the generator was trained on, M >= 200.
      test: clips and labels that it was not trained on, 50 or more.
      classifier_seeds: one two-sample classifier each; at least one.
      network: what `frame_network` made of `train`, to be shared by several calls.

    Returns:
      `num_samples`; `class_accuracy` of the last frames and `classifier_test_accuracy` of those of
      the test clips; `motion` of the samples and `motion_test` of the test clips (see `motion`);
      `two_sample_accuracy` and its seeds; and what `memorisation` gives of the training clips.

    Raises:
      UserError: wrong shapes, values or labels, too few clips, or no seed.
    """
    from threadpoolctl import threadpool_limits

    cells = int(np.prod(size))
    clips_NP, labels_N = check_images("samples", clips_NP, labels_N, _LEAST_SAMPLES, cells)
    train_MP, train_M = check_images("training clips", *train, _LEAST_SAMPLES, cells)
    test_NP, test_N = check_images("test clips", *test, _LEAST_TEST, cells)
    if unknown := sorted(set(labels_N.tolist()) - set(train_M.tolist())):
        raise UserError(f"labels of samples name classes without training clips: {unknown}")
    check_seeds(classifier_seeds)

    # One thread: these matrices are too small to share, and sums keep one order.
    with threadpool_limits(1):
        network = network or frame_network(train_MP, train_M, size)
        seeds = [two_sample(clips_NP, train_MP, test_NP, seed) for seed in classifier_seeds]
        accuracies = [
            float(network.score(last_frames(clips, size) / TOP_VALUE, labels))
            for clips, labels in ((clips_NP, labels_N), (test_NP, test_N))
        ]
    return {
        "num_samples": len(clips_NP),
        "class_accuracy": accuracies[0],
        "classifier_test_accuracy": accuracies[1],
        "motion": motion(clips_NP.reshape(-1, *size)),
        "motion_test": motion(test_NP.reshape(-1, *size)),
        "two_sample_accuracy": float(np.mean(seeds)),
        "two_sample_accuracy_seeds": seeds,
    } | memorisation(clips_NP, train_MP, test_NP)
