"""NAR's transformers, of images and of videos, in plain NumPy float64, from published key names.

Written from the description of the models alone, without our code: loops over heads and cells, all
cells so far at each step, no cache. Axes: B batch, T condition slots, P cells, S = T + P slots,
D width, V vocabulary.
"""

import itertools
import math

import numpy as np

from tests import llamagen_numpy
from tests.llamagen_numpy import norm, rotate

# Heads in the order of their depths, and the axis (from the last) that each looks along.
IMAGE_HEADS = (("norm", "output"), ("medusa_norm", "medusa_output"))
VIDEO_HEADS = (("norm_R", "output_R"), ("norm_D", "output_D"), ("norm_B", "output_B"))


def is_video(config):
    return "latent_shape" in config


def grid(config):
    side = math.isqrt(config.get("block_size", 0))
    return tuple(config.get("latent_shape", (side, side)))


def heads(config):
    return VIDEO_HEADS if is_video(config) else IMAGE_HEADS


def depth(config):
    """Number of blocks, and how many lie between one head and the next."""
    gap = config.get("medusa_attention_num", 1)
    return config["n_layer"] + gap * (len(heads(config)) - 1), gap


def weights(config, seed, scale=0.4):
    """Random weights of every tensor a checkpoint holds, float32, by published name."""
    kind = "c2i" if is_video(config) else config["model_type"]
    as_llamagen = config | {"n_layer": depth(config)[0], "model_type": kind}
    found = llamagen_numpy.weights(as_llamagen, seed, scale)
    rng = np.random.default_rng([seed, 1])
    last = found.pop("norm.weight"), found.pop("output.weight")
    for number, (name, output) in enumerate(heads(config)):
        found[f"{name}.weight"] = last[0] + np.float32(0.1 * number)
        drawn = scale * rng.normal(size=last[1].shape).astype(np.float32)
        found[f"{output}.weight"] = drawn.astype(np.float32) if number else last[1]
    if is_video(config):
        rows, width = config["max_seq_len"] + 1, config["dim"]
        table = scale * rng.normal(size=(rows, width))
        if config["use_fixed_pe"]:
            table = fixed_positions(rows, width)
        found["abs_pe"] = table[None].astype(np.float32)
    return found


