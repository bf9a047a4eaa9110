"""MaskGIT in plain NumPy float64, from its published key names.

Written from the description of the model alone, without our code: a loop over samples and heads,
masks counted anew at each step. Axes: L positions, S = 1 + L slots, D width, V codes, W words.
"""

import math

import numpy as np

ATTENTION = "Attention_0/self_attention"


def shapes(config):
    """Shape of every tensor of a checkpoint."""
    width, hidden = config["num_embeds"], config["intermediate_size"]
    heads, words = config["num_heads"], config["codebook_size"] + config["num_class"] + 1
    size = width // heads
    found = {
        "Embed_0/word_embeddings/embedding": (words, width),
        "Embed_0/position_embeddings/embedding": (config["latent_size"] ** 2 + 1, width),
        **norm_shapes("Embed_0/embeddings_ln", width),
        **map_shapes("MlmLayer_0/mlm_dense", width, width),
        **norm_shapes("MlmLayer_0/mlm_ln", width),
        "MlmLayer_0/mlm_bias/bias": (words,),
    }
    for i in range(config["num_layers"]):
        layer = f"TransformerLayer_{i}"
        for name in ("query", "key", "value"):
            found[f"{layer}/{ATTENTION}/{name}/kernel"] = (width, heads, size)
            found[f"{layer}/{ATTENTION}/{name}/bias"] = (heads, size)
        found[f"{layer}/{ATTENTION}/out/kernel"] = (heads, size, width)
        found[f"{layer}/{ATTENTION}/out/bias"] = (width,)
        found |= norm_shapes(f"{layer}/Attention_0/attention_output_ln", width)
        found |= map_shapes(f"{layer}/Mlp_0/intermediate_output", width, hidden)
        found |= map_shapes(f"{layer}/Mlp_0/layer_output", hidden, width)
        found |= norm_shapes(f"{layer}/Mlp_0/layer_output_ln", width)
    return {f"params/{name}": shape for name, shape in found.items()}


def map_shapes(name, fan_in, fan_out):
    return {f"{name}/kernel": (fan_in, fan_out), f"{name}/bias": (fan_out,)}


def norm_shapes(name, width):
    return {f"{name}/scale": (width,), f"{name}/bias": (width,)}


def weights(config, seed):
    """Random weights, float32, by published name."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in shapes(config).items():
        fan_in = math.prod(shape[:-1]) if name.endswith("out/kernel") else shape[0]
        std = fan_in**-0.5 if name.endswith("kernel") else 0.4
        found[name] = (std * rng.normal(size=shape)).astype(np.float32)
        found[name] += np.float32(name.endswith("scale"))
    return found


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


class Transformer:
    """`config` and weights `w` by published name."""

    def __init__(self, config, w):
        self.config = config
        self.w = {name: np.asarray(array, np.float64) for name, array in w.items()}

    def norm(self, x, name):
        centred = x - x.mean(axis=-1, keepdims=True)
        x = centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + 1e-12)
        return x * self.w[f"params/{name}/scale"] + self.w[f"params/{name}/bias"]

    def map(self, x, name):
        return x @ self.w[f"params/{name}/kernel"] + self.w[f"params/{name}/bias"]

    def attention(self, x_SD, name):
        out = self.w[f"params/{name}/out/bias"]
        for head in range(self.config["num_heads"]):
            q, k, v = (
                x_SD @ self.w[f"params/{name}/{part}/kernel"][:, head]
                + self.w[f"params/{name}/{part}/bias"][head]
                for part in ("query", "key", "value")
            )
            mixed = softmax(q @ k.T / math.sqrt(q.shape[1])) @ v
            out = out + mixed @ self.w[f"params/{name}/out/kernel"][head]
        return out

    def forward(self, ids_S):
        """Logits of all words at all slots, `(S, W)`; -1 is the last word, the mask."""
        words = self.w["params/Embed_0/word_embeddings/embedding"]
        x = words[ids_S] + self.w["params/Embed_0/position_embeddings/embedding"]
        x = self.norm(x, "Embed_0/embeddings_ln")
        for i in range(self.config["num_layers"]):
            layer = f"TransformerLayer_{i}"
            mixed = self.attention(x, f"{layer}/{ATTENTION}")
            x = self.norm(x + mixed, f"{layer}/Attention_0/attention_output_ln")
            fed = gelu(self.map(x, f"{layer}/Mlp_0/intermediate_output"))
            fed = self.map(fed, f"{layer}/Mlp_0/layer_output")
            x = self.norm(x + fed, f"{layer}/Mlp_0/layer_output_ln")
        x = self.norm(gelu(self.map(x, "MlmLayer_0/mlm_dense")), "MlmLayer_0/mlm_ln")
        return x @ words.T + self.w["params/MlmLayer_0/mlm_bias/bias"]

    def decode(self, start_S, settings, token_NSV=None, choice_NS=None):
        """One sample from a sequence in which -1 is to be made.

        Args:
          start_S: the class, then tokens.
          settings: `num_iter`, `start_iter`, `choice_temperature`, `mask_scheduling_method`.
          token_NSV: noise of the draws; greedy without.
          choice_NS: noise of the confidence; none without.

        Returns:
          What each step was fed and what it made, `(N, S)`, and the smallest gap between two
          tokens or two confidences that decided.
        """
        count, vocab = settings["num_iter"], self.config["codebook_size"]
        unknown, current, fed, made, gaps = np.sum(start_S == -1), start_S.copy(), [], [], []
        for step in range(settings["start_iter"], count):
            masked = current == -1
            fed.append(current.copy())
            logits = self.forward(current)[:, :vocab]
            scores = logits if token_NSV is None else logits + token_NSV[step]
            tokens = np.where(masked, scores.argmax(axis=-1), current)
            made.append(tokens)
            two = np.sort(scores[masked], axis=-1)[:, -2:]
            gaps.append((two[:, 1] - two[:, 0]).min())
            share = ratio(settings["mask_scheduling_method"], step + 1, count, unknown)
            length = int(np.floor(np.float32(unknown) * share))
            length = max(1, min(masked.sum() - 1, length))
            chance = softmax(logits)[np.arange(len(tokens)), np.minimum(tokens, vocab - 1)]
            warmth = settings["choice_temperature"] * (1 - (step + 1) / count)
            noise = 0 if choice_NS is None else choice_NS[step]
            sure = np.where(masked, np.log(chance) + warmth * noise, np.inf)
            order = np.sort(sure)
            gaps.append(np.inf if np.isinf(order[length]) else order[length] - order[length - 1])
            current = np.where(sure < order[length], -1, tokens)
        return np.stack(fed), np.stack(made), min(gaps)


def ratio(name, step, count, unknown):
    """Share of masked positions after a step, rounded to float32 where the reference rounds."""
    f = np.float32
    r = f(step) / f(count)
    bits = f(math.log2(unknown))
    found = {
        "uniform": lambda: f(1) - r,
        "cosine": lambda: f(math.cos(f(math.pi / 2) * r)),
        "log": lambda: -f(math.log2(r)) / bits,
        "exp": lambda: f(1) - f(2.0 ** float(-bits * (f(1) - r))),
    }
    if name.startswith("pow"):
        found[name] = lambda: f(1) - f(float(r) ** float(name[3:]))
    return np.clip(found[name](), f(1e-6), f(1))
