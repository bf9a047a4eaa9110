"""The contract of what a run trains, as far as the training step minds.

A generator's family is a learner, and so is a tokenizer with the terms of its loss. It owns no
parameters: `build` makes a module that holds them, all else are pure functions of that module.
"""

from __future__ import annotations

import abc
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class Learner(abc.ABC):
    """A module and its loss."""

    @abc.abstractmethod
    def build(self, rngs: nnx.Rngs, *, dtype: jnp.dtype = jnp.float32) -> nnx.Module:
        """The module, float32 parameters, computing in `dtype`."""

    @abc.abstractmethod
    def loss(
        self, model: nnx.Module, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean loss of a training batch with all its randomness, and what was seen, by name.

        Numbers are metrics, averaged over the passes of a batch and reported; arrays are notes for
        `updated`.
        """

    def compiler_options(self) -> dict[str, str] | None:
        """What XLA is told about the training step; none: its defaults."""
        return None

    def updated(self, params: dict[str, Any], notes: dict[str, jax.Array]) -> dict[str, Any]:
        """All parameters and buffers after what no gradient does; here that is nothing.

        Args:
          params: nested dict, after the optimiser's update.
          notes: by name, with a leading axis of the passes of the batch.
        """
        return params
