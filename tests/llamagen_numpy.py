"""LlamaGen's transformer in plain NumPy (float64), from its published key names.

Written from the description of the model alone, without our code: loops over heads and rows,
whole sequences at each step, no cache. Axes: B batch, T condition slots, N tokens, S = T + N
slots, D width, V vocabulary.
"""

import math

import numpy as np


def weights(config, seed, scale=0.4):
    """Random weights of every tensor a checkpoint holds, float32, by published name."""
    rng = np.random.default_rng(seed)
    dim, heads = config["dim"], config["n_head"]
    keys = (config["n_kv_head"] or heads) * (dim // heads)
    hidden = ffn_width(config)
    shapes = {"tok_embeddings.weight": (config["vocab_size"], dim)}
    if config["model_type"] == "c2i":
        shapes["cls_embedding.embedding_table.weight"] = (config["num_classes"] + 1, dim)
    else:
        shapes["cls_embedding.uncond_embedding"] = (config["cls_token_num"], config["caption_dim"])
        shapes["cls_embedding.cap_proj.fc1.weight"] = (dim, config["caption_dim"])
        shapes["cls_embedding.cap_proj.fc2.weight"] = (dim, dim)
    for i in range(config["n_layer"]):
        shapes[f"layers.{i}.attention.wqkv.weight"] = (dim + 2 * keys, dim)
        shapes[f"layers.{i}.attention.wo.weight"] = (dim, dim)
        shapes[f"layers.{i}.feed_forward.w1.weight"] = (hidden, dim)
        shapes[f"layers.{i}.feed_forward.w3.weight"] = (hidden, dim)
        shapes[f"layers.{i}.feed_forward.w2.weight"] = (dim, hidden)
        shapes[f"layers.{i}.attention_norm.weight"] = (dim,)
        shapes[f"layers.{i}.ffn_norm.weight"] = (dim,)
    shapes["norm.weight"] = (dim,)
    shapes["output.weight"] = (config["vocab_size"], dim)
    return {
        name: (scale * rng.normal(size=shape) + (len(shape) == 1)).astype(np.float32)
        for name, shape in shapes.items()
    }


def ffn_width(config):
    hidden = int(2 * (4 * config["dim"]) / 3)
    if config["ffn_dim_multiplier"] is not None:
        hidden = int(config["ffn_dim_multiplier"] * hidden)
    return math.ceil(hidden / config["multiple_of"]) * config["multiple_of"]


def norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def rotate(x_SC, positions, base):
    """Rotates channel pairs (2i, 2i + 1): rows turn the first half of the pairs, columns the rest.

    A position of none is a condition slot, which the published table multiplies by zero.
    """
    out = np.zeros_like(x_SC)
    pairs = x_SC.shape[1] // 2
    for slot, position in enumerate(positions):
        if position is None:
            continue
        for pair in range(pairs):
            which = position[0] if pair < pairs // 2 else position[1]
            frequency = base ** (-2 * (pair % (pairs // 2)) / pairs)
            angle = which * frequency
            even, odd = x_SC[slot, 2 * pair], x_SC[slot, 2 * pair + 1]
            out[slot, 2 * pair] = even * np.cos(angle) - odd * np.sin(angle)
            out[slot, 2 * pair + 1] = even * np.sin(angle) + odd * np.cos(angle)
    return out


def condition(config, w, row, null):
    """Condition slots (T, D) of one row: a label, or caption features (T, C)."""
    if config["model_type"] == "c2i":
        label = config["num_classes"] if null else int(row)
        return w["cls_embedding.embedding_table.weight"][label][None].astype(np.float64)
    features = w["cls_embedding.uncond_embedding"] if null else row
    hidden = features.astype(np.float64) @ w["cls_embedding.cap_proj.fc1.weight"].T
    inner = np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)
    return 0.5 * hidden * (1 + np.tanh(inner)) @ w["cls_embedding.cap_proj.fc2.weight"].T


def forward(config, w, row, tokens, valid=None, null=False):
    """Logits (len(tokens) + 1, V) that predict token 0 up to the one after the given tokens."""
    start = condition(config, w, row, null)
    x = np.concatenate([start, w["tok_embeddings.weight"][np.asarray(tokens, int)]])
    x = x.astype(np.float64)
    num_cond, num_slots = len(start), len(x)
    side = math.isqrt(config["block_size"])
    positions = [None] * num_cond + [divmod(i, side) for i in range(len(tokens))]
    heads = config["n_head"]
    kv_heads = config["n_kv_head"] or heads
    size = config["dim"] // heads
    seen = np.tril(np.ones((num_slots, num_slots), bool))
    if valid is not None:
        seen[:, :num_cond] &= np.asarray(valid, bool)
        seen |= np.eye(num_slots, dtype=bool)
    for i in range(config["n_layer"]):
        layer = f"layers.{i}."
        fused = norm(x, w[layer + "attention_norm.weight"], config["norm_eps"])
        fused = fused @ w[layer + "attention.wqkv.weight"].T
        queries = fused[:, : heads * size]
        keys = fused[:, heads * size : (heads + kv_heads) * size]
        values = fused[:, (heads + kv_heads) * size :]
        mixed = []
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            group = head // (heads // kv_heads)
            shared = slice(group * size, (group + 1) * size)
            q = rotate(queries[:, own], positions, config["rope_base"])
            k = rotate(keys[:, shared], positions, config["rope_base"])
            scores = np.where(seen, q @ k.T / np.sqrt(size), -np.inf)
            scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
            mixed.append(scores / scores.sum(axis=-1, keepdims=True) @ values[:, shared])
        x = x + np.concatenate(mixed, axis=-1) @ w[layer + "attention.wo.weight"].T
        fed = norm(x, w[layer + "ffn_norm.weight"], config["norm_eps"])
        gate = fed @ w[layer + "feed_forward.w1.weight"].T
        up = fed @ w[layer + "feed_forward.w3.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[layer + "feed_forward.w2.weight"].T
    x = norm(x, w["norm.weight"], config["norm_eps"])
    return x[num_cond - 1 :] @ w["output.weight"].T


def greedy(config, w, row, scale, interval, valid=None):
    """Greedy tokens, and the smallest gap between the two likeliest at any step."""
    tokens, gap = [], np.inf
    for step in range(config["block_size"]):
        logits = forward(config, w, row, tokens, valid)[-1]
        # The published loop counts the interval from the step after the prefill.
        if scale > 1 and not (interval > -1 and step - 1 > interval):
            null = forward(config, w, row, tokens, valid, null=True)[-1]
            logits = null + scale * (logits - null)
        order = np.sort(logits)
        gap = min(gap, order[-1] - order[-2])
        tokens.append(int(np.argmax(logits)))
    return tokens, gap


def filtered(logits_BV, top_k, top_p):
    """top-k (ties kept), then the smallest set reaching top-p; the rest at -inf."""
    out = np.array(logits_BV, np.float64)
    for row in out:
        if top_k:
            row[row < np.sort(row)[-top_k]] = -np.inf
        if top_p < 1:
            order = np.argsort(-row, kind="stable")
            chance = np.exp(row[order] - row.max())
            before = np.cumsum(chance / chance.sum()) - chance / chance.sum()
            row[order[before > top_p]] = -np.inf
    return out
