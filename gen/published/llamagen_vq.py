"""LlamaGen's image tokenizers VQ-16 and VQ-8 (FoundationVision/LlamaGen@ce98ec4).

Checkpoints hold the state dict under `model`. Blocks of the decoder are numbered in order of
execution, lowest resolution first. Axes: B images, H height, W width, P cells, C channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gen.errors import UserError
from gen.published.base import Shapes, System, Target, require, tokenizer_target
from gen.published.tables import Entry, conv_kernel
from gen.tokenizers import Tokenizer, VQConfig, VQTokenizer


@dataclasses.dataclass(frozen=True)
class ModelArgs:
    """The reference's `ModelArgs` and the sizes it fixes; none: inferred from the weights."""

    codebook_size: int | None = None
    codebook_embed_dim: int | None = None
    codebook_l2_norm: bool = True
    z_channels: int | None = None
    encoder_ch_mult: tuple[int, ...] | None = None
    decoder_ch_mult: tuple[int, ...] | None = None
    ch: int | None = None
    num_res_blocks: int | None = None
    in_channels: int = 3
    out_channels: int = 3
    norm_type: str = "group"
    groupnorm_groups: int = 32
    groupnorm_eps: float = 1e-6
    layout: str = "NCHW"
    pixel_range: tuple[float, float] = (-1.0, 1.0)
    downsample: int | None = None
    # Of its training alone.
    codebook_show_usage: bool = True
    commit_loss_beta: float = 0.25
    entropy_loss_ratio: float = 0.0
    dropout_p: float = 0.0

    def __post_init__(self) -> None:
        fixed = {
            "in_channels": 3,
            "out_channels": 3,
            "norm_type": "group",
            "layout": "NCHW",
            "pixel_range": (-1.0, 1.0),
        }
        for name, value in fixed.items():
            if getattr(self, name) != value:
                raise UserError(f"{name} must be {value}: no published model has another")


def vq_config(args: ModelArgs) -> VQConfig:
    """Our tokenizer of these settings.

    Raises:
      UserError: a setting is neither given nor in the weights, or two of them disagree.
    """
    require(
        args,
        *("codebook_size", "codebook_embed_dim", "z_channels", "ch", "num_res_blocks"),
        *("encoder_ch_mult", "decoder_ch_mult"),
        hints={},
    )
    config = VQConfig(
        codebook_size=args.codebook_size,
        codebook_dim=args.codebook_embed_dim,
        width=args.ch,
        encoder_multipliers=args.encoder_ch_mult,
        decoder_multipliers=args.decoder_ch_mult,
        blocks_per_level=args.num_res_blocks,
        z_channels=args.z_channels,
        normalise_codes=args.codebook_l2_norm,
        norm_groups=args.groupnorm_groups,
        norm_eps=args.groupnorm_eps,
    )
    if args.downsample not in (None, config.cell):
        raise UserError(f"downsample {args.downsample} against {config.cell} from encoder_ch_mult")
    return config


def conv(theirs: str, ours: str) -> list[Entry]:
    """A convolution with its bias."""
    return [
        Entry(f"{theirs}.weight", f"{ours}/kernel", conv_kernel),
        Entry(f"{theirs}.bias", f"{ours}/bias"),
    ]


def norm(theirs: str, ours: str) -> list[Entry]:
    """A group norm."""
    return [Entry(f"{theirs}.weight", f"{ours}/scale"), Entry(f"{theirs}.bias", f"{ours}/bias")]


def res_block(theirs: str, ours: str) -> list[Entry]:
    """A residual block; the shortcut is there where the width changes."""
    return [
        *norm(f"{theirs}.norm1", f"{ours}/norm1"),
        *conv(f"{theirs}.conv1", f"{ours}/conv1"),
        *norm(f"{theirs}.norm2", f"{ours}/norm2"),
        *conv(f"{theirs}.conv2", f"{ours}/conv2"),
        *conv(f"{theirs}.nin_shortcut", f"{ours}/shortcut"),
    ]


def attention_block(theirs: str, ours: str) -> list[Entry]:
    """An attention block over the cells of an image."""
    names = {"q": "query", "k": "key", "v": "value", "proj_out": "out"}
    return [
        *norm(f"{theirs}.norm", f"{ours}/norm"),
        *(entry for a, b in names.items() for entry in conv(f"{theirs}.{a}", f"{ours}/{b}")),
    ]


