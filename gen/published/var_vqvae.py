"""VAR's multi-scale image tokenizer (FoundationVision/VAR@78b9539).

`vae_ch160v4096z32.pth` is a bare state dict. Levels of the decoder are numbered from the highest
resolution, which is the last to run. Axes: B images, H height, W width, P positions of all
scales, S scales, C channels.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from gen.errors import UserError
from gen.models.residual_quantizer import QuantizerConfig
from gen.published.base import Shapes, System, Target, count, require, size, tokenizer_target
from gen.published.llamagen_vq import channels_first, conv, norm, res_block
from gen.published.tables import Entry, conv_kernel, same
from gen.tokenizers import MSVQConfig, MSVQTokenizer

HINTS = {
    "v_patch_nums": "sides of the scales, published: 1,2,3,4,5,6,8,10,13,16 for 256 px, "
    "1,2,3,4,6,9,13,18,24,32 for 512 px"
}
COUNTS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
# Statistics of the quantiser's training; of any number of scales.
IGNORED = ("quantize.ema_vocab_hit_SV",)


@dataclasses.dataclass(frozen=True)
class VQVAEArgs:
    """Arguments of the reference's `VQVAE` and the sizes it fixes; none: told by the weights."""

    vocab_size: int | None = None
    z_channels: int | None = None
    ch: int | None = None
    using_znorm: bool = False
    quant_conv_ks: int | None = None
    quant_resi: float = 0.5
    share_quant_resi: int = 4
    default_qresi_counts: int = 0
    v_patch_nums: tuple[int, ...] | None = None
    ch_mult: tuple[int, ...] | None = None
    num_res_blocks: int | None = None
    in_channels: int = 3
    using_sa: bool = True
    using_mid_sa: bool = True
    layout: str = "NCHW"
    pixel_range: tuple[float, float] = (-1.0, 1.0)
    # What follows from the others.
    downsample: int | None = None
    phi_of_scale: tuple[int, ...] | None = None
    # Of its training alone.
    dropout: float = 0.0
    beta: float = 0.25
    test_mode: bool = True

    def __post_init__(self) -> None:
        fixed = {
            "in_channels": 3,
            "using_sa": True,
            "using_mid_sa": True,
            "layout": "NCHW",
            "pixel_range": (-1.0, 1.0),
        }
        for name, value in fixed.items():
            if getattr(self, name) != value:
                raise UserError(f"{name} must be {value}: no published model has another")


def quantizer_config(args: VQVAEArgs) -> QuantizerConfig:
    """The quantiser of these settings.

    Raises:
      UserError: a setting is neither given nor in the weights, or two of them disagree.
    """
    require(args, "vocab_size", "z_channels", "v_patch_nums", hints=HINTS)
    mixing = abs(args.quant_resi)
    config = QuantizerConfig(
        codebook_size=args.vocab_size,
        codebook_dim=args.z_channels,
        scales=tuple((side, side) for side in args.v_patch_nums),
        mixing=mixing if mixing > 1e-6 else 0.0,
        num_mixers=args.share_quant_resi or args.default_qresi_counts,
        normalise_search=args.using_znorm,
    )
    if args.phi_of_scale not in (None, config.mixer_of_scale):
        raise UserError(
            f"phi_of_scale {args.phi_of_scale} against {config.mixer_of_scale} of these settings"
        )
    return config


def quantizer_settings(tensors: Shapes) -> dict[str, int | None]:
    """The quantiser's settings that tensors named `quantize.*` tell; none where they do not."""
    codes = "quantize.embedding.weight"
    found = {"vocab_size": size(tensors, codes, 0), "z_channels": size(tensors, codes, 1)}
    if "quantize.quant_resi.qresi.weight" in tensors:
        return found | {"share_quant_resi": 1}
    if shared := count(tensors, "quantize.quant_resi.qresi_ls.{}.weight"):
        return found | {"share_quant_resi": shared}
    if own := count(tensors, "quantize.quant_resi.{}.weight"):
        return found | {"share_quant_resi": 0, "default_qresi_counts": own}
    return found


