"""NAR on moving UCI digits: three frames of 7x7 cells, each digit on a straight path.

    python -m gen.train --config configs/digits_nar_video.py --workdir runs/digits_nar_video

Hardware: two CPU cores. Unfinished: the settings are a first guess and no figures are promised yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "family": "next_neighbour",
            "model": {
                "grid": (3, 7, 7),
                "vocab_size": 17,
                # Rarely dropped: the class is a faint signal among 147 tokens.
                "condition": {"kind": "class", "num_classes": 10, "drop_rate": 0.02},
                "backbone": {
                    "depth": 4,
                    "width": 64,
                    "heads": 4,
                    "ffn_multiple": 32,
                    "init_std": 0.1,  # about 1 / sqrt(width): twice as fast as 0.02 here
                    "unroll": 4,
                    "token_dropout": 0.0,
                    "residual_dropout": 0.0,
                    "ffn_dropout": 0.0,
                },
                "positions": "learned",
            },
            "data": {
                "name": "digits_video",
                "train": "train[:-600]",
                "valid": "train[-600:]",
                "test": "test",
            },
            "optim": {
                "lr": 2.5e-3,
                "schedule": "cosine",
                "warmup_steps": 100,
                "weight_decay": 0.2,
                "ema_decay": 0.999,
            },
            "train": {
                "steps": 9000,
                "batch_size": 4,
                "dtype": "float32",
                "log_every": 100,
                "eval_every": 3000,
                "save_every": 3000,
            },
            "sample": {"guidance": 2.0, "batch_size": 100},
            "eval": {"batch_size": 99, "scores": ("digits_video",), "num_samples": 1000},
        }
    )
