"""Writes cases of VAR's tokenizer, with outputs from the plain NumPy forward."""

import math
import re
import types

import numpy as np

from gen.models.residual_quantizer import QuantizerConfig
from gen.tokenizers import MSVQConfig, MSVQTokenizer
from tests import msvq_numpy, vq_numpy
from tests.cases import close, exact, given, write

RENAMED = (  # our path -> their name, in turn
    (r"encoder/levels/", "encoder/down/"),
    (r"/blocks/", "/block/"),
    (r"/attention/", "/attn/"),
    (r"/middle/0/", "/mid/block_1/"),
    (r"/middle/1/", "/mid/attn_1/"),
    (r"/middle/2/", "/mid/block_2/"),
    (r"/(down|up)sample/", r"/\1sample/conv/"),
    (r"/shortcut/", "/nin_shortcut/"),
    (r"/out/", "/proj_out/"),
    (r"^(post_)?quant/", r"\1quant_conv/"),
    (r"(kernel|scale)$", "weight"),
)


def msvq_config(**changes):
    """Settings under the reference's names; one size of scale comes twice."""
    config = {
        "vocab_size": 40,
        "z_channels": 6,
        "ch": 32,
        "using_znorm": False,
        "quant_conv_ks": 3,
        "quant_resi": 0.5,
        "share_quant_resi": 4,
        "default_qresi_counts": 0,
        "v_patch_nums": [1, 2, 2, 3, 4],
        "ch_mult": [1, 2],
        "num_res_blocks": 1,
        "phi_of_scale": [0, 1, 2, 2, 3],
    }
    return config | changes


def our_config(config):
    return MSVQConfig(
        quantizer=QuantizerConfig(
            codebook_size=config["vocab_size"],
            codebook_dim=config["z_channels"],
            scales=tuple((side, side) for side in config["v_patch_nums"]),
            mixing=abs(config["quant_resi"]),
            num_mixers=config["share_quant_resi"],
        ),
        width=config["ch"],
        multipliers=tuple(config["ch_mult"]),
        blocks_per_level=config["num_res_blocks"],
        kernel_size=config["quant_conv_ks"],
    )


def random_params(config, seed):
    """Every entry random, at a size that keeps signals near one; norm scales around one."""
    rng = np.random.default_rng(seed)
    params = {}
    for path, shape in MSVQTokenizer.shapes(our_config(config)).items():
        kernel = shape[1:] if path.endswith("mixer_kernels") else shape
        std = 0.7 if path.endswith("codebook") else math.prod(kernel[:-1]) ** -0.5
        std = 0.2 if path.endswith(("bias", "biases", "scale")) else std
        params[path] = rng.normal(size=shape).astype(np.float32) * np.float32(std)
        params[path] += path.endswith("scale")
    return params


