"""Data that nobody looks at, of the shapes that a model takes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen.checks import Captions
from gen.families import Family
from gen.models.conditioning import ConditionConfig


def filled(params: dict[str, Any], *, std: float = 0.02) -> dict[str, Any]:
    """Parameters with random numbers where matrices start at zero, as the last of a model may.

    A model whose logits are all 0 would tell nothing of what rounding does to them.
    """
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [
        jnp.where(jnp.any(leaf), leaf, std * jax.random.normal(key, leaf.shape, leaf.dtype))
        if leaf.ndim >= 2 and jnp.issubdtype(leaf.dtype, jnp.floating)
        else leaf
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)


def captions(condition: ConditionConfig, rows: int) -> Captions | None:
    """Random features, all valid, for a text model; none for others."""
    if condition.kind != "text":
        return None
    length = (rows, condition.caption_length)
    features = np.random.default_rng(0).normal(size=(*length, condition.caption_dim))
    return features.astype(np.float32), np.ones(length, bool)


def training_batch(family: Family, rows: int) -> dict[str, np.ndarray]:
    """Random data and conditions of a training batch."""
    rng, layout, condition = np.random.default_rng(0), family.data_layout, family.condition
    shape = (rows, *layout.sample_shape)
    if layout.is_continuous:
        batch = {"tokens": rng.normal(size=shape).astype(np.float32)}
    else:
        batch = {"tokens": rng.integers(0, min(layout.vocab_sizes), shape).astype(np.int32)}
    if features := captions(condition, rows):
        return batch | {"caption": features[0], "caption_valid": features[1]}
    return batch | {"label": rng.integers(0, condition.num_classes, rows).astype(np.int32)}
