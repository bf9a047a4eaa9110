"""VAR's class-conditional transformers (FoundationVision/VAR@78b9539).

`var_d16.pth` and so on are bare state dicts, and so is `vae_ch160v4096z32.pth`, of which the
generator takes the quantiser: parts `model` and `vae`. Axes: B samples, P positions of all scales,
H height, W width, C channels, V codes.
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
from gen.decoding.tokens import filter_logits, token_sampling
from gen.errors import UserError
from gen.families.base import abstract_model
from gen.families.next_scale import NextScaleConfig
from gen.models.adaln import AdaLNConfig
from gen.models.conditioning import ConditionConfig
from gen.published import var_vqvae
from gen.published.base import Shapes, System, Target, generator_target, require, size
from gen.published.llamagen_vq import channels_first
from gen.published.nar_video import scored
from gen.published.tables import Entry, fused_rows, transposed

IMAGES = 1_281_167
GATES = {16: 1e-3, 20: 1e-3, 24: 1e-4, 30: 1e-5, 36: 5e-6}  # --alng of the README's commands
# What its `filter_params` does not decay, under our names.
NO_DECAY = ("bias", "positions", "start", "levels", "offsets", "log_scale")


@dataclasses.dataclass(frozen=True)
class VARArgs:
    """Arguments of the reference's `VAR`; none: told by the weights."""

    num_classes: int | None = None
    depth: int | None = None
    embed_dim: int | None = None
    num_heads: int | None = None
    mlp_ratio: float | None = None
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    norm_eps: float = 1e-6
    shared_aln: bool | None = None
    cond_drop_rate: float = 0.1
    attn_l2_norm: bool | None = None
    patch_nums: tuple[int, ...] | None = None
    # How the reference computes, which changes nothing.
    flash_if_available: bool = False
    fused_if_available: bool = False
    vae_local: str | None = None

    def __post_init__(self) -> None:
        if self.attn_drop_rate:
            raise UserError("attn_drop_rate must be 0: no published model drops attention weights")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The two groups of arguments, of `VAR` and of `VQVAE`."""

    var: VARArgs = dataclasses.field(default_factory=VARArgs)
    vae: var_vqvae.VQVAEArgs = dataclasses.field(default_factory=var_vqvae.VQVAEArgs)


def model_config(settings: Settings) -> NextScaleConfig:
    """Our model of these settings; raises `UserError` where one is missing."""
    args, vae = settings.var, settings.vae
    scales = args.patch_nums or vae.v_patch_nums
    names = ("num_classes", "depth", "embed_dim", "num_heads", "mlp_ratio")
    hint = var_vqvae.HINTS["v_patch_nums"]
    require(args, *names, patch_nums=scales, hints={"patch_nums": hint})
    if vae.v_patch_nums not in (None, scales):
        raise UserError(f"patch_nums {scales} against v_patch_nums {vae.v_patch_nums}")
    return NextScaleConfig(
        quantizer=var_vqvae.quantizer_config(dataclasses.replace(vae, v_patch_nums=scales)),
        condition=ConditionConfig(
            num_classes=args.num_classes, drop_rate=args.cond_drop_rate or 0.1
        ),
        backbone=AdaLNConfig(
            depth=args.depth,
            width=args.embed_dim,
            heads=args.num_heads,
            mlp_ratio=args.mlp_ratio,
            shared=args.shared_aln,
            unit_heads=args.attn_l2_norm,
            norm_eps=args.norm_eps,
            gate_init=GATES.get(args.depth, 1e-3),
            dropout=args.drop_rate,
            drop_path=args.drop_path_rate,
        ),
    )


def run_config(model: NextScaleConfig) -> Config:
    """The published training and sampling recipe around a model (README of the reference)."""
    depth, side = model.backbone.depth, model.quantizer.size[0]
    batch_size = 1024 if depth == 30 else 768
    epochs = {16: 200, 20: 250}.get(depth, 350)
    steps = epochs * IMAGES // batch_size
    rate = (1e-4 if depth < 24 else 8e-5) * batch_size / 256
    return Config(
        family="next_scale",
        model=model,
        data=DataConfig(name=f"imagenet{16 * side}_var"),
        optim=OptimConfig(
            lr=rate,
            schedule="linear",
            warmup_steps=steps // 50,
            final_lr=rate * (0.1 if depth < 24 else 0.01),
            clip_norm=2.0,
            no_decay=NO_DECAY,
        ),
        train=TrainConfig(steps=steps, batch_size=batch_size),
        sample=SampleConfig(guidance=1.5, top_k=900, top_p=0.96),
    )


def call(model: Generator, method: Callable[..., jax.Array], *arrays: np.ndarray) -> np.ndarray:
    """A method of the model's quantiser on arrays."""
    graphdef = nnx.split(abstract_model(model.family))[0]
    run = jax.jit(lambda params, *rows: method(nnx.merge(graphdef, params).quantizer, *rows))
    return np.asarray(run(model.params, *arrays))


