"""MaskGIT's tokenizer in plain NumPy float64, under the names of both its published forms.

Axes: B images, H height, W width, C channels.

`Port` has the modules of the PyTorch port by name. `Original` follows calls only: a module of one
kind gets the next number in the module that calls it, as in Flax, and weights are made when they
are first called for. Neither shares code with ours.
"""

from __future__ import annotations

import collections
import math

import numpy as np

from tests.kl_numpy import Network


def nearest(z, codes):
    """Ids (B, h, w), and by how much each beats the second best."""
    distance = ((z[:, :, :, None] - codes) ** 2).sum(axis=-1)
    two = np.sort(distance, axis=-1)[..., :2]
    return distance.argmin(axis=-1), (two[..., 1] - two[..., 0]).min()


def averaged(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def doubled(x):
    return np.kron(x, np.ones((1, 2, 2, 1)))


class Port(Network):
    """The PyTorch port; `config` holds its settings."""

    def __init__(self, config, tensors):
        super().__init__(tensors, config["groupnorm_groups"], config["groupnorm_eps"])
        self.config, self.codes = config, self.tensors["quantize.embedding.weight"]

    def res(self, x, name):
        h = self.conv(self.active(x, f"{name}.norm1"), f"{name}.conv1")
        h = self.conv(self.active(h, f"{name}.norm2"), f"{name}.conv2")
        if f"{name}.nin_shortcut.weight" in self.tensors:
            return h + self.conv(h, f"{name}.nin_shortcut")
        return h + x

    def blocks(self, x, name):
        for block in range(self.config["num_res_blocks"]):
            x = self.res(x, f"{name}.{block}")
        return x

    def latents(self, pixels):
        x, levels = self.conv(np.asarray(pixels, np.float64), "encoder.conv_in"), self.levels
        for number in range(levels):
            x = self.blocks(x, f"encoder.down.{number}.block")
            x = averaged(x) if number < levels - 1 else x
        return self.conv(
            self.active(self.blocks(x, "encoder.mid"), "encoder.norm_out"), "encoder.conv_out"
        )

    def decode(self, ids):
        return self.decode_codes(self.codes[ids])

    def decode_codes(self, z):
        x = self.blocks(self.conv(z, "decoder.conv_in"), "decoder.mid")
        for number in reversed(range(self.levels)):
            x = self.blocks(x, f"decoder.up.{number}.block")
            x = self.conv(doubled(x), f"decoder.up.{number}.upsample_conv") if number else x
        return self.conv(self.active(x, "decoder.norm_out"), "decoder.conv_out")

    @property
    def levels(self):
        return len(self.config["channel_mult"])


def port_weights(config, seed):
    """Random weights under the port's names."""
    rng, made = np.random.default_rng(seed), {}

    def conv(name, fan_in, out, size, bias=False):
        made[f"{name}.weight"] = rng.normal(size=(out, fan_in, size, size)) / math.sqrt(
            fan_in * size**2
        )
        if bias:
            made[f"{name}.bias"] = rng.normal(size=out) * 0.2

    def norm(name, width):
        made[f"{name}.weight"] = 1 + rng.normal(size=width) * 0.2
        made[f"{name}.bias"] = rng.normal(size=width) * 0.2

    def blocks(name, fan_in, out):
        for block in range(config["num_res_blocks"]):
            path = f"{name}.{block}"
            norm(f"{path}.norm1", fan_in)
            conv(f"{path}.conv1", fan_in, out, 3)
            norm(f"{path}.norm2", out)
            conv(f"{path}.conv2", out, out, 3)
            if fan_in != out:
                conv(f"{path}.nin_shortcut", out, out, 1)
            fan_in = out

    widths, z = (
        [config["hidden_channels"] * m for m in config["channel_mult"]],
        config["z_channels"],
    )
    conv("encoder.conv_in", 3, config["hidden_channels"], 3)
    for number, (fan_in, out) in enumerate(zip([config["hidden_channels"], *widths], widths)):
        blocks(f"encoder.down.{number}.block", fan_in, out)
    for number, (fan_in, out) in enumerate(zip([*widths[1:], widths[-1]], widths)):
        blocks(f"decoder.up.{number}.block", fan_in, out)
        if number:
            conv(f"decoder.up.{number}.upsample_conv", out, out, 3, bias=True)
    for name, width, out, size in (
        ("encoder", widths[-1], z, 1),
        ("decoder", widths[0], config["num_channels"], 3),
    ):
        blocks(f"{name}.mid", widths[-1], widths[-1])
        norm(f"{name}.norm_out", width)
        conv(f"{name}.conv_out", width, out, size, bias=True)
    conv("decoder.conv_in", z, widths[-1], 3, bias=True)
    made["quantize.embedding.weight"] = rng.normal(size=(config["num_embeddings"], z))
    return {name: array.astype(np.float32) for name, array in made.items()}


class Original:
    """The JAX original; `tensors` fills with weights by path as layers are called."""

    def __init__(self, config, seed):
        self.config, self.tensors = config, {}
        self.rng = np.random.default_rng(seed)
        shape = (config["codebook_size"], config["embedding_dim"])
        self.codes = self.tensor("quantizer/codebook", shape, 1.0)

    def tensor(self, path, shape, spread, centre=0.0):
        if path not in self.tensors:
            drawn = centre + self.rng.normal(size=shape) * spread
            self.tensors[path] = drawn.astype(np.float32)
        return self.tensors[path].astype(np.float64)

    def conv(self, scope, x, out, size, bias):
        path = scope.enter("Conv")
        shape = (size, size, x.shape[-1], out)
        kernel = self.tensor(f"{path}/kernel", shape, 1 / math.sqrt(math.prod(shape[:-1])))
        tensors = {"weight": kernel.transpose(3, 2, 0, 1)}
        if bias:
            tensors["bias"] = self.tensor(f"{path}/bias", (out,), 0.2)
        layer = {f"layer.{name}": array for name, array in tensors.items()}
        return Network(layer, 1, 0).conv(x, "layer")

    def active(self, scope, x):
        path, width = scope.enter("GroupNorm"), (x.shape[-1],)
        layer = {
            "layer.weight": self.tensor(f"{path}/scale", width, 0.2, 1.0),
            "layer.bias": self.tensor(f"{path}/bias", width, 0.2),
        }
        return Network(layer, self.config["num_groups"], 1e-6).active(x, "layer")

    def blocks(self, scope, x, width):
        for _ in range(self.config["num_res_blocks"]):
            inner, rest, fan_in = Scope(scope.enter("ResBlock")), x, x.shape[-1]
            x = self.conv(inner, self.active(inner, x), width, 3, bias=False)
            x = self.conv(inner, self.active(inner, x), width, 3, bias=False)
            x = x + (rest if fan_in == width else self.conv(inner, x, width, 1, bias=False))
        return x

    def latents(self, pixels):
        scope, widths = Scope("encoder"), self.widths
        x = self.conv(scope, np.asarray(pixels, np.float64), self.config["filters"], 3, bias=False)
        for number, width in enumerate(widths):
            x = self.blocks(scope, x, width)
            x = averaged(x) if number < len(widths) - 1 else x
        x = self.active(scope, self.blocks(scope, x, widths[-1]))
        return self.conv(scope, x, self.config["embedding_dim"], 1, bias=True)

    def decode(self, ids):
        scope, widths = Scope("decoder"), self.widths
        x = self.conv(scope, self.codes[ids], widths[-1], 3, bias=True)
        x = self.blocks(scope, x, widths[-1])
        for number, width in reversed(list(enumerate(widths))):
            x = self.blocks(scope, x, width)
            x = self.conv(scope, doubled(x), width, 3, bias=True) if number else x
        return self.conv(scope, self.active(scope, x), 3, 3, bias=True)

    @property
    def widths(self):
        return [self.config["filters"] * m for m in self.config["channel_multipliers"]]


class Scope:
    """Hands out the names of the modules that one module calls."""

    def __init__(self, path):
        self.path, self.calls = path, collections.Counter()

    def enter(self, kind):
        self.calls[kind] += 1
        return f"{self.path}/{kind}_{self.calls[kind] - 1}"
