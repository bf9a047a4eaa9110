"""What FlowAR shares with its kin: two stacks of modulated blocks, their keys and their sizes.

Source: wangqiang9/FlowAR@5745a96, `models/flowar.py`.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from gen.published.base import Shapes, count, size
from gen.published.tables import Entry, fused_rows, transposed

STACKS = ("encoder", "decoder")


def linear(theirs: str, ours: str) -> list[Entry]:
    """A linear map with its bias, if it has one."""
    return [
        Entry(f"{theirs}.weight", f"{ours}/kernel", transposed),
        Entry(f"{theirs}.bias", f"{ours}/bias"),
    ]


def fused(theirs: str, ours: str, names: tuple[str, ...], width: int) -> list[Entry]:
    """Maps of the given names, of one width each, from one fused map with its bias if any."""
    rows = [
        fused_rows(part * width, (part + 1) * width, len(names) * width)
        for part in range(len(names))
    ]
    return [
        Entry(f"{theirs}.{what}", f"{ours}/{name}/{ending}", change)
        for name, change in zip(names, rows)
        for what, ending in (("weight", "kernel"), ("bias", "bias"))
    ]


def feed_forward(theirs: str, ours: str) -> list[Entry]:
    """The gated feed-forward."""
    maps = (("fc1_g", "gate"), ("fc1_x", "up"), ("fc2", "down"))
    return [entry for a, b in maps for entry in linear(f"{theirs}.{a}", f"{ours}/{b}")]


def self_attention(theirs: str, ours: str, width: int) -> list[Entry]:
    """Attention with one map to queries, keys and values."""
    return [
        *fused(f"{theirs}.qkv", ours, ("query", "key", "value"), width),
        *linear(f"{theirs}.proj", f"{ours}/out"),
    ]


def table(width: int) -> list[Entry]:
    """The latents' map, positions, norms, stacks and the bridge between them."""
    first = functools.partial(np.squeeze, axis=0)
    blocks = [
        entry
        for stack in STACKS
        for entry in (
            *linear(f"{stack}_blocks.{{i}}.ada_lin.1", f"backbone/{stack}/blocks/modulation/map"),
            *self_attention(
                f"{stack}_blocks.{{i}}.attn", f"backbone/{stack}/blocks/attention", width
            ),
            *feed_forward(f"{stack}_blocks.{{i}}.mlp", f"backbone/{stack}/blocks/feed_forward"),
        )
    ]
    return [
        *linear("z_proj", "latents"),
        Entry("encoder_pos_embed_learned", "positions", first),
        Entry("z_proj_ln.weight", "in_norm/scale"),
        *blocks,
        Entry("encoder_norm.weight", "backbone/bridge/norm/scale"),
        *linear("decoder_embed", "backbone/bridge/map"),
        Entry("decoder_pos_embed_learned", "backbone/bridge/positions", first),
        Entry("decoder_norm.weight", "out_norm/scale"),
    ]


def infer(tensors: Shapes) -> dict[str, Any]:
    """Arguments of the reference that the weights of the stacks tell."""
    found: dict[str, Any] = {"vae_embed_dim": size(tensors, "z_proj.weight", 1)}
    for stack in STACKS:
        hidden = size(tensors, f"{stack}_blocks.0.mlp.fc1_g.weight", 0)
        width = size(tensors, f"{stack}_blocks.0.mlp.fc1_g.weight", 1)
        # Half of a head turns with the row, and has a wavelength for each of its pairs.
        waves = size(tensors, f"{stack}_blocks.0.attn.rope.freqs", 0)
        found |= {
            f"{stack}_embed_dim": width,
            f"{stack}_depth": count(tensors, f"{stack}_blocks.{{}}.ada_lin.1.weight") or None,
            f"{stack}_num_heads": width // (4 * waves) if width and waves else None,
            "mlp_ratio": ratio(width, hidden) if width and hidden else None,
        }
    return found


def ratio(width: int, hidden: int) -> float:
    """`mlp_ratio` of a hidden width: 4 where that gives it, else the middle of those that do."""
    return 4.0 if hidden == int(width * 4.0 * 2 / 3.0) else (hidden + 0.5) * 3 / 2 / width
