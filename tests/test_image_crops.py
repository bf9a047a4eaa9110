"""Crops for tokenizers: which images, where they are cut, and what is kept in memory."""

import numpy as np
import pytest

from gen import sharding
from gen.errors import UserError
from gen.images.config import ImagesConfig
from gen.images.training import held_out_crops, open_pictures, training_crops
from gen.training.feed import stream
from tests import tiny_tokenizers


def folder_of(tmp_path, count=10, **fields):
    folder = tiny_tokenizers.write_images(tmp_path / "images", count)
    return ImagesConfig(name="folder", dir=str(folder), **{"size": (8, 6), **fields})


def is_part(crop, image):
    rows, columns = image.shape[0] - crop.shape[0] + 1, image.shape[1] - crop.shape[1] + 1
    windows = (
        image[r:, c:][: crop.shape[0], : crop.shape[1]] for r in range(rows) for c in range(columns)
    )
    return any(np.array_equal(crop, window) for window in windows)


def test_every_tenth_is_held_out_and_no_pixel_is_shared(tmp_path):
    config = folder_of(tmp_path, 20, flip=False)
    train, held_out = open_pictures(config)
    assert (len(train), len(held_out)) == (18, 2)
    assert np.array_equal(held_out[0], train._images.read(9))
    crops = held_out_crops(held_out, ImagesConfig(**{**vars(config), "valid_crops": 4}))
    assert all(is_part(crop, held_out[number % 2]) for number, crop in enumerate(crops))
    rows = training_crops(train, config, batch_size=18, seed=3)(0)["pixels"]
    # An epoch visits each image once.
    owners = [[is_part(row, train[i]) for i in range(18)].index(True) for row in rows]
    assert sorted(owners) == list(range(18))


def test_batches_are_functions_of_seed_and_number(tmp_path):
    config = folder_of(tmp_path)
    train, _ = open_pictures(config)
    first, again = (training_crops(train, config, batch_size=4, seed=1) for _ in range(2))
    ahead = [first(k)["pixels"] for k in range(6)]
    for k in (5, 0, 3):
        np.testing.assert_array_equal(again(k)["pixels"], ahead[k])
    other = training_crops(train, config, batch_size=4, seed=2)
    assert not np.array_equal(other(0)["pixels"], ahead[0])
    assert len({row.tobytes() for rows in ahead for row in rows}) > 20


def test_half_of_the_crops_are_mirrored(tmp_path):
    config = folder_of(tmp_path, size=(12, 10))  # a crop is the image
    train, _ = open_pictures(config)
    images = [train[i] for i in range(len(train))]
    rows = training_crops(train, config, batch_size=90, seed=0)(0)["pixels"]
    same = sum(any(np.array_equal(row, image) for image in images) for row in rows)
    assert 25 < same < 65
    assert all(
        any(np.array_equal(row, i) or np.array_equal(row, i[:, ::-1]) for i in images)
        for row in rows
    )


def test_a_stream_of_the_mesh_is_the_blocks_in_order(tmp_path):
    config = folder_of(tmp_path)
    train, _ = open_pictures(config)
    mesh = sharding.make_mesh(sharding.MeshConfig(), batch_size=4, num_devices=1)
    batches = stream(
        lambda ways: training_crops(train, config, batch_size=4 // ways, seed=0), 4, mesh, start=2
    )
    expected = training_crops(train, config, batch_size=4, seed=0)
    for step in (2, 3):
        np.testing.assert_array_equal(next(batches)["pixels"], expected(step)["pixels"])
    batches.close()


def test_images_are_kept_as_far_as_the_budget_goes(tmp_path, monkeypatch):
    folder = tiny_tokenizers.write_images(tmp_path / "images", 4, (600, 600))  # 1.03 MiB each
    config = ImagesConfig(name="folder", size=(8, 8), dir=str(folder), valid_every=2, cache_mb=2)
    train, _ = open_pictures(config)
    read, calls = train._images.read, []
    monkeypatch.setattr(train._images, "read", lambda i: calls.append(i) or read(i))
    for index in (0, 1, 0, 1):
        train[index]
    assert calls == [0, 2, 2]


def test_images_are_scaled_first(tmp_path):
    config = folder_of(tmp_path, size=(20, 20), resize=24)
    train, _ = open_pictures(config)
    assert min(train[0].shape[:2]) == 24
    assert training_crops(train, config, batch_size=2, seed=0)(0)["pixels"].shape == (2, 20, 20, 3)


def test_a_folder_of_its_own_is_held_out(tmp_path):
    other = tiny_tokenizers.write_images(tmp_path / "other", 3)
    train, held_out = open_pictures(folder_of(tmp_path, 5, valid_dir=str(other)))
    assert (len(train), len(held_out)) == (5, 3)


@pytest.mark.parametrize(
    ("count", "fields", "message"),
    [
        (5, {}, "every 10-th is held out"),
        (10, {"size": (16, 16)}, r"12 x 10 pixels, less than a crop"),
        (10, {"valid_dir": "no/such"}, "no folder"),
        (10, {"resize": 4}, "is less than a crop"),
        (10, {"valid_every": 1}, "at least 2"),
        (10, {"valid_crops": 0}, "at least 1"),
    ],
)
def test_mistakes(tmp_path, count, fields, message):
    with pytest.raises(UserError, match=message):
        open_pictures(folder_of(tmp_path, count, **fields))


def test_a_damaged_image_is_named_before_the_run(tmp_path):
    config = folder_of(tmp_path)
    (tmp_path / "images" / "004.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"004\.png cannot be read"):
        open_pictures(config)


def test_an_image_that_turns_out_damaged_is_named(tmp_path):
    config = folder_of(tmp_path)
    path = tmp_path / "images" / "004.png"
    path.write_bytes(path.read_bytes()[:150])  # its head is whole
    train, _ = open_pictures(config)
    with pytest.raises(UserError, match=r"004\.png cannot be read"):
        training_crops(train, config, batch_size=18, seed=0)(0)
