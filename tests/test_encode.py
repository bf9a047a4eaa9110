"""Pixels to datasets of tokens: what is written, in which order, and what it depends on."""

import os
import signal

import numpy as np
import pytest

from gen import tokenizers
from gen.data import Manifest
from gen.encoding import complete
from gen.encoding.parts import EncodedParts
from gen.images import BadImage, Cut, ImageFolder
from gen.models.latents import LatentConfig
from gen.models.residual_quantizer import QuantizerConfig
from gen.training.stop import RESTART
from tests.encode_helpers import image_folder, job, kl, refused, save_image, stored, vq, whole


def read_all(folder, cut=None):
    """The versions of all images of a folder, `(N, A, 8, 8, 3)`, and their labels."""
    images, cut = ImageFolder.find(folder), cut or Cut((8, 8))
    rows = range(len(images))
    return np.stack([cut(images.read(i)) for i in rows]), [images.label(i) for i in rows]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("pictures") / "zoo", 20)


def test_records_are_the_tokens_of_the_images_in_their_order(folder, tmp_path):
    manifest = complete(job(folder, tmp_path))
    pixels, labels = read_all(folder)
    tokens, found = stored(tmp_path)
    np.testing.assert_array_equal(tokens, vq().encode(pixels[:, 0], batch_size=4))
    assert found == labels and len(np.unique(tokens)) > 4
    assert manifest == Manifest.read(tmp_path / "codes" / "1.0.0")
    assert manifest.condition == {"kind": "class", "num_classes": 3, "names": ["ant", "bee", "cat"]}
    assert manifest.splits == {"train": 20} and manifest.source == "encoded from zoo"
    assert manifest.tokenizer["id"] == "vq" and len(manifest.tokenizer["sha256"]) == 64
    assert manifest.details["bad"] == [] and manifest.details["settings"]["size"] == [8, 8]
    assert not (tmp_path / "codes.parts").exists() and not (tmp_path / "codes.bad.txt").exists()


def test_without_class_folders_there_are_no_labels(tmp_path):
    complete(job(image_folder(tmp_path / "flat", 5, classes=None), tmp_path))
    tokens, labels = stored(tmp_path)
    assert tokens.shape == (5, 16) and labels is None


def test_shards_in_any_order_make_the_same_files(folder, tmp_path):
    splits = {"train": np.arange(13), "test": np.arange(13, 20)}
    images = ImageFolder.find(folder)
    splits = {name: (images, indices) for name, indices in splits.items()}
    first = complete(job(folder, tmp_path / "one", splits=splits))
    shared = job(folder, tmp_path / "two", splits=splits)
    assert complete(shared, index=1, count=3) is None
    assert complete(shared, index=2, count=3) is None
    assert shared.parts.absent() == [0, 3]
    assert complete(shared, index=0, count=3) == first
    assert set(first.shards) == {f"codes-{s}.array_record-00000-of-00001" for s in splits}
    assert complete(shared, index=2, count=3) == first  # it is there already


@pytest.mark.parametrize("tokenizer", [vq, kl])
def test_company_changes_nothing(folder, tmp_path, tokenizer):
    images = ImageFolder.find(folder)
    for name, indices in {"all": np.arange(20), "few": np.array([19, 3, 7, 11, 4])}.items():
        splits = {"train": (images, indices)}
        complete(job(folder, tmp_path, name=name, splits=splits, tokenizer=tokenizer()))
    everything, few = (stored(tmp_path, name=name)[0] for name in ("all", "few"))
    # To the last bit of floats: moments of a KL tokenizer.
    assert everything[[19, 3, 7, 11, 4]].tobytes() == few.tobytes()


@pytest.mark.parametrize(
    ("cut", "count"), [(Cut((8, 8), "flip"), 2), (Cut((8, 8), "tencrop", (1.05, 1.3)), 20)]
)
def test_versions_of_each_image(folder, tmp_path, cut, count):
    manifest = complete(job(folder, tmp_path, cut=cut))
    assert manifest.augmentation == {"kind": cut.kind, "count": count} and cut.count == count
    pixels, _ = read_all(folder, cut)
    wanted = vq().encode(pixels.reshape(-1, 8, 8, 3), batch_size=4).reshape(20, count, 16)
    np.testing.assert_array_equal(stored(tmp_path)[0], wanted)


