"""Writes case folders as `tests.parity` takes them, with outputs from plain NumPy forwards."""

import json
import math

import numpy as np
from safetensors.numpy import save_file

from gen.tokenizers import VQConfig, VQTokenizer
from tests import llamagen_numpy, vq_numpy

EXACT = {"exact": True}


def write(folder, *, system, config, weights, arrays, decode=None):
    """A case; `arrays` maps a name to (array, role, tolerance)."""
    folder.mkdir(parents=True)
    save_file(weights, folder / "weights.safetensors")
    np.savez(folder / "io.npz", **{name: array for name, (array, _, _) in arrays.items()})
    about = {
        name: {"shape": list(array.shape), "dtype": str(array.dtype), "role": role, **tolerance}
        for name, (array, role, tolerance) in arrays.items()
    }
    meta = {"system": system, "config": config, "decode": decode or {}, "arrays": about}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def given(array):
    return array, "input", {}


def close(array):
    return np.asarray(array, np.float32), "output", {"atol": 2e-4, "rtol": 1e-4}


def exact(array):
    return np.asarray(array, np.int32), "output", EXACT


def llamagen_config(**changes):
    """Settings under the reference's names, unlike those of any other case."""
    config = {
        "dim": 48,
        "n_layer": 3,
        "n_head": 3,
        "n_kv_head": None,
        "multiple_of": 20,
        "ffn_dim_multiplier": 1.3,
        "vocab_size": 37,
        "block_size": 9,
        "num_classes": 6,
        "cls_token_num": 1,
        "model_type": "c2i",
        "class_dropout_prob": 0.1,
        "rope_base": 500,
        "norm_eps": 1e-5,
        "caption_dim": 2048,
    }
    return config | changes


