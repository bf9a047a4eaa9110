"""TiTok's image tokenizers with one codebook (bytedance/1d-tokenizer@942a96f).

Published as safetensors beside a `config.json`, which `--settings` takes, or as a bare state dict
in `.bin`. The first models ("legacy": L-32, B-64, S-128) make pixels by way of the codes and the
decoder of `gen.published.maskgit_vqgan`. Axes: B images, H height, W width, K tokens, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gen.errors import UserError
from gen.models.vit import ViTConfig
from gen.published.base import Shapes, System, Target, count, require, size, tokenizer_target
from gen.published.llamagen_vq import channels_first, conv, norm
from gen.published.maskgit_vqgan import decoder_table, finished
from gen.published.tables import Entry, fused_rows, transposed
from gen.published.titok_settings import SIZES, STACKS, PixelDecoderArgs, TiTokArgs
from gen.tokenizers import ProxyConfig, TiTokConfig, TiTokTokenizer

HINTS = {
    "model.vq_model.use_l2_norm": "whether codes have length 1: true for L-32, B-64 and S-128, "
    "false for those of 8192 codes",
    "model.vq_model.vit_enc_model_size": "its width and depth are those of no row of size_table",
    "model.vq_model.vit_dec_model_size": "its width and depth are those of no row of size_table",
}


def titok_config(args: TiTokArgs) -> TiTokConfig:
    """Our tokenizer of these settings.

    Raises:
      UserError: a setting is neither given nor in the weights, or does not fit the others.
    """
    vq, crop = args.model.vq_model, args.dataset.preprocessing.crop_size
    names = ("codebook_size", "token_size", "use_l2_norm", "num_latent_tokens")
    names += ("is_legacy", "finetune_decoder")
    names += tuple(
        f"vit_{stack}_{name}" for stack in STACKS for name in ("model_size", "patch_size")
    )
    given = {f"model.vq_model.{name}": getattr(vq, name) for name in names}
    require(args, hints=HINTS, **given, **{"dataset.preprocessing.crop_size": crop})
    if vq.is_legacy != vq.finetune_decoder:
        raise UserError(
            f"is_legacy {vq.is_legacy} with finetune_decoder {vq.finetune_decoder}: models of the "
            "first stage make no pixels, and others have no pixel_decoder"
        )
    return TiTokConfig(
        codebook_size=vq.codebook_size,
        codebook_dim=vq.token_size,
        num_tokens=vq.num_latent_tokens,
        image_size=crop,
        encoder_patch=vq.vit_enc_patch_size,
        decoder_patch=vq.vit_dec_patch_size,
        encoder=transformer_config(args, vq.vit_enc_model_size),
        decoder=transformer_config(args, vq.vit_dec_model_size),
        normalise_codes=vq.use_l2_norm,
        proxy=proxy_config(args) if vq.is_legacy else None,
    )


def transformer_config(args: TiTokArgs, name: str) -> ViTConfig:
    """The transformer of this row of the table of sizes."""
    row = getattr(args.size_table, name)
    ffn_width = int(row.width * args.mlp_ratio)
    return ViTConfig(row.width, row.layers, row.heads, ffn_width, args.norms.eps)


def proxy_config(args: TiTokArgs) -> ProxyConfig:
    """The tokenizer that makes the pixels of the legacy models.

    Raises:
      UserError: a setting is neither given nor in the weights, or does not fit the others.
    """
    pixel = args.pixel_decoder or PixelDecoderArgs()
    names = ("codebook_size", "embedding_dim", "hidden_channels", "channel_mult", "num_res_blocks")
    require(args, hints={}, **{f"pixel_decoder.{name}": getattr(pixel, name) for name in names})
    follows = {"z_channels": pixel.embedding_dim, "num_resolutions": len(pixel.channel_mult)}
    for name, value in follows.items():
        if getattr(pixel, name) not in (None, value):
            raise UserError(f"pixel_decoder.{name} {getattr(pixel, name)} against {value}")
    return ProxyConfig(
        codebook_size=pixel.codebook_size,
        codebook_dim=pixel.embedding_dim,
        width=pixel.hidden_channels,
        multipliers=pixel.channel_mult,
        blocks_per_level=pixel.num_res_blocks,
        norm_groups=pixel.groupnorm_groups,
        norm_eps=pixel.groupnorm_eps,
    )


def dense(theirs: str, ours: str) -> list[Entry]:
    """A linear map with its bias."""
    return [
        Entry(f"{theirs}.weight", f"{ours}/kernel", transposed),
        Entry(f"{theirs}.bias", f"{ours}/bias"),
    ]


def transformer(name: str, width: int) -> list[Entry]:
    """What encoder and decoder have both: tables of positions and the blocks."""
    theirs, ours = f"{name}.transformer.{{i}}", f"{name}/vit/blocks"
    entries = [
        Entry(f"{name}.class_embedding", f"{name}/class_embedding"),
        Entry(f"{name}.positional_embedding", f"{name}/positions"),
        Entry(f"{name}.latent_token_positional_embedding", f"{name}/token_positions"),
        *norm(f"{name}.ln_pre", f"{name}/vit/norm_in"),
        *norm(f"{name}.ln_post", f"{name}/vit/norm_out"),
        *norm(f"{theirs}.ln_1", f"{ours}/attention_norm"),
        *norm(f"{theirs}.ln_2", f"{ours}/ffn_norm"),
        *dense(f"{theirs}.attn.out_proj", f"{ours}/attention/out"),
        *dense(f"{theirs}.mlp.c_fc", f"{ours}/up"),
        *dense(f"{theirs}.mlp.c_proj", f"{ours}/down"),
    ]
    for place, part in enumerate(("query", "key", "value")):
        cut = fused_rows(place * width, (place + 1) * width, 3 * width)
        for kind, leaf in (("weight", "kernel"), ("bias", "bias")):
            path = f"{ours}/attention/{part}/{leaf}"
            entries.append(Entry(f"{theirs}.attn.in_proj_{kind}", path, cut))
    return entries


def own_tokens(model: TiTokTokenizer, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Ids of the given pixels, (B, K)."""
    return model.encode(np.moveaxis(inputs["pixels_native"], 1, -1))