def infer_cfg(
    model: Generator, settings: Mapping[str, Any], inputs: Mapping[str, np.ndarray]
) -> np.ndarray:
    """`VAR.autoregressive_infer_cfg`: tokens, or what `returns` names."""
    smooth, draws = bool(settings.get("more_smooth")), None
    noise = [inputs[name] for name in inputs if "Gumbel" in name]
    if smooth and noise:
        draws = by_scale(model, noise[0])
    elif settings.get("top_k") != 1:
        raise UserError("the reference draws with torch's own random numbers: only top_k 1 repeats")
    drawn = model.draw(
        0,
        labels=inputs["label_B"],
        guidance=settings.get("cfg", 0.0),
        temperature=1.0 if smooth else 0.0,
        top_k=settings.get("top_k", 0),
        top_p=settings.get("top_p", 0.0) or 1.0,
        draws=draws,
        keep_logits=True,
        more_smooth=smooth,
    )
    wanted = settings.get("returns", "")
    if "f_hat" in wanted:
        return channels_first(drawn["latents"])
    return drawn["logits" if "logits" in wanted else "tokens"]


def by_scale(model: Generator, noise_BPV: np.ndarray) -> RecordedDraws:
    """Noise of all positions as the loop asks for it: one row per scale, padded."""
    bounds = model.family.bounds
    width = int(np.diff(bounds).max())
    padded = np.zeros((len(bounds) - 1, len(noise_BPV), width, noise_BPV.shape[2]), np.float32)
    for scale, (start, stop) in enumerate(itertools.pairwise(bounds)):
        padded[scale, :, : stop - start] = noise_BPV[:, start:stop]
    # The tokens drawn beside the mixtures are thrown away.
    return RecordedDraws({"smooth": jnp.asarray(padded), "token": jnp.zeros_like(padded)})


def filtered(
    model: Generator, settings: Mapping[str, Any], inputs: Mapping[str, np.ndarray]
) -> np.ndarray:
    """`sample_with_top_k_top_p_` up to its draw: probabilities."""
    sampling = token_sampling(
        top_k=settings.get("top_k", 0), top_p=settings.get("top_p", 0.0) or 1.0
    )
    return np.asarray(jax.nn.softmax(filter_logits(jnp.asarray(inputs["logits"]), sampling)))


