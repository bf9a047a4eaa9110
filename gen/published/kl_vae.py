"""The KL-regularised VAE of latent diffusion: MAR's KL-16 and its kin (LTH14/mar@fe470ac).

`kl16.ckpt` holds the state dict under `model`, checkpoints of latent diffusion under
`state_dict`. Levels of the decoder are numbered from the highest resolution, which is the last to
run. MAR's decoder has attention in the middle alone, that of latent diffusion at the same levels
as the encoder: the weights tell. Axes: B images, H height, W width, C channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gen.errors import UserError
from gen.models import posterior
from gen.published.base import Shapes, System, Target, count, require, size, tokenizer_target
from gen.published.llamagen_vq import attention_block, channels_first, conv, norm, res_block
from gen.published.tables import Entry
from gen.tokenizers import KLConfig, KLTokenizer

HINTS = {
    "scale": "what latents are multiplied by, published: 0.2325 for MAR's kl16, 0.18215 for "
    "Stable Diffusion's of 8 pixels a cell"
}


@dataclasses.dataclass(frozen=True)
class AutoencoderArgs:
    """Settings of the reference's `AutoencoderKL` and its stacks; none: told by the weights."""

    embed_dim: int | None = None
    z_channels: int | None = None
    ch: int | None = None
    ch_mult: tuple[int, ...] | None = None
    num_res_blocks: int | None = None
    # Sides of the feature maps that are followed by attention, where images have `resolution`.
    attn_resolutions: tuple[int, ...] | None = None
    decoder_attn_resolutions: tuple[int, ...] | None = None
    resolution: int = 256
    scale: float | None = None
    in_channels: int = 3
    out_ch: int = 3
    double_z: bool = True
    use_variational: bool = True
    resamp_with_conv: bool = True
    groupnorm_groups: int = 32
    groupnorm_eps: float = 1e-6
    layout: str = "NCHW"
    pixel_range: tuple[float, float] = (-1.0, 1.0)
    # What follows from the others.
    downsample: int | None = None
    # Of its training alone.
    dropout: float = 0.0

    def __post_init__(self) -> None:
        fixed = {
            "in_channels": 3,
            "out_ch": 3,
            "double_z": True,
            "use_variational": True,
            "resamp_with_conv": True,
            "layout": "NCHW",
            "pixel_range": (-1.0, 1.0),
        }
        for name, value in fixed.items():
            if getattr(self, name) != value:
                raise UserError(f"{name} must be {value}: no published model has another")


