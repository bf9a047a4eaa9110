"""Writes cases of FlowAR, with outputs from the plain NumPy forward."""

import numpy as np

from tests import flowar_numpy
from tests.cases import given, write

SAMPLER = {
    "function": "FlowAR.sample_tokens",
    "inputs": {"labels": "labels"},
}


def flowar_config(**changes):
    """Settings under the reference's names; widths unlike those of any published model."""
    config = {
        "vae_stride": 16,
        "encoder_embed_dim": 24,
        "encoder_depth": 1,
        "encoder_num_heads": 2,
        "decoder_embed_dim": 24,
        "decoder_depth": 1,
        "decoder_num_heads": 2,
        "mlp_ratio": 4.0,
        "vae_embed_dim": 3,
        "class_num": 1000,
        "diffloss_d": 1,
        "diffloss_w": 64,
        "scale": [1, 2, 3],
        "cross": False,
    } | changes
    return {"img_size": 16 * config["scale"][-1]} | config


def flowar(folder, seed=0, samplers=(), **changes):
    """A case of two samples.

    Args:
      folder: where to write it.
      seed: of weights and inputs.
      samplers: (cfg, guidance window, num_steps) of each sample.
      changes: settings.
    """
    config = flowar_config(**changes)
    w = flowar_numpy.weights(config, seed)
    reference = flowar_numpy.FlowAR(config, w)
    rng = np.random.default_rng(seed + 1)
    side, channels, length = config["scale"][-1], config["vae_embed_dim"], reference.bounds[-1]
    labels = rng.integers(0, 1000, 2).astype(np.int32)
    latents = rng.normal(size=(2, channels, side, side)).astype(np.float32)
    time = rng.uniform(size=(2, len(config["scale"]))).astype(np.float32)
    noise = rng.normal(size=(2, length, channels)).astype(np.float32)
    arrays = {
        "latents": given(latents),
        "labels": given(labels),
        "train_t": given(time),
        "train_noise": given(noise),
        **trained(reference, latents, labels, time, noise),
    }
    decode = {}
    for number, (cfg, window, num_steps) in enumerate(samplers):
        name = f"sample_{number}"
        noise = rng.normal(size=(2, length, channels)).astype(np.float32)
        made = reference.sample(labels, cfg, window, num_steps, noise)
        image = made[-1].reshape(2, side, side, channels)
        arrays[f"{name}_noise"] = given(noise)
        arrays[name] = within(np.moveaxis(image, -1, 1))
        arrays[f"{name}_scales"] = within(np.concatenate(made, axis=1))
        decode[name] = SAMPLER | {
            "cfg": cfg,
            "guidance": window,
            "num_steps": num_steps,
            "injected": {"initial noise of the conditional half": f"{name}_noise"},
        }
        decode[f"{name}_scales"] = {
            "same_run_as": name,
            "returns": "the latents of every scale",
        }
    return write(folder, system="flowar", config=config, weights=w, arrays=arrays, decode=decode)


def trained(reference, latents, labels, time, noise):
    """The outputs of the training pass."""
    targets = reference.targets(np.moveaxis(latents, 1, -1).astype(np.float64))
    starts = [reference.start(targets[k - 1], k) for k in range(1, len(targets))]
    told = reference.told(labels, np.concatenate(starts, axis=1))
    velocities, loss = [], 0.0
    for k, (side, target) in enumerate(zip(reference.sides, targets)):
        own = slice(reference.bounds[k], reference.bounds[k + 1])
        t = time[:, k, None, None].astype(np.float64)
        x = (1 - t) * target + t * noise[:, own]
        velocities.append(reference.velocity(x, time[:, k], told[:, own], side))
        error = np.mean((velocities[-1] - (noise[:, own] - target)) ** 2)
        loss += error * side**2 / reference.sides[-1] ** 2
    velocity, target = (np.concatenate(parts, axis=1) for parts in (velocities, targets))
    return {
        "train_z": within(told),
        "train_velocity": within(velocity),
        "train_mse": within(np.mean((velocity - (noise - target)) ** 2, axis=-1)),
        "train_loss": within(loss),
    }


def within(array):
    """An output; sums over a dozen steps of the flow carry an error of some 1e-5."""
    return np.asarray(array, np.float32), "output", {"atol": 2e-4, "rtol": 2e-4}
