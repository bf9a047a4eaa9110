"""NAR's image models, class- and text-conditional (ThisisBillhe/NAR@225c1fb, NAR-images).

LlamaGen's block with a second head: `output` predicts the cell to the right after `n_layer`
blocks, `medusa_output` the cell below after `medusa_attention_num` more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from gen.config import Config, DataConfig, OptimConfig, SampleConfig, TrainConfig
from gen.families.next_neighbour import NextNeighbourConfig
from gen.published import llama_block
from gen.published.base import Shapes, Target, generator_target
from gen.published.llamagen import IMAGES, TRAIN_BATCH, LlamaGen
from gen.published.tables import Entry

HEADS = llama_block.HEADS | {(18, 1024): 16}  # size M is NAR's own


@dataclasses.dataclass(frozen=True)
class ModelArgs(llama_block.ModelArgs):
    """LlamaGen's settings and the number of blocks between the two heads."""

    medusa_attention_num: int = 1


def model_config(args: ModelArgs) -> NextNeighbourConfig:
    """Our model of these settings; raises `UserError` where one is missing."""
    heads = llama_block.known_heads(args, "block_size", block_size=llama_block.BLOCK_SIZE_HINT)
    extra = args.medusa_attention_num
    return NextNeighbourConfig(
        grid=llama_block.grid_of(args),
        vocab_size=args.vocab_size,
        condition=llama_block.condition_config(args),
        backbone=llama_block.backbone_config(args, heads=heads, extra_blocks=extra),
        head_blocks=extra,
    )


def run_config(model: NextNeighbourConfig) -> Config:
    """The published training and sampling recipe around a model; the rate falls in steps there."""
    side, text = model.grid[0], model.condition.kind == "text"
    name = "captions" if text else "imagenet"
    return Config(
        family="next_neighbour",
        model=model,
        data=DataConfig(name=f"{name}{16 * side}_vq16"),
        optim=OptimConfig(lr=1e-4, schedule="cosine", final_lr=1e-6 if text else 1e-4 * 0.2**3),
        train=TrainConfig(steps=300 * IMAGES // TRAIN_BATCH, batch_size=TRAIN_BATCH),
        sample=SampleConfig(guidance=7.5 if text else 2.0),
    )


class Nar(LlamaGen):
    """`Transformer` of NAR-images/autoregressive/models/gpt.py."""

    name = "nar"
    source = "ThisisBillhe/NAR@225c1fb"
    Settings = ModelArgs

    def infer(self, shapes: Mapping[str, Shapes], stored: Mapping[str, Any]) -> dict[str, Any]:
        # The weights do not tell the trunk's blocks from those after it.
        found = llama_block.infer(shapes["model"], stored)
        total, trunk = found["n_layer"] or 0, stored.get("n_layer")
        extra = stored.get("medusa_attention_num")
        if isinstance(trunk, int):
            extra = total - trunk
        elif not isinstance(extra, int):
            extra = ModelArgs.medusa_attention_num
        trunk = total - extra
        heads = HEADS.get((trunk, found["dim"]))
        return found | {"n_layer": trunk, "medusa_attention_num": extra, "n_head": heads}

    def target(self, settings: ModelArgs) -> Target:
        return generator_target(run_config(model_config(settings)))

    def table(self, settings: ModelArgs) -> list[Entry]:
        model = model_config(settings)
        return [
            *llama_block.entries(model.condition, model.backbone),
            *llama_block.head("norm", "output", "heads/0"),
            *llama_block.head("medusa_norm", "medusa_output", "heads/1"),
        ]
