"""The moving digits: real digits on straight paths, split by digit, the same every time."""

import numpy as np
import pytest

from gen.data import open_dataset
from gen.data.digits import load_digits
from gen.data.digits_video import CLIPS_PER_DIGIT, VELOCITIES, make_clips, paths
from gen.evaluate import arrays
from gen.layouts import grid


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def dataset(directory):
    return open_dataset("digits_video", directory=directory)


@pytest.fixture(scope="module")
def digits():
    """(1797, 8, 6): the columns that the clips show."""
    return load_digits()[0].reshape(-1, 8, 8)[:, :, 1:7]


def placed(digit, tops_and_lefts):
    clip = np.zeros((3, 10, 8), int)
    for frame, (top, left) in zip(clip, tops_and_lefts, strict=True):
        frame[top : top + 8, left : left + 6] = digit
    return clip


def test_counts_layout_and_labels(dataset):
    assert dataset.manifest.splits == {"train": 6000, "test": 297}
    assert dataset.manifest.layout == grid(10, 8, 17, frames=3)
    assert dataset.manifest.num_classes == 10
    for split, part in (("train", slice(1500)), ("test", slice(1500, None))):
        _, labels = arrays(dataset.split(split))
        expected = load_digits()[1][part].repeat(CLIPS_PER_DIGIT[split])
        np.testing.assert_array_equal(labels, expected)


def test_paths_are_straight_and_stay_on_the_canvas():
    found = {tuple(map(tuple, path.tolist())) for path in paths()}
    assert len(found) == len(paths()) == 9
    for path in paths():
        first, second = np.diff(path, axis=0)
        assert tuple(first) == tuple(second) and tuple(first.tolist()) in VELOCITIES
        assert path.min() >= 0 and (path <= 2).all()
    # A family that decodes from the top left corner must meet a digit in earlier frames first.
    assert all(down + right >= 0 for down, right in VELOCITIES)


@pytest.mark.parametrize(("split", "first"), [("train", 0), ("test", 1500)])
def test_every_clip_is_its_own_digit_on_a_path(dataset, digits, split, first):
    clips, _ = arrays(dataset.split(split))
    each, used = CLIPS_PER_DIGIT[split], []
    for index, clip in enumerate(clips.reshape(-1, 3, 10, 8)):
        digit = digits[first + index // each]
        (which,) = [k for k, path in enumerate(paths()) if (clip == placed(digit, path)).all()]
        used.append(which)
    used = np.array(used).reshape(-1, each)
    assert all(len(set(row)) == each for row in used.tolist()), "a digit's clips are different"
    shares = np.bincount(used.reshape(-1), minlength=9) / used.size
    assert shares.min() > 0.06 and shares.max() < 0.16, "paths are about equally frequent"


def test_slices_separate_digits(dataset, digits):
    clips, _ = arrays(dataset.split("train[-600:]"))
    shown = {clip.tobytes() for clip in clips.reshape(-1, 3, 10, 8)[:, 0].astype(np.uint8)}
    others, _ = arrays(dataset.split("train[:-600]"))
    assert not shown & {o.tobytes() for o in others.reshape(-1, 3, 10, 8)[:, 0].astype(np.uint8)}


def test_same_clips_every_time(dataset, tmp_path):
    again = open_dataset("digits_video", directory=tmp_path)
    for split in ("train", "test"):
        first, second = arrays(dataset.split(split)), arrays(again.split(split))
        np.testing.assert_array_equal(first[0], second[0])
    assert first[0].min() == 0 and first[0].max() == 16
    names = [s["sha256"] for s in dataset.manifest.shards.values()]
    assert names == [s["sha256"] for s in again.manifest.shards.values()]


def test_seed_and_number_of_clips():
    digits = load_digits()[0][:20].reshape(-1, 8, 8)
    clips = make_clips(digits, each=9, seed=3)
    assert clips.shape == (180, 240) and clips.dtype == np.uint8
    assert len({clip.tobytes() for clip in clips}) == 180
    np.testing.assert_array_equal(clips, make_clips(digits, each=9, seed=3))
    assert (clips != make_clips(digits, each=9, seed=4)).any()


def test_by_plain_tfds(dataset, directory):
    import tensorflow_datasets as tfds

    source = tfds.data_source("digits_video", split="test", data_dir=directory, download=False)
    assert len(source) == 297
    np.testing.assert_array_equal(source[9]["tokens"], dataset.split("test")[9]["tokens"])


def test_the_name_is_taken(tmp_path):
    from gen.data import write_dataset
    from gen.errors import UserError

    with pytest.raises(UserError, match="taken by a built-in dataset"):
        write_dataset(
            tmp_path,
            name="digits_video",
            splits={"train": {"tokens": np.zeros((1, 64), int), "label": np.zeros(1, int)}},
            layout=grid(8, 8, 17),
            condition={"kind": "class", "num_classes": 10, "names": None},
        )