def quantizer_table(args: VQVAEArgs, ours: str, part: str = "model") -> list[Entry]:
    """Where the parameters of a `ResidualQuantizer` come from.

    Args:
      args: the settings.
      ours: path of the quantiser in our model.
      part: part of the checkpoint that holds `quantize.*`.
    """
    names = {0: "quantize.quant_resi.{k}", 1: "quantize.quant_resi.qresi"}
    theirs = names.get(args.share_quant_resi, "quantize.quant_resi.qresi_ls.{k}")

    def change(array: np.ndarray, view: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        # Ours are stacked, and a table stacks what has a number.
        return view(array) if "{k}" in theirs else view(array)[None]

    kernel = functools.partial(change, view=conv_kernel)
    bias = functools.partial(change, view=same)
    return [
        Entry("quantize.embedding.weight", f"{ours}/codebook", part=part),
        Entry(f"{theirs}.weight", f"{ours}/mixer_kernels", kernel, part),
        Entry(f"{theirs}.bias", f"{ours}/mixer_biases", bias, part),
    ]


def msvq_config(args: VQVAEArgs) -> MSVQConfig:
    """Our tokenizer of these settings; raises `UserError` as `quantizer_config` does."""
    names = ("vocab_size", "z_channels", "v_patch_nums", "ch", "ch_mult", "num_res_blocks")
    require(args, *names, "quant_conv_ks", hints=HINTS)
    config = MSVQConfig(
        quantizer=quantizer_config(args),
        width=args.ch,
        multipliers=args.ch_mult,
        blocks_per_level=args.num_res_blocks,
        kernel_size=args.quant_conv_ks,
    )
    if args.downsample not in (None, config.cell):
        raise UserError(f"downsample {args.downsample} against {config.cell} from ch_mult")
    return config


def attention_block(theirs: str, ours: str) -> list[Entry]:
    """An attention block whose query, key and value are one convolution."""

    def third(array: np.ndarray, place: int) -> np.ndarray:
        part = np.split(array, 3)[place]
        return conv_kernel(part) if part.ndim == 4 else part

    entries = [*norm(f"{theirs}.norm", f"{ours}/norm")]
    for place, name in enumerate(("query", "key", "value")):
        change = functools.partial(third, place=place)
        entries.append(Entry(f"{theirs}.qkv.weight", f"{ours}/{name}/kernel", change))
        entries.append(Entry(f"{theirs}.qkv.bias", f"{ours}/{name}/bias", change))
    return entries + conv(f"{theirs}.proj_out", f"{ours}/out")


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


def run(model: MSVQTokenizer, method: str, tokens: np.ndarray) -> np.ndarray:
    """What a method of the tokenizer's module makes of ids (B, P)."""
    layout = model.layout(model.default_shape(tokens.shape[1]))
    return np.asarray(model.program(method, layout)(model.params, tokens))


def indices(model: MSVQTokenizer, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """`img_to_idxBl`, all scales (B, P)."""
    return model.encode(np.moveaxis(inputs["pixels"], 1, -1))


def indices_of_scale(
    model: MSVQTokenizer, inputs: Mapping[str, np.ndarray], *, scale: int
) -> np.ndarray:
    """`img_to_idxBl` of one scale."""
    start, stop = model.config.quantizer.bounds[scale : scale + 2]
    return indices(model, inputs)[:, start:stop]


def decode_ids(
    model: MSVQTokenizer, settings: Mapping[str, Any], inputs: Mapping[str, np.ndarray]
) -> np.ndarray:
    """`VQVAE.idxBl_to_img`: ids to clamped pixels (B, C, H, W), or (B, S, C, H, W) of each scale.

    Raises:
      UserError: `same_shape` is false, which the reference itself warns of.
    """
    if not settings.get("same_shape", True):
        raise UserError("same_shape must be true: scales add up at the size of the last")
    if settings.get("last_one", False):
        pixels = model.decode(inputs["ms_idx_Bl"])
    else:
        pixels = model.decode_scales(inputs["ms_idx_Bl"])
        first = re.match(r"first (\w+)", settings.get("returns", ""))
        pixels = pixels[:, : COUNTS.index(first[1]) + 1] if first else pixels
    return np.moveaxis(np.clip(pixels, *model.pixel_range), -1, -3)


def decoder(
    model: MSVQTokenizer, settings: Mapping[str, Any], inputs: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Latents (B, C, h, w) to pixels (B, C, H, W), not clamped."""
    return channels_first(model.decode_latents(np.moveaxis(inputs["f_hat"], 1, -1)))


class VARVQVAE(System):
    """`VQVAE` of models/vqvae.py."""

    name = "var-vqvae"
    source = "FoundationVision/VAR@78b9539"
    Settings = VQVAEArgs
    parts: ClassVar = {"model": "encoder.down.0.block.0.conv1.weight"}
    ignored = IGNORED
    outputs: ClassVar = {
        "features": lambda model, inputs: channels_first(
            model.latents(np.moveaxis(inputs["pixels"], 1, -1))
        ),
        "indices": indices,
        "fhat_scales": lambda model, inputs: np.moveaxis(
            run(model, "embed_scales", indices(model, inputs)), -1, 2
        ),
        "quantized": lambda model, inputs: channels_first(model.embed(indices(model, inputs))),
        "var_input": lambda model, inputs: run(model, "inputs", indices(model, inputs)),
        "random_var_input": lambda model, inputs: run(model, "inputs", inputs["random_indices"]),
    }
    functions: ClassVar = {
        "VQVAE.idxBl_to_img": decode_ids,
        "decoder(post_quant_conv(f_hat))": decoder,
    }

    def output(self, name: str) -> Callable[..., np.ndarray] | None:
        if scale := re.fullmatch(r"indices_(\d+)", name):
            return functools.partial(indices_of_scale, scale=int(scale[1]))
        return super().output(name)

    def infer(self, shapes: Mapping[str, Shapes], stored: Mapping[str, Any]) -> dict[str, Any]:
        tensors = shapes["model"]
        width, levels = size(tensors, "encoder.conv_in.weight", 0), "encoder.down.{}.block"
        widths = [
            size(tensors, f"{levels.format(number)}.0.conv1.weight", 0) or 0
            for number in range(count(tensors, f"{levels}.0.conv1.weight"))
        ]
        # A width that is no multiple shows as a wrong shape later.
        multipliers = tuple(max(each // width, 1) for each in widths) if width else ()
        return quantizer_settings(tensors) | {
            "ch": width,
            "ch_mult": multipliers or None,
            "num_res_blocks": count(tensors, "encoder.down.0.block.{}.conv1.weight") or None,
            "quant_conv_ks": size(tensors, "quant_conv.weight", 2),
        }

    def target(self, settings: VQVAEArgs) -> Target:
        return tokenizer_target(MSVQTokenizer, msvq_config(settings))

    def table(self, settings: VQVAEArgs) -> list[Entry]:
        last = len(settings.ch_mult) - 1
        entries = [*ends("encoder"), *ends("decoder"), *quantizer_table(settings, "quantizer")]
        entries += [*conv("quant_conv", "quant"), *conv("post_quant_conv", "post_quant")]
        entries += level("encoder.down.{i}", "encoder/levels/{i}", "downsample")
        for number in range(last + 1):
            theirs, ours = f"decoder.up.{number}", f"decoder/levels/{last - number}"
            entries += level(theirs, ours, "upsample")
        return entries
