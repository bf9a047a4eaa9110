"""MAGVIT's video tokenizer in plain NumPy float64; shares no code with ours.

Axes: B videos, T frames, H height, W width, C channels.

As `tests.maskgit_vq_numpy.Original` it follows calls only, and weights are made when they are first
called for. `config` holds the reference's settings.
"""

from __future__ import annotations

import math

import numpy as np

from tests.maskgit_vq_numpy import Original, Scope

EDGES = ((0, 0),)


class Video(Original):
    def correlate(self, x, kernel, stride=(1, 1, 1)):
        """All windows of a padded video times the kernel."""
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:3], axis=(1, 2, 3))
        t, h, w = stride
        return np.tensordot(windows[:, ::t, ::h, ::w], kernel, axes=((4, 5, 6, 7), (3, 0, 1, 2)))

    def layer(self, scope, kind, x, out, size, bias):
        """Kernel and bias of the next layer of a kind."""
        path, shape = scope.enter(kind), (size, size, size, x.shape[-1], out)
        kernel = self.tensor(f"{path}/kernel", shape, 1 / math.sqrt(math.prod(shape[:-1])))
        return kernel, self.tensor(f"{path}/bias", (out,), 0.2) if bias else 0.0

    def conv(self, scope, x, out, size, bias, stride=(1, 1, 1)):
        kernel, shift = self.layer(scope, "Conv", x, out, size, bias)
        mode, _, kind = (self.config["custom_conv_padding"] or "constant").partition("_")
        options = {"reflect_type": kind} if kind else {}
        around = (((size - 1) // 2, size // 2),) * 3
        return (
            self.correlate(np.pad(x, (*EDGES, *around, *EDGES), mode, **options), kernel, stride)
            + shift
        )

    def spread(self, scope, x, out, factor):
        """A transposed convolution of 4x4x4: positions spread apart, then windows."""
        kernel, shift = self.layer(scope, "ConvTranspose", x, out, 4, bias=True)
        batch, *sizes, channels = x.shape
        apart = [(size - 1) * times + 1 for size, times in zip(sizes, factor)]
        y = np.zeros((batch, *apart, channels))
        y[:, :: factor[0], :: factor[1], :: factor[2]] = x
        around = tuple((2, times) for times in factor)
        return self.correlate(np.pad(y, (*EDGES, *around, *EDGES)), kernel) + shift

    def active(self, scope, x):
        groups = self.config["norm_type"] == "GN"
        path, width = scope.enter("GroupNorm" if groups else "LayerNorm"), x.shape[-1]
        scale = self.tensor(f"{path}/scale", (width,), 0.2, 1.0)
        bias = self.tensor(f"{path}/bias", (width,), 0.2)
        if groups:
            y = x.reshape(
                len(x),
                -1,
                self.config["groupnorm_groups"],
                width // self.config["groupnorm_groups"],
            )
            axes = (1, 3)
        else:
            y, axes = x, (-1,)
        centred = y - y.mean(axis=axes, keepdims=True)
        unit = centred / np.sqrt(
            (centred**2).mean(axis=axes, keepdims=True) + self.config["groupnorm_eps"]
        )
        x = unit.reshape(x.shape) * scale + bias
        return x / (1 + np.exp(-x)) if self.config["activation_fn"] == "swish" else np.maximum(x, 0)

    def blocks(self, scope, x, width, count):
        for _ in range(count):
            inner, rest = Scope(scope.enter("ResBlock")), x
            x = self.conv(inner, self.active(inner, x), width, 3, bias=False)
            x = self.conv(inner, self.active(inner, x), width, 3, bias=False)
            same = rest.shape[-1] == width
            x = x + (rest if same else self.conv(inner, rest, width, 1, bias=False))
        return x

    def factor(self, step):
        """(frames, height, width) of the step between two levels."""
        flags = self.config["temporal_downsample"]
        halves = step < flags if isinstance(flags, int) else flags[step]
        return (2 if halves else 1), 2, 2

    def latents(self, pixels):
        scope, widths, count = Scope("encoder"), self.widths, self.config["num_enc_res_blocks"]
        x = self.conv(scope, np.asarray(pixels, np.float64), self.config["filters"], 3, bias=False)
        for number, width in enumerate(widths):
            x = self.blocks(scope, x, width, count)
            if number == len(widths) - 1:
                continue
            if self.config["conv_downsample"]:
                x = self.conv(scope, x, width, 4, bias=True, stride=self.factor(number))
            else:
                for axis, times in enumerate(self.factor(number), start=1):
                    pieces = [x.take(range(i, x.shape[axis], times), axis) for i in range(times)]
                    x = sum(pieces) / times
        x = self.active(scope, self.blocks(scope, x, widths[-1], count))
        return self.conv(scope, x, self.config["embedding_dim"], 1, bias=True)

    def nearest(self, z):
        """Ids (B, t, h, w), and by how much each beats the second best."""
        z, codes = (unit(a) if self.config["latent_normalize"] else a for a in (z, self.codes))
        distance = ((z[..., None, :] - codes) ** 2).sum(axis=-1)
        two = np.sort(distance, axis=-1)[..., :2]
        return distance.argmin(axis=-1), (two[..., 1] - two[..., 0]).min()

    def decode(self, ids):
        scope, widths, count = Scope("decoder"), self.widths, self.config["num_dec_res_blocks"]
        x = self.conv(scope, self.codes[ids], widths[-1], 3, bias=True)
        x = self.blocks(scope, x, widths[-1], count)
        for number, width in reversed(list(enumerate(widths))):
            x = self.blocks(scope, x, width, count)
            if number and self.config["upsample"] == "deconv":
                x = self.spread(scope, x, width, self.factor(number - 1))
            elif number:
                cell = np.ones((1, *self.factor(number - 1), 1))
                x = self.conv(scope, np.kron(x, cell), width, 3, bias=True)
        return self.conv(scope, self.active(scope, x), 3, 3, bias=True)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
