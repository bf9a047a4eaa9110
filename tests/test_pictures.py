"""Pictures: pixels where they belong, text where it is promised, mistakes refused."""

import numpy as np
import pytest
from PIL import Image

from gen.errors import UserError
from gen.pictures import save_curves, save_grid, tokens_to_gray

MARGIN, GAP, LABEL = 16, 8, 20


def load(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_grid_places_every_pixel(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    save_grid(tmp_path / "new" / "grid.png", images, columns=3, scale=2)
    pixels = load(tmp_path / "new" / "grid.png")
    assert pixels.shape == (2 * MARGIN + 2 * 8 + GAP, 2 * MARGIN + 3 * 12 + 2 * GAP, 3)
    expected = np.full_like(pixels, 255)
    for index, image in enumerate(images):
        y, x = MARGIN + (index // 3) * (8 + GAP), MARGIN + (index % 3) * (12 + GAP)
        expected[y : y + 8, x : x + 12] = np.kron(image, np.ones((2, 2, 1), int))
    np.testing.assert_array_equal(pixels, expected)


def test_grid_default_scale_makes_small_images_visible(tmp_path):
    images = np.zeros((10, 8, 8), np.uint8)
    save_grid(tmp_path / "grid.png", images)
    # Ten images: four columns and three rows of 8 * 7 = 56 pixels.
    assert load(tmp_path / "grid.png").shape[:2] == (
        2 * MARGIN + 3 * 56 + 2 * GAP,
        2 * MARGIN + 4 * 56 + 3 * GAP,
    )
    save_grid(tmp_path / "large.png", np.zeros((1, 64, 80), np.uint8))
    assert load(tmp_path / "large.png").shape[:2] == (64 + 2 * MARGIN, 80 + 2 * MARGIN)


def test_grid_gray_float_and_uint8_agree(tmp_path):
    gray = np.arange(64, dtype=np.uint8).reshape(1, 8, 8) * 4
    forms = [gray, gray[..., None], gray / 255, np.repeat(gray[..., None], 3, axis=3)]
    for index, form in enumerate(forms):
        save_grid(tmp_path / f"{index}.png", form)
    first = load(tmp_path / "0.png")
    assert first[MARGIN + 56 - 1, MARGIN + 56 - 1].tolist() == [252] * 3
    for index in range(1, len(forms)):
        np.testing.assert_array_equal(load(tmp_path / f"{index}.png"), first)


def test_grid_takes_bfloat16(tmp_path):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    save_grid(tmp_path / "grid.png", np.full((1, 8, 8), 0.5, bfloat16))
    assert load(tmp_path / "grid.png")[MARGIN, MARGIN, 0] == 128


def test_grid_labels_and_title(tmp_path):
    images = np.zeros((4, 8, 8), np.uint8)
    labels = ["7", "", "a caption that is much too long for one column", "9"]
    save_grid(tmp_path / "grid.png", images, labels=labels, columns=1, title="Title")
    pixels = load(tmp_path / "grid.png")
    top = MARGIN + 17 + 14
    assert (pixels[: top - 1] < 128).any(), "no title"
    assert pixels.shape[0] == top + 4 * (56 + LABEL + GAP) - GAP + MARGIN
    bands = [pixels[top + i * (56 + LABEL + GAP) + 56 :][:LABEL] for i in range(4)]
    inked = [(band < 200).any(axis=(0, 2)) for band in bands]
    assert [bool(columns.any()) for columns in inked] == [True, False, True, True]
    # The long one is cut within its column; the short one stands centred below its image.
    assert not inked[2][:MARGIN].any()
    assert not inked[2][-MARGIN:].any()
    black = np.flatnonzero((pixels[top + 28] == 0).all(axis=1))
    assert len(black) == 56
    assert np.flatnonzero(inked[0]).mean() == pytest.approx(black.mean(), abs=2)
    save_grid(tmp_path / "plain.png", images, columns=1)
    assert (load(tmp_path / "plain.png")[:MARGIN] == 255).all()


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        (np.zeros((8, 8), np.uint8), {}, "N, H, W"),
        (np.zeros((2, 8, 8, 4), np.uint8), {}, "N, H, W"),
        (np.zeros((0, 8, 8), np.uint8), {}, "not empty"),
        (np.zeros((2, 8, 8), np.int32), {}, "uint8 or float"),
        (np.full((2, 8, 8), 1.5), {}, r"0\.\.1"),
        (np.full((2, 8, 8), np.nan), {}, r"0\.\.1"),
        (np.zeros((2, 8, 8), np.uint8), {"labels": ["one"]}, "1 labels for 2 images"),
        (np.zeros((2, 8, 8), np.uint8), {"columns": 0}, "columns and scale"),
        (np.zeros((2, 8, 8), np.uint8), {"scale": 1.5}, "columns and scale"),
        (np.zeros((2, 8, 8), np.uint8), {"scale": 3000}, "too large"),
    ],
)
def test_grid_refuses(tmp_path, images, options, words):
    with pytest.raises(UserError, match=words):
        save_grid(tmp_path / "grid.png", images, **options)
    assert not (tmp_path / "grid.png").exists()


def test_unwritable_paths(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    image = np.zeros((1, 8, 8), np.uint8)
    for path in (tmp_path / "file" / "grid.png", tmp_path / "folder.png"):
        with pytest.raises(UserError, match="cannot write"):
            save_grid(path, image)
    with pytest.raises(UserError, match=r"end in \.png"):
        save_grid(tmp_path / "grid.jpg", image)


def test_tokens_to_gray():
    images = tokens_to_gray([[0, 16, 8, 4, 12, 2]], height=2, width=3, vocab_size=17)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, [[[0, 255, 128], [64, 191, 32]]])


@pytest.mark.parametrize(
    ("tokens", "vocab_size", "words"),
    [
        ([[0, 1, 2]], 17, r"shape \(N, 4\)"),
        ([[0.0, 1, 2, 3]], 17, "integers"),
        ([[0, 1, 2, 17]], 17, r"0\.\.16"),
        ([[0, 1, -1, 3]], 17, r"0\.\.16"),
        ([[0, 0, 0, 0]], 1, "two values"),
    ],
)
def test_tokens_to_gray_refuses(tokens, vocab_size, words):
    with pytest.raises(UserError, match=words):
        tokens_to_gray(tokens, height=2, width=2, vocab_size=vocab_size)


BLUE, ORANGE = (0, 0x72, 0xB2), (0xD5, 0x5E, 0)


def near(pixels, colour):
    return (np.abs(pixels - np.array(colour)) < 24).all(axis=2)


def draw(path, curves):
    save_curves(path, curves, title="Loss", x_label="step", y_label="bits")
    return load(path)


def test_curves_follow_the_data(tmp_path):
    steps = np.arange(101)
    pixels = draw(tmp_path / "c.png", {"up": (steps, steps / 100), "flat": (steps, 0 * steps)})
    # The plot is 560 wide; the legend lies to the right of it, in the last 70 pixels.
    rows, columns = np.nonzero(near(pixels, BLUE)[:, :-75])
    left, right = columns.min(), columns.max()
    assert right - left == pytest.approx(560, abs=4)
    middle = rows[columns == (left + right) // 2].mean()
    assert middle == pytest.approx((rows.min() + rows.max()) / 2, abs=3)
    assert rows[columns == left].mean() > rows[columns == right].mean() + 300
    flat_rows = np.nonzero(near(pixels, ORANGE)[:, :-75])[0]
    assert np.ptp(flat_rows) <= 4
    for colour in (BLUE, ORANGE):
        assert near(pixels, colour)[:, -60:].any(), "not in the legend"


def test_curves_leave_a_gap_at_nan(tmp_path):
    steps = np.arange(100.0)
    values = np.ones(100)
    values[40:60] = [np.nan, np.inf] * 10
    pixels = draw(tmp_path / "c.png", {"gap": (steps, values), "low": ([0, 99], [0, 0])})
    columns = np.flatnonzero(near(pixels, BLUE)[:, :-75].any(axis=0))
    assert np.diff(columns).max() == pytest.approx(560 * 21 / 100, abs=8)


def test_curves_edges_stay_inside(tmp_path):
    cases = [
        {"one point": ([5], [3])},
        {"zero": ([0, 1], [0, 0]), "x" * 99: ([0, 1], [0, 0])},
        {"tiny": ([1e-6, 2e-6], [1e9, 3e9])},
        {"negative": ([-5, 5], [-1e-3, 1e-3])},
        {f"line {i}": ([0, 1], [i, i + 1]) for i in range(30)},
    ]
    for curves in cases:
        pixels = draw(tmp_path / "c.png", curves)
        assert near(pixels, BLUE).any()
        border = [pixels[:6], pixels[-6:], pixels[:, :6], pixels[:, -6:]]
        assert all((part == 255).all() for part in border), "drawn up to the border"


@pytest.mark.parametrize(
    ("curves", "words"),
    [
        ({}, "nothing to draw"),
        ({"a": ([1.0], [np.nan])}, "nothing to draw"),
        ({"a": ([1, 2], [1, 2, 3])}, "one length"),
        ({"a": ([1, 2], ["x", "y"])}, "pair"),
        ({"a": [1, 2, 3]}, "pair"),
    ],
)
def test_curves_refuse(tmp_path, curves, words):
    with pytest.raises(UserError, match=words):
        draw(tmp_path / "c.png", curves)
