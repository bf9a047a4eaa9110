"""MAGVIT's video tokenizer 3D-VQ (google-research/magvit@05e8cfd).

Checkpoints are Flax train states in msgpack; the weights lie under `ema_params`, `g_params` or, in
the older ones, `g_optimizer/target`. Modules of one kind are numbered in order of their calls, as
in `gen.published.maskgit_vqgan_jax`. Axes: B videos, T frames, H height, W width, C channels; t, h
and w the sizes in cells.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gen.errors import UserError
from gen.models.video_convolution import PADDINGS
from gen.published.base import Shapes, System, Target, count, require, size, tokenizer_target
from gen.published.maskgit_vqgan import finished
from gen.published.maskgit_vqgan_jax import conv, norm, res_blocks
from gen.published.tables import Entry
from gen.tokenizers import MAGVITConfig, MAGVITTokenizer

NORMS = {"GN": "GroupNorm", "LN": "LayerNorm"}
HINTS = {
    "vqvae.temporal_downsample": "for each step between levels, whether it halves the frames; "
    "published: true,true,false"
}


@dataclasses.dataclass(frozen=True)
class VQVAEConfig:
    """The reference's `config.vqvae`; none: told by the weights."""

    filters: int | None = None
    num_enc_res_blocks: int | None = None
    num_dec_res_blocks: int | None = None
    channel_multipliers: tuple[int, ...] | None = None
    # One for each step between levels, or more; or the number of the first that halve.
    temporal_downsample: int | tuple[bool, ...] | None = None
    embedding_dim: int | None = None
    codebook_size: int | None = None
    conv_downsample: bool = False
    upsample: str = "nearest+conv"
    custom_conv_padding: str | None = None
    norm_type: str = "GN"
    activation_fn: str = "swish"
    latent_normalize: bool = False
    architecture: str = "3dcnn"
    vector_quantizer_class: str = "VectorQuantizer"
    # Of its training, or of other architectures, alone.
    deconv_upsample: bool = False
    num_enc_remat_blocks: int = 0
    num_dec_remat_blocks: int = 0
    commitment_cost: float = 0.25
    embedding_loss_ratio: float = 1.0
    entropy_loss_ratio: float = 0.1
    entropy_loss_type: str = "softmax"
    entropy_temperature: float = 0.01

    def __post_init__(self) -> None:
        known = {
            "architecture": ("3dcnn",),
            "vector_quantizer_class": ("VectorQuantizer",),
            "deconv_upsample": (False,),
            "upsample": ("nearest+conv", "deconv"),
            "custom_conv_padding": (None, *PADDINGS),
            "norm_type": tuple(NORMS),
            "activation_fn": ("swish", "relu"),
        }
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise UserError(
                    f"vqvae.{name} {getattr(self, name)} is not supported: "
                    f"{' or '.join(map(str, values))}"
                )


@dataclasses.dataclass(frozen=True)
class MAGVITArgs:
    """The reference's config as far as the tokenizer goes, and what Flax and its data fix."""

    vqvae: VQVAEConfig = dataclasses.field(default_factory=VQVAEConfig)
    groupnorm_groups: int = 32
    groupnorm_eps: float = 1e-6
    layout: str = "BTHWC"
    pixel_range_native: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        for name, value in (("layout", "BTHWC"), ("pixel_range_native", (0.0, 1.0))):
            if getattr(self, name) != value:
                raise UserError(f"{name} must be {value}: no published model has another")


def magvit_config(args: MAGVITArgs) -> MAGVITConfig:
    """Our tokenizer of these settings.

    Raises:
      UserError: a setting is neither given nor in the weights, or does not fit the others.
    """
    vqvae = args.vqvae
    names = ("filters", "num_enc_res_blocks", "num_dec_res_blocks", "channel_multipliers")
    names += ("temporal_downsample", "embedding_dim", "codebook_size")
    require(args, hints=HINTS, **{f"vqvae.{name}": getattr(vqvae, name) for name in names})
    return MAGVITConfig(
        codebook_size=vqvae.codebook_size,
        codebook_dim=vqvae.embedding_dim,
        width=vqvae.filters,
        multipliers=vqvae.channel_multipliers,
        halve_frames=halve_frames(vqvae.temporal_downsample, len(vqvae.channel_multipliers) - 1),
        encoder_blocks=vqvae.num_enc_res_blocks,
        decoder_blocks=vqvae.num_dec_res_blocks,
        strided=vqvae.conv_downsample,
        transposed=vqvae.upsample == "deconv",
        padding=vqvae.custom_conv_padding or "constant",
        activation=vqvae.activation_fn,
        normalise_search=vqvae.latent_normalize,
        layer_norm=vqvae.norm_type == "LN",
        norm_groups=args.groupnorm_groups,
        norm_eps=args.groupnorm_eps,
    )


def halve_frames(given: int | tuple[bool, ...], steps: int) -> tuple[bool, ...]:
    """`temporal_downsample` for each of the steps between levels.

    Raises:
      UserError: it tells of fewer steps, or a number is larger.
    """
    flags = given if isinstance(given, tuple) else (True,) * given + (False,) * (steps - given)
    fits = len(flags) >= steps if isinstance(given, tuple) else 0 <= given <= steps
    if not fits:
        raise UserError(f"vqvae.temporal_downsample {given} does not fit {steps} steps")
    # The reference reads no further either: its models of 64 px have fewer steps than flags.
    return flags[:steps]


