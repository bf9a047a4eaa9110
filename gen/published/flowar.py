"""FlowAR's class-conditional models (wangqiang9/FlowAR@5745a96, which keeps the authors' history).

`FlowAR-*.pth` are bare state dicts; checkpoints of its training hold `model` and `model_ema`.
Axes: B samples, P positions of all scales, L scales, H height, W width, C channels.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gen.api import Generator
from gen.config import Config, DataConfig, OptimConfig, SampleConfig, TrainConfig
from gen.decoding.draws import RecordedDraws
from gen.errors import UserError
from gen.families.base import abstract_model
from gen.families.flow_scale import FlowScaleConfig
from gen.models.conditioning import ConditionConfig
from gen.models.flow_block import FlowStackConfig
from gen.models.flow_head import FlowHeadConfig
from gen.models.latents import LatentConfig
from gen.published import two_stacks
from gen.published.base import Shapes, System, Target, count, generator_target, require, size
from gen.published.tables import Entry
from gen.published.two_stacks import linear

IMAGES, EPOCHS, WARMUP_EPOCHS, TRAIN_BATCH = 1_281_167, 400, 100, 2048
LATENT_SCALE = 0.2325
SCALES = (1, 2, 4, 8, 16)
CLASSES = 1000
# Of the README's commands, by width: guidance, steps of the flow, bound of guided times.
SAMPLING = {768: (4.3, 25, 0.9), 1024: (2.4, 25, 0.9), 1536: (2.4, 50, 0.7)}
HINTS = {
    "encoder_num_heads": "attention heads",
    "decoder_num_heads": "attention heads",
    "scale": "sides of the scales",
}


@dataclasses.dataclass(frozen=True)
class Norms:
    """Its norms, which have no arguments."""

    type: str = "RMSNorm"
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.type != "RMSNorm":
            raise UserError(f'norms.type must be "RMSNorm", not "{self.type}"')


@dataclasses.dataclass(frozen=True)
class FlowARArgs:
    """Arguments of the reference's `FlowAR`; none: told by the weights."""

    img_size: int | None = None
    vae_stride: int = 16
    patch_size: int = 1
    encoder_embed_dim: int | None = None
    encoder_depth: int | None = None
    encoder_num_heads: int | None = None
    decoder_embed_dim: int | None = None
    decoder_depth: int | None = None
    decoder_num_heads: int | None = None
    mlp_ratio: float | None = None
    vae_embed_dim: int | None = None
    label_drop_prob: float = 0.1
    class_num: int = CLASSES  # taken by the reference, whose table has 1000 whatever it says
    attn_dropout: float = 0.0
    proj_dropout: float = 0.0
    buffer_size: int = 0
    diffloss_d: int | None = None
    diffloss_w: int | None = None
    scale: tuple[int, ...] | None = None
    cross: bool | None = None
    use_checkpoint: bool = False
    norms: Norms = dataclasses.field(default_factory=Norms)
    norm_layer: str | None = None  # taken by the reference, and not used

    def __post_init__(self) -> None:
        for name, only in (("patch_size", 1), ("buffer_size", 0)):
            if getattr(self, name) != only:
                raise UserError(f"{name} must be {only}: no published model has another")


def model_config(args: FlowARArgs) -> FlowScaleConfig:
    """Our model of these settings; raises `UserError` where one is missing or does not fit."""
    stacks = ("embed_dim", "depth", "num_heads")
    names = [f"{stack}_{name}" for stack in ("encoder", "decoder") for name in stacks]
    others = ("vae_embed_dim", "diffloss_d", "diffloss_w", "scale", "mlp_ratio", "cross")
    require(args, *names, *others, hints=HINTS)
    if args.img_size not in (None, args.vae_stride * args.scale[-1]):
        raise UserError(
            f"img_size {args.img_size} over vae_stride {args.vae_stride} "
            f"is not the last scale, {args.scale[-1]}"
        )

    def stack(which: str) -> FlowStackConfig:
        depth, width, heads = (
            getattr(args, f"{which}_{name}") for name in ("depth", "embed_dim", "num_heads")
        )
        return FlowStackConfig(
            depth, width, heads, mlp_ratio=args.mlp_ratio, norm_eps=args.norms.eps,
            attention_dropout=args.attn_dropout, dropout=args.proj_dropout,
            remat=args.use_checkpoint,
        )  # fmt: skip

    return FlowScaleConfig(
        scales=tuple((side, side) for side in args.scale),
        latents=LatentConfig(args.vae_embed_dim, moments=True, scale=LATENT_SCALE),
        condition=ConditionConfig(num_classes=CLASSES, drop_rate=args.label_drop_prob or 0.1),
        encoder=stack("encoder"),
        decoder=stack("decoder"),
        head=FlowHeadConfig(
            args.diffloss_d, args.diffloss_w, args.diffloss_w // 64,
            kind="cross" if args.cross else "adaptive", norm_eps=args.norms.eps,
        ),
    )  # fmt: skip


