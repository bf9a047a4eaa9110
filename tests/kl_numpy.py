"""The KL autoencoder in plain NumPy float64, from its description; shares no code with ours.

Axes: B images, H height, W width, C channels. Weights are the reference's, under its own names:
kernels (out, in, height, width).
"""

from __future__ import annotations

import math

import numpy as np

LOG_VARIANCE = (-30.0, 20.0)


def weights(config, seed):
    """Random weights of a model of these settings, at a size that keeps signals near 1."""
    rng, made = np.random.default_rng(seed), {}

    def conv(name, fan_in, out, size):
        spread = 1 / math.sqrt(fan_in * size**2)
        made[f"{name}.weight"] = rng.normal(size=(out, fan_in, size, size)) * spread
        made[f"{name}.bias"] = rng.normal(size=out) * 0.2

    def norm(name, width):
        made[f"{name}.weight"] = 1 + rng.normal(size=width) * 0.2
        made[f"{name}.bias"] = rng.normal(size=width) * 0.2

    def res(name, fan_in, out):
        norm(f"{name}.norm1", fan_in)
        conv(f"{name}.conv1", fan_in, out, 3)
        norm(f"{name}.norm2", out)
        conv(f"{name}.conv2", out, out, 3)
        if fan_in != out:
            conv(f"{name}.nin_shortcut", fan_in, out, 1)

    def attention(name, width):
        norm(f"{name}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.{part}", width, width, 1)

    def stack(name, levels, resize, blocks, ends, sides):
        """`levels`: (number, width) in order of execution."""
        first, last = ends
        width = first[1]
        conv(f"{name}.conv_in", *first, 3)
        middle = config["ch"] * config["ch_mult"][-1]
        res(f"{name}.mid.block_1", middle, middle)
        attention(f"{name}.mid.attn_1", middle)
        res(f"{name}.mid.block_2", middle, middle)
        for place, (number, out) in enumerate(levels):
            path = f"{name}.{resize[0]}.{number}"
            for block in range(blocks):
                res(f"{path}.block.{block}", width, out)
                width = out
                if config["resolution"] // 2**number in sides:
                    attention(f"{path}.attn.{block}", width)
            if place < len(levels) - 1:
                conv(f"{path}.{resize[1]}.conv", width, width, 3)
        norm(f"{name}.norm_out", last[0])
        conv(f"{name}.conv_out", *last, 3)

    widths = [config["ch"] * multiplier for multiplier in config["ch_mult"]]
    levels, z, e = list(enumerate(widths)), config["z_channels"], config["embed_dim"]
    blocks, ends = config["num_res_blocks"], ((3, config["ch"]), (widths[-1], 2 * z))
    sides = config["attn_resolutions"]
    stack("encoder", levels, ("down", "downsample"), blocks, ends, sides)
    ends, sides = ((z, widths[-1]), (widths[0], 3)), config["decoder_attn_resolutions"]
    stack("decoder", levels[::-1], ("up", "upsample"), blocks + 1, ends, sides)
    conv("quant_conv", 2 * z, 2 * e, 1)
    conv("post_quant_conv", e, z, 1)
    return {name: array.astype(np.float32) for name, array in made.items()}


