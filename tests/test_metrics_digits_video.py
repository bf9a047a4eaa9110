"""Scores of moving digits against clips whose motion and class are known by construction."""

import numpy as np
import pytest

from gen.data.digits_video import FRAMES, HEIGHT, WIDTH, make_clips, small_digits
from gen.errors import UserError
from gen.metrics.digits_video import best_shifts, motion, moved, score_clips

SIZE = (FRAMES, HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def real():
    """Clips and labels of 400 training digits and of 100 test digits."""
    digits, labels = small_digits()
    parts = []
    for start, stop in ((0, 400), (1500, 1600)):
        clips = make_clips(digits[start:stop], each=1, seed=start)
        parts.append((clips, labels[start:stop]))
    return parts


def videos(clips):
    return clips.reshape(-1, *SIZE)


def test_moved_by_hand():
    frame = np.arange(6).reshape(1, 2, 3)
    np.testing.assert_array_equal(moved(frame, 0, 0), frame)
    np.testing.assert_array_equal(moved(frame, 1, -1), [[[0, 0, 0], [1, 2, 0]]])
    np.testing.assert_array_equal(moved(frame, -1, 2), [[[0, 0, 3], [0, 0, 0]]])


def test_best_shift_finds_the_shift_and_what_it_leaves():
    rng = np.random.default_rng(0)
    before = np.zeros((25, 9, 9))
    before[:, 2:7, 2:7] = rng.integers(1, 17, (25, 5, 5))
    wanted = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
    after = np.concatenate([moved(before[i : i + 1], *wanted[i]) for i in range(25)])
    shifts, residuals = best_shifts(before, after)
    assert [tuple(shift) for shift in shifts.tolist()] == wanted
    np.testing.assert_array_equal(residuals, 0)
    # One cell of 3 more against a mean energy by hand.
    after[0, 2, 2] += 3
    energy = (np.square(before[0]).sum() + np.square(after[0]).sum()) / 2
    assert best_shifts(before[:1], after[:1])[1][0] == pytest.approx(9 / energy)
    blank = np.zeros((1, 9, 9))
    assert best_shifts(blank, blank)[0].tolist() == [[0, 0]]
    assert best_shifts(before[:1], blank)[1][0] == pytest.approx(2)


def test_real_clips_move_perfectly(real):
    expected = {"path": 1.0, "shape": 1.0, "path_and_shape": 1.0, "residual": 0.0}
    for clips, _ in real:
        assert motion(videos(clips)) == expected


def test_standing_and_blank_clips_have_no_path(real):
    still = np.repeat(videos(real[0][0])[:, :1], FRAMES, axis=1)
    for clips in (still, np.zeros_like(still)):
        found = motion(clips)
        assert (found["path"], found["shape"], found["path_and_shape"]) == (0.0, 1.0, 0.0)


def test_jumping_clips_lose_the_path_only(real):
    frames = videos(real[0][0]).copy()
    # On to the right by one cell, and back.
    frames[:, 1], frames[:, 2] = moved(frames[:, 0], 0, 1), frames[:, 0]
    whole = frames[(frames[:, 0, :, -1] == 0).all(axis=-1)]
    found = motion(whole)
    assert len(whole) > 200
    assert (found["path"], found["shape"]) == (0.0, 1.0)


def test_changing_clips_lose_the_shape(real):
    """The last frame shows another digit of the class on the path of the first."""
    digits, labels = small_digits()
    digits = digits[:400]
    other = np.arange(400)
    for label in range(10):
        of_class = np.flatnonzero(labels[:400] == label)
        other[of_class] = np.roll(of_class, len(of_class) // 2)
    clips, changed = (make_clips(d, each=1, seed=0) for d in (digits, digits[other]))
    mixed = videos(clips).copy()
    mixed[:, -1] = videos(changed)[:, -1]
    assert motion(mixed)["shape"] < 0.05


def test_noise_of_a_gray_level_keeps_the_path_but_not_every_shape(real):
    clips = videos(real[0][0]).astype(int)
    noise = np.random.default_rng(0).integers(-1, 2, clips.shape)
    found = motion(np.clip(clips + noise, 0, 16))
    assert found["path"] > 0.99 and 0.45 < found["shape"] < 0.65


def test_scores_of_real_and_of_mislabelled_clips(real):
    train, test = real
    arguments = {"size": SIZE, "train": train, "test": test, "classifier_seeds": (0,)}
    scores = score_clips(*train, **arguments)
    assert scores["class_accuracy"] > 0.99 and scores["num_samples"] == 400
    assert 0.7 < scores["classifier_test_accuracy"] < 0.98
    assert scores["motion"]["path_and_shape"] == scores["motion_test"]["path_and_shape"] == 1.0
    assert scores["exact_copies"] == 400 and scores["memorisation_ratio"] == 0.0
    assert scores == score_clips(*train, **arguments)
    assert score_clips(train[0], (train[1] + 1) % 10, **arguments)["class_accuracy"] < 0.01


def test_only_the_last_frame_tells_the_class(real):
    train, test = real
    clips = videos(train[0]).copy()
    clips[:, -1] = 0
    arguments = {"size": SIZE, "train": train, "test": test, "classifier_seeds": (0,)}
    scores = score_clips(clips.reshape(400, -1), train[1], **arguments)
    assert scores["class_accuracy"] < 0.3
    assert scores["motion"]["shape"] == 0.0


def test_noise_is_told_apart(real):
    train, test = real
    noise = np.random.default_rng(0).integers(0, 17, train[0].shape)
    arguments = {"size": SIZE, "train": train, "test": test, "classifier_seeds": (0,)}
    scores = score_clips(noise, train[1], **arguments)
    assert scores["two_sample_accuracy"] > 0.95
    assert scores["motion"]["path_and_shape"] == 0.0 and scores["motion"]["residual"] > 0.3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clips": np.zeros((400, 64), int)}, r"samples must have shape \(images, 126\)"),
        ({"clips": np.full((400, 126), 17)}, r"whole values 0\.\.16"),
        ({"clips": np.zeros((100, 126), int), "labels": np.zeros(100, int)}, "at least 200"),
        ({"labels": np.full(400, 10)}, "without training clips"),
        ({"seeds": ()}, "at least one seed"),
    ],
)
def test_refuses(real, change, words):
    train, test = real
    given = {"clips": train[0], "labels": train[1], "seeds": (0,)} | change
    arguments = {"size": SIZE, "train": train, "test": test, "classifier_seeds": given["seeds"]}
    with pytest.raises(UserError, match=words):
        score_clips(given["clips"], given["labels"], **arguments)


def test_motion_needs_frames_and_cells():
    for shape in ((3, 1, 8, 8), (3, 2, 2, 8)):
        with pytest.raises(UserError, match="motion needs 2 frames"):
            motion(np.zeros(shape))