def fixed_positions(rows, width):
    """Sines in the first half of the channels, cosines in the second."""
    table = np.zeros((rows, width))
    for row, pair in itertools.product(range(rows), range(width // 2)):
        angle = row / 10000 ** (2 * pair / width)
        table[row, pair], table[row, width // 2 + pair] = np.sin(angle), np.cos(angle)
    return table


def condition(config, w, row, null):
    """Condition slots (T, D): a label, of which a negative one is none, or caption features."""
    if is_video(config):
        label = config["num_classes"] if null or row < 0 else int(row)
        return w["cls_embedding.embedding_table.weight"][label][None].astype(np.float64)
    return llamagen_numpy.condition(config, w, row, null)


def blocks(config, w, x, seen, positions):
    """The hidden states after each block; `positions` turn queries and keys, or are none."""
    size, eps, found = config["dim"] // config["n_head"], config["norm_eps"], []
    for i in range(depth(config)[0]):
        layer, mixed = f"layers.{i}.", []
        fused = (
            norm(x, w[layer + "attention_norm.weight"], eps) @ w[layer + "attention.wqkv.weight"].T
        )
        queries, keys, values = np.split(fused, 3, axis=-1)
        for head in range(config["n_head"]):
            own = slice(head * size, (head + 1) * size)
            q, k = queries[:, own], keys[:, own]
            if positions is not None:
                q, k = (rotate(part, positions, config["rope_base"]) for part in (q, k))
            scores = np.where(seen, q @ k.T / np.sqrt(size), -np.inf)
            scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
            mixed.append(scores / scores.sum(axis=-1, keepdims=True) @ values[:, own])
        x = x + np.concatenate(mixed, axis=-1) @ w[layer + "attention.wo.weight"].T
        fed = norm(x, w[layer + "ffn_norm.weight"], eps)
        gate = fed @ w[layer + "feed_forward.w1.weight"].T
        up = fed @ w[layer + "feed_forward.w3.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[layer + "feed_forward.w2.weight"].T
        found.append(x)
    return found


def visible(num_cond, cells, valid):
    """Who sees whom: condition slots what came before, cells the condition and no farther cell."""
    distance = np.array([sum(cell) for cell in cells], int)
    count = num_cond + len(cells)
    seen = np.zeros((count, count), bool)
    seen[:num_cond, :num_cond] = np.tri(num_cond, dtype=bool)
    seen[num_cond:, :num_cond] = True
    seen[num_cond:, num_cond:] = distance[:, None] >= distance
    if valid is not None:
        seen[:, :num_cond] &= np.asarray(valid, bool)
    return seen | np.eye(count, dtype=bool)


def forward(config, w, row, known, targets, valid=None, null=False):
    """Logits of cells, each the mean of what the cells before it along each axis say.

    Args:
      config: settings under the reference's names.
      w: weights by published name.
      row: label or caption features.
      known: cell -> token, of all cells nearer to the corner than any target.
      targets: cells.
      valid: which caption slots are no padding.
      null: whether the condition is dropped.
    """
    start, cells = condition(config, w, row, null), sorted(known)
    tokens = np.array([known[cell] for cell in cells], int)
    x = np.concatenate([start, w["tok_embeddings.weight"][tokens]]).astype(np.float64)
    positions = [None] * len(start) + cells
    if is_video(config):
        shape, positions = grid(config), None
        rows = [int(np.ravel_multi_index(cell, shape)) for cell in cells]
        x = x + w["abs_pe"][0][[0, *(1 + row for row in rows)]]
    hidden = blocks(config, w, x, visible(len(start), cells, valid), positions)
    gap, names = depth(config)[1], heads(config)
    logits = []
    for number, (name, output) in enumerate(names):
        h = hidden[config["n_layer"] - 1 + gap * number]
        h = norm(h, w[f"{name}.weight"], config["norm_eps"])[len(start) - 1 :]
        logits.append(h @ w[f"{output}.weight"].T)
    rows = {cell: 1 + i for i, cell in enumerate(cells)}
    found = []
    for cell in targets:
        votes = [each[0] for each in logits]  # for the corner: all heads, at the condition
        if sum(cell):
            votes = [
                each[rows[before(cell, len(cell) - 1 - number)]]
                for number, each in enumerate(logits)
                if cell[len(cell) - 1 - number]
            ]
        found.append(np.mean(votes, axis=0))
    return np.stack(found)


def before(cell, axis):
    return tuple(side - (number == axis) for number, side in enumerate(cell))


def all_cells(config):
    """Cells in raster order."""
    return list(np.ndindex(*grid(config)))


def teacher_forced(config, w, row, tokens, valid=None, null=False):
    """Logits (P, V) of all cells in raster order."""
    cells = all_cells(config)
    known = dict(zip(cells, tokens.tolist(), strict=True))
    return forward(config, w, row, known, cells, valid, null)


def greedy(config, w, row, scale, interval, valid=None):
    """Greedy tokens in raster order, and the smallest gap between the two likeliest."""
    known, gap = {}, np.inf
    for distance in range(sum(grid(config)) - len(grid(config)) + 1):
        targets = [cell for cell in all_cells(config) if sum(cell) == distance]
        logits = forward(config, w, row, known, targets, valid)
        # The published loop counts tokens, and always guides the first.
        if scale > 1 and not (interval > -1 and known and len(known) > interval):
            null = forward(config, w, row, known, targets, valid, null=True)
            logits = null + scale * (logits - null)
        order = np.sort(logits, axis=-1)
        gap = min(gap, (order[:, -1] - order[:, -2]).min())
        known |= dict(zip(targets, logits.argmax(axis=-1).tolist(), strict=True))
    return [known[cell] for cell in all_cells(config)], gap