class Network:
    """Layers by name; pictures are (B, H, W, C)."""

    def __init__(self, tensors, groups, eps):
        self.tensors = {name: np.asarray(array, np.float64) for name, array in tensors.items()}
        self.groups, self.eps = groups, eps

    def conv(self, x, name):
        kernel, size = self.tensors[f"{name}.weight"], self.tensors[f"{name}.weight"].shape[2]
        pad = size // 2
        return self.slide(np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))), name, kernel, 1)

    def halve(self, x, name):
        kernel = self.tensors[f"{name}.weight"]
        return self.slide(np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))), name, kernel, 2)

    def slide(self, x, name, kernel, stride):
        """All windows of a padded picture times the kernel, plus the bias if there is one."""
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], axis=(1, 2))
        y = np.einsum("bhwiyx,oiyx->bhwo", windows[:, ::stride, ::stride], kernel)
        return y + self.tensors.get(f"{name}.bias", 0.0)

    def norm(self, x, name):
        x_BPGN = x.reshape(len(x), -1, self.groups, x.shape[-1] // self.groups)
        centred = x_BPGN - x_BPGN.mean(axis=(1, 3), keepdims=True)
        unit = centred / np.sqrt((centred**2).mean(axis=(1, 3), keepdims=True) + self.eps)
        return unit.reshape(x.shape) * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    def active(self, x, name):
        x = self.norm(x, name)
        return x / (1 + np.exp(-x))

    def res(self, x, name):
        h = self.conv(self.active(x, f"{name}.norm1"), f"{name}.conv1")
        h = self.conv(self.active(h, f"{name}.norm2"), f"{name}.conv2")
        has_shortcut = f"{name}.nin_shortcut.weight" in self.tensors
        return h + (self.conv(x, f"{name}.nin_shortcut") if has_shortcut else x)

    def attention(self, x, name):
        h = self.norm(x, f"{name}.norm")
        q, k, v = (
            self.conv(h, f"{name}.{part}").reshape(len(x), -1, x.shape[-1]) for part in "qkv"
        )
        logits = q @ k.swapaxes(1, 2) / math.sqrt(x.shape[-1])
        chances = np.exp(logits - logits.max(axis=-1, keepdims=True))
        chances /= chances.sum(axis=-1, keepdims=True)
        return x + self.conv((chances @ v).reshape(x.shape), f"{name}.proj_out")

    def middle(self, x, name):
        x = self.attention(self.res(x, f"{name}.block_1"), f"{name}.attn_1")
        return self.res(x, f"{name}.block_2")


class Reference(Network):
    def __init__(self, config, tensors):
        super().__init__(tensors, config["groupnorm_groups"], config["groupnorm_eps"])
        self.config = config

    def level(self, x, name, blocks, attends):
        for block in range(blocks):
            x = self.res(x, f"{name}.block.{block}")
            x = self.attention(x, f"{name}.attn.{block}") if attends else x
        return x

    def moments(self, pixels):
        """Means and log variances, (B, h, w, 2C)."""
        config, x = self.config, self.conv(np.asarray(pixels, np.float64), "encoder.conv_in")
        for number in range(len(config["ch_mult"])):
            attends = config["resolution"] // 2**number in config["attn_resolutions"]
            x = self.level(x, f"encoder.down.{number}", config["num_res_blocks"], attends)
            if number < len(config["ch_mult"]) - 1:
                x = self.halve(x, f"encoder.down.{number}.downsample.conv")
        x = self.active(self.middle(x, "encoder.mid"), "encoder.norm_out")
        return self.conv(self.conv(x, "encoder.conv_out"), "quant_conv")

    def sample(self, moments, noise):
        """A scaled draw from the posterior."""
        half = moments.shape[-1] // 2
        deviation = np.sqrt(np.exp(np.clip(moments[..., half:], *LOG_VARIANCE)))
        return (moments[..., :half] + deviation * noise) * self.config["scale"]

    def decode(self, z):
        """Pixels of scaled latents (B, h, w, C)."""
        config = self.config
        x = self.conv(np.asarray(z, np.float64) / config["scale"], "post_quant_conv")
        x = self.middle(self.conv(x, "decoder.conv_in"), "decoder.mid")
        for number in reversed(range(len(config["ch_mult"]))):
            attends = config["resolution"] // 2**number in config["decoder_attn_resolutions"]
            x = self.level(x, f"decoder.up.{number}", config["num_res_blocks"] + 1, attends)
            if number:
                x = self.conv(
                    np.kron(x, np.ones((1, 2, 2, 1))), f"decoder.up.{number}.upsample.conv"
                )
        return self.conv(self.active(x, "decoder.norm_out"), "decoder.conv_out")
