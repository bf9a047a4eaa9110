"""MaskGIT's image tokenizer as its PyTorch port has it (bytedance/1d-tokenizer@942a96f).

`maskgit-vqgan-imagenet-f16-256.bin` is a bare state dict. Levels of the decoder are numbered from
the highest resolution, which is the last to run. Axes: B images, H height, W width, P cells, C
channels. The weights as first published are those of `gen.published.maskgit_vqgan_jax`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gen.errors import UserError
from gen.published.base import Shapes, System, Target, count, require, size, tokenizer_target
from gen.published.llamagen_vq import channels_first, conv, norm
from gen.published.tables import Entry, conv_kernel
from gen.tokenizers import MaskGITVQConfig, MaskGITVQTokenizer


@dataclasses.dataclass(frozen=True)
class VQGANArgs:
    """Settings of the port's `Encoder`, `Decoder` and `VectorQuantizer`; none: told by weights."""

    channel_mult: tuple[int, ...] | None = None
    hidden_channels: int | None = None
    num_res_blocks: int | None = None
    z_channels: int | None = None
    num_embeddings: int | None = None
    embedding_dim: int | None = None
    num_channels: int = 3
    groupnorm_groups: int = 32
    groupnorm_eps: float = 1e-6
    layout: str = "NCHW"
    pixel_range_native: tuple[float, float] = (0.0, 1.0)
    # What follows from the others.
    num_resolutions: int | None = None
    downsample: int | None = None
    # Of its training alone.
    resolution: int = 256
    dropout: float = 0.0
    commitment_cost: float = 0.25

    def __post_init__(self) -> None:
        fixed = {"num_channels": 3, "layout": "NCHW", "pixel_range_native": (0.0, 1.0)}
        for name, value in fixed.items():
            if getattr(self, name) != value:
                raise UserError(f"{name} must be {value}: no published model has another")


def maskgit_config(args: VQGANArgs) -> MaskGITVQConfig:
    """Our tokenizer of these settings.

    Raises:
      UserError: a setting is neither given nor in the weights, or two of them disagree.
    """
    names = ("channel_mult", "hidden_channels", "num_res_blocks", "num_embeddings")
    require(args, *names, "embedding_dim", hints={})
    config = MaskGITVQConfig(
        codebook_size=args.num_embeddings,
        codebook_dim=args.embedding_dim,
        width=args.hidden_channels,
        multipliers=args.channel_mult,
        blocks_per_level=args.num_res_blocks,
        norm_groups=args.groupnorm_groups,
        norm_eps=args.groupnorm_eps,
    )
    follows = {
        "z_channels": (config.codebook_dim, "embedding_dim"),
        "num_resolutions": (len(config.multipliers), "channel_mult"),
        "downsample": (config.cell, "channel_mult"),
    }
    for name, (value, source) in follows.items():
        if getattr(args, name) not in (None, value):
            raise UserError(f"{name} {getattr(args, name)} against {value} from {source}")
    return config


def bare_conv(theirs: str, ours: str) -> Entry:
    """A convolution without bias."""
    return Entry(f"{theirs}.weight", f"{ours}/kernel", conv_kernel)


def res_block(theirs: str, ours: str) -> list[Entry]:
    """A residual block; the shortcut is there where the width changes."""
    return [
        *norm(f"{theirs}.norm1", f"{ours}/norm1"),
        bare_conv(f"{theirs}.conv1", f"{ours}/conv1"),
        *norm(f"{theirs}.norm2", f"{ours}/norm2"),
        bare_conv(f"{theirs}.conv2", f"{ours}/conv2"),
        bare_conv(f"{theirs}.nin_shortcut", f"{ours}/shortcut"),
    ]


def ends(theirs: str, ours: str) -> list[Entry]:
    """The middle of an encoder or decoder, and what follows its levels."""
    return [
        *res_block(f"{theirs}.mid.{{j}}", f"{ours}/middle/{{j}}"),
        *norm(f"{theirs}.norm_out", f"{ours}/norm_out"),
        *conv(f"{theirs}.conv_out", f"{ours}/conv_out"),
    ]


