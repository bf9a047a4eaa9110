import itertools

import numpy as np
import pytest

from gen.data import Shift, batches, eval_batches, open_dataset, random_dataset, write_dataset
from gen.errors import UserError
from gen.layouts import grid
from tests import data_helpers as helpers
from tests.data_helpers import FACTORS, LATENTS, SMALL, TEXT, UNCONDITIONAL

COUNTING = grid(1, 1, 1000)
FLIP = {"kind": "flip", "count": 2}


@pytest.fixture(scope="module")
def counting(tmp_path_factory):
    """Forty examples, of which example i holds the token i."""
    directory = tmp_path_factory.mktemp("data")
    splits = {"train": {"tokens": np.arange(40)[:, None]}}
    write_dataset(directory, name="count", splits=splits, layout=COUNTING, condition=UNCONDITIONAL)
    return open_dataset("count", directory=directory)


@pytest.fixture(scope="module")
def flipped():
    return random_dataset(SMALL, TEXT, num_examples=12, augmentation=FLIP).split("train")


def assert_equal(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert one[name].dtype == two[name].dtype
        np.testing.assert_array_equal(one[name], two[name])


def test_batches_are_a_pure_function_of_seed_and_step(flipped):
    first = batches(flipped, batch_size=5, seed=3)
    expected = [first.batch(k) for k in range(8)]
    again = batches(flipped, batch_size=5, seed=3)
    for k in (7, 2, 5):
        assert_equal(again.batch(k), expected[k])
    for start in (0, 3):
        reader = again.iterate(start)
        for k, batch in zip(range(start, 8), reader):
            assert_equal(batch, expected[k])
        reader.close()
    other = batches(flipped, batch_size=5, seed=4).batch(0)
    assert (other["tokens"] != expected[0]["tokens"]).any()


def test_shapes_and_dtypes(flipped):
    batch = batches(flipped, batch_size=6, seed=0, num_hosts=2).batch(0)
    assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
        "tokens": ((3, 6), "int32"),
        "caption": ((3, 4, 6), "float32"),
        "caption_valid": ((3, 4), "bool"),
    }
    labelled = random_dataset(LATENTS, helpers.CLASSES).split("train")
    batch = batches(labelled, batch_size=3, seed=0).batch(0)
    assert batch["tokens"].shape == (3, 4, 2) and batch["tokens"].dtype == np.float32
    assert batch["label"].shape == (3,) and batch["label"].dtype == np.int32


def test_epochs_cover_all_examples_in_new_orders(counting):
    stream = batches(counting.split("train"), batch_size=8, seed=0)
    assert stream.num_examples == 40
    tokens = np.concatenate([stream.batch(k)["tokens"][:, 0] for k in range(15)])
    epochs = tokens.reshape(3, 40)
    for epoch in epochs:
        assert sorted(epoch) == list(range(40))
    assert not any((one == two).all() for one, two in itertools.combinations(epochs, 2))


def test_a_batch_may_exceed_the_split(counting):
    batch = batches(counting.split("train[:3]"), batch_size=9, seed=0).batch(4)
    assert np.bincount(batch["tokens"][:, 0]).tolist() == [3, 3, 3]


@pytest.mark.parametrize("num_hosts", [2, 4])
def test_hosts_share_the_same_batches(num_hosts):
    """The order in the stream, and the random choices, do not depend on the number of hosts."""
    split = random_dataset(
        grid(4, 4, 50), helpers.CLASSES, num_examples=10, augmentation=FLIP
    ).split("train")
    alone = batches(split, batch_size=8, seed=1, shift=Shift(1))
    hosts = [
        batches(split, batch_size=8, seed=1, shift=Shift(1), host=host, num_hosts=num_hosts)
        for host in range(num_hosts)
    ]
    for k in (0, 1, 6):
        parts = [host.batch(k) for host in hosts]
        # Host h has rows h, h + num_hosts, ... of the batch.
        together = {name: np.stack([p[name] for p in parts], 1) for name in parts[0]}
        expected = alone.batch(k)
        joined = {name: v.reshape(expected[name].shape) for name, v in together.items()}
        assert_equal(joined, expected)


def test_every_stored_version_is_drawn(flipped):
    stream = batches(flipped, batch_size=12, seed=0)
    versions = np.stack([record["tokens"] for record in flipped])
    chosen = [
        int((versions == row).all(-1).nonzero()[1][0])
        for k in range(10)
        for row in stream.batch(k)["tokens"]
    ]
    assert 40 < sum(chosen) < 80