def test_moments_are_stored_as_imported_ones(folder, tmp_path):
    manifest = complete(job(folder, tmp_path, tokenizer=kl(), cut=Cut((8, 8), "flip")))
    latents = LatentConfig(channels=3, moments=True)
    assert manifest.layout == latents.layout((4, 4)) and manifest.tokenizer["values"] == "moments"
    pixels, _ = read_all(folder, Cut((8, 8), "flip"))
    moments = kl().moments(pixels.reshape(-1, 8, 8, 3), batch_size=4)
    np.testing.assert_array_equal(stored(tmp_path)[0], moments.reshape(20, 2, 16, 6))


def test_tokens_of_several_scales(folder, tmp_path):
    scales = QuantizerConfig(
        codebook_size=11, codebook_dim=4, scales=((1, 1), (2, 2), (4, 4)), num_mixers=2
    )
    config = tokenizers.MSVQConfig(
        quantizer=scales, width=4, multipliers=(1, 2), blocks_per_level=1, norm_groups=2
    )
    tokenizer = tokenizers.MSVQTokenizer.fresh(config)
    manifest = complete(job(folder, tmp_path, tokenizer=tokenizer))
    assert manifest.layout == tokenizer.layout((8, 8)) and manifest.layout.num_positions == 21
    wanted = tokenizer.encode(read_all(folder)[0][:, 0], batch_size=4)
    np.testing.assert_array_equal(stored(tmp_path)[0], wanted)


