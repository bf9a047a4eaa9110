"""Writes cases of MaskGIT's tokenizer and of the KL autoencoder, with outputs from plain NumPy."""

import numpy as np

from tests import kl_numpy, maskgit_vq_numpy
from tests.cases import close, exact, given, write


def first(x_BHWC):
    """Channels first, as torch has them."""
    return np.ascontiguousarray(np.moveaxis(x_BHWC, -1, 1))


def kl_config(**changes):
    """Settings under the reference's names; attention at two levels of one stack."""
    config = {
        "embed_dim": 3,
        "z_channels": 5,
        "ch": 8,
        "ch_mult": [1, 3, 2],
        "num_res_blocks": 1,
        "attn_resolutions": [16, 32],
        "decoder_attn_resolutions": [],
        "resolution": 64,
        "scale": 0.2325,
        "groupnorm_groups": 4,
        "groupnorm_eps": 1e-6,
        "pixel_range": [-1, 1],
        "downsample": 4,
    }
    return config | changes


def kl(folder, seed=0, size=(8, 20), nest="", **changes):
    """A case of the KL autoencoder with two images that need not be square."""
    config = kl_config(**changes)
    weights = kl_numpy.weights(config, seed)
    reference = kl_numpy.Reference(config, weights)
    rng = np.random.default_rng(seed + 1)
    pixels = rng.uniform(-1, 1, (2, *size, 3)).astype(np.float32)
    moments = reference.moments(pixels)
    mean = moments[..., : config["embed_dim"]] * config["scale"]
    given_moments = rng.normal(size=moments.shape).astype(np.float32)
    given_moments[0, 0, 0] = np.where(rng.random(moments.shape[-1]) < 0.5, 25, -40)
    noise = rng.normal(size=mean.shape).astype(np.float32)
    drawn = rng.normal(size=mean.shape).astype(np.float32)
    arrays = {
        "pixels": given(first(pixels)),
        "given_moments": given(first(given_moments)),
        "noise": given(first(noise)),
        "random_latents": given(first(drawn)),
        "moments": close(first(moments)),
        "latents": close(first(mean)),
        "tokens": close(mean.reshape(2, -1, config["embed_dim"])),
        "sample": close(first(reference.sample(given_moments, noise))),
        "reconstruction": close(first(reference.decode(mean))),
        "random_decoded": close(first(reference.decode(drawn))),
    }
    decode = {
        "sample": {
            "function": "DiagonalGaussianDistribution.sample",
            "inputs": {"moments": "given_moments"},
            "injected": {"noise": "noise"},
        },
        "reconstruction": {"function": "AutoencoderKL.decode", "inputs": {"z": "latents"}},
        "random_decoded": {"function": "AutoencoderKL.decode", "inputs": {"z": "random_latents"}},
    }
    weights = {nest + name: array for name, array in weights.items()}
    weights["loss.logvar"] = np.zeros((), np.float32)
    return write(
        folder, system="kl-vae", config=config, weights=weights, arrays=arrays, decode=decode
    )


def maskgit_config(**changes):
    """Settings under the port's names; widths that rise and fall."""
    config = {
        "channel_mult": [1, 3, 2],
        "num_resolutions": 3,
        "hidden_channels": 8,
        "num_channels": 3,
        "num_res_blocks": 2,
        "resolution": 32,
        "z_channels": 6,
        "num_embeddings": 50,
        "embedding_dim": 6,
        "groupnorm_groups": 4,
        "groupnorm_eps": 1e-6,
        "pixel_range_native": [0, 1],
        "downsample": 4,
    }
    return config | changes


def maskgit(folder, seed=0, size=(8, 20), **changes):
    """A case of the PyTorch port."""
    config = maskgit_config(**changes)
    weights = maskgit_vq_numpy.port_weights(config, seed)
    reference = maskgit_vq_numpy.Port(config, weights)
    rng = np.random.default_rng(seed + 1)
    pixels = rng.uniform(0, 1, (2, *size, 3)).astype(np.float32)
    features = reference.latents(pixels)
    ids, margin = maskgit_vq_numpy.nearest(features, reference.codes)
    assert margin > 1e-4, "choose a seed without near ties"
    drawn = rng.integers(0, config["num_embeddings"], ids.shape)
    decoded = first(reference.decode(drawn))
    assert decoded.max() > 1, "choose a seed whose pixels are clamped"
    arrays = {
        "pixels_native": given(first(pixels)),
        "random_indices": given(drawn.astype(np.int32)),
        "pre_quant": close(first(features)),
        "indices": exact(ids.reshape(2, -1)),
        "quantized": close(first(reference.codes[ids])),
        "decoded": close(decoded),
        "clamped": close(decoded.clip(0, 1)),
        "rescaled": close(2 * decoded.clip(0, 1) - 1),
    }
    decode = {
        "decoded": {
            "function": "get_codebook_entry -> decoder",
            "inputs": {"indices": "random_indices"},
            "clamp": None,
        },
        "clamped": {"same_run_as": "decoded", "clamp": [0, 1]},
        "rescaled": {"same_run_as": "clamped", "returns": "2*reconstruction_native-1"},
    }
    return write(
        folder, system="maskgit-vqgan", config=config, weights=weights, arrays=arrays, decode=decode
    )


def maskgit_jax_config(**changes):
    """Settings under the original's names."""
    config = {
        "filters": 8,
        "num_res_blocks": 1,
        "channel_multipliers": [1, 2, 2, 1],
        "embedding_dim": 5,
        "codebook_size": 40,
        "quantizer": "vq",
        "conv_downsample": False,
        "norm_type": "GN",
        "activation_fn": "swish",
        "num_groups": 4,
    }
    return config | changes


def maskgit_jax(folder, seed=0, size=(8, 16), **changes):
    """A case of the JAX original, its tree flat."""
    config = maskgit_jax_config(**changes)
    reference = maskgit_vq_numpy.Original(config, seed)
    rng = np.random.default_rng(seed + 1)
    pixels = rng.uniform(0, 1, (2, *size, 3)).astype(np.float32)
    features = reference.latents(pixels)
    ids, margin = maskgit_vq_numpy.nearest(features, reference.codes)
    assert margin > 1e-4, "choose a seed without near ties"
    drawn = rng.integers(0, config["codebook_size"], ids.shape)
    arrays = {
        "image": given(pixels),
        "random_indices": given(drawn.astype(np.int32)),
        "encoded_feature": close(features),
        "encoding_indices": exact(ids),
        "random_decoded": close(reference.decode(drawn)),
    }
    decode = {
        "random_decoded": {
            "function": "decode_from_indices",
            "inputs": {"inputs": "random_indices"},
        }
    }
    weights = {f"params/{path}": array for path, array in reference.tensors.items()}
    return write(
        folder,
        system="maskgit-vqgan-jax",
        config=config,
        weights=weights,
        arrays=arrays,
        decode=decode,
    )
