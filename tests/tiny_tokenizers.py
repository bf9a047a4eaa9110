"""Small runs of tokenizers, and a folder of small images, for tests."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

STACK = {"width": 4, "blocks_per_level": 1, "norm_groups": 2}
MODELS: dict[str, dict[str, Any]] = {
    "vq": {
        "codebook_size": 12,
        "codebook_dim": 4,
        "encoder_multipliers": [1, 1],
        "decoder_multipliers": [1, 1],
        "z_channels": 4,
        "normalise_codes": False,
    },
    "maskgit_vq": {"codebook_size": 12, "codebook_dim": 4, "multipliers": [1, 1]},
    "msvq": {
        "quantizer": {
            "codebook_size": 12,
            "codebook_dim": 4,
            "scales": [[1, 1], [2, 2], [4, 4]],
            "num_mixers": 2,
        },
        "multipliers": [1, 1],
    },
}


def values(kind: str = "vq", **overrides: Any) -> dict[str, Any]:
    """Plain fields of a tiny run on made-up pixels; dotted names override."""
    fields = {
        "tokenizer": kind,
        "model": STACK | copy.deepcopy(MODELS[kind]),
        "loss": {"revive_after": 3},
        "data": {"name": "random", "size": [8, 8], "valid_crops": 6},
        "optim": {"lr": 1e-2, "ema_decay": 0.9},
        "train": {
            "steps": 4,
            "batch_size": 8,
            "dtype": "float32",
            "log_every": 1,
            "eval_every": 2,
            "save_every": 2,
        },
        "eval": {"batch_size": 4},
    }
    for dotted, value in overrides.items():
        *groups, name = dotted.split(".")
        target = fields
        for group in groups:
            target = target.setdefault(group, {})
        target[name] = value
    return fields


def write_config(path: Path, kind: str = "vq", **overrides: Any) -> Path:
    """A config file of these fields."""
    fields = json.dumps(values(kind, **overrides))
    path.write_text(
        "import json\nfrom ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    return ConfigDict(json.loads({fields!r}))\n"
    )
    return path


def write_images(folder: Path, count: int, size: tuple[int, int] = (12, 10)) -> Path:
    """A folder of so many images of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return folder