def published(config, params):
    """The parameters as the reference stores them."""
    weights = {"quantize.ema_vocab_hit_SV": np.zeros((3, config["vocab_size"]), np.float32)}
    weights["quantize.embedding.weight"] = params["quantizer/codebook"]
    sharing = {0: "quant_resi.{}", 1: "quant_resi.qresi"}
    mixer = sharing.get(config["share_quant_resi"], "quant_resi.qresi_ls.{}")
    for k in range(len(params.get("quantizer/mixer_biases", ()))):
        name = f"quantize.{mixer.format(k)}"
        weights[f"{name}.weight"] = params["quantizer/mixer_kernels"][k].transpose(3, 2, 0, 1)
        weights[f"{name}.bias"] = params["quantizer/mixer_biases"][k]
    for path, array in params.items():
        if path.startswith("quantizer/"):
            continue
        for ours, theirs in RENAMED:
            path = re.sub(ours, theirs, path)
        for level, last in enumerate(reversed(range(len(config["ch_mult"])))):
            path = path.replace(f"decoder/levels/{level}/", f"decoder/up/{last}/")
        weights[path.replace("/", ".")] = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
    for name in [name for name in weights if ".query." in name]:
        parts = [weights.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        weights[name.replace("query", "qkv")] = np.concatenate(parts)
    return {name: np.ascontiguousarray(array) for name, array in weights.items()}


def reference(config, params):
    """(convolutional stacks, quantiser) in NumPy."""
    stacks = types.SimpleNamespace(
        width=config["ch"],
        encoder_multipliers=config["ch_mult"],
        decoder_multipliers=config["ch_mult"],
        blocks_per_level=config["num_res_blocks"],
        norm_groups=32,
        norm_eps=1e-6,
    )
    quantizer = msvq_numpy.Quantizer(
        params["quantizer/codebook"],
        params.get("quantizer/mixer_kernels"),
        params.get("quantizer/mixer_biases"),
        scales=[(side, side) for side in config["v_patch_nums"]],
        mixing=abs(config["quant_resi"]),
        mixer_of_scale=config["phi_of_scale"],
        cosine=config["using_znorm"],
    )
    return vq_numpy.Reference(params, stacks), quantizer


DECODING = {
    "reconstruction": {
        "function": "VQVAE.idxBl_to_img",
        "same_shape": True,
        "last_one": True,
        "inputs": {"ms_idx_Bl": "indices (own encoder output), split by scale"},
    },
    "reconstruction_unclamped": {
        "function": "decoder(post_quant_conv(f_hat))",
        "inputs": {"f_hat": "quantized (own encoder output)"},
    },
    "random_first": {
        "function": "VQVAE.idxBl_to_img",
        "last_one": False,
        "inputs": {"ms_idx_Bl": "random_indices[-1:], split by scale"},
        "returns": "first two scales",
    },
    "random_all": {"same_run_as": "random_first", "returns": "all scales"},
}


def channels(x, axis=1):
    return close(np.moveaxis(x, -1, axis))


def decoded(stacks, own, drawn):
    """The outputs that `DECODING` names, of sums over scales of two sets of ids."""
    pixels = stacks.decode_latents(own[-1])
    assert np.abs(pixels).max() > 1, "choose a seed whose pixels are clamped"
    each = np.stack([stacks.decode_latents(f[-1:]) for f in drawn], axis=1).clip(-1, 1)
    return {
        "reconstruction": channels(pixels.clip(-1, 1)),
        "reconstruction_unclamped": channels(pixels),
        "random_first": channels(each[:, :2], 2),
        "random_all": channels(each, 2),
    }


def msvq(folder, seed=0, decode=True, **changes):
    """A case of two images; without pixels out if it shall be quick."""
    config = msvq_config(**changes)
    params = random_params(config, seed)
    stacks, quantizer = reference(config, params)
    side = config["v_patch_nums"][-1] * 2 ** (len(config["ch_mult"]) - 1)
    rng = np.random.default_rng(seed + 1)
    pixels = rng.uniform(-1, 1, (2, side, side, 3)).astype(np.float32)
    features = stacks.latents(pixels)
    scales, margin = quantizer.encode(features)
    assert margin > 1e-4, "choose a seed without near ties"
    ids = np.concatenate(scales, axis=1)
    drawn = rng.integers(0, config["vocab_size"], ids.shape)
    sums = quantizer.sums(ids)
    arrays = {
        "pixels": given(np.ascontiguousarray(np.moveaxis(pixels, -1, 1))),
        "random_indices": given(drawn.astype(np.int32)),
        "features": channels(features),
        "indices": exact(ids),
        "quantized": channels(sums[-1]),
        "var_input": close(quantizer.inputs(ids)),
        "random_var_input": close(quantizer.inputs(drawn)),
    }
    arrays |= {f"indices_{k}": exact(part) for k, part in enumerate(scales)}
    if decode:
        arrays["fhat_scales"] = channels(np.stack(sums, axis=1), 2)
        arrays |= decoded(stacks, sums, quantizer.sums(drawn))
    weights = published(config, params)
    return write(
        folder, system="var-vqvae", config=config, weights=weights, arrays=arrays, decode=DECODING
    )
