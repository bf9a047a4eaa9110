"""Folders of images: what is found, what is read, and how it is cut."""

import numpy as np
import pytest
from PIL import Image

from gen.errors import UserError
from gen.images import BadImage, DigitImages, ImageFolder, crops, folder, shapes
from gen.images.__main__ import main


def read_image(path):
    return folder.read_image(path, str(path))


RNG = np.random.default_rng(0)


def noise(height, width, channels=3):
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.squeeze()).save(path, **options)
    return path


def test_class_folders_in_the_order_of_their_names(tmp_path):
    for name in ("b/2.png", "b/10.PNG", "a/deep/er/1.png", ".hidden/3.png", "b/.4.png"):
        save(tmp_path / name, noise(4, 4))
    (tmp_path / "b" / "notes.txt").write_text("no image")
    images = ImageFolder.find(tmp_path)
    assert images.class_names == ["a", "b"] and images.name == tmp_path.name
    assert [images.key(i) for i in range(len(images))] == ["a/deep/er/1.png", "b/10.PNG", "b/2.png"]
    assert [images.label(i) for i in range(3)] == [0, 1, 1]
    with Image.open(tmp_path / "b" / "2.png") as stored:
        assert np.array_equal(images.read(2), np.asarray(stored))


def test_a_flat_folder_has_no_classes(tmp_path):
    save(tmp_path / "1.png", noise(4, 4))
    images = ImageFolder.find(tmp_path)
    assert images.class_names is None and images.label(0) is None and images.key(0) == "1.png"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no images"),
        (["a/1.png", "2.png"], "beside folders"),
        (["a/1.png", "b/notes.txt"], "b holds no images"),
    ],
)
def test_folders_that_are_none(tmp_path, files, message):
    for name in files:
        save(tmp_path / name, noise(2, 2)) if name.endswith("png") else (
            (tmp_path / name).parent.mkdir(),
            (tmp_path / name).write_text(""),
        )
    with pytest.raises(UserError, match=message):
        ImageFolder.find(tmp_path)
    with pytest.raises(UserError, match="no folder"):
        ImageFolder.find(tmp_path / "missing")


def test_modes_become_rgb(tmp_path):
    gray = noise(3, 5, 1)
    assert np.array_equal(read_image(save(tmp_path / "l.png", gray)), np.repeat(gray, 3, -1))
    deep = (gray[..., 0].astype(np.uint16)) * 257
    Image.fromarray(deep).save(tmp_path / "16.png")
    assert np.array_equal(read_image(tmp_path / "16.png"), np.repeat(gray, 3, -1))
    clear = np.concatenate([noise(3, 5), np.zeros((3, 5, 1), np.uint8)], -1)
    assert (read_image(save(tmp_path / "clear.png", clear)) == 255).all()


def test_photographs_are_turned(tmp_path):
    pixels = noise(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 3  # by 180 degrees
    save(tmp_path / "turned.png", pixels, exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png"), pixels[::-1, ::-1])
    assert folder.image_size(tmp_path / "turned.png") == (4, 6)
    exif[0x0112] = 6  # by 90 degrees
    save(tmp_path / "turned.png", pixels, exif=exif)
    assert folder.image_size(tmp_path / "turned.png") == (6, 4)
    assert read_image(tmp_path / "turned.png").shape == (6, 4, 3)


def test_damaged_files_are_named(tmp_path, monkeypatch):
    whole = save(tmp_path / "a.png", noise(32, 32)).read_bytes()
    for content in (whole[:200], b"", b"no image"):
        (tmp_path / "bad.png").write_bytes(content)
        with pytest.raises(BadImage, match=r"bad\.png cannot be read"):
            read_image(tmp_path / "bad.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(BadImage, match="bomb"):
        read_image(tmp_path / "a.png")


def test_centre_keeps_what_already_fits():
    pixels = noise(6, 8)
    assert np.array_equal(crops.centre(pixels, (6, 8)), pixels)
    assert np.array_equal(crops.centre(pixels, (6, 6)), pixels[:, 1:7])


def test_centre_scales_the_short_side():
    flat = np.full((50, 200, 3), 77, np.uint8)
    assert (crops.centre(flat, (16, 16)) == 77).all()
    # A step in the middle stays in the middle, whatever the scale.
    step = np.zeros((64, 128, 3), np.uint8)
    step[:, 64:] = 255
    small = crops.centre(step, (16, 16))
    assert small.shape == (16, 16, 3) and small[:, :6].max() < 20 and small[:, 10:].min() > 235
    tall = crops.centre(np.full((9, 5, 3), 9, np.uint8), (8, 12))
    assert tall.shape == (8, 12, 3) and (tall == 9).all()


def test_ten_crops_are_corners_middle_and_mirrors():
    pixels = noise(22, 22)
    made = crops.ten(pixels, (20, 20), 1.1)
    assert made.shape == (10, 20, 20, 3)
    for index, (top, left) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)]):
        expected = pixels[top : top + 20, left : left + 20]
        assert np.array_equal(made[index], expected)
    mirror = pixels[:, ::-1]
    assert np.array_equal(made[5], mirror[:20, :20]) and np.array_equal(made[8], mirror[2:, 2:])


def test_digits_are_pictures():
    digits = DigitImages("test")
    assert len(digits) == 297 and len(DigitImages("train")) == 1500
    pixels = digits.read(0)
    assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8 and pixels.max() == 255
    assert digits.class_names[digits.label(0)] == str(digits.label(0)) and digits.key(7) == "0007"


def test_an_example_folder(tmp_path, capsys):
    main([str(tmp_path / "shapes"), "--num", "12", "--size", "16"])
    images = ImageFolder.find(tmp_path / "shapes")
    assert images.class_names == list(shapes.SHAPES) and len(images) == 12
    pixels = np.stack([images.read(index) for index in range(12)])
    assert pixels.shape == (12, 16, 16, 3)
    assert len({picture.tobytes() for picture in pixels}) == 12
    main([str(tmp_path / "again"), "--num", "12", "--size", "16"])
    again = ImageFolder.find(tmp_path / "again")
    assert all(np.array_equal(again.read(i), pixels[i]) for i in range(12))


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_shapes_stand_out_from_their_ground(name):
    for seed in range(5):
        pixels = shapes.draw(name, 32, seed=seed).astype(int)
        corners = np.concatenate([pixels[:3, :3], pixels[-3:, -3:]]).reshape(-1, 3)
        brightness = pixels.max(axis=-1)
        share = (brightness > corners.max() + 20).mean()
        assert 0.02 < share < 0.4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--num", "2"], "at least 5"), (["--seed", "-1"], "at least 0"), ([], "not empty")],
)
def test_example_folders_that_are_refused(tmp_path, arguments, message, capsys):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path), *arguments])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_sizes_are_told_by_the_head_of_a_file(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # by a quarter turn
    for name in ("turned.jpg", "turned.png", "plain.png"):
        options = {} if "plain" in name else {"exif": exif}
        path = save(tmp_path / name, noise(4, 6), **options)
        assert folder.image_size(path) == read_image(path).shape[:2]
    path.write_bytes(b"no image")
    with pytest.raises(BadImage, match=r"plain\.png cannot be read"):
        folder.image_size(path)
