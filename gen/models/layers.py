"""Small layers: normalisation, linear maps, and dropout by explicit keys.

Axes: B batch, S slots, D width.

Parameters are float32; layers compute in the `dtype` they are built with. Flax NNX modules serve
as containers of parameters only: nothing in them changes after construction, and randomness
arrives as an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from gen.models import int8
from gen.models.linear import Linear


class Buffer(nnx.Variable):
    """A stored array that is part of a checkpoint but is never trained."""


class Series(nnx.Module):
    """Modules in order, under the names "0", "1", ...

    The keys of `nnx.List` are ints in the parameter tree. Paths in a file are text, and a list
    that is merged with text keys silently takes "10" for the third entry.
    """

    def __init__(self, modules: Iterable[nnx.Module]):
        self.count = 0
        for module in modules:
            setattr(self, str(self.count), module)
            self.count += 1

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> nnx.Module:
        return getattr(self, str(range(self.count)[index]))

    def __iter__(self) -> Iterator[nnx.Module]:
        return (self[i] for i in range(self.count))


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x^2) + eps) * scale (Zhang & Sennrich 2019, eq. 4).

    Normalised in float32, rounded to the dtype of `x`, then scaled: the order of the published
    implementations, which matters in bfloat16.
    """

    def __init__(self, width: int, *, eps: float):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.eps = eps

    def __call__(self, x_BSD: jax.Array) -> jax.Array:
        x32_BSD = x_BSD.astype(jnp.float32)
        mean_BS1 = jnp.mean(jnp.square(x32_BSD), axis=-1, keepdims=True)
        unit_BSD = (x32_BSD * jax.lax.rsqrt(mean_BS1 + self.eps)).astype(x_BSD.dtype)
        return unit_BSD * self.scale[...].astype(x_BSD.dtype)


def layer_norm(x_BSD: jax.Array, *, eps: float) -> jax.Array:
    """(x - mean) / sqrt(var + eps) without parameters, in float32, back to the dtype of `x`."""
    x32_BSD = x_BSD.astype(jnp.float32)
    centred_BSD = x32_BSD - jnp.mean(x32_BSD, axis=-1, keepdims=True)
    variance_BS1 = jnp.mean(jnp.square(centred_BSD), axis=-1, keepdims=True)
    return (centred_BSD * jax.lax.rsqrt(variance_BS1 + eps)).astype(x_BSD.dtype)


def linear(
    fan_in: int,
    fan_out: int,
    *,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
    std: float = 0.02,
    bias: bool = False,
) -> Linear:
    """A linear map, initialised N(0, std^2), as all transformers here use; its bias at 0."""
    init = nnx.initializers.normal(std) if std else nnx.initializers.zeros
    return Linear(fan_in, fan_out, use_bias=bias, kernel_init=init, dtype=dtype, rngs=rngs)


def embedding(
    num: int, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs, std: float = 0.02
) -> nnx.Embed:
    """A table of `num` rows, initialised N(0, std^2)."""
    init = nnx.initializers.normal(std)
    return nnx.Embed(num, width, embedding_init=init, dtype=dtype, rngs=rngs)


def converted(model: nnx.Module, params: dict[str, Any]) -> dict[str, Any]:
    """Parameters with the weights of linear maps and tables in the dtype that these compute in.

    They would be converted at each use, so results are the same to the bit; done once, a decoding
    loop reads half the bytes in bfloat16. Norms and biases, which are small, stay as they are.
    """
    dtypes = {}
    for path, module in nnx.iter_graph(model):
        if isinstance(module, (nnx.Linear, nnx.Embed)) and module.dtype is not None:
            name = "kernel" if isinstance(module, nnx.Linear) else "embedding"
            dtypes[(*map(str, path), name)] = module.dtype
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict(
        {path: jnp.asarray(leaf, dtypes.get(path, leaf.dtype)) for path, leaf in flat.items()}
    )


def rounded(model: nnx.Module, params: dict[str, Any]) -> dict[str, Any]:
    """Parameters with the weights of linear maps rounded to 8 bits (`int8.rounded`)."""
    flat = traverse_util.flatten_dict(params)
    for path, module in nnx.iter_graph(model):
        if isinstance(module, Linear):
            name = (*map(str, path), "kernel")
            flat[name] = int8.rounded(jnp.asarray(flat[name]))
    return traverse_util.unflatten_dict(flat)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes entries with probability `rate` and rescales the rest; identity without a key."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


def drop_path(x_BSD: jax.Array, rate: jax.Array | float | None, key: jax.Array | None) -> jax.Array:
    """Drops a whole residual branch per sample (stochastic depth, Huang et al. 2016).

    `rate` may be traced: it differs from layer to layer inside one scan. Identity without one, or
    without a key.
    """
    if key is None or rate is None:
        return x_BSD
    keep_B11 = jax.random.bernoulli(key, 1.0 - rate, (x_BSD.shape[0], 1, 1))
    return jnp.where(keep_B11, x_BSD / (1.0 - rate), 0).astype(x_BSD.dtype)
