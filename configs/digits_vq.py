"""A tokenizer of the UCI digits: 8x8 pixels become a 4x4 grid of 128 codes.

    python -m gen.train --config configs/digits_vq.py --workdir runs/digits_vq

Hardware: two CPU cores. Cost: 175 CPU seconds, about two minutes. Expected on the 297 test images:
26.4 dB at 1.75 bits a pixel, all codes in use, perplexity 111. 740,139 parameters.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "tokenizer": "vq",
            "model": {
                "codebook_size": 128,
                "codebook_dim": 8,
                "width": 32,
                "encoder_multipliers": (1, 2),
                "decoder_multipliers": (1, 2),
                "blocks_per_level": 1,
                "z_channels": 32,
                "normalise_codes": False,
                "norm_groups": 1,
                "norm_eps": 1.0,
            },
            "loss": {"reconstruction": "l2", "codebook": "ema", "commitment": 0.25},
            "data": {"name": "digits", "size": (8, 8), "flip": False, "valid_crops": 297},
            "optim": {
                "lr": 2e-3,
                "schedule": "cosine",
                "warmup_steps": 50,
                "beta2": 0.99,
                "weight_decay": 0.0,
                "ema_decay": 0.99,
            },
            "train": {
                "steps": 1000,
                "batch_size": 64,
                "dtype": "float32",
                "log_every": 50,
                "eval_every": 250,
                "save_every": 500,
            },
            "eval": {"batch_size": 99},
        }
    )
