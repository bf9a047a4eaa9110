"""Writes cases of TiTok's and MAGVIT's tokenizers, with outputs from plain NumPy forwards."""

import numpy as np

from tests import magvit_numpy, titok_numpy
from tests.cases import close, exact, given, write
from tests.cases_vae import first

PIXEL_DECODER = {
    "codebook_size": 30,
    "embedding_dim": 6,
    "z_channels": 6,
    "hidden_channels": 8,
    "channel_mult": [1, 3, 2],
    "num_res_blocks": 2,
    "num_resolutions": 3,
    "num_channels": 3,
    "groupnorm_groups": 4,
    "groupnorm_eps": 1e-6,
}


def titok_config(pixel_decoder=None, **changes):
    """Settings under the reference's names; `changes` are those of the tokenizer itself."""
    legacy = pixel_decoder is not None
    vq_model = {
        "codebook_size": 50,
        "token_size": 5,
        "use_l2_norm": True,
        "vit_enc_model_size": "small",
        "vit_dec_model_size": "large",
        "vit_enc_patch_size": 8,
        "vit_dec_patch_size": 4,
        "num_latent_tokens": 7,
        "finetune_decoder": legacy,
        "is_legacy": legacy,
        "quantize_mode": "vq",
    }
    return {
        "model": {"vq_model": vq_model | changes},
        "dataset": {"preprocessing": {"crop_size": 16}},
        "size_table": {
            "small": {"width": 24, "layers": 2, "heads": 3},
            "large": {"width": 20, "layers": 3, "heads": 2},
        },
        "pixel_decoder": pixel_decoder,
        "mlp_ratio": 4.0,
    }


def titok(folder, seed=0, **changes):
    """A case of two images."""
    config = titok_config(**changes)
    weights = titok_numpy.weights(config, seed)
    reference = titok_numpy.Reference(config, weights)
    rng = np.random.default_rng(seed + 1)
    side = config["dataset"]["preprocessing"]["crop_size"]
    pixels = rng.uniform(0, 1, (2, side, side, 3)).astype(np.float32)
    latents = reference.latents(pixels)
    ids, margin = reference.nearest(latents)
    assert margin > 1e-4, "choose a seed without near ties"
    drawn = rng.integers(0, len(reference.codes), ids.shape)
    decoded = first(reference.decode(drawn))
    assert decoded.min() < 0, "choose a seed whose pixels are clamped"
    arrays = {
        "pixels_native": given(first(pixels)),
        "random_indices": given(drawn.astype(np.int32)),
        "pre_quant": close(first(latents[:, None])),
        "indices": exact(ids),
        "quantized": close(reference.codes[ids]),
        "decoded": close(decoded),
        "clamped": close(decoded.clip(0, 1)),
        "rescaled": close(2 * decoded - 1),
    }
    decode = {
        "decoded": {"function": "decode_tokens", "inputs": {"tokens": "random_indices"}},
        "clamped": {"same_run_as": "decoded", "clamp": [0, 1]},
        "rescaled": {"same_run_as": "decoded", "returns": "2*reconstruction_native-1"},
    }
    return write(
        folder,
        system="titok-tokenizer",
        config=config,
        weights=weights,
        arrays=arrays,
        decode=decode,
    )


def magvit_config(**changes):
    """Settings under the reference's names, with unequal widths and two kinds of steps."""
    config = {
        "architecture": "3dcnn",
        "codebook_size": 40,
        "filters": 8,
        "num_enc_res_blocks": 1,
        "num_dec_res_blocks": 2,
        "channel_multipliers": [1, 3, 2],
        "temporal_downsample": [False, True],
        "embedding_dim": 5,
        "conv_downsample": False,
        "norm_type": "GN",
        "activation_fn": "swish",
        "vector_quantizer_class": "VectorQuantizer",
        "upsample": "nearest+conv",
        "custom_conv_padding": None,
        "latent_normalize": False,
    }
    return {
        "vqvae": config | changes,
        "groupnorm_groups": 4,
        "groupnorm_eps": 1e-6,
        "layout": "BTHWC",
        "pixel_range_native": [0, 1],
    }


def magvit_settings(config):
    """All settings on one level."""
    return config["vqvae"] | {name: config[name] for name in ("groupnorm_groups", "groupnorm_eps")}


def magvit(folder, seed=0, size=(4, 8, 12), nest="", **changes):
    """A case of two videos that need not be square."""
    config = magvit_config(**changes)
    reference = magvit_numpy.Video(magvit_settings(config), seed)
    rng = np.random.default_rng(seed + 1)
    pixels = rng.uniform(0, 1, (2, *size, 3)).astype(np.float32)
    latents = reference.latents(pixels)
    ids, margin = reference.nearest(latents)
    assert margin > 1e-4, "choose a seed without near ties"
    drawn = rng.integers(0, len(reference.codes), ids.shape)
    decoded = reference.decode(drawn)
    arrays = {
        "pixels_native": given(pixels),
        "random_indices": given(drawn.astype(np.int32)),
        "pre_quant": close(latents),
        "indices": exact(ids),
        "quantized": close(reference.codes[ids]),
        "decoded": close(decoded),
        "rescaled": close(2 * decoded - 1),
    }
    decode = {
        "decoded": {"function": "decode_from_indices", "inputs": {"indices": "random_indices"}},
        "rescaled": {"same_run_as": "decoded", "returns": "2*native-1"},
    }
    weights = {nest + path: array for path, array in reference.tensors.items()}
    return write(
        folder, system="magvit-3dvq", config=config, weights=weights, arrays=arrays, decode=decode
    )