def run_config(model: FlowScaleConfig) -> Config:
    """The published training and sampling recipe around a model (README of the reference)."""
    steps_per_epoch = IMAGES / TRAIN_BATCH
    number, num_steps, guided_below = SAMPLING.get(model.encoder.width, SAMPLING[1024])
    return Config(
        family="flow_scale",
        model=model,
        data=DataConfig(name="imagenet256_kl16"),
        optim=OptimConfig(
            lr=4e-4,
            schedule="cosine",
            warmup_steps=int(WARMUP_EPOCHS * steps_per_epoch),
            final_lr=1e-5,
            weight_decay=0.02,
            clip_norm=3.0,
            ema_decay=0.9999,
        ),
        train=TrainConfig(
            steps=int(EPOCHS * steps_per_epoch), batch_size=TRAIN_BATCH, dtype="float32"
        ),
        sample=SampleConfig(
            guidance=number, options={"num_steps": num_steps, "guided_below": guided_below}
        ),
    )


@functools.lru_cache(maxsize=1)
def training_pass(model: Generator) -> Callable[..., dict[str, jax.Array]]:
    """What the reference computes in training, by name, compiled: no label is dropped."""
    family = model.family
    graphdef = nnx.split(abstract_model(family))[0]

    def compute(params, latents_BCHW, label_B, time_BL, noise_BPC):
        module = nnx.merge(graphdef, params)
        tokens_BPC = family.pyramid.averaged(jnp.moveaxis(latents_BCHW, 1, -1))
        prompt = module.condition({"label": label_B})
        hidden = family.hidden(module, tokens_BPC, prompt)
        told_BPD = family.predict(module, hidden, prompt)
        at = {"time_BL": time_BL, "noise_BRC": noise_BPC}
        errors_BP = family.errors(module, tokens_BPC, told_BPD, **at)
        return {
            "train_targets": tokens_BPC,
            "train_input": family.pyramid.starts(tokens_BPC),
            "train_z": told_BPD,
            "train_velocity": family.velocity(module, tokens_BPC, told_BPD, **at),
            "train_mse": errors_BP,
            "train_loss": family.total(errors_BP),
        }

    return jax.jit(compute)