def stack(name: str, resize: str) -> list[Entry]:
    """An encoder or decoder."""
    theirs, ours = f"{name}.conv_blocks.{{i}}", f"{name}/levels/{{i}}"
    return [
        *conv(f"{name}.conv_in", f"{name}/conv_in"),
        *res_block(f"{theirs}.res.{{j}}", f"{ours}/blocks/{{j}}"),
        *attention_block(f"{theirs}.attn.{{j}}", f"{ours}/attention/{{j}}"),
        *conv(f"{theirs}.{resize}.conv", f"{ours}/{resize}"),
        *res_block(f"{name}.mid.0", f"{name}/middle/0"),
        *attention_block(f"{name}.mid.1", f"{name}/middle/1"),
        *res_block(f"{name}.mid.2", f"{name}/middle/2"),
        *norm(f"{name}.norm_out", f"{name}/norm_out"),
        *conv(f"{name}.conv_out", f"{name}/conv_out"),
    ]


def channels_first(x_BHWC: np.ndarray) -> np.ndarray:
    """(B, H, W, C) as the reference has it, (B, C, H, W)."""
    return np.moveaxis(x_BHWC, -1, 1)


def own_tokens(model: Tokenizer, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The encoder's ids of a case's pixels (B, C, H, W), as (B, P)."""
    return model.encode(np.moveaxis(inputs["pixels"], 1, -1))


def indices(model: Tokenizer, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Ids on the grid, (B, h, w)."""
    _, height, width = model.layout(inputs["pixels"].shape[2:]).shapes[0]
    return own_tokens(model, inputs).reshape(-1, height, width)


def decode_code(
    model: Tokenizer, settings: Mapping[str, Any], inputs: Mapping[str, np.ndarray]
) -> np.ndarray:
    """`VQModel.decode_code`: ids (B, h, w) to pixels (B, C, H, W), not clamped."""
    ids = inputs["code_b"]
    shape = [side * factor for side, factor in zip(ids.shape[1:], model.downsample[1:])]
    return channels_first(model.decode(ids.reshape(len(ids), -1), shape))


class LlamaGenVQ(System):
    """`VQModel` of tokenizer/tokenizer_image/vq_model.py."""

    name = "llamagen-vq"
    source = "FoundationVision/LlamaGen@ce98ec4"
    Settings = ModelArgs
    parts: ClassVar = {"model": "quantize.embedding.weight"}
    ignored = ("quantize.codebook_used",)  # statistics of its training
    outputs: ClassVar = {
        "pre_quant": lambda model, inputs: channels_first(
            model.latents(np.moveaxis(inputs["pixels"], 1, -1))
        ),
        "indices": indices,
        "quantized": lambda model, inputs: channels_first(
            model.embed(own_tokens(model, inputs), inputs["pixels"].shape[2:])
        ),
    }
    functions: ClassVar = {"decode_code": decode_code}

    def infer(self, shapes: Mapping[str, Shapes], stored: Mapping[str, Any]) -> dict[str, Any]:
        tensors = shapes["model"]

        def size(name: str, axis: int) -> int | None:
            shape = tensors.get(name, ())
            return shape[axis] if len(shape) > axis else None

        def multipliers(name: str) -> tuple[int, ...] | None:
            widths, base = [], size("encoder.conv_in.weight", 0)
            while (
                width := size(f"{name}.conv_blocks.{len(widths)}.res.0.conv1.weight", 0)
            ) and base:
                widths.append(width)
            # A width that is no multiple shows as a wrong shape later.
            return tuple(max(width // base, 1) for width in widths) or None

        blocks = 0
        while f"encoder.conv_blocks.0.res.{blocks}.conv1.weight" in tensors:
            blocks += 1
        decoder = multipliers("decoder")
        return {
            "codebook_size": size("quantize.embedding.weight", 0),
            "codebook_embed_dim": size("quantize.embedding.weight", 1),
            "z_channels": size("encoder.conv_out.weight", 0),
            "ch": size("encoder.conv_in.weight", 0),
            "num_res_blocks": blocks or None,
            "encoder_ch_mult": multipliers("encoder"),
            "decoder_ch_mult": decoder and decoder[::-1],
        }

    def target(self, settings: ModelArgs) -> Target:
        return tokenizer_target(VQTokenizer, vq_config(settings))

    def table(self, settings: ModelArgs) -> list[Entry]:
        return [
            *stack("encoder", "downsample"),
            *stack("decoder", "upsample"),
            *conv("quant_conv", "quant"),
            *conv("post_quant_conv", "post_quant"),
            Entry("quantize.embedding.weight", "codebook/embedding"),
        ]
