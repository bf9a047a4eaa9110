"""The moving digits: real digits on straight paths, split by digit, the same every time."""

import dataclasses

import numpy as np
import pytest

from gen.data import open_dataset
from gen.data.digits import load_digits
from gen.data.digits_video import CLIPS_PER_DIGIT, VELOCITIES, make_clips, paths, small_digits
from gen.errors import UserError
from gen.evaluate import arrays
from gen.layouts import grid


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def dataset(directory):
    return open_dataset("digits_video", directory=directory)


def placed(digit, tops_and_lefts):
    clip = np.zeros((3, 7, 6), int)
    for frame, (top, left) in zip(clip, tops_and_lefts, strict=True):
        frame[top : top + 5, left : left + 4] = digit
    return clip


def test_small_digits_are_means_of_areas():
    small, labels = small_digits()
    assert small.shape == (1797, 5, 4) and small.dtype == np.uint8
    np.testing.assert_array_equal(labels, load_digits()[1])
    # A cell is 8/5 of a row high and 6/4 of a column wide; the outer columns are left out.
    rows, columns = np.zeros((5, 8)), np.zeros((4, 6))
    for weights in (rows, columns):
        step, edges = weights.shape[1] / weights.shape[0], np.arange(weights.shape[1])
        for cell in range(len(weights)):
            upper = np.minimum((cell + 1) * step, edges + 1)
            weights[cell] = np.maximum(upper - np.maximum(cell * step, edges), 0) / step
    inner = load_digits()[0].reshape(-1, 8, 8)[:, :, 1:7]
    exact = np.einsum("ah,nhw,bw->nab", rows, inner, columns)
    assert np.abs(small - exact).max() <= 0.5 + 1e-9
    assert small.max() == 16 and small.min() == 0


def test_counts_layout_and_labels(dataset):
    assert dataset.manifest.splits == {"train": 6000, "test": 297}
    assert dataset.manifest.layout == grid(7, 6, 17, frames=3)
    assert dataset.manifest.num_classes == 10
    for split, part in (("train", slice(1500)), ("test", slice(1500, None))):
        _, labels = arrays(dataset.split(split))
        expected = load_digits()[1][part].repeat(CLIPS_PER_DIGIT[split])
        np.testing.assert_array_equal(labels, expected)


def test_paths_are_straight_and_stay_on_the_canvas():
    found = {tuple(map(tuple, path.tolist())) for path in paths()}
    assert len(found) == len(paths()) == 5
    for path in paths():
        first, second = np.diff(path, axis=0)
        assert tuple(first) == tuple(second) and tuple(first.tolist()) in VELOCITIES
        assert path.min() >= 0 and (path <= 2).all()
    # A family that decodes from the top left corner must meet a digit in earlier frames first.
    assert all(down + right >= 0 for down, right in VELOCITIES)


@pytest.mark.parametrize(("split", "first"), [("train", 0), ("test", 1500)])
def test_every_clip_is_its_own_digit_on_a_path(dataset, split, first):
    clips, _ = arrays(dataset.split(split))
    digits, each, used = small_digits()[0], CLIPS_PER_DIGIT[split], []
    for index, clip in enumerate(clips.reshape(-1, 3, 7, 6)):
        digit = digits[first + index // each]
        (which,) = [k for k, path in enumerate(paths()) if (clip == placed(digit, path)).all()]
        used.append(which)
    used = np.array(used).reshape(-1, each)
    assert all(len(set(row)) == each for row in used.tolist()), "a digit's clips are different"
    shares = np.bincount(used.reshape(-1), minlength=5) / used.size
    assert shares.min() > 0.15 and shares.max() < 0.25, "paths are about equally frequent"


def test_slices_separate_digits(dataset):
    """What the configs hold out are clips of digits that no training clip shows."""
    shown = []
    for split in ("train[:-600]", "train[-600:]"):
        clips, _ = arrays(dataset.split(split))
        firsts = clips.reshape(-1, 3, 7, 6)[:, 0, :, :4]
        whole = [f[t : t + 5] for f in firsts for t in range(3) if f.sum() == f[t : t + 5].sum()]
        shown.append({digit.tobytes() for digit in whole})
    assert len(shown[0]) > 1300 and len(shown[1]) > 140
    assert not shown[0] & shown[1]


def test_same_clips_every_time(dataset, tmp_path):
    again = open_dataset("digits_video", directory=tmp_path)
    for split in ("train", "test"):
        first, second = arrays(dataset.split(split)), arrays(again.split(split))
        np.testing.assert_array_equal(first[0], second[0])
    assert first[0].min() == 0 and first[0].max() == 16
    names = [s["sha256"] for s in dataset.manifest.shards.values()]
    assert names == [s["sha256"] for s in again.manifest.shards.values()]


def test_clips_of_another_version_are_refused(dataset, directory, tmp_path):
    made = next(path for path in directory.rglob("manifest.json")).parent
    old = tmp_path / made.relative_to(directory)
    old.mkdir(parents=True)
    dataclasses.replace(dataset.manifest, layout=grid(7, 7, 17, frames=3)).write(old)
    with pytest.raises(UserError, match=f"{old} is of another version of gen: remove it"):
        open_dataset("digits_video", directory=tmp_path)


def test_seed_and_number_of_clips():
    digits = small_digits()[0][:20]
    clips = make_clips(digits, each=5, seed=3)
    assert clips.shape == (100, 126) and clips.dtype == np.uint8
    assert len({clip.tobytes() for clip in clips}) == 100
    np.testing.assert_array_equal(clips, make_clips(digits, each=5, seed=3))
    assert (clips != make_clips(digits, each=5, seed=4)).any()


def test_by_plain_tfds(dataset, directory):
    import tensorflow_datasets as tfds

    source = tfds.data_source("digits_video", split="test", data_dir=directory, download=False)
    assert len(source) == 297
    np.testing.assert_array_equal(source[9]["tokens"], dataset.split("test")[9]["tokens"])


def test_the_name_is_taken(tmp_path):
    from gen.data import write_dataset

    with pytest.raises(UserError, match="taken by a built-in dataset"):
        write_dataset(
            tmp_path,
            name="digits_video",
            splits={"train": {"tokens": np.zeros((1, 64), int), "label": np.zeros(1, int)}},
            layout=grid(8, 8, 17),
            condition={"kind": "class", "num_classes": 10, "names": None},
        )
