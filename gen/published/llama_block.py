"""The transformer that LlamaGen and the systems built on its code share: settings and keys.

LlamaGen, NAR, PAR, RandAR, FQGAN, D-AR and Open-MAGVIT2 take this block over; each system's file
says what is its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gen.errors import UserError
from gen.models.block import BackboneConfig
from gen.models.conditioning import ConditionConfig
from gen.published.base import Shapes, require
from gen.published.tables import Entry, fused_rows, transposed

# gpt.py: (n_layer, dim) -> n_head of its sizes B to 7B; weights do not tell.
HEADS = {
    (12, 768): 12,
    (24, 1024): 16,
    (36, 1280): 20,
    (48, 1536): 24,
    (48, 2560): 40,
    (22, 2048): 32,
    (24, 3200): 32,
    (32, 4096): 32,
}
BLOCK_SIZE_HINT = "tokens per image: 256 for 16x16, 576 for 24x24"
# Buffers that a model has once it has sampled.
IGNORED = ("layers.{i}.attention.kv_cache.k_cache", "layers.{i}.attention.kv_cache.v_cache")


@dataclasses.dataclass(frozen=True)
class ModelArgs:
    """The reference's `ModelArgs`; none: inferred from the weights."""

    dim: int | None = None
    n_layer: int | None = None
    n_head: int | None = None
    n_kv_head: int | None = None
    multiple_of: int | None = None
    ffn_dim_multiplier: float | None = None
    ffn_width: int | None = None  # ours: what the two above come to
    vocab_size: int | None = None
    block_size: int | None = None
    num_classes: int | None = None
    caption_dim: int | None = None
    cls_token_num: int | None = None
    token_num: int | None = None
    model_type: str | None = None
    class_dropout_prob: float = 0.1
    token_dropout_p: float = 0.1
    attn_dropout_p: float = 0.0
    resid_dropout_p: float = 0.1
    ffn_dropout_p: float = 0.1
    drop_path_rate: float = 0.0
    rope_base: float = 10000.0
    norm_eps: float = 1e-5
    initializer_range: float = 0.02
    max_batch_size: int = 32  # of the reference's cache, which ours sizes itself
    max_seq_len: int = 2048

    def __post_init__(self) -> None:
        if self.model_type not in (None, "c2i", "t2i"):
            raise UserError(f'model_type is "c2i" or "t2i", not "{self.model_type}"')
        if self.attn_dropout_p:
            raise UserError("attn_dropout_p must be 0: no published model drops attention weights")


