"""LlamaGen's class- and text-conditional transformers (FoundationVision/LlamaGen@ce98ec4).

Checkpoints hold the state dict at the top (FSDP), under `model` (DDP) or `module` (DeepSpeed).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gen.api import Generator
from gen.config import Config, DataConfig, OptimConfig, SampleConfig, TrainConfig
from gen.decoding.tokens import filter_logits, token_sampling
from gen.errors import UserError
from gen.families.next_token import NextTokenConfig
from gen.models.block import BackboneConfig
from gen.models.conditioning import ConditionConfig
from gen.published.base import Shapes, System, Target, generator_target, require
from gen.published.tables import Entry, fused_rows, transposed

# gpt.py: (n_layer, dim) -> n_head of GPT_B, L, XL, XXL, XXXL, 1B, 3B, 7B; weights don't tell.
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
# README, table of class-conditional models: guidance of the FID figures, by width.
GUIDANCE = {768: 2.0, 1024: 2.0, 1280: 1.75, 1536: 1.75, 3200: 1.65}
IMAGES, TRAIN_BATCH = 1_281_167, 256  # train_c2i.py: 300 epochs of ImageNet


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


def stored_settings(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What the training script's saved arguments tell: image size, hence tokens per image."""
    found = {}
    image, factor = stored.get("args.image_size"), stored.get("args.downsample_size")
    if isinstance(image, int) and isinstance(factor, int) and factor > 0:
        found["block_size"] = (image // factor) ** 2
    return found


def model_config(args: ModelArgs) -> NextTokenConfig:
    """Our model of these settings.

    Raises:
      UserError: a setting is neither given nor in the weights, or the grid is not square.
    """
    heads = args.n_head or HEADS.get((args.n_layer, args.dim))
    text = args.model_type == "t2i"
    require(
        args,
        *("dim", "n_layer", "vocab_size", "ffn_width"),
        *(("cls_token_num", "caption_dim") if text else ("num_classes",)),
        n_head=heads,
        block_size=args.block_size,
        hints={
            "n_head": "attention heads",
            "block_size": "tokens per image: 256 for 16x16, 576 for 24x24",
        },
    )
    side = math.isqrt(args.block_size)
    if side < 1 or side * side != args.block_size:
        raise UserError(
            f"block_size {args.block_size} is no square: these models have square grids"
        )
    return NextTokenConfig(
        grid=(side, side),
        vocab_size=args.vocab_size,
        condition=ConditionConfig(
            kind="text" if text else "class",
            num_classes=0 if text else args.num_classes,
            caption_length=args.cls_token_num if text else 120,
            caption_dim=args.caption_dim if text else 2048,
            drop_rate=args.class_dropout_prob,
        ),
        backbone=BackboneConfig(
            depth=args.n_layer,
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
        ),
    )


def ffn_width(args: ModelArgs) -> int:
    """Hidden width of the feed-forward: from the settings where they are given (gpt.py)."""
    if args.multiple_of is None and args.ffn_dim_multiplier is None:
        return args.ffn_width
    hidden, multiple = int(2 * 4 * args.dim / 3), args.multiple_of or 256
    if args.ffn_dim_multiplier is not None:
        hidden = int(args.ffn_dim_multiplier * hidden)
    return -(-hidden // multiple) * multiple


def run_config(model: NextTokenConfig) -> Config:
    """The published training and sampling recipe around a model."""
    side, text = model.grid[0], model.condition.kind == "text"
    name = "captions" if text else "imagenet"
    sample = SampleConfig(guidance=GUIDANCE.get(model.backbone.width, 2.0))
    if text:
        sample = SampleConfig(guidance=7.5, top_k=1000)  # sample_t2i.py
    return Config(
        family="next_token",
        model=model,
        data=DataConfig(name=f"{name}{16 * side}_vq16"),
        optim=OptimConfig(lr=1e-4),
        train=TrainConfig(steps=300 * IMAGES // TRAIN_BATCH, batch_size=TRAIN_BATCH),
        sample=sample,
    )


def condition(inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A case's condition as our API takes it."""
    if "labels" in inputs:
        return {"labels": inputs["labels"]}
    return {"captions": (inputs["caption"], inputs.get("emb_mask"))}


def generate(
    model: Generator, settings: Mapping[str, Any], inputs: Mapping[str, np.ndarray]
) -> np.ndarray:
    """`generate` of autoregressive/models/generate.py, where it draws nothing at random."""
    if settings.get("sample_logits", True) and settings.get("top_k") != 1:
        raise UserError("the reference draws with torch's own random numbers: only greedy repeats")
    given = inputs["cond"]
    who = {"labels": given} if given.ndim == 1 else {"captions": (given, inputs.get("emb_masks"))}
    tokens_BP = model.sample(
        0,
        **who,
        guidance=settings["cfg_scale"],
        guidance_interval=settings.get("cfg_interval", -1),
        temperature=0.0,
    )
    return tokens_BP[:, : settings.get("max_new_tokens")]


def filtered(
    model: Generator, settings: Mapping[str, Any], inputs: Mapping[str, np.ndarray]
) -> np.ndarray:
    """`top_k_top_p_filtering`."""
    sampling = token_sampling(top_k=settings.get("top_k", 0), top_p=settings.get("top_p", 1.0))
    return np.asarray(filter_logits(inputs["logits"], sampling))


class LlamaGen(System):
    """`Transformer` of autoregressive/models/gpt.py."""

    name = "llamagen"
    source = "FoundationVision/LlamaGen@ce98ec4"
    Settings = ModelArgs
    parts: ClassVar = {"model": "tok_embeddings.weight"}
    # Buffers that a model has once it has sampled.
    ignored = ("layers.{i}.attention.kv_cache.k_cache", "layers.{i}.attention.kv_cache.v_cache")
    outputs: ClassVar = {
        "logits": lambda model, inputs: model.logits(inputs["tokens"], **condition(inputs)),
        "logits_uncond": lambda model, inputs: model.logits(
            inputs["tokens"], **condition(inputs), null=True
        ),
        "nll": lambda model, inputs: model.nll(inputs["tokens"], **condition(inputs)),
    }
    functions: ClassVar = {
        "autoregressive/models/generate.py generate": generate,
        "top_k_top_p_filtering": filtered,
    }

    def infer(self, shapes: Mapping[str, Shapes], stored: Mapping[str, Any]) -> dict[str, Any]:
        tensors = shapes["model"]

        def size(name: str, axis: int) -> int | None:
            shape = tensors.get(name, ())
            return shape[axis] if len(shape) == 2 else None

        layers = [name for name in tensors if name.endswith(".attention_norm.weight")]
        text = "cls_embedding.uncond_embedding" in tensors
        rows = size("cls_embedding.embedding_table.weight", 0)
        return {
            "model_type": "t2i" if text else "c2i",
            "dim": size("tok_embeddings.weight", 1),
            "vocab_size": size("tok_embeddings.weight", 0),
            "n_layer": len(layers) or None,
            "ffn_width": size("layers.0.feed_forward.w1.weight", 0),
            "num_classes": rows - 1 if rows else None,
            "cls_token_num": size("cls_embedding.uncond_embedding", 0) if text else 1,
            "caption_dim": size("cls_embedding.uncond_embedding", 1),
            **stored_settings(stored),
        }

    def target(self, settings: ModelArgs) -> Target:
        return generator_target(run_config(model_config(settings)))

    def table(self, settings: ModelArgs) -> list[Entry]:
        model = model_config(settings)
        backbone, block = model.backbone, "backbone/blocks"
        queries = backbone.heads * backbone.head_dim
        keys = backbone.num_kv_heads * backbone.head_dim
        bounds = np.cumsum([0, queries, keys, keys])
        fused = [
            Entry(
                "layers.{i}.attention.wqkv.weight",
                f"{block}/attention/{name}/kernel",
                fused_rows(bounds[part], bounds[part + 1], bounds[-1]),
            )
            for part, name in enumerate(("query", "key", "value"))
        ]
        if model.condition.kind == "class":
            embedder = [Entry("cls_embedding.embedding_table.weight", "condition/table/embedding")]
        else:
            embedder = [
                Entry("cls_embedding.uncond_embedding", "condition/null_caption"),
                Entry(
                    "cls_embedding.cap_proj.fc1.weight", "condition/project_in/kernel", transposed
                ),
                Entry(
                    "cls_embedding.cap_proj.fc2.weight", "condition/project_out/kernel", transposed
                ),
            ]
        feed = f"{block}/feed_forward"
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
            Entry("norm.weight", "head/norm/scale"),
            Entry("output.weight", "head/logits/kernel", transposed),
        ]
