"""LlamaGen's class- and text-conditional transformers (FoundationVision/LlamaGen@ce98ec4).

Checkpoints hold the state dict at the top (FSDP), under `model` (DDP) or `module` (DeepSpeed).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gen.api import Generator
from gen.config import Config, DataConfig, OptimConfig, SampleConfig, TrainConfig
from gen.decoding.tokens import filter_logits, token_sampling
from gen.errors import UserError
from gen.families.next_token import NextTokenConfig
from gen.published import llama_block
from gen.published.base import Shapes, System, Target, generator_target
from gen.published.llama_block import ModelArgs
from gen.published.tables import Entry

# README, table of class-conditional models: guidance of the FID figures, by width.
GUIDANCE = {768: 2.0, 1024: 2.0, 1280: 1.75, 1536: 1.75, 3200: 1.65}
IMAGES, TRAIN_BATCH = 1_281_167, 256  # train_c2i.py: 300 epochs of ImageNet


def model_config(args: ModelArgs) -> NextTokenConfig:
    """Our model of these settings.

    Raises:
      UserError: a setting is neither given nor in the weights, or the grid is not square.
    """
    heads = llama_block.known_heads(args, "block_size", block_size=llama_block.BLOCK_SIZE_HINT)
    return NextTokenConfig(
        grid=llama_block.grid_of(args),
        vocab_size=args.vocab_size,
        condition=llama_block.condition_config(args),
        backbone=llama_block.backbone_config(args, heads=heads),
    )


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
    ignored = llama_block.IGNORED
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
        return llama_block.infer(shapes["model"], stored)

    def target(self, settings: ModelArgs) -> Target:
        return generator_target(run_config(model_config(settings)))

    def table(self, settings: ModelArgs) -> list[Entry]:
        model = model_config(settings)
        return [
            *llama_block.entries(model.condition, model.backbone),
            *llama_block.head("norm", "output", "head"),
        ]
