"""How well a tokenizer gives images back, and how it uses its codes.

Axes: N images, H height, W width, C channels, P positions, V codes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gen.errors import UserError

# Of SSIM (Wang et al. 2004): a Gaussian window of 11 x 11, and the two constants.
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03
PEAK = 255.0


def psnr(wanted_NHWC: Any, made_NHWC: Any) -> np.ndarray:
    """Peak signal-to-noise ratio of each image in dB, float64 (N,); infinite where they agree.

    Args:
      wanted_NHWC, made_NHWC: uint8 images of one shape.

    Raises:
      UserError: another dtype, or unequal shapes.
    """
    wanted_NHWC, made_NHWC = _pair(wanted_NHWC, made_NHWC)
    error_N = np.square(wanted_NHWC - made_NHWC).reshape(len(wanted_NHWC), -1).mean(axis=1)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(PEAK**2 / error_N)


def mean_psnr(wanted_NHWC: Any, made_NHWC: Any) -> float:
    """PSNR in dB of the mean squared error over all images; arguments as `psnr`.

    Unlike a mean of `psnr` it is not led by a few flat images, which come back almost exactly.
    """
    wanted_NHWC, made_NHWC = _pair(wanted_NHWC, made_NHWC)
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(PEAK**2 / np.square(wanted_NHWC - made_NHWC).mean()))


def ssim(wanted_NHWC: Any, made_NHWC: Any) -> np.ndarray:
    """Structural similarity of each image, float64 (N,), 1 where they agree.

    Mean over channels and all places at which the window lies inside of the image. Source: Wang,
    Bovik, Sheikh & Simoncelli 2004.

    Args:
      wanted_NHWC, made_NHWC: uint8 images of one shape, at least 11 pixels a side; NaN below.

    Raises:
      UserError: another dtype, or unequal shapes.
    """
    x, y = _pair(wanted_NHWC, made_NHWC)
    if min(x.shape[1:3]) < WINDOW:
        return np.full(len(x), np.nan)
    mean_x, mean_y = _blurred(x), _blurred(y)
    variance_x, variance_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    together = _blurred(x * y) - mean_x * mean_y
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    alike = (2 * mean_x * mean_y + c1) * (2 * together + c2)
    at_all = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return (alike / at_all).reshape(len(x), -1).mean(axis=1)


def code_use(ids: Any, num_codes: int) -> dict[str, float]:
    """How many of the codes occur, and how evenly.

    Args:
      ids: ints of any shape, from 0 to V - 1.
      num_codes: V.

    Returns:
      `usage`, the share of the codes that occur, and `perplexity`, exp of the entropy of their
      shares: V where all are as frequent.
    """
    counts_V = np.bincount(np.asarray(ids).reshape(-1), minlength=num_codes)
    share = counts_V[counts_V > 0] / counts_V.sum()
    entropy = -float(np.sum(share * np.log(share)))
    return {"usage": len(share) / num_codes, "perplexity": float(np.exp(entropy))}


def _pair(wanted_NHWC: Any, made_NHWC: Any) -> tuple[np.ndarray, np.ndarray]:
    wanted_NHWC, made_NHWC = np.asarray(wanted_NHWC), np.asarray(made_NHWC)
    if wanted_NHWC.shape != made_NHWC.shape or wanted_NHWC.ndim != 4 or not wanted_NHWC.size:
        raise UserError(f"images (N, H, W, C) of one shape: {wanted_NHWC.shape}, {made_NHWC.shape}")
    if wanted_NHWC.dtype != np.uint8 or made_NHWC.dtype != np.uint8:
        raise UserError(f"images are uint8, not {wanted_NHWC.dtype} and {made_NHWC.dtype}")
    return wanted_NHWC.astype(np.float64), made_NHWC.astype(np.float64)


def _blurred(x_NHWC: np.ndarray) -> np.ndarray:
    """Weighted means over the window, wherever it lies inside."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    for axis in (1, 2):
        windows = np.lib.stride_tricks.sliding_window_view(x_NHWC, WINDOW, axis=axis)
        x_NHWC = windows @ weights
    return x_NHWC