def llamagen(folder, seed=0, guidance=2.5, interval=-1, **changes):
    """A class- or text-conditional LlamaGen case of two samples."""
    config = llamagen_config(**changes)
    w = llamagen_numpy.weights(config, seed)
    rng = np.random.default_rng(seed + 1)
    batch, count = 2, config["block_size"]
    tokens = rng.integers(0, config["vocab_size"], (batch, count)).astype(np.int32)
    text = config["model_type"] == "t2i"
    valid = [None] * batch
    if text:
        length = config["cls_token_num"]
        valid = (np.arange(length) >= np.array([[length - 2], [length // 3]])).astype(np.float32)
        rows = rng.normal(size=(batch, length, config["caption_dim"])).astype(np.float32)
        rows *= valid[..., None]
        arrays = {"caption": given(rows), "emb_mask": given(valid)}
        inputs = {"cond": "caption", "emb_masks": "emb_mask"}
    else:
        rows = rng.integers(0, config["num_classes"], batch).astype(np.int32)
        arrays, inputs = {"labels": given(rows)}, {"cond": "labels"}
    args = [(rows[b], tokens[b, :-1], valid[b]) for b in range(batch)]
    logits = np.stack([llamagen_numpy.forward(config, w, *a) for a in args])
    null = np.stack([llamagen_numpy.forward(config, w, *a, null=True) for a in args])
    shifted = logits - logits.max(axis=-1, keepdims=True)
    chance = np.log(np.exp(shifted).sum(axis=-1))
    nll = chance - np.take_along_axis(shifted, tokens[..., None], axis=-1)[..., 0]
    arrays |= {"tokens": given(tokens), "logits": close(logits)}
    arrays |= {"logits_uncond": close(null), "nll": close(nll)}
    decode = {}
    for name, scale in (("sample_plain", 1.0), ("sample_guided", guidance)):
        samples = [
            llamagen_numpy.greedy(config, w, rows[b], scale, interval, valid[b])
            for b in range(batch)
        ]
        assert min(gap for _, gap in samples) > 1e-3, "choose a seed without near ties"
        arrays[name] = exact([chosen for chosen, _ in samples])
        decode[name] = {
            "function": "autoregressive/models/generate.py generate",
            "inputs": inputs,
            "cfg_scale": scale,
            "cfg_interval": interval,
            "temperature": 1.0,
            "sample_logits": False,
            "max_new_tokens": count,
        }
    filter_in = rng.normal(size=(3, 50)).astype(np.float32)
    filter_out = llamagen_numpy.filtered(filter_in, 7, 0.6)
    arrays["filter_in"] = given(filter_in)
    arrays["filter_out"] = close(np.where(np.isneginf(filter_out), -1e30, filter_out))
    decode["filter_out"] = {
        "function": "top_k_top_p_filtering",
        "inputs": {"logits": "filter_in"},
        "top_k": 7,
        "top_p": 0.6,
    }
    assert math.isqrt(count) ** 2 == count
    return write(folder, system="llamagen", config=config, weights=w, arrays=arrays, decode=decode)


def vq_config(**changes):
    """Settings of a tokenizer under the reference's names, with unequal widths."""
    config = {
        "codebook_size": 50,
        "codebook_embed_dim": 6,
        "codebook_l2_norm": True,
        "z_channels": 12,
        "encoder_ch_mult": [1, 3, 2],
        "decoder_ch_mult": [2, 1, 3],
        "ch": 8,
        "num_res_blocks": 1,
        "groupnorm_groups": 4,
        "groupnorm_eps": 1e-6,
        "pixel_range": [-1, 1],
        "downsample": 4,
    }
    return config | changes


THEIR_NAMES = (  # our path -> their name, each replaced in turn
    ("levels", "conv_blocks"),
    ("blocks", "res"),
    ("attention", "attn"),
    ("middle", "mid"),
    ("downsample", "downsample.conv"),
    ("upsample", "upsample.conv"),
    ("query", "q"),
    ("key", "k"),
    ("value", "v"),
    ("shortcut", "nin_shortcut"),
    ("out", "proj_out"),
    ("quant", "quant_conv"),
    ("post_quant", "post_quant_conv"),
    ("codebook", "quantize"),
)


def their_name(path):
    """`encoder/levels/0/blocks/1/conv1/kernel` as the reference calls it."""
    if path == "codebook/embedding":
        return "quantize.embedding.weight"
    words = [dict(THEIR_NAMES).get(word, word) for word in path.split("/")]
    ending = {"kernel": "weight", "scale": "weight", "bias": "bias"}[words[-1]]
    return ".".join([*words[:-1], ending])


def vq(folder, seed=0, height=20, width=12, **changes):
    """A case of LlamaGen's tokenizer with two images that need not be square."""
    config = vq_config(**changes)
    ours = VQConfig(
        codebook_size=config["codebook_size"],
        codebook_dim=config["codebook_embed_dim"],
        width=config["ch"],
        encoder_multipliers=tuple(config["encoder_ch_mult"]),
        decoder_multipliers=tuple(config["decoder_ch_mult"]),
        blocks_per_level=config["num_res_blocks"],
        z_channels=config["z_channels"],
        normalise_codes=config["codebook_l2_norm"],
        norm_groups=config["groupnorm_groups"],
    )
    rng = np.random.default_rng(seed)
    params = {}
    for path, shape in VQTokenizer.shapes(ours).items():
        scale = 1 if path.startswith("codebook") else 1 / math.sqrt(math.prod(shape[:-1]) or 1)
        params[path] = rng.normal(size=shape).astype(np.float32) * np.float32(scale)
        params[path] += path.endswith("scale")
    weights = {
        their_name(path): np.ascontiguousarray(
            np.transpose(array, (3, 2, 0, 1)) if array.ndim == 4 else array
        )
        for path, array in params.items()
    }
    weights["quantize.codebook_used"] = np.zeros(7, np.float32)
    reference = vq_numpy.Reference(params, ours)
    rows, columns = height // ours.cell, width // ours.cell
    pixels = rng.uniform(-1, 1, (2, height, width, 3)).astype(np.float32)
    ids, margin = reference.encode(pixels)
    assert margin.min() > 1e-4, "choose a seed without near ties"
    drawn = rng.integers(0, ours.codebook_size, ids.shape)

    def first(x_BHWC):
        return close(np.moveaxis(x_BHWC, -1, 1))

    codes = reference.codes()[ids].reshape(2, rows, columns, -1)
    arrays = {
        "pixels": given(np.ascontiguousarray(np.moveaxis(pixels, -1, 1))),
        "random_indices": given(drawn.reshape(2, rows, columns).astype(np.int32)),
        "pre_quant": first(reference.latents(pixels)),
        "indices": exact(ids.reshape(2, rows, columns)),
        "quantized": first(codes),
        "reconstruction": first(reference.decode(ids, rows, columns)),
        "random_decoded": first(reference.decode(drawn, rows, columns)),
    }
    decode = {
        "reconstruction": {
            "function": "decode_code",
            "inputs": {"code_b": "indices (own encoder output)"},
        },
        "random_decoded": {"function": "decode_code", "inputs": {"code_b": "random_indices"}},
    }
    return write(
        folder, system="llamagen-vq", config=config, weights=weights, arrays=arrays, decode=decode
    )
