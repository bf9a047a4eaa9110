"""Convolutions of videos: by frames and at once they are the same."""

import numpy as np
import pytest

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
