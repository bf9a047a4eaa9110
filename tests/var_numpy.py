"""VAR's transformer in plain NumPy float64, from its published key names.

Written from the description of the model alone, without our code: a loop over heads, all scales
so far at each step, no cache. Axes: B samples, L positions of all scales, R positions of one
scale, H height and W width of the latent, C channels of a code, D width, V vocabulary.
"""

import dataclasses
import math

import numpy as np

from tests import llamagen_numpy, msvq_numpy


def shapes(config):
    """Shape of every tensor of the checkpoints; the quantiser's under `vae.`."""
    var, vae = config["var"], config["vae"]
    width, sides = var["embed_dim"], var["patch_nums"]
    first, hidden = sides[0] ** 2, round(width * var["mlp_ratio"])
    length, channels = sum(side**2 for side in sides), vae["z_channels"]
    found = {
        "class_emb.weight": (var["num_classes"] + 1, width),
        "pos_start": (1, first, width),
        "pos_1LC": (1, length, width),
        "lvl_embed.weight": (len(sides), width),
        **linear("word_embed", channels, width),
        **linear("head_nm.ada_lin.1", width, 2 * width),
        **linear("head", width, vae["vocab_size"]),
        "vae.quantize.embedding.weight": (vae["vocab_size"], channels),
    }
    if var["shared_aln"]:
        found |= linear("shared_ada_lin.1", width, 6 * width)
    for i in range(var["depth"]):
        block = f"blocks.{i}"
        if var["shared_aln"]:
            found[f"{block}.ada_gss"] = (1, 1, 6, width)
        else:
            found |= linear(f"{block}.ada_lin.1", width, 6 * width)
        if var["attn_l2_norm"]:
            found[f"{block}.attn.scale_mul_1H11"] = (1, var["num_heads"], 1, 1)
        found[f"{block}.attn.mat_qkv.weight"] = (3 * width, width)
        found[f"{block}.attn.q_bias"] = found[f"{block}.attn.v_bias"] = (width,)
        found |= linear(f"{block}.attn.proj", width, width)
        found |= linear(f"{block}.ffn.fc1", width, hidden)
        found |= linear(f"{block}.ffn.fc2", hidden, width)
    for name in mixers(vae):
        found[f"vae.{name}.weight"] = (channels, channels, 3, 3)
        found[f"vae.{name}.bias"] = (channels,)
    return found


def linear(name, fan_in, fan_out):
    return {f"{name}.weight": (fan_out, fan_in), f"{name}.bias": (fan_out,)}


def mixers(vae):
    """Names of the quantiser's convolutions; none where nothing is mixed."""
    if abs(vae["quant_resi"]) < 1e-6:
        return []
    count = vae["share_quant_resi"]
    if count == 0:
        count = vae["default_qresi_counts"] or len(vae["v_patch_nums"])
        return [f"quantize.quant_resi.{k}" for k in range(count)]
    if count == 1:
        return ["quantize.quant_resi.qresi"]
    return [f"quantize.quant_resi.qresi_ls.{k}" for k in range(count)]


