"""The multi-scale quantiser and its tokenizer in plain NumPy float64, from their description.

Axes: B images, H height, W width, P positions, C channels, V codes.

Shares no code with ours. The resize rules are exact fractions, straight from their definitions.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import numpy as np

from tests import vq_numpy


@functools.cache
def area(n_in, n_out):
    """Cell i is the mean of all cells that its interval touches."""
    matrix = np.zeros((n_out, n_in))
    for i in range(n_out):
        low, high = Fraction(i * n_in, n_out), Fraction((i + 1) * n_in, n_out)
        touched = [c for c in range(n_in) if c < high and c + 1 > low]
        matrix[i, touched] = 1 / len(touched)
    return matrix


def cubic(x, a=Fraction(-3, 4)):
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else Fraction(0)


@functools.cache
def bicubic(n_in, n_out):
    """The kernel at each tap, taps beyond an edge counted at the edge."""
    matrix = np.zeros((n_out, n_in))
    for i in range(n_out):
        centre = Fraction(2 * i + 1, 2) * Fraction(n_in, n_out) - Fraction(1, 2)
        for tap in range(math.floor(centre) - 3, math.floor(centre) + 5):
            matrix[i, min(max(tap, 0), n_in - 1)] += float(cubic(centre - tap))
    return matrix


def resized(x, rule, size):
    """Feature maps `(B, H, W, C)` under a rule, to (height, width)."""
    rows, columns = rule(x.shape[1], size[0]), rule(x.shape[2], size[1])
    return np.einsum("ph,qw,bhwc->bpqc", rows, columns, x)


class Quantizer:
    """`kernels` (K, 3, 3, C, C) and `biases` (K, C), or None; `mixer_of_scale` is given."""

    def __init__(self, codes, kernels, biases, *, scales, mixing, mixer_of_scale, cosine):
        self.codes = np.asarray(codes, np.float64)
        self.kernels, self.biases = kernels, biases
        self.scales, self.mixing, self.mixer_of_scale = scales, mixing, mixer_of_scale
        self.cosine = cosine

    def nearest(self, z):
        """Ids of `(B, R, C)`, and by how much each beats the second best."""
        if self.cosine:
            codes = vq_numpy.normalised(self.codes)
            badness = -(vq_numpy.normalised(z)[:, :, None] * codes).sum(axis=-1)
        else:
            badness = ((z[:, :, None] - self.codes) ** 2).sum(axis=-1)
        two = np.sort(badness, axis=-1)[..., :2]
        return badness.argmin(axis=-1), (two[..., 1] - two[..., 0]).min()

    def contribution(self, rows, scale):
        x = rows.reshape(len(rows), *self.scales[scale], -1)
        x = resized(x, bicubic, self.scales[-1])
        if not self.mixing:
            return x
        mixer = self.mixer_of_scale[scale]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        y = np.zeros_like(x) + self.biases[mixer]
        for i in range(3):
            for j in range(3):
                tap = padded[:, i : i + x.shape[1], j : j + x.shape[2]]
                y += tap @ np.asarray(self.kernels[mixer][i, j], np.float64)
        return (1 - self.mixing) * x + self.mixing * y

    def encode(self, z):
        """Ids of each scale, and the smallest margin of all searches."""
        rest, found, margins = np.asarray(z, np.float64), [], []
        for scale, size in enumerate(self.scales):
            small = resized(rest, area, size).reshape(len(z), -1, z.shape[-1])
            ids, margin = self.nearest(small)
            found.append(ids)
            margins.append(margin)
            rest = rest - self.contribution(self.codes[ids], scale)
        return found, min(margins)

    def split(self, ids):
        """Ids `(B, P)` as a list of those of each scale."""
        counts = [height * width for height, width in self.scales]
        return np.split(ids, np.cumsum(counts)[:-1], axis=1)

    def sums(self, ids):
        """The latent after each scale."""
        parts = self.split(ids)
        added = [self.contribution(self.codes[part], k) for k, part in enumerate(parts)]
        return list(np.cumsum(added, axis=0))

    def inputs(self, ids):
        """What every scale but the first starts from, `(B, P', C)`."""
        small = [
            resized(f, area, size).reshape(len(ids), -1, f.shape[-1])
            for f, size in zip(self.sums(ids), self.scales[1:])
        ]
        return np.concatenate(small, axis=1)
