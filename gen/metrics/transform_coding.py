"""A baseline for image tokenizers: what principal components, each quantised alone, give at a rate.

Axes: N images, M patches, D numbers of a patch, L levels of a quantiser.

Patches are projected on their principal components; each component has a scalar quantiser of its
own (Lloyd-Max, fitted to it); bits go where they help most. It is the optimal linear transform code
with codes of fixed length, as the tokens of a tokenizer are (Gersho & Gray 1992, chapter 8).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from gen.errors import UserError

ROUNDS = 60  # of Lloyd's algorithm at most
MAX_BITS = 8  # of one component


@dataclasses.dataclass(frozen=True)
class TransformCode:
    """A fitted code.

    Attributes:
      patch: side of a patch in pixels.
      mean: (D,).
      basis: (D, D), components in its columns, by falling variance.
      levels: for each component that has bits, the numbers that it is rounded to, ascending.
    """

    patch: int
    mean: np.ndarray
    basis: np.ndarray
    levels: list[np.ndarray]

    @property
    def bits(self) -> float:
        """Bits of a patch."""
        return float(sum(math.log2(len(levels_L)) for levels_L in self.levels))

    def reconstruct(self, images_NHWC: Any) -> np.ndarray:
        """uint8 images `(N, H, W, C)` as they come back, rounded to uint8."""
        images_NHWC = np.asarray(images_NHWC)
        rows_MD = _patches(images_NHWC, self.patch)
        coded_MD = (rows_MD - self.mean) @ self.basis[:, : len(self.levels)]
        for column, levels_L in enumerate(self.levels):
            coded_MD[:, column] = levels_L[_nearest(coded_MD[:, column], levels_L)]
        made_MD = coded_MD @ self.basis[:, : len(self.levels)].T + self.mean
        return _images(np.clip(np.rint(made_MD), 0, 255).astype(np.uint8), images_NHWC.shape)


def fit_transform_code(images_NHWC: Any, *, patch: int, bits_per_pixel: float) -> TransformCode:
    """The transform code of a rate that suits some images best.

    Components get whole bits, one by one, each to that whose squared error it lowers most.

    Args:
      images_NHWC: uint8 images to fit it to, whose sides are multiples of the patch.
      patch: side of a patch in pixels.
      bits_per_pixel: rate; what is left of a patch's bits after whole bits stays unused.

    Raises:
      UserError: sides are no multiples, or a patch gets no bit.
    """
    rows_MD = _patches(np.asarray(images_NHWC), patch)
    budget = int(bits_per_pixel * patch * patch + 1e-9)
    if budget < 1:
        raise UserError(f"{bits_per_pixel} bits per pixel are not one for a patch of {patch}")
    mean_D = rows_MD.mean(axis=0)
    variances, basis_DD = np.linalg.eigh(np.cov(rows_MD, rowvar=False))
    basis_DD = basis_DD[:, np.argsort(variances)[::-1]]
    coded_MD = (rows_MD - mean_D) @ basis_DD
    fitted: list[list[tuple[np.ndarray, float]]] = []  # per component: (levels, error) by bits
    gains: list[float] = []
    bits = np.zeros(coded_MD.shape[1], int)

    def fit(column: int) -> None:
        values_M, done = coded_MD[:, column], fitted[column]
        done.append(lloyd_max(values_M, 2 ** len(done)))
        gains[column] = done[-2][1] - done[-1][1]

    for _ in range(budget):
        # The next component is fitted only when its variance could win.
        while len(fitted) < len(bits) and (
            not gains or np.square(coded_MD[:, len(fitted)]).mean() > max(gains)
        ):
            fitted.append([lloyd_max(coded_MD[:, len(fitted)], 1)])
            gains.append(0.0)
            fit(len(fitted) - 1)
        best = int(np.argmax(gains))
        bits[best] += 1
        if bits[best] < MAX_BITS:
            fit(best)
        else:
            gains[best] = 0.0
    used = int(np.flatnonzero(bits).max()) + 1
    levels = [fitted[column][bits[column]][0] for column in range(used)]
    return TransformCode(patch, mean_D, basis_DD, levels)


def lloyd_max(values_M: np.ndarray, count: int) -> tuple[np.ndarray, float]:
    """Levels that values are rounded to at the least squared error, and that error.

    Lloyd 1982, Max 1960; started at the means of `count` slices of equally many values, and of the
    cube root of the density, which is best at high rates; the better of both.
    """
    values_M = np.sort(values_M.astype(np.float64))
    sums_M = np.concatenate([[0.0], np.cumsum(values_M)])
    squares = float(np.square(values_M).mean())
    best: tuple[np.ndarray, float] | None = None
    for power in (1.0, 1 / 3):
        levels_L = _start(values_M, count, power)
        error = math.inf
        for _ in range(ROUNDS):
            cuts = np.searchsorted(values_M, (levels_L[1:] + levels_L[:-1]) / 2)
            edges = np.concatenate([[0], cuts, [len(values_M)]])
            sizes_L, totals_L = np.diff(edges), np.diff(sums_M[edges])
            full = sizes_L > 0
            levels_L = levels_L.copy()
            levels_L[full] = totals_L[full] / sizes_L[full]
            now = squares - float((sizes_L * levels_L**2).sum()) / len(values_M)
            if error - now < 1e-6 * max(now, 1e-12):
                break
            error = now
        if best is None or now < best[1]:
            best = (levels_L, now)
    return best


def _start(values_M: np.ndarray, count: int, power: float) -> np.ndarray:
    """Levels to start from, as dense as the values to a power."""
    if power == 1.0:
        return np.sort([part.mean() for part in np.array_split(values_M, count)])
    heights, edges = np.histogram(values_M, bins=512)
    mass = np.cumsum(heights**power)
    wanted = (np.arange(count) + 0.5) / count * mass[-1]
    return ((edges[1:] + edges[:-1]) / 2)[np.searchsorted(mass, wanted)]


def _nearest(values_M: np.ndarray, levels_L: np.ndarray) -> np.ndarray:
    return np.searchsorted((levels_L[1:] + levels_L[:-1]) / 2, values_M)


def _patches(images_NHWC: np.ndarray, patch: int) -> np.ndarray:
    """float64 `(M, D)`."""
    count, height, width, channels = images_NHWC.shape
    if height % patch or width % patch:
        raise UserError(f"images of {height} x {width} do not divide into patches of {patch}")
    shape = (count, height // patch, patch, width // patch, patch, channels)
    return images_NHWC.reshape(shape).swapaxes(2, 3).reshape(-1, patch**2 * channels).astype(float)


def _images(rows_MD: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The images that `_patches` cut."""
    count, height, width, channels = shape
    patch = math.isqrt(rows_MD.shape[1] // channels)
    cells = (count, height // patch, width // patch, patch, patch, channels)
    return rows_MD.reshape(cells).swapaxes(2, 3).reshape(shape)
