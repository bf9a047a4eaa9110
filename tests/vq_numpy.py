"""The VQ tokenizer in plain NumPy float64, written from its description; shares no code with ours.

Axes: B images, H height, W width, C channels, V codes.

Parameters are flat, path -> array. `config` is any object with the fields of the VQ config.
"""

from __future__ import annotations

import numpy as np


class Reference:
    def __init__(self, params, config):
        self.params = {path: np.asarray(array, np.float64) for path, array in params.items()}
        self.config = config

    def conv(self, x, path, stride=1, pad=None):
        """Cross-correlation, one tap of the kernel at a time; pad is (before, after) each side."""
        kernel, bias = self.params[f"{path}/kernel"], self.params[f"{path}/bias"]
        size = kernel.shape[0]
        before, after = pad or (size // 2, size // 2)
        x = np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
        rows = (x.shape[1] - size) // stride + 1
        columns = (x.shape[2] - size) // stride + 1
        y = np.zeros((x.shape[0], rows, columns, kernel.shape[3])) + bias
        for i in range(size):
            for j in range(size):
                tap = x[:, i : i + stride * rows : stride, j : j + stride * columns : stride]
                y += np.einsum("bhwi,io->bhwo", tap, kernel[i, j])
        return y

    def norm(self, x, path):
        y = np.empty_like(x)
        for group in np.split(np.arange(x.shape[-1]), self.config.norm_groups):
            for image in range(len(x)):
                part = x[image][..., group]
                y[image][..., group] = (part - part.mean()) / np.sqrt(
                    part.var() + self.config.norm_eps
                )
        return y * self.params[f"{path}/scale"] + self.params[f"{path}/bias"]

    def res(self, x, path):
        h = self.conv(silu(self.norm(x, f"{path}/norm1")), f"{path}/conv1")
        h = self.conv(silu(self.norm(h, f"{path}/norm2")), f"{path}/conv2")
        if f"{path}/shortcut/kernel" in self.params:
            x = self.conv(x, f"{path}/shortcut")
        return x + h

    def attention(self, x, path):
        h = self.norm(x, f"{path}/norm")
        q, k, v = (
            self.conv(h, f"{path}/{name}").reshape(len(x), -1, x.shape[-1])
            for name in ("query", "key", "value")
        )
        weights = np.exp(np.einsum("bqc,bkc->bqk", q, k) / np.sqrt(x.shape[-1]))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = np.einsum("bqk,bkc->bqc", weights, v).reshape(x.shape)
        return x + self.conv(mixed, f"{path}/out")

    def middle(self, x, path):
        x = self.res(x, f"{path}/middle/0")
        x = self.attention(x, f"{path}/middle/1")
        return self.res(x, f"{path}/middle/2")

    def latents(self, pixels):
        """`(B, h, w, C)` before normalisation and search."""
        config, levels = self.config, len(self.config.encoder_multipliers)
        x = self.conv(np.asarray(pixels, np.float64), "encoder/conv_in")
        for level in range(levels):
            path = f"encoder/levels/{level}"
            for block in range(config.blocks_per_level):
                x = self.res(x, f"{path}/blocks/{block}")
                if level == levels - 1:
                    x = self.attention(x, f"{path}/attention/{block}")
            if level < levels - 1:
                x = self.conv(x, f"{path}/downsample", stride=2, pad=(0, 1))
            # Paths alone would not tell if widths were given in the wrong order.
            assert x.shape[-1] == config.width * config.encoder_multipliers[level]
        x = self.conv(
            silu(self.norm(self.middle(x, "encoder"), "encoder/norm_out")), "encoder/conv_out"
        )
        return self.conv(x, "quant")

    def codes(self):
        rows = self.params["codebook/embedding"]
        return normalised(rows) if self.config.normalise_codes else rows

    def encode(self, pixels):
        """Ids `(B, P)`, and by how much the nearest code is nearer than the second."""
        z = self.latents(pixels)
        z = z.reshape(len(z), -1, z.shape[-1])
        z = normalised(z) if self.config.normalise_codes else z
        distance = ((z[:, :, None] - self.codes()) ** 2).sum(axis=-1)
        two = np.sort(distance, axis=-1)[..., :2]
        return distance.argmin(axis=-1), two[..., 1] - two[..., 0]

    def decode(self, ids, rows, columns):
        """Pixels of ids `(B, P)`."""
        return self.decode_latents(self.codes()[ids].reshape(len(ids), rows, columns, -1))

    def decode_latents(self, z):
        """Pixels of latents `(B, h, w, C)`."""
        config, levels = self.config, len(self.config.decoder_multipliers)
        x = self.conv(self.conv(z, "post_quant"), "decoder/conv_in")
        x = self.middle(x, "decoder")
        for level in range(levels):
            path = f"decoder/levels/{level}"
            for block in range(config.blocks_per_level + 1):
                x = self.res(x, f"{path}/blocks/{block}")
                if level == 0:
                    x = self.attention(x, f"{path}/attention/{block}")
            assert x.shape[-1] == config.width * config.decoder_multipliers[levels - 1 - level]
            if level < levels - 1:
                x = self.conv(np.kron(x, np.ones((1, 2, 2, 1))), f"{path}/upsample")
        return self.conv(silu(self.norm(x, "decoder/norm_out")), "decoder/conv_out")


def silu(x):
    return x / (1 + np.exp(-x))


def normalised(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
