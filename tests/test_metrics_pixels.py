"""PSNR, SSIM, use of codes, and the transform code that tokenizers are held against."""

import itertools

import numpy as np
import pytest

from gen.errors import UserError
from gen.metrics import pixels
from gen.metrics.transform_coding import fit_transform_code, lloyd_max

RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def test_psnr_by_hand():
    wanted = np.full((2, 4, 4, 3), 100, np.uint8)
    made = wanted.copy()
    made[1] += 16
    found = pixels.psnr(wanted, made)
    assert np.isinf(found[0]) and np.isclose(found[1], 20 * np.log10(255 / 16))
    assert np.isclose(pixels.mean_psnr(wanted, made), 10 * np.log10(255**2 / 128))


@pytest.mark.parametrize("peak", ["psnr", "ssim"])
def test_scores_are_those_of_scikit_image(peak):
    metrics = pytest.importorskip("skimage.metrics")
    wanted = noise(3, 24, 20, 3)
    made = np.clip(wanted.astype(int) + RNG.integers(-30, 30, wanted.shape), 0, 255)
    made = made.astype(np.uint8)
    if peak == "psnr":
        expected = [metrics.peak_signal_noise_ratio(a, b) for a, b in zip(wanted, made)]
    else:
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        options |= {"channel_axis": -1, "data_range": 255, "win_size": 11}
        expected = [metrics.structural_similarity(a, b, **options) for a, b in zip(wanted, made)]
    np.testing.assert_allclose(getattr(pixels, peak)(wanted, made), expected, rtol=1e-7)


def test_ssim_of_the_same_image_and_of_a_small_one():
    image = noise(1, 16, 16, 3)
    assert np.isclose(pixels.ssim(image, image), 1)
    assert np.isnan(pixels.ssim(image[:, :8], image[:, :8])).all()


@pytest.mark.parametrize(
    ("wanted", "made"),
    [(noise(1, 4, 4, 3), noise(1, 4, 5, 3)), (noise(1, 4, 4, 3).astype(float), noise(1, 4, 4, 3))],
)
def test_images_that_do_not_compare(wanted, made):
    with pytest.raises(UserError, match="images"):
        pixels.psnr(wanted, made)


def test_use_of_codes():
    found = pixels.code_use([[0, 0, 1, 1], [3, 3, 3, 3]], 5)
    share = np.array([0.25, 0.25, 0.5])
    assert found["usage"] == 3 / 5
    assert np.isclose(found["perplexity"], np.exp(-(share * np.log(share)).sum()))


@pytest.mark.parametrize(("count", "error"), [(2, 0.3634), (4, 0.1175), (8, 0.03454)])
def test_lloyd_max_of_a_normal_variable(count, error):
    # Max 1960, table I.
    values = np.random.default_rng(1).normal(size=200_000)
    levels, found = lloyd_max(values, count)
    assert abs(found / error - 1) < 0.02
    nearest = levels[np.abs(values[:1000, None] - levels).argmin(axis=1)]
    assert abs(np.square(values[:1000] - nearest).mean() / error - 1) < 0.2


def test_lloyd_max_of_few_values_is_exact():
    levels, error = lloyd_max(np.array([0.0, 0.0, 5.0, 6.0]), 2)
    np.testing.assert_allclose([*levels, error], [0, 5.5, 0.125])


def test_bits_go_where_they_help_most():
    # Independent components of known spread: no other allocation of the bits is better.
    spread = np.array([40.0, 20.0, 10.0, 4.0])
    rows = np.random.default_rng(2).normal(size=(4000, 4)) * spread + 128
    images = np.clip(np.rint(rows), 0, 255).astype(np.uint8).reshape(1000, 2, 8, 1)
    code = fit_transform_code(images, patch=2, bits_per_pixel=5 / 4)
    assert code.bits == 5
    found = np.square(images.astype(float) - code.reconstruct(images)).mean()
    cells = images.reshape(1000, 2, 4, 2).swapaxes(1, 2).reshape(-1, 4).astype(float)
    axes = np.linalg.eigh(np.cov(cells, rowvar=False))[1]
    values = (cells - cells.mean(axis=0)) @ axes
    errors = [[lloyd_max(column, 2**bits)[1] for bits in range(6)] for column in values.T]
    best = min(
        sum(errors[axis][bits] for axis, bits in enumerate(given)) / 4
        for given in itertools.product(range(6), repeat=4)
        if sum(given) == 5
    )
    assert found < 1.01 * best + 1 / 12  # and what rounding to whole numbers adds


def test_more_bits_are_better_and_patches_come_back_in_place():
    ramp = np.add.outer(np.arange(16), 2 * np.arange(16)).astype(np.uint8)
    images = np.stack([np.stack([ramp + shift] * 3, axis=-1) for shift in range(0, 150, 3)])
    scores = [
        pixels.mean_psnr(
            images, fit_transform_code(images, patch=4, bits_per_pixel=rate).reconstruct(images)
        )
        for rate in (1 / 16, 1 / 8, 1 / 4)
    ]
    assert scores[0] > 20 and scores[0] < scores[1] < scores[2]
    with pytest.raises(UserError, match="do not divide"):
        fit_transform_code(images, patch=5, bits_per_pixel=1)
    with pytest.raises(UserError, match="are not one"):
        fit_transform_code(images, patch=2, bits_per_pixel=0.2)