def ffn_width(args: ModelArgs) -> int:
    """Hidden width of the feed-forward: from the settings where they are given (gpt.py)."""
    if args.multiple_of is None and args.ffn_dim_multiplier is None:
        return args.ffn_width
    hidden, multiple = int(2 * 4 * args.dim / 3), args.multiple_of or 256
    if args.ffn_dim_multiplier is not None:
        hidden = int(args.ffn_dim_multiplier * hidden)
    return -(-hidden // multiple) * multiple


def stored_settings(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What the training script's saved arguments tell: image size, hence tokens per image."""
    found = {}
    image, factor = stored.get("args.image_size"), stored.get("args.downsample_size")
    if isinstance(image, int) and isinstance(factor, int) and factor > 0:
        found["block_size"] = (image // factor) ** 2
    return found


def grid_of(args: ModelArgs) -> tuple[int, int]:
    """(height, width) of the square that `block_size` tokens make.

    Raises:
      UserError: it is no square.
    """
    side = math.isqrt(args.block_size)
    if side < 1 or side * side != args.block_size:
        raise UserError(
            f"block_size {args.block_size} is no square: these models have square grids"
        )
    return side, side


def condition_config(args: ModelArgs) -> ConditionConfig:
    """Classes or captions."""
    text = args.model_type == "t2i"
    return ConditionConfig(
        kind="text" if text else "class",
        num_classes=0 if text else args.num_classes,
        caption_length=args.cls_token_num if text else 120,
        caption_dim=args.caption_dim if text else 2048,
        drop_rate=args.class_dropout_prob,
    )


def backbone_config(args: ModelArgs, *, heads: int, extra_blocks: int = 0) -> BackboneConfig:
    """The blocks, with those that a system adds after the `n_layer` of its trunk."""
    return BackboneConfig(
        depth=args.n_layer + extra_blocks,
        width=args.dim,
        heads=heads,
        kv_heads=args.n_kv_head or 0,
        ffn_width=ffn_width(args),
        init_std=args.initializer_range,
        norm_eps=args.norm_eps,
        rope_base=args.rope_base,
        token_dropout=args.token_dropout_p,
        residual_dropout=args.resid_dropout_p,
        ffn_dropout=args.ffn_dropout_p,
        drop_path=args.drop_path_rate,
    )


def known_heads(args: ModelArgs, *also: str, **hints: str) -> int:
    """The number of heads, once all settings are there that a model of this block needs.

    Raises:
      UserError: naming the settings that are neither given nor in the weights.
    """
    heads = args.n_head or HEADS.get((args.n_layer, args.dim))
    text = args.model_type == "t2i"
    require(
        args,
        *("dim", "n_layer", "vocab_size", "ffn_width", *also),
        *(("cls_token_num", "caption_dim") if text else ("num_classes",)),
        n_head=heads,
        hints={"n_head": "attention heads"} | hints,
    )
    return heads


def infer(tensors: Shapes, stored: Mapping[str, Any], *, extra_blocks: int = 0) -> dict[str, Any]:
    """Settings that the tensors' shapes and the training script's arguments tell."""

    def size(name: str, axis: int) -> int | None:
        shape = tensors.get(name, ())
        return shape[axis] if len(shape) == 2 else None

    layers = sum(name.endswith(".attention_norm.weight") for name in tensors) - extra_blocks
    text = "cls_embedding.uncond_embedding" in tensors
    rows = size("cls_embedding.embedding_table.weight", 0)
    return {
        "model_type": "t2i" if text else "c2i",
        "dim": size("tok_embeddings.weight", 1),
        "vocab_size": size("tok_embeddings.weight", 0),
        "n_layer": layers if layers > 0 else None,
        "ffn_width": size("layers.0.feed_forward.w1.weight", 0),
        "num_classes": rows - 1 if rows else None,
        "cls_token_num": size("cls_embedding.uncond_embedding", 0) if text else 1,
        "caption_dim": size("cls_embedding.uncond_embedding", 1),
        **stored_settings(stored),
    }


def head(norm: str, output: str, ours: str) -> list[Entry]:
    """A final norm and the map to logits."""
    return [
        Entry(f"{norm}.weight", f"{ours}/norm/scale"),
        Entry(f"{output}.weight", f"{ours}/logits/kernel", transposed),
    ]


def entries(condition: ConditionConfig, backbone: BackboneConfig) -> list[Entry]:
    """All but the heads: embeddings of tokens and condition, and the blocks."""
    block, feed = "backbone/blocks", "backbone/blocks/feed_forward"
    queries = backbone.heads * backbone.head_dim
    keys = backbone.num_kv_heads * backbone.head_dim
    bounds = np.cumsum([0, queries, keys, keys]).tolist()
    fused = [
        Entry(
            "layers.{i}.attention.wqkv.weight",
            f"{block}/attention/{name}/kernel",
            fused_rows(bounds[part], bounds[part + 1], bounds[-1]),
        )
        for part, name in enumerate(("query", "key", "value"))
    ]
    if condition.kind == "class":
        embedder = [Entry("cls_embedding.embedding_table.weight", "condition/table/embedding")]
    else:
        project = "cls_embedding.cap_proj"
        embedder = [
            Entry("cls_embedding.uncond_embedding", "condition/null_caption"),
            Entry(f"{project}.fc1.weight", "condition/project_in/kernel", transposed),
            Entry(f"{project}.fc2.weight", "condition/project_out/kernel", transposed),
        ]
    return [
        *embedder,
        *fused,
        Entry("tok_embeddings.weight", "tokens/embedding"),
        Entry("layers.{i}.attention.wo.weight", f"{block}/attention/out/kernel", transposed),
        Entry("layers.{i}.feed_forward.w1.weight", f"{feed}/gate/kernel", transposed),
        Entry("layers.{i}.feed_forward.w3.weight", f"{feed}/up/kernel", transposed),
        Entry("layers.{i}.feed_forward.w2.weight", f"{feed}/down/kernel", transposed),
        Entry("layers.{i}.attention_norm.weight", f"{block}/attention_norm/scale"),
        Entry("layers.{i}.ffn_norm.weight", f"{block}/ffn_norm/scale"),
    ]
