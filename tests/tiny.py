"""Small configs and models with weights that matter, for tests."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from gen import config as configs
from gen.api import Generator
from gen.families import FAMILIES
from gen.families.base import abstract_model
from gen.layouts import Layout

ROOT = Path(__file__).parent.parent


def values(**overrides: Any) -> dict[str, Any]:
    """Plain fields of a tiny next-token run on random data; dotted names override."""
    fields = {
        "family": "next_token",
        "model": {
            "grid": [3, 4],
            "vocab_size": 11,
            "condition": {"kind": "class", "num_classes": 5},
            "backbone": {"depth": 2, "width": 32, "heads": 4, "ffn_multiple": 16},
        },
        "data": {"name": "random", "valid": "test"},
        "optim": {"lr": 1e-2, "ema_decay": 0.9},
        "train": {
            "steps": 4,
            "batch_size": 8,
            "dtype": "float32",
            "log_every": 1,
            "eval_every": 2,
            "save_every": 2,
        },
    }
    for dotted, value in copy.deepcopy(overrides).items():
        *groups, name = dotted.split(".")
        target = fields
        for group in groups:
            target = target.setdefault(group, {})
        target[name] = value
    return fields


def config(**overrides: Any) -> configs.Config:
    return configs.from_json(values(**overrides))


def write_config(path: Path, **overrides: Any) -> Path:
    """A config file of these fields."""
    path.write_text(
        "import json\nfrom ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    return ConfigDict(json.loads({json.dumps(values(**overrides))!r}))\n"
    )
    return path


def text(**overrides: Any) -> dict[str, Any]:
    """Overrides that make the tiny model text-conditional."""
    return {
        "model.condition": {"kind": "text", "caption_length": 6, "caption_dim": 7},
        **overrides,
    }


def neighbours(**overrides: Any) -> dict[str, Any]:
    """Overrides that make the tiny model a next-neighbour model of 3x4 tokens."""
    return {"family": "next_neighbour", **overrides}


def scales(**overrides: Any) -> dict[str, Any]:
    """Overrides that make the tiny model a next-scale model of 1 + 4 + 12 tokens."""
    model = {
        "quantizer": {
            "codebook_size": 11,
            "codebook_dim": 3,
            "scales": [[1, 1], [2, 2], [3, 4]],
            "num_mixers": 2,
        },
        "condition": {"kind": "class", "num_classes": 5},
        "backbone": {"depth": 2, "width": 32, "heads": 4, "gate_init": 1.0, "init_std": 0.1},
    }
    return {"family": "next_scale", "model": model, **overrides}


def masked(**overrides: Any) -> dict[str, Any]:
    """Overrides that make the tiny model a masked one of 3x4 tokens."""
    model = {
        "grid": [3, 4],
        "vocab_size": 11,
        "condition": {"kind": "class", "num_classes": 5},
        "backbone": {"depth": 1, "width": 32, "heads": 4, "ffn_width": 48},
        "num_draws": 4,
    }
    return {"family": "masked", "model": model, **overrides}


def flow(**overrides: Any) -> dict[str, Any]:
    """Overrides that make the tiny model one of a flow at two scales, 1 + 4 latents."""
    stack = {"depth": 1, "width": 32, "heads": 4}
    model = {
        "scales": [[1, 1], [2, 2]],
        "latents": {"channels": 3},
        "condition": {"kind": "class", "num_classes": 5},
        "encoder": stack,
        "decoder": stack,
        "head": dict(stack),
    }
    options = {"num_steps": 4}
    return {"family": "flow_scale", "model": model, "sample.options": options, **overrides}


def random_data(layout: Layout, rows: int, seed: int | np.random.Generator = 0) -> np.ndarray:
    """Made-up data of a layout: ids, or latents."""
    rng, shape = np.random.default_rng(seed), (rows, *layout.sample_shape)
    if layout.is_continuous:
        return rng.normal(size=shape).astype(np.float32)
    return rng.integers(0, layout.vocab_sizes[0], shape).astype(np.int32)


def random_params(family: Any, seed: int = 0, scale: float = 0.15) -> dict[str, Any]:
    """Parameters with every entry random: a head that starts at zero would hide everything."""
    shapes = nnx.to_pure_dict(nnx.state(abstract_model(family)))
    leaves, tree = jax.tree.flatten(shapes)
    # NumPy's numbers: JAX would compile a program for each shape.
    rng = np.random.default_rng(seed)
    drawn = [np.float32(scale) * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    params = jax.tree.unflatten(tree, drawn)
    # Norm scales lie around one, as in a trained model.
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: 1 + leaf if "scale" in str(path[-1]) else leaf, params
    )


def generator(config: configs.Config, seed: int = 0, **arguments: Any) -> Generator:
    family = FAMILIES[config.family](config.model)
    return Generator(config, random_params(family, seed), **arguments)


def captions(condition: Any, batch: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Left-padded caption features of different lengths, and their validity."""
    rng = np.random.default_rng(seed)
    length, dim = condition.caption_length, condition.caption_dim
    counts = 1 + np.arange(batch) % length
    valid = np.arange(length) >= length - counts[:, None]
    features = rng.normal(size=(batch, length, dim)).astype(np.float32) * valid[..., None]
    return features, valid


def fake_devices(count: int) -> dict[str, str]:
    """Environment of a process with so many devices, compiling as this one does."""
    flag = f"--xla_force_host_platform_device_count={count}"
    return {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()}


def run_module(module: str, *arguments: Any, devices: int = 1, timeout: float = 300, **env: str):
    """Runs `python -m module ...` in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | fake_devices(devices) | env
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
        cwd=ROOT,
    )