def decoder_table(theirs: str, ours: str, levels: int) -> list[Entry]:
    """A `gen.models.maskgit_vqgan.Decoder`."""
    entries = [*conv(f"{theirs}.conv_in", f"{ours}/conv_in"), *ends(theirs, ours)]
    for number in range(levels):
        level = f"{ours}/levels/{levels - 1 - number}"
        entries += res_block(f"{theirs}.up.{number}.block.{{j}}", f"{level}/blocks/{{j}}")
        entries += conv(f"{theirs}.up.{number}.upsample_conv", f"{level}/upsample")
    return entries


def own_tokens(model: MaskGITVQTokenizer, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Ids of the given pixels, (B, P)."""
    return model.encode(np.moveaxis(inputs["pixels_native"], 1, -1))


def quantized(model: MaskGITVQTokenizer, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The codes of the given pixels, (B, C, h, w)."""
    ids = own_tokens(model, inputs)
    return channels_first(model.embed(ids, inputs["pixels_native"].shape[2:]))


def decoded(
    model: MaskGITVQTokenizer, settings: Mapping[str, Any], inputs: Mapping[str, np.ndarray]
) -> np.ndarray:
    """`get_codebook_entry`, `decoder`: ids (B, h, w), or (B, P) of a square, to (B, C, H, W)."""
    ids, shape = inputs["indices"], None
    if ids.ndim == 3:
        shape = [side * cell for side, cell in zip(ids.shape[1:], model.downsample[1:])]
    return finished(channels_first(model.decode(ids.reshape(len(ids), -1), shape)), settings)


def finished(pixels: np.ndarray, settings: Mapping[str, Any]) -> np.ndarray:
    """Pixels in [0, 1] as a caller of the reference asks for them."""
    if settings.get("clamp"):
        pixels = np.clip(pixels, *settings["clamp"])
    # Some callers work on [-1, 1].
    return 2 * pixels - 1 if settings.get("returns", "").startswith("2*") else pixels


class MaskGITVQGAN(System):
    """`PretrainedTokenizer` of modeling/titok.py, modeling/modules/maskgit_vqgan.py."""

    name = "maskgit-vqgan"
    source = "bytedance/1d-tokenizer@942a96f"
    Settings = VQGANArgs
    parts: ClassVar = {"model": "quantize.embedding.weight"}
    outputs: ClassVar = {
        "pre_quant": lambda model, inputs: channels_first(
            model.latents(np.moveaxis(inputs["pixels_native"], 1, -1))
        ),
        "indices": own_tokens,
        "quantized": quantized,
    }
    functions: ClassVar = {"get_codebook_entry -> decoder": decoded}

    def infer(self, shapes: Mapping[str, Shapes], stored: Mapping[str, Any]) -> dict[str, Any]:
        tensors = shapes["model"]
        width, first = size(tensors, "encoder.conv_in.weight", 0), "encoder.down.{}.block.0.conv1"
        widths = [
            size(tensors, f"{first.format(number)}.weight", 0) or 0
            for number in range(count(tensors, f"{first}.weight"))
        ]
        # A width that is no multiple shows as a wrong shape later.
        multipliers = tuple(max(each // width, 1) for each in widths) if width else ()
        return {
            "channel_mult": multipliers or None,
            "hidden_channels": width,
            "num_res_blocks": count(tensors, "encoder.down.0.block.{}.conv1.weight") or None,
            "num_embeddings": size(tensors, "quantize.embedding.weight", 0),
            "embedding_dim": size(tensors, "quantize.embedding.weight", 1),
        }

    def target(self, settings: VQGANArgs) -> Target:
        return tokenizer_target(MaskGITVQTokenizer, maskgit_config(settings))

    def table(self, settings: VQGANArgs) -> list[Entry]:
        return [
            bare_conv("encoder.conv_in", "encoder/conv_in"),
            *res_block("encoder.down.{i}.block.{j}", "encoder/levels/{i}/blocks/{j}"),
            *ends("encoder", "encoder"),
            *decoder_table("decoder", "decoder", len(settings.channel_mult)),
            Entry("quantize.embedding.weight", "codebook/embedding"),
        ]
