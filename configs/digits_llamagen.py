"""LlamaGen on the UCI digits: 8x8 pixels of 17 gray levels, one token each, class-conditional.

    python -m gen.train --config configs/digits_llamagen.py --workdir runs/digits_llamagen

Hardware: two CPU cores. Chosen on the last 150 training images.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "family": "next_token",
            "model": {
                "grid": (8, 8),
                "vocab_size": 17,
                "condition": {"kind": "class", "num_classes": 10, "drop_rate": 0.1},
                "backbone": {
                    "depth": 4,
                    "width": 64,
                    "heads": 8,
                    "ffn_multiple": 32,
                    "rope_base": 10.0,  # an 8x8 grid has no use for long wavelengths
                    "token_dropout": 0.08,
                    "residual_dropout": 0.08,
                    "ffn_dropout": 0.08,
                },
            },
            "data": {
                "name": "digits",
                "train": "train[:1350]",
                "valid": "train[1350:]",
                "test": "test",
                "shift": {"cells": 1, "rate": 0.3, "steps": 1400},
            },
            "optim": {
                "lr": 5e-3,
                "schedule": "cosine",
                "warmup_steps": 100,
                "weight_decay": 0.05,
                "ema_decay": 0.995,
            },
            "train": {
                "steps": 3000,
                "batch_size": 16,
                "dtype": "float32",
                "log_every": 100,
                "eval_every": 250,
                "save_every": 500,
            },
            "sample": {"guidance": 2.0, "batch_size": 100},
            "eval": {"batch_size": 99, "scores": ("digits",), "num_samples": 1500},
        }
    )
