"""MaskGIT's class-conditional transformers (google-research/maskgit@1db2359).

Checkpoints are Flax's msgpack, read without msgpack (`msgpack_file.py`); names are joined with "/".
Axes: B samples, N steps, P positions, S = 1 + P slots, V codes, W rows of the table of words
(codes, classes, the mask).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gen.api import Generator
from gen.config import Config, DataConfig, OptimConfig, SampleConfig, TrainConfig
from gen.decoding import trace
from gen.decoding.draws import RecordedDraws
from gen.decoding.mask_schedule import MaskOptions
from gen.decoding.masked import MASKED
from gen.errors import UserError
from gen.families.base import abstract_model
from gen.families.masked import MaskedConfig
from gen.models.conditioning import ConditionConfig
from gen.models.post_norm import PostNormConfig
from gen.published.base import Shapes, System, Target, count, generator_target, require, size
from gen.published.tables import Entry

WORDS = "params/Embed_0/word_embeddings/embedding"
BLOCK = "params/TransformerLayer_{i}"
PUBLISHED_ROWS, PUBLISHED_CODES = 2025, 1024
STEPS = {256: 8, 1024: 12}  # of the paper's figures, by positions
NOISE = {
    "Gumbel noise of the token draw": "token",
    "Gumbel noise of the confidence": "confidence",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Fields of the reference's configs, and sizes that follow from them; none: inferred."""

    codebook_size: int | None = None
    num_class: int | None = None
    num_layers: int | None = None
    num_embeds: int | None = None
    intermediate_size: int | None = None
    num_heads: int | None = None
    latent_size: int | None = None
    dropout_rate: float = 0.1
    layer_norm_eps: float = 1e-12
    mask_token_id: int = -1
    vocab_size: int | None = None
    max_position_embeddings: int | None = None
    mask_row: int | None = None
    patch_size: int = 16  # pixels per token, which changes nothing here

    def __post_init__(self) -> None:
        if self.mask_token_id != -1:
            raise UserError(f"mask_token_id must be -1, the last row, not {self.mask_token_id}")


def model_config(settings: Settings) -> MaskedConfig:
    """Our model of these settings; raises `UserError` where one is missing or contradicts."""
    names = ("num_layers", "num_embeds", "intermediate_size", "num_heads", "latent_size")
    hints = {
        "codebook_size": "codes of the tokenizer",
        "latent_size": "tokens along a side of the image",
    }
    require(settings, "codebook_size", "num_class", *names, hints=hints)
    rows, length = settings.codebook_size + settings.num_class + 1, settings.latent_size**2 + 1
    for name, worked_out in (
        ("vocab_size", rows),
        ("mask_row", rows - 1),
        ("max_position_embeddings", length),
    ):
        if getattr(settings, name) not in (None, worked_out):
            raise UserError(
                f"{name} {getattr(settings, name)}, but codebook_size {settings.codebook_size}, "
                f"num_class {settings.num_class} and latent_size {settings.latent_size} "
                f"make it {worked_out}"
            )
    return MaskedConfig(
        grid=(settings.latent_size, settings.latent_size),
        vocab_size=settings.codebook_size,
        condition=ConditionConfig(num_classes=settings.num_class, drop_rate=0.0),
        backbone=PostNormConfig(
            depth=settings.num_layers,
            width=settings.num_embeds,
            heads=settings.num_heads,
            ffn_width=settings.intermediate_size,
            norm_eps=settings.layer_norm_eps,
            token_dropout=settings.dropout_rate,
            attention_dropout=settings.dropout_rate,
            residual_dropout=settings.dropout_rate,
        ),
        min_mask_ratio=0.5,
    )


def run_config(model: MaskedConfig) -> Config:
    """The published training and sampling recipe around a model (configs of the reference)."""
    positions = model.grid[0] * model.grid[1]
    steps = STEPS.get(positions, MaskOptions().num_steps)
    return Config(
        family="masked",
        model=model,
        data=DataConfig(name=f"imagenet{16 * model.grid[0]}_maskgit"),
        optim=OptimConfig(
            lr=1e-4, warmup_steps=5000, beta2=0.96, weight_decay=0.045, clip_norm=1e9,
            ema_decay=0.999,
        ),
        train=TrainConfig(steps=2_000_000, batch_size=256),
        sample=SampleConfig(options=MaskOptions(num_steps=steps)),
    )  # fmt: skip