def test_shift_moves_by_at_most_a_cell(counting, tmp_path):
    image = np.arange(1, 13)
    splits = {"train": {"tokens": np.tile(image, (50, 1))}}
    write_dataset(
        tmp_path, name="image", splits=splits, layout=grid(3, 4, 17), condition=UNCONDITIONAL
    )
    split = open_dataset("image", directory=tmp_path).split("train")
    stream = batches(split, batch_size=100, seed=5, shift=Shift(1))
    padded = np.pad(image.reshape(3, 4), 1)
    possible = {
        padded[1 - down : 4 - down, 1 - right : 5 - right].tobytes()
        for down in (-1, 0, 1)
        for right in (-1, 0, 1)
    }
    found = {row.astype(np.int64).tobytes() for row in stream.batch(0)["tokens"]}
    assert found == possible
    assert_equal(stream.batch(3), batches(split, batch_size=100, seed=5, shift=Shift(1)).batch(3))


def test_eval_batches_cover_the_split_once_in_order(counting, flipped):
    split = counting.split("train[:10]")
    found = list(eval_batches(split, 4))
    assert [batch["tokens"].shape for batch in found] == [(4, 1)] * 3
    weight = np.concatenate([batch["weight"] for batch in found])
    tokens = np.concatenate([batch["tokens"][:, 0] for batch in found])
    assert weight.tolist() == [1.0] * 10 + [0.0] * 2 and weight.dtype == np.float32
    assert tokens.tolist() == [*range(10), 9, 9]
    parts = [list(eval_batches(split, 4, host=host, num_hosts=2)) for host in (0, 1)]
    assert [len(part) for part in parts] == [3, 3]
    assert parts[1][2]["tokens"][:, 0].tolist() == [9, 9]
    assert parts[1][2]["weight"].tolist() == [1.0, 0.0]
    (batch,) = eval_batches(flipped, 12)
    np.testing.assert_array_equal(batch["tokens"], [record["tokens"][0] for record in flipped])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"batch_size": 9, "num_hosts": 2}, "9 is not a positive multiple of the 2 hosts"),
        ({"batch_size": 0}, "batch size 0"),
        ({"host": 1}, "host 1 is not one of 1"),
        ({"seed": -1}, "seed"),
        ({"shift": Shift(1)}, "shift by 1 does not fit"),
        ({"split": "train[5:5]"}, "holds no examples"),
    ],
)
def test_impossible_batches(counting, options, expected):
    options = {"batch_size": 4, "seed": 0, **options}
    with pytest.raises(UserError) as caught:
        batches(counting.split(options.pop("split", "train")), **options)
    assert expected in str(caught.value)


def test_shift_ends_after_its_batches():
    split = random_dataset(grid(3, 4, 17), UNCONDITIONAL).split("train")
    plain = batches(split, batch_size=8, seed=5)
    moved = batches(split, batch_size=8, seed=5, shift=Shift(1))
    both = batches(split, batch_size=8, seed=5, shift=Shift(1, steps=3))
    for k in range(3):
        assert_equal(both.batch(k), moved.batch(k))
        assert not np.array_equal(both.batch(k)["tokens"], plain.batch(k)["tokens"])
    for k in (3, 4, 10**6):
        assert_equal(both.batch(k), plain.batch(k))
    stream = both.iterate(2)
    for k in (2, 3, 4):
        assert_equal(next(stream), both.batch(k))
    stream.close()
    none = batches(split, batch_size=8, seed=5, shift=Shift(1, steps=0))
    assert_equal(none.batch(0), plain.batch(0))


def test_shift_rate_is_the_share_of_moved_images():
    split = random_dataset(grid(3, 4, 17), UNCONDITIONAL).split("train")
    plain = batches(split, batch_size=400, seed=5).batch(0)["tokens"]
    moved = batches(split, batch_size=400, seed=5, shift=Shift(1, rate=0.3)).batch(0)["tokens"]
    # One move of the nine is no move.
    assert abs((plain != moved).any(axis=1).mean() - 0.3 * 8 / 9) < 0.07


@pytest.mark.parametrize("bad", [{"cells": -1}, {"rate": 1.5}, {"steps": -1}])
def test_impossible_shift(bad):
    with pytest.raises(UserError, match="a shift has"):
        Shift(**bad)


def test_shift_suits_images_of_one_vocabulary_only():
    for layout in (LATENTS, FACTORS, grid(4, 4, 9, frames=2)):
        split = random_dataset(layout, UNCONDITIONAL).split("train")
        with pytest.raises(UserError, match="shift suits only"):
            batches(split, batch_size=4, seed=0, shift=Shift(1))


def test_bad_record_in_a_batch_is_named(tmp_path, monkeypatch):
    from gen.data import reader

    _, version = helpers.write(tmp_path, count=20)
    helpers.replace_record(version, helpers.shards(version)[0], 7, label=5)
    monkeypatch.setattr(reader, "_probe", lambda *args, **kwargs: None)
    stream = batches(open_dataset("toy", directory=tmp_path).split("train"), batch_size=20, seed=0)
    with pytest.raises(UserError, match="record 7: label 5 is outside"):
        stream.batch(0)
    with pytest.raises(UserError, match="record 7: label 5 is outside"):
        next(stream.iterate())