def decode_from_indices(
    model: MAGVITTokenizer, settings: Mapping[str, Any], inputs: Mapping[str, np.ndarray]
) -> np.ndarray:
    """`VQVAE.decode_from_indices`: ids (B, t, h, w) to pixels (B, T, H, W, C)."""
    ids = inputs["indices"]
    shape = model.pixel_shape(ids.shape[1:])
    return finished(model.decode(ids.reshape(len(ids), -1), shape), settings)


def own_tokens(model: MAGVITTokenizer, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """`VQVAE.encode_to_indices`: ids (B, t, h, w) of the given pixels."""
    pixels = inputs["pixels_native"]
    lattice = model.layout(pixels.shape[1:4]).shapes[0]
    return model.encode(pixels).reshape(-1, *lattice)


def quantized(model: MAGVITTokenizer, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The codes of the given pixels, (B, t, h, w, C)."""
    ids = own_tokens(model, inputs)
    return model.embed(ids.reshape(len(ids), -1), inputs["pixels_native"].shape[1:4])


class MAGVIT3DVQ(System):
    """`VQVAE` of videogvt/models/vqvae.py with the stacks of enc_dec_3dcnn.py."""

    name = "magvit-3dvq"
    source = "google-research/magvit@05e8cfd"
    Settings = MAGVITArgs
    parts: ClassVar = {"model": "quantizer/codebook"}
    outputs: ClassVar = {
        "pre_quant": lambda model, inputs: model.latents(inputs["pixels_native"]),
        "indices": own_tokens,
        "quantized": quantized,
    }
    functions: ClassVar = {"decode_from_indices": decode_from_indices}

    def infer(self, shapes: Mapping[str, Shapes], stored: Mapping[str, Any]) -> dict[str, Any]:
        tensors = shapes["model"]
        width = size(tensors, "encoder/Conv_0/kernel", 4)
        transposed = count(tensors, "decoder/ConvTranspose_{}/kernel")
        # A decoder has a convolution before the levels, one after, and one between two levels.
        levels = transposed + 1 if transposed else count(tensors, "decoder/Conv_{}/kernel") - 1
        found = {
            name: count(tensors, f"{name}/ResBlock_{{}}/Conv_0/kernel") // (levels + 1 or 1)
            for name in ("encoder", "decoder")
        }
        widths = [
            size(tensors, f"encoder/ResBlock_{found['encoder'] * level}/Conv_0/kernel", 4) or 0
            for level in range(levels)
        ]
        # A width that is no multiple shows as a wrong shape later.
        multipliers = tuple(max(each // width, 1) for each in widths) if width else ()
        vqvae = {
            "filters": width,
            "num_enc_res_blocks": found["encoder"] or None,
            "num_dec_res_blocks": found["decoder"] or None,
            "channel_multipliers": multipliers or None,
            # Weights do not tell; all published models of these sizes have the same.
            "temporal_downsample": (True, True, False) if levels in (3, 4) else None,
            "codebook_size": size(tensors, "quantizer/codebook", 0),
            "embedding_dim": size(tensors, "quantizer/codebook", 1),
            "conv_downsample": size(tensors, "encoder/Conv_1/kernel", 0) == 4,
            "upsample": "deconv" if transposed else "nearest+conv",
            "norm_type": "LN" if "encoder/LayerNorm_0/scale" in tensors else "GN",
        }
        return {"vqvae": vqvae}

    def target(self, settings: MAGVITArgs) -> Target:
        return tokenizer_target(MAGVITTokenizer, magvit_config(settings))

    def table(self, settings: MAGVITArgs) -> list[Entry]:
        vqvae = settings.vqvae
        steps, norm_class = len(vqvae.channel_multipliers) - 1, NORMS[vqvae.norm_type]
        deconv = vqvae.upsample == "deconv"
        # Number of the last convolution, behind those between the levels.
        last = {
            "encoder": 1 + (steps if vqvae.conv_downsample else 0),
            "decoder": 1 + (0 if deconv else steps),
        }
        entries = [Entry("quantizer/codebook", "codebook/embedding")]
        for name, number in last.items():
            entries += conv(f"{name}/Conv_0", f"{name}/conv_in")
            entries += norm(f"{name}/{norm_class}_0", f"{name}/norm_out")
            entries += conv(f"{name}/Conv_{number}", f"{name}/conv_out")
        blocks = {"encoder": vqvae.num_enc_res_blocks, "decoder": vqvae.num_dec_res_blocks}
        # Blocks of the middle come last in the encoder and first in the decoder.
        middle = {"encoder": steps + 1, "decoder": 0}
        for name, each in blocks.items():
            places = [place for place in range(steps + 2) if place != middle[name]]
            ours = {middle[name]: f"{name}/middle/blocks"}
            ours |= {place: f"{name}/levels/{i}/blocks" for i, place in enumerate(places)}
            for place, path in ours.items():
                entries += res_blocks(name, place * each, each, path, norm_class)
        for step in range(steps):
            entries += conv(f"encoder/Conv_{step + 1}", f"encoder/levels/{step}/downsample")
            up = f"ConvTranspose_{step}" if deconv else f"Conv_{step + 1}"
            entries += conv(f"decoder/{up}", f"decoder/levels/{step}/upsample")
        return entries
