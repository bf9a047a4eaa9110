"""Writes cases of NAR's generators, of images and of videos, with outputs from plain NumPy."""

import math

import numpy as np

from tests import nar_numpy
from tests.cases import close, exact, given, llamagen_config, write


def image_config(**changes):
    """Settings under the reference's names."""
    return llamagen_config(**{"n_layer": 2, "medusa_attention_num": 1} | changes)


def video_config(**changes):
    """Settings under the reference's names, with sides that differ."""
    config = {
        "dim": 36,
        "n_layer": 1,
        "n_head": 3,
        "n_kv_head": None,
        "multiple_of": 12,
        "ffn_dim_multiplier": None,
        "vocab_size": 29,
        "num_classes": 5,
        "latent_shape": [3, 2, 4],
        "cls_token_num": 1,
        "model_type": "class_cond",
        "class_dropout_prob": 0.1,
        "token_dropout_p": 0.1,
        "rope_base": 10000,
        "norm_eps": 1e-5,
        "use_fixed_pe": False,
        "frame_prediction": False,
        "attn_num_back": 1,
        "attn_num_down": 1,
    } | changes
    return config | {"max_seq_len": math.prod(config["latent_shape"])}


def outputs(config, w, rows, tokens, valid, samplers):
    """Logits and greedy samples of each row; `samplers` name -> (scale, interval)."""
    everyone = list(zip(rows, tokens, valid, strict=True))
    logits = np.stack([nar_numpy.teacher_forced(config, w, *each) for each in everyone])
    null = np.stack([nar_numpy.teacher_forced(config, w, *each, null=True) for each in everyone])
    found = {"tokens": given(tokens), "logits": close(logits), "logits_uncond": close(null)}
    for name, (scale, interval) in samplers.items():
        drawn = [
            nar_numpy.greedy(config, w, row, scale, interval, mask) for row, _, mask in everyone
        ]
        assert min(gap for _, gap in drawn) > 1e-3, "choose a seed without near ties"
        found[name] = exact([chosen for chosen, _ in drawn])
    return found


def image(folder, seed=0, guidance=2.5, interval=-1, plain=False, **changes):
    """A class- or text-conditional case of two images; `plain` also samples without guidance."""
    config = image_config(**changes)
    w = nar_numpy.weights(config, seed)
    rng = np.random.default_rng(seed + 1)
    tokens = rng.integers(0, config["vocab_size"], (2, config["block_size"])).astype(np.int32)
    valid = [None, None]
    if config["model_type"] == "t2i":
        length = config["cls_token_num"]
        valid = (np.arange(length) >= np.array([[length - 2], [length // 3]])).astype(np.float32)
        rows = rng.normal(size=(2, length, config["caption_dim"])).astype(np.float32)
        rows *= valid[..., None]
        arrays = {"caption": given(rows), "emb_mask": given(valid)}
        inputs = {"cond": "caption", "emb_masks": "emb_mask"}
    else:
        rows = rng.integers(0, config["num_classes"], 2).astype(np.int32)
        arrays, inputs = {"labels": given(rows)}, {"cond": "labels"}
    samplers = {"sample_guided": (guidance, interval)}
    samplers |= {"sample_plain": (1.0, -1)} if plain else {}
    decode = {
        name: {
            "function": "autoregressive/models/generate.py generate",
            "inputs": inputs,
            "cfg_scale": scale,
            "cfg_interval": last,
            "sample_logits": False,
            "max_new_tokens": config["block_size"],
        }
        for name, (scale, last) in samplers.items()
    }
    arrays |= outputs(config, w, rows, tokens, valid, samplers)
    return write(folder, system="nar", config=config, weights=w, arrays=arrays, decode=decode)


def video(folder, seed=0, guidance=2.5, interval=-1, **changes):
    """A case of three videos, the last without a class."""
    config = video_config(**changes)
    w = nar_numpy.weights(config, seed)
    rng = np.random.default_rng(seed + 1)
    tokens = rng.integers(0, config["vocab_size"], (3, config["max_seq_len"])).astype(np.int32)
    rows = np.array([*rng.integers(0, config["num_classes"], 2), -1], np.int32)
    samplers = {"sample_guided": (guidance, interval)}
    arrays = {"labels": given(rows)} | outputs(config, w, rows, tokens, [None] * 3, samplers)
    arrays["logits_null"] = arrays["logits_uncond"]
    decode = {
        "sample_guided": {
            "function": "LARP_AR.sample -> ar/generate.py generate",
            "inputs": {"c": "labels"},
            "cfg_scale": guidance,
            "cfg_interval": interval,
            "temperature": 1.0,
            "top_k": 1,
            "top_p": 1.0,
        }
    }
    # A checkpoint of the training script, which nests the weights so.
    nested = {f"model.sd.{name}": array for name, array in w.items()}
    return write(
        folder, system="nar-video", config=config, weights=nested, arrays=arrays, decode=decode
    )
