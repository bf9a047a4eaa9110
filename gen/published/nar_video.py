"""NAR's video models (ThisisBillhe/NAR@225c1fb, NAR-videos), on the code of LARP.

LlamaGen's block without rotary positions: a table is added to the inputs. Three heads predict the
next cell to the right, below, and in the next frame, each one block after the one before.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gen.api import Generator
from gen.config import Config, DataConfig, OptimConfig, SampleConfig, TrainConfig
from gen.errors import UserError
from gen.families.next_neighbour import NextNeighbourConfig
from gen.published import llama_block
from gen.published.base import Shapes, System, Target, generator_target, require
from gen.published.llamagen import generate
from gen.published.tables import Entry

HEADS = (("norm_R", "output_R"), ("norm_D", "output_D"), ("norm_B", "output_B"))
ATTENTION_HEADS = {384: 6, 768: 12, 1024: 16, 1280: 20, 1536: 24, 2560: 40}  # 64 channels each
# Published recipe: UCF-101, 16 frames of 128x128 pixels, 9,537 clips, 1000 epochs at batch 32.
CLIPS, TRAIN_BATCH = 9537, 32


@dataclasses.dataclass(frozen=True)
class ModelArgs(llama_block.ModelArgs):
    """The reference's `ModelArgs`."""

    latent_shape: tuple[int, int, int] = (4, 16, 16)
    use_fixed_pe: bool = False
    frame_prediction: bool = False
    attn_num_back: int = 1
    attn_num_down: int = 1

    def __post_init__(self) -> None:
        if self.model_type not in (None, "class_cond"):
            raise UserError(f'model_type is "class_cond", not "{self.model_type}"')
        fixed = {
            "frame_prediction": False,
            "attn_num_back": 1,
            "attn_num_down": 1,
            "attn_dropout_p": 0.0,
        }
        for name, value in fixed.items():
            if getattr(self, name) != value:
                raise UserError(f"{name} must be {value}: no published model has another")


def model_config(args: ModelArgs) -> NextNeighbourConfig:
    """Our model of these settings; raises `UserError` where one is missing or does not fit."""
    heads = args.n_head or ATTENTION_HEADS.get(args.dim)
    require(
        args,
        *("dim", "n_layer", "vocab_size", "ffn_width", "num_classes"),
        n_head=heads,
        hints={"n_head": "attention heads"},
    )
    count = math.prod(args.latent_shape)
    if args.max_seq_len != count:
        raise UserError(
            f"latent_shape {args.latent_shape} has {count} tokens, "
            f"the position table {args.max_seq_len}: give latent_shape"
        )
    return NextNeighbourConfig(
        grid=args.latent_shape,
        vocab_size=args.vocab_size,
        condition=llama_block.condition_config(args),
        backbone=llama_block.backbone_config(args, heads=heads, extra_blocks=len(HEADS) - 1),
        positions="fixed" if args.use_fixed_pe else "learned",
    )


def scored(what: str, null: bool = False) -> Any:
    """The function of a case that scores its tokens."""

    def score(model: Generator, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        arguments = {"labels": inputs["labels"], "null": null}
        return getattr(model, what)(inputs["tokens"], **arguments)

    return score


def sample(
    model: Generator, settings: Mapping[str, Any], inputs: Mapping[str, np.ndarray]
) -> np.ndarray:
    """`generate` of ar/generate.py, whatever the name of its condition."""
    return generate(model, settings, {"cond": next(iter(inputs.values()))})


class NarVideo(System):
    """`LARP_AR` of NAR-videos/models/larp_ar.py."""

    name = "nar-video"
    source = "ThisisBillhe/NAR@225c1fb"
    Settings = ModelArgs
    parts: ClassVar = {"model": "tok_embeddings.weight"}
    ignored = llama_block.IGNORED
    outputs: ClassVar = {
        "logits": scored("logits"),
        "logits_uncond": scored("logits", null=True),
        "logits_null": scored("logits", null=True),
        "nll": scored("nll"),
    }
    functions: ClassVar = {
        "ar/generate.py generate": sample,
        "LARP_AR.sample -> ar/generate.py generate": sample,
    }

    def infer(self, shapes: Mapping[str, Shapes], stored: Mapping[str, Any]) -> dict[str, Any]:
        found = llama_block.infer(shapes["model"], {}, extra_blocks=len(HEADS) - 1)
        table = shapes["model"].get("abs_pe", ())
        if len(table) == 3:
            found["max_seq_len"] = table[1] - 1
        # The training script stores the arguments that it built the model with.
        fixed = stored.get("model.args.use_fixed_pe")
        return found | {"model_type": "class_cond", "use_fixed_pe": fixed}

    def target(self, settings: ModelArgs) -> Target:
        return generator_target(
            Config(
                family="next_neighbour",
                model=model_config(settings),
                data=DataConfig(name="ucf101_larp"),
                optim=OptimConfig(
                    lr=6e-4,
                    schedule="cosine",
                    warmup_steps=4 * CLIPS // TRAIN_BATCH,
                    final_lr=6e-6,
                    no_decay=("norm", "embed", "positions"),
                    clip_norm=1e9,  # none
                ),
                train=TrainConfig(steps=1000 * CLIPS // TRAIN_BATCH, batch_size=TRAIN_BATCH),
                sample=SampleConfig(guidance=2.5),  # its sampling script
            )
        )

    def table(self, settings: ModelArgs) -> list[Entry]:
        model = model_config(settings)
        return [
            *llama_block.entries(model.condition, model.backbone),
            Entry("abs_pe", "positions", lambda array: array.reshape(array.shape[1:])),
            *(
                entry
                for number, names in enumerate(HEADS)
                for entry in llama_block.head(*names, f"heads/{number}")
            ),
        ]
