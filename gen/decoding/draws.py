"""All randomness of a sampler, through one argument.

Axes: B batch, N steps, R positions sampled in one step.

A loop asks for noise by purpose and step. By default it is folded from the seed, the index of
the sample, the step and the purpose: sample i draws the same numbers whatever the batch size or
the number of devices. Tests and comparisons hand in recorded noise instead. Any pytree with
methods of these signatures serves.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from gen.errors import UserError

MAX_SEED = 2**32 - 1


@struct.dataclass
class KeyedDraws:
    """Noise from a key: `key` is a typed PRNG key, `sample_B` the global indices of the rows."""

    key: jax.Array
    sample_B: jax.Array

    def gumbel(self, purpose: str, step: jax.Array | int, shape: tuple[int, ...]) -> jax.Array:
        """Standard Gumbel noise, float32 `(B,) + shape`."""
        return jax.vmap(lambda key: jax.random.gumbel(key, shape))(self.keys(purpose, step))

    def normal(self, purpose: str, step: jax.Array | int, shape: tuple[int, ...]) -> jax.Array:
        """Standard Gaussian noise, float32 `(B,) + shape`."""
        return jax.vmap(lambda key: jax.random.normal(key, shape))(self.keys(purpose, step))

    def uniform(self, purpose: str, step: jax.Array | int, shape: tuple[int, ...]) -> jax.Array:
        """Noise uniform on [0, 1), float32 `(B,) + shape`."""
        return jax.vmap(lambda key: jax.random.uniform(key, shape))(self.keys(purpose, step))

    def keys(self, purpose: str, step: jax.Array | int) -> jax.Array:
        """A key for each row, `(B,)`."""
        key = jax.random.fold_in(self.key, zlib.crc32(purpose.encode()))
        key = jax.random.fold_in(key, step)
        return jax.vmap(jax.random.fold_in, (None, 0))(key, self.sample_B)


@struct.dataclass
class RecordedDraws:
    """Noise given by the caller: purpose -> `(steps, B, ...)`, cut to the shape asked for."""

    noise: dict[str, jax.Array]

    def gumbel(self, purpose: str, step: jax.Array | int, shape: tuple[int, ...]) -> jax.Array:
        """The recorded rows of this step; raises `UserError` for a purpose not recorded."""
        if purpose not in self.noise:
            raise UserError(f'no noise was recorded for "{purpose}", only {sorted(self.noise)}')
        rows = jnp.asarray(self.noise[purpose])[step]
        return rows[(slice(None), *(slice(n) for n in shape))]

    # Whoever recorded the noise knows what it is; asked for in any way, it is what was recorded.
    normal = uniform = gumbel


def check_seed(seed: int | jax.Array) -> None:
    """Raises `UserError` for a number of which JAX would take the last 32 bits alone."""
    if not isinstance(seed, jax.Array) and not 0 <= seed <= MAX_SEED:
        raise UserError(f"a seed is a number from 0 to {MAX_SEED}, not {seed}")


def keyed(seed: int | jax.Array, indices_B: jax.Array) -> KeyedDraws:
    """Draws for the samples of the given global indices, from an int seed or a typed key.

    Raises:
      UserError: as `check_seed`.
    """
    check_seed(seed)
    is_key = isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key)
    return KeyedDraws(seed if is_key else jax.random.key(seed), jnp.asarray(indices_B, jnp.uint32))


def of_rows(seed: int | jax.Array, first: int, draws: Any) -> Callable[[np.ndarray], Any]:
    """From the numbers of rows, counted from `first` on, to their noise: `draws`, if given.

    Raises:
      UserError: as `check_seed`, at once.
    """
    check_seed(seed)
    return lambda rows_B: keyed(seed, first + rows_B) if draws is None else draws