def full_logits(model: Generator, labels_B: np.ndarray, canvas_BP: np.ndarray) -> np.ndarray:
    """Logits of every word at every slot, float32 `(B, S, W)`."""
    graphdef = nnx.split(abstract_model(model.family))[0]

    def run(params: Any, labels_B: jax.Array, canvas_BP: jax.Array) -> jax.Array:
        ours = nnx.merge(graphdef, params)
        hidden_BSD = ours.hidden(canvas_BP, ours.condition({"label": labels_B}))
        tables = (ours.tokens.embedding[...], ours.condition.table.embedding[...])
        return ours.head(hidden_BSD, jnp.concatenate([*tables, ours.mask[...][None]]))

    return np.asarray(jax.jit(run)(model.params, labels_B, canvas_BP))


def scored(model: Generator, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Logits of the case's tokens under its mask."""
    canvas_BP = np.where(inputs["mask"] > 0, MASKED, inputs["tokens"])
    return full_logits(model, inputs["labels"], canvas_BP)


def nll(model: Generator, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """-log p of the case's tokens among the codes, masked or not, `(B, P)`."""
    logits_BPV = scored(model, inputs)[:, 1:, : model.config.model.vocab_size]
    log_p_BPV = np.asarray(jax.nn.log_softmax(logits_BPV))
    return -np.take_along_axis(log_p_BPV, inputs["tokens"][..., None], axis=-1)[..., 0]


def decode(
    model: Generator, settings: Mapping[str, Any], inputs: Mapping[str, np.ndarray]
) -> np.ndarray:
    """`decode` of libml/parallel_decode.py: tokens `(B, P)`, or what `returns` names.

    Without recorded noise tokens are greedy.
    """
    noise = {
        NOISE[name]: jnp.asarray(array[:, :, 1:]) for name, array in inputs.items() if name in NOISE
    }
    if settings["choice_temperature"] and "confidence" not in noise:
        raise UserError("the reference draws its confidence at random: give the recorded noise")
    start_BS, vocab = inputs["inputs"], model.config.model.vocab_size
    zeros = jnp.zeros((settings["num_iter"], len(start_BS), start_BS.shape[1] - 1))
    drawn = model.draw(
        0,
        labels=start_BS[:, 0] - vocab,
        known=start_BS[:, 1:],
        temperature=1.0 if "token" in noise else 0.0,
        draws=RecordedDraws({"confidence": zeros} | noise),
        num_steps=settings["num_iter"],
        start_step=settings["start_iter"],
        choice_temperature=settings["choice_temperature"],
        schedule=settings["mask_scheduling_method"],
        keep_trace=True,
    )
    wanted, made_BNP = settings.get("returns", ""), drawn["trace_tokens"]
    if "grid fed" in wanted:
        canvas_BNP = trace.canvases(start_BS[:, 1:], drawn["trace_positions"], made_BNP)
        return with_class(start_BS, canvas_BNP[:, :-1]).swapaxes(0, 1)
    if "complete" in wanted:
        before = np.repeat(start_BS[:, None], settings["start_iter"], axis=1)
        return np.concatenate([before, with_class(start_BS, made_BNP)], axis=1)
    return drawn["tokens"]


def with_class(start_BS: np.ndarray, steps_BNP: np.ndarray) -> np.ndarray:
    """Steps `(B, N, S)` with the word of the class in front of each."""
    class_BN1 = np.broadcast_to(start_BS[:, None, :1], (*steps_BNP.shape[:2], 1))
    return np.concatenate([class_BN1, steps_BNP], axis=2)


class MaskGIT(System):
    """`Transformer` of maskgit/nets/maskgit_transformer.py and its parallel decoding."""

    name = "maskgit"
    source = "google-research/maskgit@1db2359"
    Settings = Settings
    parts: ClassVar = {"model": WORDS}
    outputs: ClassVar = {"logits": scored, "nll": nll}
    functions: ClassVar = {"maskgit/libml/parallel_decode.py decode()": decode}

    def infer(self, shapes: Mapping[str, Shapes], stored: Mapping[str, Any]) -> dict[str, Any]:
        tensors = shapes["model"]
        rows, codes = size(tensors, WORDS, 0), stored.get("codebook_size")
        slots = size(tensors, "params/Embed_0/position_embeddings/embedding", 0)
        if rows and codes is None and (classes := stored.get("num_class")):
            codes = rows - classes - 1
        elif rows == PUBLISHED_ROWS:
            codes = codes or PUBLISHED_CODES
        return {
            "codebook_size": codes,
            "num_class": rows - codes - 1 if rows and codes else None,
            "num_layers": count(tensors, f"{BLOCK}/Mlp_0/layer_output/bias".replace("{i}", "{}")),
            "num_embeds": size(tensors, WORDS, 1),
            "intermediate_size": size(
                tensors, f"{BLOCK}/Mlp_0/intermediate_output/bias".replace("{i}", "0"), 0
            ),
            "num_heads": size(
                tensors, f"{BLOCK}/Attention_0/self_attention/query/bias".replace("{i}", "0"), 0
            ),
            "latent_size": math.isqrt(slots - 1) if slots else None,
        }

    def target(self, settings: Settings) -> Target:
        return generator_target(run_config(model_config(settings)))

    def table(self, settings: Settings) -> list[Entry]:
        codes, words = settings.codebook_size, settings.codebook_size + settings.num_class + 1
        attention, ours = f"{BLOCK}/Attention_0", "backbone/blocks"
        split = [
            entry
            for name in ("query", "key", "value")
            for entry in (
                Entry(
                    f"{attention}/self_attention/{name}/kernel",
                    f"{ours}/attention/{name}/kernel",
                    lambda a: a.reshape(len(a), -1),
                ),
                Entry(
                    f"{attention}/self_attention/{name}/bias",
                    f"{ours}/attention/{name}/bias",
                    np.ravel,
                ),
            )
        ]
        return [
            Entry(WORDS, "tokens/embedding", rows(0, codes, words)),
            Entry(WORDS, "condition/table/embedding", rows(codes, words - 1, words)),
            Entry(WORDS, "mask", lambda a: a[words - 1]),
            Entry("params/Embed_0/position_embeddings/embedding", "positions"),
            *same("params/Embed_0/embeddings_ln", "norm", "scale"),
            *split,
            Entry(
                f"{attention}/self_attention/out/kernel",
                f"{ours}/attention/out/kernel",
                lambda a: a.reshape(-1, a.shape[-1]),
            ),
            Entry(f"{attention}/self_attention/out/bias", f"{ours}/attention/out/bias"),
            *same(f"{attention}/attention_output_ln", f"{ours}/attention_norm", "scale"),
            *same(f"{BLOCK}/Mlp_0/intermediate_output", f"{ours}/feed_forward/up", "kernel"),
            *same(f"{BLOCK}/Mlp_0/layer_output", f"{ours}/feed_forward/down", "kernel"),
            *same(f"{BLOCK}/Mlp_0/layer_output_ln", f"{ours}/ffn_norm", "scale"),
            *same("params/MlmLayer_0/mlm_dense", "head/map", "kernel"),
            *same("params/MlmLayer_0/mlm_ln", "head/norm", "scale"),
            Entry("params/MlmLayer_0/mlm_bias/bias", "head/bias"),
        ]


def rows(start: int, stop: int, total: int) -> Callable[[np.ndarray], np.ndarray]:
    """Rows of a table of `total` rows, which is checked: a slice would fit any larger one."""

    def change(array: np.ndarray) -> np.ndarray:
        if array.shape[0] != total:
            raise ValueError(f"{array.shape[0]} rows, not {total}")
        return array[start:stop]

    return change


def same(theirs: str, ours: str, weight: str) -> list[Entry]:
    """A map or a norm, whose two arrays have the same names on both sides."""
    return [Entry(f"{theirs}/{name}", f"{ours}/{name}") for name in (weight, "bias")]