def decode_tokens(
    model: TiTokTokenizer, settings: Mapping[str, Any], inputs: Mapping[str, np.ndarray]
) -> np.ndarray:
    """`TiTok.decode_tokens`: ids (B, K) to pixels (B, C, H, W)."""
    return finished(channels_first(model.decode(inputs["tokens"])), settings)


class TiTokVQ(System):
    """`TiTok` of modeling/titok.py."""

    name = "titok-tokenizer"
    source = "bytedance/1d-tokenizer@942a96f"
    Settings = TiTokArgs
    parts: ClassVar = {"model": "latent_tokens"}
    ignored = ("quantize.embed_prob",)  # statistics of its training
    outputs: ClassVar = {
        "pre_quant": lambda model, inputs: channels_first(
            model.latents(np.moveaxis(inputs["pixels_native"], 1, -1))
        ),
        "indices": own_tokens,
        "quantized": lambda model, inputs: model.embed(own_tokens(model, inputs))[:, 0],
    }
    functions: ClassVar = {"decode_tokens": decode_tokens}

    def infer(self, shapes: Mapping[str, Shapes], stored: Mapping[str, Any]) -> dict[str, Any]:
        tensors, table = shapes["model"], known_sizes(stored)
        sides = {name: grid_side(tensors, name) for name in STACKS.values()}
        patch = size(tensors, "encoder.patch_embed.weight", 2)
        crop = patch * sides["encoder"] if patch else None
        vq = {
            "codebook_size": size(tensors, "quantize.embedding.weight", 0),
            "token_size": size(tensors, "quantize.embedding.weight", 1),
            "num_latent_tokens": size(tensors, "latent_tokens", 0),
            "vit_enc_patch_size": patch,
            "vit_dec_patch_size": crop // sides["decoder"] if crop and sides["decoder"] else None,
            "is_legacy": "decoder.ffn.2.weight" in tensors,
            "finetune_decoder": "pixel_quantize.embedding.weight" in tensors,
            "quantize_mode": "vq" if "quantize.embedding.weight" in tensors else "vae",
        }
        for stack, name in STACKS.items():
            depth = count(tensors, f"{name}.transformer.{{}}.ln_1.weight")
            found = size(tensors, f"{name}.class_embedding", 1), depth
            fitting = (row for row, sizes in table.items() if sizes == found)
            vq[f"vit_{stack}_model_size"] = next(fitting, None)
        return {
            "model": {"vq_model": vq},
            "dataset": {"preprocessing": {"crop_size": crop}},
            "pixel_decoder": pixel_decoder_sizes(tensors) if vq["is_legacy"] else None,
        }

    def target(self, settings: TiTokArgs) -> Target:
        return tokenizer_target(TiTokTokenizer, titok_config(settings))

    def table(self, settings: TiTokArgs) -> list[Entry]:
        config = titok_config(settings)
        entries = [
            Entry("latent_tokens", "encoder/queries"),
            *transformer("encoder", config.encoder.width),
            *conv("encoder.patch_embed", "encoder/patches"),
            *conv("encoder.conv_out", "encoder/out"),
            *transformer("decoder", config.decoder.width),
            *dense("decoder.decoder_embed", "decoder/embed"),
            Entry("decoder.mask_token", "decoder/mask_token"),
            Entry("quantize.embedding.weight", "codebook/embedding"),
        ]
        if config.proxy is None:
            head = {"decoder.ffn.0": "head/patches", "decoder.conv_out": "head/out"}
        else:
            head = {"decoder.ffn.0": "head/hidden", "decoder.ffn.2": "head/logits"}
            levels = len(config.proxy.multipliers)
            entries += decoder_table("pixel_decoder", "head/decoder", levels)
            entries.append(Entry("pixel_quantize.embedding.weight", "head/codes"))
        return entries + [entry for names in head.items() for entry in conv(*names)]


def known_sizes(stored: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Name of a size -> (width, depth): as published, or as the given table says."""
    table = {name: (width, depth) for name, (width, depth, _) in SIZES.items()}
    given = stored.get("size_table")
    for name, row in given.items() if isinstance(given, Mapping) else ():
        if isinstance(row, Mapping):
            table[name] = row.get("width"), row.get("layers")
    return table


def grid_side(tensors: Shapes, name: str) -> int:
    """Patches in a row of an image, from the table of positions; 0 if there is none."""
    rows = size(tensors, f"{name}.positional_embedding", 0) or 1
    return math.isqrt(rows - 1)


def pixel_decoder_sizes(tensors: Shapes) -> dict[str, Any]:
    """Settings of the pixel decoder; of its widths, only the products with the multipliers tell."""
    block = "pixel_decoder.up.{}.block.{}.conv1.weight"
    levels = count(tensors, block.format("{}", 0))
    widths = [size(tensors, block.format(number, 0), 0) or 0 for number in range(levels)]
    base = math.gcd(*widths)
    return {
        "codebook_size": size(tensors, "pixel_quantize.embedding.weight", 0),
        "embedding_dim": size(tensors, "pixel_quantize.embedding.weight", 1),
        "hidden_channels": base or None,
        "channel_mult": tuple(width // base for width in widths) if base else None,
        "num_res_blocks": count(tensors, block.format(0, "{}")) or None,
    }