def test_broken_files_are_left_out_and_listed(tmp_path):
    folder = image_folder(tmp_path / "zoo", 20)
    keys = [ImageFolder.find(folder).key(i) for i in (2, 9)]
    for key in keys:
        (folder / key).write_bytes(b"no image")
    message = refused(complete, job(folder, tmp_path))
    assert "2 of 20 items cannot be read, --bad-files allows 1" in message and keys[0] in message
    lines = (tmp_path / "codes.bad.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == keys
    shared = job(folder, tmp_path, bad_files=2)
    assert complete(shared, index=0, count=2) is None
    manifest = complete(shared, index=1, count=2)
    assert manifest.splits == {"train": 18} and manifest.details["bad"] == keys
    assert manifest.details == complete(job(folder, tmp_path / "2", bad_files=2)).details
    pixels = [i for i in range(20) if i not in (2, 9)]
    images = ImageFolder.find(folder)
    wanted = vq().encode(np.stack([Cut((8, 8))(images.read(i))[0] for i in pixels]), batch_size=4)
    np.testing.assert_array_equal(stored(tmp_path)[0], wanted)


def test_shards_find_together_that_too_much_is_broken(tmp_path):
    folder = image_folder(tmp_path / "zoo", 12)
    images = ImageFolder.find(folder)
    for index in (1, 10):  # one in each shard
        (folder / images.key(index)).write_bytes(b"")
    shared = job(folder, tmp_path, bad_files=1)
    assert complete(shared, index=0, count=2) is None
    assert "2 of 12" in refused(complete, shared, index=1, count=2)
    assert not shared.destination.exists()


def test_mended_files_are_read_again(tmp_path, capsys):
    folder = image_folder(tmp_path / "zoo", 12)
    key = ImageFolder.find(folder).key(8)
    content = (folder / key).read_bytes()
    (folder / key).write_bytes(b"")
    options = {"bad_files": 0, "part_size": 1}  # a part of nothing but a broken file
    refused(complete, job(folder, tmp_path, **options))
    (folder / key).write_bytes(content)
    assert complete(job(folder, tmp_path, **options)).splits == {"train": 12}
    assert f"{key} can be read now" in capsys.readouterr().err


def test_damaged_parts_are_made_again(folder, tmp_path, capsys):
    first = complete(job(folder, tmp_path / "whole"))
    shared = job(folder, tmp_path)
    assert complete(shared, index=0, count=2) is None
    content = bytearray(shared.parts.path(2).read_bytes())
    content[content.index(b"\x93NUMPY") + 140] ^= 0xFF  # in the first array, past its header
    shared.parts.path(2).write_bytes(content)
    message = refused(complete, shared, index=1, count=2)
    assert "part_00002.npz is damaged" in message and "start the shard" in message
    assert complete(shared, index=0, count=2) == first
    assert "part_00002.npz is damaged" in capsys.readouterr().err


def test_told_to_stop_it_goes_on_later(folder, tmp_path, monkeypatch, capsys):
    first = complete(job(folder, tmp_path / "whole"))
    stopped, read, seen = job(folder, tmp_path), ImageFolder.read, []

    def read_and_stop(images, index):
        seen.append(index)
        if len(seen) == 10:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(images, index)

    monkeypatch.setattr(ImageFolder, "read", read_and_stop)
    with pytest.raises(SystemExit) as stop:
        complete(stopped)
    assert stop.value.code == RESTART and "the same command goes on" in capsys.readouterr().err
    there = set(range(4)) - set(stopped.parts.absent())
    assert len(there) < 4
    seen.clear()
    monkeypatch.setattr(ImageFolder, "read", lambda *a: seen.append(a[1]) or read(*a))
    assert complete(stopped) == first
    assert not {6 * k for k in there} & set(seen)


def test_told_to_stop_while_it_writes(folder, tmp_path, monkeypatch):
    load = EncodedParts.load

    def load_and_stop(parts, k, *names):
        if k == 2 and not names:
            os.kill(os.getpid(), signal.SIGTERM)
        return load(parts, k, *names)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(EncodedParts, "load", load_and_stop)
        complete(job(folder, tmp_path))
    assert stop.value.code == RESTART and not job(folder, tmp_path).parts.absent()
    assert [path.name for path in tmp_path.iterdir()] == ["codes.parts"]
    assert complete(job(folder, tmp_path)).splits == {"train": 20}


def test_other_settings_are_refused(folder, tmp_path):
    complete(job(folder, tmp_path), index=0, count=2)
    others = {
        "tokenizer": {"tokenizer": vq(seed=1)},
        "crops": {"cut": Cut((8, 8), "flip")},
        "batch_size": {"batch_size": 2},
        "items": {"splits": {"train": (ImageFolder.find(folder), np.arange(20)[::-1])}},
    }
    for field, options in others.items():
        message = refused(complete, job(folder, tmp_path, **options))
        assert f"encoded with other settings ({field} " in message, message
        assert "choose another --name" in message
    complete(job(folder, tmp_path))
    for field, options in others.items():
        message = refused(complete, job(folder, tmp_path, **options))
        assert f"exists already and is of other settings ({field})" in message, message


def test_values_that_are_no_numbers_are_refused(folder, tmp_path):
    broken = kl(seed=1)
    broken.params["quant"]["bias"] = broken.params["quant"]["bias"] * np.nan
    assert "weights are broken" in refused(complete, job(folder, tmp_path, tokenizer=broken))


def test_names_of_files_may_be_any_bytes(tmp_path):
    folder = image_folder(tmp_path / "zoo", 3)
    odd = os.fsencode(folder / "ant") + b"/\xff.png"
    with open(odd, "wb") as file:
        file.write(b"no image")
    manifest = complete(job(folder, tmp_path, bad_files=1))
    assert manifest.splits == {"train": 3} and manifest.details["bad"] == ["ant/\udcff.png"]
    assert Manifest.read(tmp_path / "codes" / "1.0.0") == manifest
    assert (tmp_path / "codes.bad.txt").read_bytes().startswith(b"ant/\xff.png\t")


def test_very_long_pictures_are_not_scaled(tmp_path):
    folder = image_folder(tmp_path / "zoo", 2)
    save_image(folder / "ant" / "long.png", np.zeros((1, 200, 3), np.uint8))
    read = job(folder, tmp_path).read(1)
    assert isinstance(read, BadImage) and "ant/long.png is 200 x 1 pixels" in str(read)


def test_classes_of_the_splits_agree(tmp_path):
    one = whole(image_folder(tmp_path / "one", 3))["train"]
    other = whole(image_folder(tmp_path / "other", 3, classes=("ant", "bee")))["train"]
    message = refused(job, None, tmp_path, splits={"train": one, "test": other})
    assert 'the splits "train" and "test" have other classes (cat)' in message