def weights(config, seed):
    """Random weights of every parameter and buffer, float32, by published name."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in shapes(config).items():
        std = 0.3 if len(shape) < 2 else math.prod(shape[1:]) ** -0.5
        std = 0.7 if name.endswith(("embedding.weight", "scale_mul_1H11")) else std
        found[name] = (std * rng.normal(size=shape)).astype(np.float32)
        if name.endswith("scale_mul_1H11"):
            found[name] += np.float32(1.5)
            found[name][0, 0] = 5.0  # beyond the largest that counts, the logarithm of 100
    var, sides = config["var"], config["var"]["patch_nums"]
    level = np.repeat(np.arange(len(sides)), np.square(sides))
    hidden = np.where(level[:, None] >= level, np.float32(0), np.float32(-np.inf))
    found |= {"lvl_1L": level[None].astype(np.int64), "attn_bias_for_masking": hidden[None, None]}
    for i in range(var["depth"]):
        found[f"blocks.{i}.attn.zero_k_bias"] = np.zeros(var["embed_dim"], np.float32)
    hits = (len(sides), config["vae"]["vocab_size"])
    return found | {"vae.quantize.ema_vocab_hit_SV": np.zeros(hits, np.float32)}


def quantizer(config, w):
    """The quantiser in NumPy; scale k takes the mixer whose tick is nearest to k / (S - 1)."""
    vae = config["vae"]
    sides, names = vae["v_patch_nums"], mixers(vae)
    margin = 1 / 3 / 4 if len(names) == 4 else 1 / 2 / max(len(names), 1)
    ticks = np.linspace(margin, 1 - margin, max(len(names), 1))
    places = np.arange(len(sides)) / max(len(sides) - 1, 1)
    return msvq_numpy.Quantizer(
        w["vae.quantize.embedding.weight"],
        [w[f"vae.{name}.weight"].transpose(2, 3, 1, 0) for name in names],
        [w[f"vae.{name}.bias"] for name in names],
        scales=[(side, side) for side in sides],
        mixing=abs(vae["quant_resi"]) if names else 0,
        mixer_of_scale=[int(np.abs(ticks - place).argmin()) for place in places],
        cosine=vae["using_znorm"],
    )


def norm(x, eps):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + eps)


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@dataclasses.dataclass
class Transformer:
    """`config` and weights `w` by published name."""

    config: dict
    w: dict

    def __post_init__(self):
        self.var = self.config["var"]
        self.w = {name: np.asarray(array, np.float64) for name, array in self.w.items()}
        self.quantizer = quantizer(self.config, self.w)
        self.sides = self.var["patch_nums"]
        self.bounds = [0, *np.cumsum(np.square(self.sides))]

    def map(self, x, name):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def modulations(self, vector_BD):
        """Gates, scales and shifts of each block, `(B, 6, 1, D)`, from the class."""
        raw = vector_BD / (1 + np.exp(-vector_BD))
        found = []
        for i in range(self.var["depth"]):
            shared = self.var["shared_aln"]
            six = self.map(raw, "shared_ada_lin.1" if shared else f"blocks.{i}.ada_lin.1")
            six = six.reshape(len(raw), 6, 1, -1)
            if shared:
                six = six + self.w[f"blocks.{i}.ada_gss"].reshape(1, 6, 1, -1)
            found.append(six)
        return found, self.map(raw, "head_nm.ada_lin.1").reshape(len(raw), 2, 1, -1)

    def attention(self, x, i, seen_LL):
        name, heads = f"blocks.{i}.attn", self.var["num_heads"]
        size = x.shape[-1] // heads
        fused = x @ self.w[f"{name}.mat_qkv.weight"].T
        q, k, v = np.split(fused, 3, axis=-1)
        q, v = q + self.w[f"{name}.q_bias"], v + self.w[f"{name}.v_bias"]
        mixed = []
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            if self.var["attn_l2_norm"]:
                sharpness = self.w[f"{name}.scale_mul_1H11"][0, head, 0, 0]
                scores = unit(q[..., own]) @ np.swapaxes(unit(k[..., own]), 1, 2)
                scores = scores * np.exp(min(sharpness, math.log(100)))
            else:
                scores = q[..., own] @ np.swapaxes(k[..., own], 1, 2) * 0.25 / math.sqrt(size)
            mixed.append(softmax(np.where(seen_LL, scores, -np.inf)) @ v[..., own])
        return self.map(np.concatenate(mixed, axis=-1), f"{name}.proj")

    def forward(self, labels_B, codes_BNC):
        """Logits `(B, L', V)` of the first scales: as many as there are inputs for.

        Args:
          labels_B: classes; the number of classes is none.
          codes_BNC: what the scales after the first start from.
        """
        eps, class_BD = self.var["norm_eps"], self.w["class_emb.weight"][labels_B]
        x = class_BD[:, None] + self.w["pos_start"]
        x = np.concatenate([x, self.map(codes_BNC, "word_embed")], axis=1)
        level = np.repeat(np.arange(len(self.sides)), np.square(self.sides))[: x.shape[1]]
        x = x + self.w["lvl_embed.weight"][level] + self.w["pos_1LC"][:, : x.shape[1]]
        blocks, last = self.modulations(class_BD)
        for i, six in enumerate(blocks):
            gate1, gate2, scale1, scale2, shift1, shift2 = np.moveaxis(six, 1, 0)
            seen = norm(x, eps) * (1 + scale1) + shift1
            x = x + gate1 * self.attention(seen, i, level[:, None] >= level)
            fed = self.map(norm(x, eps) * (1 + scale2) + shift2, f"blocks.{i}.ffn.fc1")
            x = x + gate2 * self.map(gelu(fed), f"blocks.{i}.ffn.fc2")
        return self.map(norm(x, eps) * (1 + last[:, 0]) + last[:, 1], "head")

    def sample(self, labels_B, cfg, *, noise_BLV=None, top_k=0, top_p=0.0):
        """Greedy decoding, or with noise the soft mixtures of `more_smooth`.

        Returns:
          Tokens `(B, L)`, the latent `(B, H, W, C)`, guided logits `(B, L, V)`, and the smallest
          gap between the two likeliest tokens.
        """
        null_B = np.full_like(labels_B, self.var["num_classes"])
        size = self.quantizer.scales[-1]
        channels = self.quantizer.codes.shape[1]
        f_hat = np.zeros((len(labels_B), *size, channels))
        codes, tokens, logits = np.zeros((len(labels_B), 0, channels)), [], []
        last = max(len(self.sides) - 1, 1)
        for k in range(len(self.sides)):
            own = slice(self.bounds[k], self.bounds[k + 1])
            t = cfg * k / last
            cond, null = (self.forward(who, codes)[:, own] for who in (labels_B, null_B))
            guided = (1 + t) * cond - t * null
            logits.append(guided)
            tokens.append(guided.argmax(axis=-1))
            rows = self.quantizer.codes[tokens[-1]]
            if noise_BLV is not None:
                kept = filtered(guided, top_k, top_p)
                temperature = max(0.27 * (1 - k / last * 0.95), 0.005)
                shares = softmax((kept * (1 + k / last) + noise_BLV[:, own]) / temperature)
                rows = shares @ self.quantizer.codes
            f_hat = f_hat + self.quantizer.contribution(rows, k)
            if k < len(self.sides) - 1:
                small = msvq_numpy.resized(f_hat, msvq_numpy.area, self.quantizer.scales[k + 1])
                small = small.reshape(len(labels_B), -1, channels)
                codes = np.concatenate([codes, small], axis=1)
        logits = np.concatenate(logits, axis=1)
        two = np.sort(logits, axis=-1)[..., -2:]
        return np.concatenate(tokens, axis=1), f_hat, logits, (two[..., 1] - two[..., 0]).min()


def filtered(logits, top_k, top_p):
    """Logits under both filters, the rest at -inf; a top-p of 0 keeps all."""
    flat = logits.reshape(-1, logits.shape[-1])
    return llamagen_numpy.filtered(flat, top_k, top_p or 1.0).reshape(logits.shape)
