"""How an image is cut to the size of a tokenizer.

Axes: A versions, H height, W width of the image; h, w of the cut.

`centre` is the cut of guided-diffusion (ADM), which LlamaGen and MAR use too: halve the image by
averaging while the image is twice as large as needed, scale the rest of the way by bicubic
interpolation, cut the middle. `ten` is LlamaGen's: the cut of a larger size, then four corners, the
middle, and their mirror images (`torchvision.transforms.TenCrop`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

TEN_CROP_RANGES = (1.05, 1.1)  # of LlamaGen's two sets of codes


def cover(pixels_HWC: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """The image scaled so that it just covers `size`, (h, w) in pixels; uint8."""
    height, width = size
    image = Image.fromarray(pixels_HWC)
    while image.width >= 2 * width and image.height >= 2 * height:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = max(width / image.width, height / image.height)
    fitted = max(round(image.width * scale), width), max(round(image.height * scale), height)
    return np.asarray(image.resize(fitted, Image.Resampling.BICUBIC))


def cut(pixels_HWC: np.ndarray, top: int, left: int, size: Sequence[int]) -> np.ndarray:
    """The rectangle of `size` (h, w) whose corner is at (top, left)."""
    return pixels_HWC[..., top : top + size[0], left : left + size[1], :]


def middle(pixels_HWC: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """The middle rectangle of `size` (h, w)."""
    height, width = pixels_HWC.shape[-3:-1]
    return cut(pixels_HWC, (height - size[0]) // 2, (width - size[1]) // 2, size)


def centre(pixels_HWC: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """The middle of the image, as large as fits, scaled to `size` (h, w): uint8 `(h, w, 3)`."""
    return middle(cover(pixels_HWC, size), size)


def mirrored(pixels: np.ndarray) -> np.ndarray:
    """Left and right exchanged."""
    return pixels[..., ::-1, :]


def ten(pixels_HWC: np.ndarray, size: Sequence[int], crop_range: float) -> np.ndarray:
    """Ten cuts of the central part that is `crop_range` times as large: uint8 `(10, h, w, 3)`."""
    large = [int(side * crop_range) for side in size]
    pixels_HWC = centre(pixels_HWC, large)
    bottom, right = large[0] - size[0], large[1] - size[1]
    corners = ((0, 0), (0, right), (bottom, 0), (bottom, right))
    first = [cut(pixels_HWC, *corner, size) for corner in corners]
    # torchvision rounds the middle's corner, where ADM's cut goes down.
    first.append(cut(pixels_HWC, round(bottom / 2), round(right / 2), size))
    mirror = mirrored(pixels_HWC)
    second = [cut(mirror, *corner, size) for corner in corners]
    second.append(cut(mirror, round(bottom / 2), round(right / 2), size))
    return np.stack(first + second)
