"""A tokenizer of any folder of images.

python -m gen.train --config configs/image_vq.py --config.data.dir=FOLDER --workdir runs/image_vq
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "tokenizer": "vq",
            "model": {
                "codebook_size": 512,
                "codebook_dim": 16,
                "width": 16,
                "encoder_multipliers": (1, 2, 4),
                "decoder_multipliers": (1, 2, 4),
                "blocks_per_level": 1,
                "z_channels": 32,
                "normalise_codes": False,
                "norm_groups": 1,
            },
            "loss": {"reconstruction": "l2", "codebook": "ema", "commitment": 0.25},
            "data": {"name": "folder", "size": (32, 32)},
            "optim": {
                "lr": 2e-3,
                "schedule": "cosine",
                "warmup_steps": 50,
                "beta2": 0.99,
                "weight_decay": 0.0,
                "ema_decay": 0.99,
            },
            "train": {
                "steps": 2000,
                "batch_size": 16,
                "dtype": "float32",
                "log_every": 50,
                "eval_every": 250,
                "save_every": 1000,
            },
        }
    )
