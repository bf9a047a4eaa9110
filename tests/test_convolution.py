"""Convolutions made in other ways: by taps, and of videos by frames."""

import jax
import numpy as np
import pytest

from gen.models.convolution import PRECISION, by_taps
from gen.models.video_convolution import at_once, by_frames


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2), (1, 2, 2), (3, 1, 2)])
def test_by_frames(size, stride):
    rng = np.random.default_rng(size)
    x = rng.normal(size=(2, 5, 6, 7, 3)).astype(np.float32)
    kernel = rng.normal(size=(size, size, size, 3, 4)).astype(np.float32)
    around = (((size - 1) // 2, size // 2),) * 3
    for padding in (around, ((0, 0),) * 3):
        wanted = at_once(x, kernel, stride=stride, around=padding)
        found = by_frames(x, kernel, stride=stride, around=padding)
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (2, 5)])
@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 1), (1, 1)), ((0, 2), (1, 0))])
def test_by_taps(size, padding):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 6, 7)).astype(np.float32)
    kernel = rng.normal(size=(*size, 7, 3)).astype(np.float32)
    wanted = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=PRECISION
    )
    found = by_taps(x, kernel, padding)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=2e-5)