def attention_levels(args: AutoencoderArgs, name: str) -> tuple[int, ...]:
    """The levels, counted from the highest resolution, that have attention."""
    wanted = getattr(args, name)
    # A side that no level has is passed over, as the reference does.
    return tuple(n for n in range(len(args.ch_mult)) if args.resolution // 2**n in wanted)


def kl_config(args: AutoencoderArgs) -> KLConfig:
    """Our tokenizer of these settings.

    Raises:
      UserError: a setting is neither given nor in the weights, or two of them disagree.
    """
    names = ("embed_dim", "z_channels", "ch", "ch_mult", "num_res_blocks", "attn_resolutions")
    require(args, *names, "decoder_attn_resolutions", "scale", hints=HINTS)
    config = KLConfig(
        channels=args.embed_dim,
        z_channels=args.z_channels,
        width=args.ch,
        multipliers=args.ch_mult,
        blocks_per_level=args.num_res_blocks,
        scale=args.scale,
        encoder_attention=attention_levels(args, "attn_resolutions"),
        decoder_attention=attention_levels(args, "decoder_attn_resolutions"),
        norm_groups=args.groupnorm_groups,
        norm_eps=args.groupnorm_eps,
    )
    if args.downsample not in (None, config.cell):
        raise UserError(f"downsample {args.downsample} against {config.cell} from ch_mult")
    return config


def level(theirs: str, ours: str, resize: str) -> list[Entry]:
    """A level of a stack."""
    return [
        *res_block(f"{theirs}.block.{{j}}", f"{ours}/blocks/{{j}}"),
        *attention_block(f"{theirs}.attn.{{j}}", f"{ours}/attention/{{j}}"),
        *conv(f"{theirs}.{resize}.conv", f"{ours}/{resize}"),
    ]


def ends(name: str) -> list[Entry]:
    """What an encoder or decoder has besides its levels."""
    return [
        *conv(f"{name}.conv_in", f"{name}/conv_in"),
        *res_block(f"{name}.mid.block_1", f"{name}/middle/0"),
        *attention_block(f"{name}.mid.attn_1", f"{name}/middle/1"),
        *res_block(f"{name}.mid.block_2", f"{name}/middle/2"),
        *norm(f"{name}.norm_out", f"{name}/norm_out"),
        *conv(f"{name}.conv_out", f"{name}/conv_out"),
    ]


def last(x_BCHW: np.ndarray) -> np.ndarray:
    """(B, C, H, W) as ours have it, (B, H, W, C)."""
    return np.moveaxis(x_BCHW, 1, -1)


def sample(
    model: KLTokenizer, settings: Mapping[str, Any], inputs: Mapping[str, np.ndarray]
) -> np.ndarray:
    """`DiagonalGaussianDistribution(moments).sample()` of given noise, scaled; (B, C, h, w)."""
    moments, noise = last(inputs["moments"]), last(inputs["noise"])
    return channels_first(np.asarray(posterior.draw(moments, noise, model.config.scale)))


def decode(
    model: KLTokenizer, settings: Mapping[str, Any], inputs: Mapping[str, np.ndarray]
) -> np.ndarray:
    """`AutoencoderKL.decode(z / scale)`: latents (B, C, h, w) to pixels, not clamped."""
    return channels_first(model.decode_latents(last(inputs["z"])))


class KLVAE(System):
    """`AutoencoderKL` of models/vae.py."""

    name = "kl-vae"
    source = "LTH14/mar@fe470ac"
    Settings = AutoencoderArgs
    parts: ClassVar = {"model": "encoder.mid.attn_1.q.weight"}
    ignored = ("loss.*",)  # the discriminator of its training
    outputs: ClassVar = {
        "moments": lambda model, inputs: channels_first(model.moments(last(inputs["pixels"]))),
        "latents": lambda model, inputs: channels_first(model.latents(last(inputs["pixels"]))),
        "tokens": lambda model, inputs: model.encode(last(inputs["pixels"])),
    }
    functions: ClassVar = {
        "DiagonalGaussianDistribution.sample": sample,
        "AutoencoderKL.decode": decode,
    }

    def infer(self, shapes: Mapping[str, Shapes], stored: Mapping[str, Any]) -> dict[str, Any]:
        tensors = shapes["model"]
        width, first = size(tensors, "encoder.conv_in.weight", 0), "encoder.down.{}.block.0.conv1"
        widths = [
            size(tensors, f"{first.format(number)}.weight", 0) or 0
            for number in range(count(tensors, f"{first}.weight"))
        ]
        resolution = stored.get("resolution")
        side = resolution if isinstance(resolution, int) else AutoencoderArgs.resolution

        def attended(levels: str) -> tuple[int, ...]:
            return tuple(
                side // 2**number
                for number in range(len(widths))
                if f"{levels}.{number}.attn.0.norm.weight" in tensors
            )

        # A width that is no multiple shows as a wrong shape later.
        multipliers = tuple(max(each // width, 1) for each in widths) if width else ()
        return {
            "embed_dim": size(tensors, "post_quant_conv.weight", 1),
            "z_channels": size(tensors, "decoder.conv_in.weight", 1),
            "ch": width,
            "ch_mult": multipliers or None,
            "num_res_blocks": count(tensors, "encoder.down.0.block.{}.conv1.weight") or None,
            "attn_resolutions": attended("encoder.down"),
            "decoder_attn_resolutions": attended("decoder.up"),
        }

    def target(self, settings: AutoencoderArgs) -> Target:
        return tokenizer_target(KLTokenizer, kl_config(settings))

    def table(self, settings: AutoencoderArgs) -> list[Entry]:
        bottom = len(settings.ch_mult) - 1
        entries = [*ends("encoder"), *ends("decoder")]
        entries += [*conv("quant_conv", "quant"), *conv("post_quant_conv", "post_quant")]
        entries += level("encoder.down.{i}", "encoder/levels/{i}", "downsample")
        for number in range(bottom + 1):
            theirs, ours = f"decoder.up.{number}", f"decoder/levels/{bottom - number}"
            entries += level(theirs, ours, "upsample")
        return entries
