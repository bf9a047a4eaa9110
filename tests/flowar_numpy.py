"""FlowAR in plain NumPy float64, from its published key names.

Written from the description of the model alone, without our code: a loop over heads, all scales so
far at each step, no cache. Axes: B samples, L positions of the scales so far, R positions of one
scale, C channels of a latent, D width.
"""

import dataclasses
import itertools
import math

import numpy as np

from tests import msvq_numpy
from tests.var_numpy import linear, softmax

CLASSES = 1000


def hidden(width, ratio):
    return int(width * ratio * 2 / 3)


def stack_shapes(config, which):
    """Tensors of the blocks of a stack, with the buffer of wavelengths."""
    width, heads = config[f"{which}_embed_dim"], config[f"{which}_num_heads"]
    found = {}
    for i in range(config[f"{which}_depth"]):
        name = f"{which}_blocks.{i}"
        found |= linear(f"{name}.ada_lin.1", width, 6 * width)
        found |= linear(f"{name}.attn.qkv", width, 3 * width)
        found |= linear(f"{name}.attn.proj", width, width)
        found |= gated(f"{name}.mlp", width, config["mlp_ratio"])
        found[f"{name}.attn.rope.freqs"] = (width // heads // 4,)
    return found


def gated(name, width, ratio):
    inner = hidden(width, ratio)
    return {
        **linear(f"{name}.fc1_g", width, inner),
        **linear(f"{name}.fc1_x", width, inner),
        **linear(f"{name}.fc2", inner, width),
    }


def head_shapes(config):
    """Tensors of the flow head."""
    width, told = config["diffloss_w"], config["decoder_embed_dim"]
    channels, waves = config["vae_embed_dim"], width // (width // 64) // 4
    found = {
        **linear("flownet.time_embed.mlp.0", 256, width),
        **linear("flownet.time_embed.mlp.2", width, width),
        **linear("flownet.cond_embed", told, width),
        **linear("flownet.input_proj", channels, width),
        **linear("flownet.final_layer.adaLN_modulation.1", width, 2 * width),
        **linear("flownet.final_layer.linear", width, channels),
    }
    for i in range(config["diffloss_d"]):
        name = f"flownet.res_blocks.{i}"
        found[f"{name}.attn.qkv.weight"] = (3 * width, width)
        found[f"{name}.attn.rope.freqs"] = (waves,)
        found |= linear(f"{name}.attn.proj", width, width) | gated(f"{name}.mlp", width, 4.0)
        if not config["cross"]:
            found |= linear(f"{name}.ada_lin", width, 6 * width)
            continue
        found |= linear(f"{name}.ada_lin_attn", width, 3 * width)
        found |= linear(f"{name}.ada_lin_mlp", width, 3 * width)
        found |= linear(f"{name}.crossattn.proj", width, width)
        found[f"{name}.crossattn.q.weight"] = (width, width)
        found[f"{name}.crossattn.kv.weight"] = (2 * width, told)
        found[f"{name}.crossattn.rope.freqs"] = (waves,)
        found |= {f"{name}.norm2_1.weight": (width,), f"{name}.norm2_2.weight": (told,)}
    return found


def shapes(config):
    """Shape of every tensor of a checkpoint."""
    width, length = config["encoder_embed_dim"], sum(side**2 for side in config["scale"])
    places = ("encoder_pos_embed_learned", "decoder_pos_embed_learned")
    return {
        "class_emb.weight": (CLASSES + 1, width),
        **linear("z_proj", config["vae_embed_dim"], width),
        **dict.fromkeys((*places, "diffusion_pos_embed_learned"), (1, length, width)),
        **{f"{name}.weight": (width,) for name in ("z_proj_ln", "encoder_norm", "decoder_norm")},
        **linear("decoder_embed", width, width),
        **stack_shapes(config, "encoder"),
        **stack_shapes(config, "decoder"),
        **head_shapes(config),
        "mask": (1, 1, length, length),
    }


def weights(config, seed):
    """Random weights of every parameter and buffer, float32, by published name."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in shapes(config).items():
        std = 0.3 if len(shape) != 2 else shape[1] ** -0.5
        std = 0.7 if name == "class_emb.weight" else std
        found[name] = (std * rng.normal(size=shape)).astype(np.float32)
        if "norm" in name or "_ln" in name:
            found[name] += np.float32(1)
        if name.endswith("rope.freqs"):
            found[name] = frequencies(4 * shape[0]).astype(np.float32)
    level = np.repeat(np.arange(len(config["scale"])), np.square(config["scale"]))
    seen = level[:, None] >= level
    return found | {"mask": np.where(seen, np.float32(0), np.float32(-np.inf))[None, None]}


def frequencies(size):
    """Of the pairs of a half of a head of so many channels."""
    return 10000.0 ** (-2 * np.arange(size // 4) / (size // 2))


def rotated(x, side):
    """`(..., side * side, E)`: pairs of a half turn with the row, of the other with the column."""
    size, place = x.shape[-1], np.arange(side) / side * 16
    rows, columns = (place[i] for i in np.divmod(np.arange(side * side), side))
    angles = np.concatenate([np.outer(a, frequencies(size)) for a in (rows, columns)], axis=-1)
    turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
    return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)


def norm(x, weight=1.0):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * weight


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def times(count):
    """The grid of the flow, from noise at 1 to data at 0."""
    if count == 50:
        return [1 - i / 50 for i in range(51)]
    early, late = count // 2, count // 2 + 1
    first = [1 - 0.7 * i / max(early - 1, 1) for i in range(early)]
    return first + [0.25 * (1 - i / (late - 1)) for i in range(late)]


@dataclasses.dataclass
class FlowAR:
    """`config` and weights `w` by published name."""

    config: dict
    w: dict

    def __post_init__(self):
        self.w = {name: np.asarray(array, np.float64) for name, array in self.w.items()}
        self.sides = self.config["scale"]
        self.bounds = [0, *np.cumsum(np.square(self.sides))]
        self.level = np.repeat(np.arange(len(self.sides)), np.square(self.sides))

    def map(self, x, name):
        return x @ self.w[f"{name}.weight"].T + self.w.get(f"{name}.bias", 0.0)

    def gated(self, x, name):
        return self.map(gelu(self.map(x, f"{name}.fc1_g")) * self.map(x, f"{name}.fc1_x"),
                        f"{name}.fc2")  # fmt: skip

    def attend(self, q, k, v, heads, sides, seen=None):
        """Heads one by one; positions of each scale of the given sides turn by themselves."""
        size, mixed = q.shape[-1] // heads, []
        cuts = np.cumsum([side**2 for side in sides])[:-1]

        def turned(x):
            parts = np.split(x, cuts, axis=1)
            return np.concatenate([rotated(p, s) for p, s in zip(parts, sides)], axis=1)

        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            scores = turned(q[..., own]) @ np.swapaxes(turned(k[..., own]), 1, 2) / math.sqrt(size)
            scores = scores if seen is None else np.where(seen, scores, -np.inf)
            mixed.append(softmax(scores) @ v[..., own])
        return np.concatenate(mixed, axis=-1)

    def stack(self, x, which, class_BD):
        """The blocks of a stack on the scales so far."""
        level = self.level[: x.shape[1]]
        sides, seen = self.sides[: level[-1] + 1], level[:, None] >= level
        for i in range(self.config[f"{which}_depth"]):
            name = f"{which}_blocks.{i}"
            six = self.map(silu(class_BD), f"{name}.ada_lin.1").reshape(len(x), 6, 1, -1)
            gate1, gate2, scale1, scale2, shift1, shift2 = np.moveaxis(six, 1, 0)
            fused = self.map(norm(x) * (1 + scale1) + shift1, f"{name}.attn.qkv")
            heads = self.config[f"{which}_num_heads"]
            mixed = self.attend(*np.split(fused, 3, axis=-1), heads, sides, seen)
            x = x + gate1 * self.map(mixed, f"{name}.attn.proj")
            x = x + gate2 * self.gated(norm(x) * (1 + scale2) + shift2, f"{name}.mlp")
        return x

    def told(self, labels_B, starts_BNC):
        """What the flow head is told of the first scales: as many as there are starts for."""
        class_BD = self.w["class_emb.weight"][labels_B]
        x = np.concatenate([class_BD[:, None], self.map(starts_BNC, "z_proj")], axis=1)
        own = slice(0, x.shape[1])
        x = norm(x + self.w["encoder_pos_embed_learned"][:, own], self.w["z_proj_ln.weight"])
        x = norm(self.stack(x, "encoder", class_BD), self.w["encoder_norm.weight"])
        x = self.map(x, "decoder_embed") + self.w["decoder_pos_embed_learned"][:, own]
        x = norm(self.stack(x, "decoder", class_BD), self.w["decoder_norm.weight"])
        return x + self.w["diffusion_pos_embed_learned"][:, own]

    def velocity(self, x, time_B, told, side):
        """The flow head on one scale; the time is cut to thousandths."""
        waves = np.exp(-math.log(10000) * np.arange(128) / 128)
        angles = np.trunc(np.float32(time_B) * np.float32(1000))[:, None] * waves
        time = self.map(np.concatenate([np.cos(angles), np.sin(angles)], -1),
                        "flownet.time_embed.mlp.0")  # fmt: skip
        time = self.map(silu(time), "flownet.time_embed.mlp.2")[:, None]
        both = time + self.map(told, "flownet.cond_embed")
        x = self.map(x, "flownet.input_proj")
        for i in range(self.config["diffloss_d"]):
            x = self.res_block(x, f"flownet.res_blocks.{i}", time, both, told, side)
        shift, scale = np.split(
            self.map(silu(both), "flownet.final_layer.adaLN_modulation.1"), 2, axis=-1
        )
        return self.map(norm(x) * (1 + scale) + shift, "flownet.final_layer.linear")

    def res_block(self, x, name, time, both, told, side):
        heads = self.config["diffloss_w"] // 64
        if self.config["cross"]:
            gate1, scale1, shift1 = np.split(self.map(silu(time), f"{name}.ada_lin_attn"), 3, -1)
            gate2, scale2, shift2 = np.split(self.map(silu(both), f"{name}.ada_lin_mlp"), 3, -1)
        else:
            six = np.split(self.map(silu(both), f"{name}.ada_lin"), 6, axis=-1)
            gate1, gate2, scale1, scale2, shift1, shift2 = six
        fused = self.map(norm(x) * (1 + scale1) + shift1, f"{name}.attn.qkv")
        mixed = self.attend(*np.split(fused, 3, axis=-1), heads, [side])
        x = x + gate1 * self.map(mixed, f"{name}.attn.proj")
        if self.config["cross"]:
            query = self.map(norm(x, self.w[f"{name}.norm2_1.weight"]), f"{name}.crossattn.q")
            memory = norm(told, self.w[f"{name}.norm2_2.weight"])
            keys, values = np.split(self.map(memory, f"{name}.crossattn.kv"), 2, axis=-1)
            mixed = self.attend(query, keys, values, heads, [side])
            x = x + self.map(mixed, f"{name}.crossattn.proj")
        return x + gate2 * self.gated(norm(x) * (1 + scale2) + shift2, f"{name}.mlp")

    def start(self, part_BRC, scale):
        """What a scale starts from: the one before, enlarged and averaged down."""
        full, side = (self.sides[-1],) * 2, self.sides[scale - 1]
        x = part_BRC.reshape(len(part_BRC), side, side, -1)
        x = msvq_numpy.resized(x, msvq_numpy.bicubic, full)
        x = msvq_numpy.resized(x, msvq_numpy.area, (self.sides[scale],) * 2)
        return x.reshape(len(x), -1, x.shape[-1])

    def targets(self, latents_BHWC):
        """The latent at each scale, a list of `(B, R, C)`."""
        count, channels = len(latents_BHWC), latents_BHWC.shape[-1]
        return [
            msvq_numpy.resized(latents_BHWC, msvq_numpy.area, (s, s)).reshape(count, -1, channels)
            for s in self.sides
        ]

    def sample(self, labels_B, cfg, window, num_steps, noise_BLC):
        """Latents of each scale, a list of `(B, R, C)`."""
        null_B = np.full_like(labels_B, CLASSES)
        starts, made = np.zeros((len(labels_B), 0, noise_BLC.shape[-1])), []
        grid = times(num_steps)
        for k, side in enumerate(self.sides):
            if k:
                starts = np.concatenate([starts, self.start(made[-1], k)], axis=1)
            own = slice(self.bounds[k], self.bounds[k + 1])
            cond, null = (self.told(who, starts)[:, own] for who in (labels_B, null_B))
            w = 1 + (cfg - 1) * k / (len(self.sides) - 1)
            x = noise_BLC[:, own].astype(np.float64)
            for now, after in itertools.pairwise(grid):
                time_B = np.full(len(x), now)
                v = self.velocity(x, time_B, cond, side)
                if w > 1 and now <= window + 1e-9:
                    other = self.velocity(x, time_B, null, side)
                    v = other + w * (v - other)
                x = x + (after - now) * v
            made.append(x)
        return made