class VAR(System):
    """`VAR` of models/var.py, with the quantiser of its VQVAE."""

    name = "var"
    source = "FoundationVision/VAR@78b9539"
    Settings = Settings
    parts: ClassVar = {"model": "pos_start", "vae": "quantize.embedding.weight"}
    ignored = (
        # Buffers of constants, and the rest of the VQVAE.
        *("lvl_1L", "attn_bias_for_masking", "blocks.{i}.attn.zero_k_bias"),
        *("encoder.*", "decoder.*", "quant_conv.*", "post_quant_conv.*", *var_vqvae.IGNORED),
    )
    outputs: ClassVar = {
        "logits": scored("logits"),
        "logits_uncond": scored("logits", null=True),
        "nll": scored("nll"),
        "var_input": lambda model, inputs: call(
            model, lambda q, ids: q.inputs(ids), inputs["tokens"]
        ),
        "fhat_from_tokens": lambda model, inputs: channels_first(
            call(model, lambda q, ids: q.accumulate(ids), inputs["tokens"])
        ),
        "enc_tokens": lambda model, inputs: call(
            model, lambda q, z: q.encode(z), np.moveaxis(inputs["enc_latent"], 1, -1)
        ),
    }
    functions: ClassVar = {
        "VAR.autoregressive_infer_cfg": infer_cfg,
        "sample_with_top_k_top_p_ (probabilities before the draw)": filtered,
    }

    def infer(self, shapes: Mapping[str, Shapes], stored: Mapping[str, Any]) -> dict[str, Any]:
        tensors = shapes["model"]
        width = size(tensors, "class_emb.weight", 1)
        rows = size(tensors, "class_emb.weight", 0)
        hidden = size(tensors, "blocks.0.ffn.fc1.weight", 0)
        sharp = tensors.get("blocks.0.attn.scale_mul_1H11", ())
        var = {
            "num_classes": rows - 1 if rows else None,
            "depth": sum(name.endswith(".attn.proj.weight") for name in tensors) or None,
            "embed_dim": width,
            # Published models have heads of 64 channels.
            "num_heads": sharp[1] if len(sharp) == 4 else width and max(width // 64, 1),
            "mlp_ratio": hidden / width if hidden and width else None,
            "shared_aln": "shared_ada_lin.1.weight" in tensors,
            "attn_l2_norm": bool(sharp),
        }
        return {"var": var, "vae": var_vqvae.quantizer_settings(shapes["vae"])}

    def target(self, settings: Settings) -> Target:
        return generator_target(run_config(model_config(settings)))

    def table(self, settings: Settings) -> list[Entry]:
        model = model_config(settings)
        block, attention = "blocks.{i}", "backbone/blocks/attention"
        width = model.backbone.width
        fused = [
            Entry(
                f"{block}.attn.mat_qkv.weight",
                f"{attention}/{name}/kernel",
                fused_rows(part * width, (part + 1) * width, 3 * width),
            )
            for part, name in enumerate(("query", "key", "value"))
        ]
        first = functools.partial(np.squeeze, axis=0)
        return [
            Entry("class_emb.weight", "condition/table/embedding"),
            Entry("pos_start", "condition/start", first),
            *linear("shared_ada_lin.1", "condition/shared/map"),
            *linear("word_embed", "latents"),
            Entry("lvl_embed.weight", "levels/embedding"),
            Entry("pos_1LC", "positions", first),
            *linear(f"{block}.ada_lin.1", "backbone/blocks/modulation/map"),
            Entry(f"{block}.ada_gss", "backbone/blocks/offsets", lambda a: np.squeeze(a, (0, 1))),
            *fused,
            Entry(f"{block}.attn.q_bias", f"{attention}/query/bias"),
            Entry(f"{block}.attn.v_bias", f"{attention}/value/bias"),
            *linear(f"{block}.attn.proj", f"{attention}/out"),
            Entry(
                f"{block}.attn.scale_mul_1H11",
                f"{attention}/log_scale",
                lambda a: np.squeeze(a, (0, 2, 3)),
            ),
            *linear(f"{block}.ffn.fc1", "backbone/blocks/feed_forward/up"),
            *linear(f"{block}.ffn.fc2", "backbone/blocks/feed_forward/down"),
            *linear("head_nm.ada_lin.1", "head/modulation/map"),
            *linear("head", "head/logits"),
            *var_vqvae.quantizer_table(settings.vae, "quantizer", part="vae"),
        ]


def linear(theirs: str, ours: str) -> list[Entry]:
    """A linear map with its bias."""
    return [
        Entry(f"{theirs}.weight", f"{ours}/kernel", transposed),
        Entry(f"{theirs}.bias", f"{ours}/bias"),
    ]
