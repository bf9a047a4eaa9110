"""MaskGIT's image tokenizer as first published, in JAX (google-research/maskgit).

`tokenizer_imagenet256_checkpoint` is a Flax tree in msgpack, under `params`. Modules of one kind
are numbered in order of their calls within the module that calls them: blocks of all levels and
of the middle in one row. Axes: B images, H height, W width, P cells, C channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gen.errors import UserError
from gen.published.base import Shapes, System, Target, count, require, size, tokenizer_target
from gen.published.tables import Entry
from gen.tokenizers import MaskGITVQConfig, MaskGITVQTokenizer

ROOT = "params/"


@dataclasses.dataclass(frozen=True)
class VQVAEConfig:
    """The reference's `config.vqvae`; none: told by the weights."""

    filters: int | None = None
    num_res_blocks: int | None = None
    channel_multipliers: tuple[int, ...] | None = None
    embedding_dim: int | None = None
    codebook_size: int | None = None
    quantizer: str = "vq"
    conv_downsample: bool = False
    norm_type: str = "GN"
    activation_fn: str = "swish"
    # Fixed by Flax: groups of a group norm, and what is added to its variance.
    num_groups: int = 32
    epsilon: float = 1e-6
    # Of its training alone.
    commitment_cost: float = 0.25
    entropy_loss_ratio: float = 0.1
    entropy_loss_type: str = "softmax"
    entropy_temperature: float = 0.01

    def __post_init__(self) -> None:
        fixed = {
            "quantizer": "vq",
            "conv_downsample": False,
            "norm_type": "GN",
            "activation_fn": "swish",
        }
        for name, value in fixed.items():
            if getattr(self, name) != value:
                raise UserError(f"{name} must be {value}: no published model has another")


def maskgit_config(args: VQVAEConfig) -> MaskGITVQConfig:
    """Our tokenizer of these settings; raises `UserError` where one is missing."""
    names = ("filters", "num_res_blocks", "channel_multipliers", "embedding_dim", "codebook_size")
    require(args, *names, hints={})
    return MaskGITVQConfig(
        codebook_size=args.codebook_size,
        codebook_dim=args.embedding_dim,
        width=args.filters,
        multipliers=args.channel_multipliers,
        blocks_per_level=args.num_res_blocks,
        norm_groups=args.num_groups,
        norm_eps=args.epsilon,
    )


def conv(theirs: str, ours: str) -> list[Entry]:
    """A convolution; where ours has no bias, theirs must have none either."""
    return [Entry(f"{theirs}/{name}", f"{ours}/{name}") for name in ("kernel", "bias")]


def norm(theirs: str, ours: str) -> list[Entry]:
    """A group norm."""
    return [Entry(f"{theirs}/{name}", f"{ours}/{name}") for name in ("scale", "bias")]


def res_blocks(
    module: str, first: int, number: int, ours: str, norm_class: str = "GroupNorm"
) -> list[Entry]:
    """Blocks from `ResBlock_{first}` on; the shortcut is there where the width changes."""
    entries = []
    for place in range(number):
        theirs, block = f"{module}/ResBlock_{first + place}", f"{ours}/{place}"
        entries += norm(f"{theirs}/{norm_class}_0", f"{block}/norm1")
        entries += conv(f"{theirs}/Conv_0", f"{block}/conv1")
        entries += norm(f"{theirs}/{norm_class}_1", f"{block}/norm2")
        entries += conv(f"{theirs}/Conv_1", f"{block}/conv2")
        entries += conv(f"{theirs}/Conv_2", f"{block}/shortcut")
    return entries


def decode_from_indices(
    model: MaskGITVQTokenizer, settings: Mapping[str, Any], inputs: Mapping[str, np.ndarray]
) -> np.ndarray:
    """`VQVAE.decode_from_indices`: ids (B, h, w) to pixels (B, H, W, C), not clamped."""
    ids = inputs["inputs"]
    shape = [side * cell for side, cell in zip(ids.shape[1:], model.downsample[1:])]
    return model.decode(ids.reshape(len(ids), -1), shape)


def encode_to_indices(model: MaskGITVQTokenizer, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """`VQVAE.encode_to_indices`: ids (B, h, w) of the given image."""
    _, rows, columns = model.layout(inputs["image"].shape[1:3]).shapes[0]
    return model.encode(inputs["image"]).reshape(-1, rows, columns)


class MaskGITVQGANJax(System):
    """`VQVAE` of maskgit/nets/vqgan_tokenizer.py."""

    name = "maskgit-vqgan-jax"
    source = "google-research/maskgit"
    Settings = VQVAEConfig
    parts: ClassVar = {"model": f"{ROOT}quantizer/codebook"}
    outputs: ClassVar = {
        "encoded_feature": lambda model, inputs: model.latents(inputs["image"]),
        "encoding_indices": encode_to_indices,
    }
    functions: ClassVar = {"decode_from_indices": decode_from_indices}

    def infer(self, shapes: Mapping[str, Shapes], stored: Mapping[str, Any]) -> dict[str, Any]:
        tensors = {name.removeprefix(ROOT): shape for name, shape in shapes["model"].items()}
        width = size(tensors, "encoder/Conv_0/kernel", 3)
        # A decoder has one convolution before the levels, one after, and one between two levels.
        levels = count(tensors, "decoder/Conv_{}/kernel") - 1
        blocks = count(tensors, "encoder/ResBlock_{}/Conv_0/kernel") // (levels + 1 or 1)
        widths = [
            size(tensors, f"encoder/ResBlock_{blocks * level}/Conv_0/kernel", 3) or 0
            for level in range(levels)
        ]
        # A width that is no multiple shows as a wrong shape later.
        multipliers = tuple(max(each // width, 1) for each in widths) if width else ()
        return {
            "filters": width,
            "num_res_blocks": blocks or None,
            "channel_multipliers": multipliers or None,
            "codebook_size": size(tensors, "quantizer/codebook", 0),
            "embedding_dim": size(tensors, "quantizer/codebook", 1),
        }

    def target(self, settings: VQVAEConfig) -> Target:
        return tokenizer_target(MaskGITVQTokenizer, maskgit_config(settings))

    def table(self, settings: VQVAEConfig) -> list[Entry]:
        levels, blocks = len(settings.channel_multipliers), settings.num_res_blocks
        entries = [Entry("quantizer/codebook", "codebook/embedding")]
        last = {"encoder": 1, "decoder": levels}  # number of the last convolution
        for name, number in last.items():
            entries += conv(f"{name}/Conv_0", f"{name}/conv_in")
            entries += norm(f"{name}/GroupNorm_0", f"{name}/norm_out")
            entries += conv(f"{name}/Conv_{number}", f"{name}/conv_out")
        entries += res_blocks("encoder", levels * blocks, blocks, "encoder/middle")
        entries += res_blocks("decoder", 0, blocks, "decoder/middle")
        for level in range(levels):
            ours = f"levels/{level}/blocks"
            entries += res_blocks("encoder", level * blocks, blocks, f"encoder/{ours}")
            entries += res_blocks("decoder", (level + 1) * blocks, blocks, f"decoder/{ours}")
        for level in range(levels - 1):
            entries += conv(f"decoder/Conv_{level + 1}", f"decoder/levels/{level}/upsample")
        return [dataclasses.replace(entry, theirs=ROOT + entry.theirs) for entry in entries]