def trained(name: str) -> Callable[[Generator, Mapping[str, np.ndarray]], np.ndarray]:
    """One of the outputs of `training_pass` at recorded times and noise."""

    def compute(model: Generator, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        given = (inputs[n] for n in ("latents", "labels", "train_t", "train_noise"))
        return np.asarray(training_pass(model)(model.params, *given)[name])

    return compute


def sample_tokens(
    model: Generator, settings: Mapping[str, Any], inputs: Mapping[str, np.ndarray]
) -> np.ndarray:
    """`FlowAR.sample_tokens`: latents `(B, C, H, W)`, or `(B, P, C)` where all scales return."""
    (noise_BPC,) = (inputs[name] for name in inputs if "noise" in name)
    drawn = model.draw(
        0,
        labels=inputs["labels"],
        guidance=settings.get("cfg", 1.0),
        draws=by_scale(model, noise_BPC),
        num_steps=settings.get("num_steps", 25),
        guided_below=settings.get("guidance", 0.9),
    )
    if "every scale" in settings.get("returns", ""):
        return drawn["tokens"]
    return np.moveaxis(drawn["latents"], -1, 1)


def by_scale(model: Generator, noise_BPC: np.ndarray) -> RecordedDraws:
    """Noise of all positions as the loop asks for it: one row per scale, padded."""
    bounds = model.family.pyramid.bounds
    parts = [noise_BPC[:, start:stop] for start, stop in itertools.pairwise(bounds)]
    longest = max(part.shape[1] for part in parts)
    padded = [np.pad(part, ((0, 0), (0, longest - part.shape[1]), (0, 0))) for part in parts]
    return RecordedDraws({"flow": jnp.asarray(np.stack(padded))})


class FlowAR(System):
    """`FlowAR` of models/flowar.py."""

    name = "flowar"
    source = "wangqiang9/FlowAR@5745a96"
    Settings = FlowARArgs
    parts: ClassVar = {"model": "diffusion_pos_embed_learned"}
    ignored = ("mask", "*rope.freqs")  # buffers of constants
    outputs: ClassVar = {
        f"train_{name}": trained(f"train_{name}")
        for name in ("targets", "input", "z", "velocity", "mse", "loss")
    }
    functions: ClassVar = {"FlowAR.sample_tokens": sample_tokens}

    def infer(self, shapes: Mapping[str, Shapes], stored: Mapping[str, Any]) -> dict[str, Any]:
        tensors = shapes["model"]
        length = size(tensors, "encoder_pos_embed_learned", 1)
        return two_stacks.infer(tensors) | {
            "scale": SCALES if length == sum(side**2 for side in SCALES) else None,
            "diffloss_d": count(tensors, "flownet.res_blocks.{}.attn.proj.weight") or None,
            "diffloss_w": size(tensors, "flownet.input_proj.weight", 0),
            "cross": "flownet.res_blocks.0.crossattn.q.weight" in tensors,
        }

    def target(self, settings: FlowARArgs) -> Target:
        return generator_target(run_config(model_config(settings)))

    def table(self, settings: FlowARArgs) -> list[Entry]:
        theirs, ours, head = "flownet.res_blocks.{i}", "flow/backbone/blocks", settings.diffloss_w
        return [
            Entry("class_emb.weight", "condition/table/embedding"),
            *two_stacks.table(settings.encoder_embed_dim),
            Entry("diffusion_pos_embed_learned", "out_positions", lambda a: np.squeeze(a, axis=0)),
            *linear("flownet.time_embed.mlp.0", "flow/time/first"),
            *linear("flownet.time_embed.mlp.2", "flow/time/second"),
            *linear("flownet.cond_embed", "flow/condition"),
            *linear("flownet.input_proj", "flow/latents"),
            *two_stacks.self_attention(f"{theirs}.attn", f"{ours}/attention", head),
            *two_stacks.feed_forward(f"{theirs}.mlp", f"{ours}/feed_forward"),
            *(
                self.cross_entries(theirs, ours, head)
                if settings.cross
                else linear(f"{theirs}.ada_lin", f"{ours}/modulation/map")
            ),
            *linear("flownet.final_layer.adaLN_modulation.1", "flow/modulation/map"),
            *linear("flownet.final_layer.linear", "flow/velocity"),
        ]

    def cross_entries(self, theirs: str, ours: str, width: int) -> list[Entry]:
        """What the blocks of a flow head with cross-attention have of their own."""
        return [
            *linear(f"{theirs}.ada_lin_attn", f"{ours}/time_modulation/map"),
            *linear(f"{theirs}.ada_lin_mlp", f"{ours}/modulation/map"),
            *linear(f"{theirs}.crossattn.q", f"{ours}/cross_attention/query"),
            *two_stacks.fused(
                f"{theirs}.crossattn.kv", f"{ours}/cross_attention", ("key", "value"), width
            ),
            *linear(f"{theirs}.crossattn.proj", f"{ours}/cross_attention/out"),
            Entry(f"{theirs}.norm2_1.weight", f"{ours}/cross_norm/scale"),
            Entry(f"{theirs}.norm2_2.weight", f"{ours}/memory_norm/scale"),
        ]
