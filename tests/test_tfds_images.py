"""Images of TFDS datasets: found where they lie, read without TensorFlow, never downloaded."""

import io
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from gen.data.digits import _quiet
from gen.encoding import complete
from gen.images import BadImage, TFDSImages
from tests.encode_helpers import job, refused, stored, vq

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
IMAGE, LABEL = (
    tfds.features.Image(shape=(None, None, 3)),
    tfds.features.ClassLabel(names=["a", "b"]),
)


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    stream.seek(0)
    return stream


def prepare(folder, *, features=None, broken=(), name="Zoo"):
    """Makes the dataset `zoo` with the splits train, 5 images, and test, 2."""
    features = features or {"image": IMAGE, "label": LABEL}

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.0")
        code_path = None

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, dl_manager):
            return {
                "train": self._generate_examples(range(5)),
                "test": self._generate_examples([5, 6]),
            }

        def _generate_examples(self, rows):
            for key in rows:
                image = io.BytesIO(b"junk") if key in broken else png(PIXELS[key])
                fields = {"label": -1 if key == 6 else key % 2}
                fields |= {k: image for k, f in features.items() if f is IMAGE}
                yield key, {k: v for k, v in fields.items() if k in features}

    Builder.name = "zoo"
    with _quiet():
        builder = Builder(data_dir=str(folder), file_format="array_record")
        builder.download_and_prepare(download_dir=str(folder / "dl"))
    return folder


def test_images_and_classes(tmp_path):
    builder = TFDSImages.find("zoo", prepare(tmp_path))
    images = TFDSImages(builder, "train")
    assert len(images) == 5 and images.class_names == ["a", "b"] and images.name == "zoo/1.2.0"
    np.testing.assert_array_equal([images.read(i) for i in range(5)], PIXELS[:5])
    assert [images.label(i) for i in range(5)] == [0, 1, 0, 1, 0]
    assert images.key(3) == "train/00000003" and "tensorflow" not in sys.modules
    with pytest.raises(BadImage, match="has no class"):
        TFDSImages(builder, "test").label(1)
    rows = np.arange(5)
    assert images.digest(rows) != images.digest(rows[::-1])
    assert images.digest(rows[:2]) != TFDSImages(builder, "test").digest(rows[:2])


def test_their_tokens(tmp_path):
    builder = TFDSImages.find("zoo:1.2.0", prepare(tmp_path / "tfds", broken=[1]))
    splits = {
        name: (TFDSImages(builder, name), np.arange(n)) for name, n in (("train", 5), ("test", 2))
    }
    manifest = complete(job(None, tmp_path, splits=splits, bad_files=2))
    assert manifest.splits == {"train": 4, "test": 1}
    assert manifest.details["bad"] == ["train/00000001", "test/00000001"]
    tokens, labels = stored(tmp_path)
    np.testing.assert_array_equal(tokens, vq().encode(PIXELS[[0, 2, 3, 4]], batch_size=4))
    assert labels == [0, 0, 1, 0]


def test_without_classes_and_with_other_names(tmp_path):
    images = TFDSImages(
        TFDSImages.find("zoo", prepare(tmp_path, features={"photo": IMAGE})), "train"
    )
    assert images.class_names is None and images.label(0) is None
    np.testing.assert_array_equal(images.read(4), PIXELS[4])


def test_what_cannot_be_used(tmp_path):
    assert "nothing is downloaded" in refused(TFDSImages.find, "zoo", tmp_path)
    prepare(tmp_path)
    assert "nothing is downloaded" in refused(TFDSImages.find, "zoo:2.0.0", tmp_path)
    builder = TFDSImages.find("zoo", tmp_path)
    assert 'no split "trian"; did you mean "train"' in refused(TFDSImages, builder, "trian")
    two = prepare(tmp_path / "two", features={"left": IMAGE, "right": IMAGE})
    message = refused(TFDSImages, TFDSImages.find("zoo", two), "train")
    assert "several features left, right" in message
    none = prepare(tmp_path / "none", features={"label": LABEL})
    assert "has no images, but label" in refused(TFDSImages, TFDSImages.find("zoo", none), "train")
    (tmp_path / "zoo" / "1.2.0" / "dataset_info.json").write_text("{")
    assert "no whole TFDS dataset" in refused(TFDSImages.find, "zoo", tmp_path)


def test_a_damaged_record_is_named(tmp_path):
    (shard,) = prepare(tmp_path).glob("zoo/1.2.0/*train*array_record*")
    content = bytearray(shard.read_bytes())
    content[300:500] = bytes(200)
    shard.write_bytes(content)
    images = TFDSImages(TFDSImages.find("zoo", tmp_path), "train")
    with pytest.raises(BadImage, match=r"train/0000000\d of zoo/1\.2\.0"):
        for index in range(5):
            images.read(index)
