"""A small LlamaGen for tokens of one's own: 8x8 codes of the tokenizer of configs/image_vq.py.

    python -m gen.train --config configs/small_llamagen.py --config.data.name=shapes \
        --config.data.dir=my_data --config.model.condition.num_classes=5 --workdir runs/shapes

Hardware: two CPU cores, two minutes. `model.grid`, `model.vocab_size` and `num_classes` are those
of the dataset (`python -m gen.data check DIR` tells them). The steps suit a few hundred images,
after which held-out ones are predicted worse again; more carry more, and a larger backbone.
935,808 parameters.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "family": "next_token",
            "model": {
                "grid": (8, 8),
                "vocab_size": 512,
                "condition": {"kind": "class", "num_classes": 5, "drop_rate": 0.1},
                "backbone": {
                    "depth": 4,
                    "width": 128,
                    "heads": 4,
                    "ffn_multiple": 32,
                    "rope_base": 10.0,
                    "init_std": 0.08,
                    "unroll": 4,
                    "token_dropout": 0.2,
                    "residual_dropout": 0.2,
                    "ffn_dropout": 0.2,
                },
            },
            "data": {"name": "own", "valid": "test", "test": "test"},
            "optim": {
                "lr": 2e-3,
                "schedule": "cosine",
                "warmup_steps": 100,
                "weight_decay": 0.3,
                "ema_decay": 0.99,
            },
            "train": {
                "steps": 400,
                "batch_size": 32,
                "dtype": "float32",
                "log_every": 50,
                "eval_every": 100,
                "save_every": 200,
            },
            "sample": {"guidance": 2.0, "batch_size": 100},
            "eval": {"batch_size": 20},
        }
    )
