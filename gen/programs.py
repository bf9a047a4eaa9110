"""What `Generator` compiles: functions of parameters and arrays, without state.

The functions below take the family and the graphdef, then arrays; what comes after the star is
static.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from gen import sharding
from gen.decoding.cached import Drawing
from gen.errors import UserError
from gen.families import Family
from gen.families.base import abstract_model
from gen.models.layers import converted, rounded
from gen.models.linear import Storage, storage_for

PRECISIONS = ("float32", "bfloat16", "int8")
Precision = str | type | jnp.dtype


def precision_of(given: Precision) -> str:
    """The one of `PRECISIONS` that a name or a dtype stands for.

    int8 computes in float32 with weights rounded to 8 bits.

    Raises:
      UserError: there is no such one, or int8 where it was not measured to be faster.
    """
    try:
        # Of a name, only itself is meant: "f4" would be a dtype too. And none is not float64.
        name = given if isinstance(given, str) or given is None else jnp.dtype(given).name
    except TypeError:
        name = given
    if name not in PRECISIONS:
        raise UserError(f'dtype is {", ".join(PRECISIONS[:-1])} or {PRECISIONS[-1]}, not "{name}"')
    if name == "int8" and jax.default_backend() != "cpu":
        raise UserError(f"int8 is for CPUs; on {jax.default_backend()} take bfloat16, or float32")
    return name


class Programs:
    """The compiled functions of one model, made when first asked for.

    Attributes:
      precision: one of `PRECISIONS`.
      dtype: what they compute in.
    """

    def __init__(self, family: Family, precision: Precision, mesh: Mesh | None):
        """Raises `UserError` as `precision_of`."""
        self.precision = precision_of(precision)
        self.dtype = jnp.dtype(jnp.float32 if self.precision == "int8" else self.precision)
        self._family, self._mesh = family, mesh
        self._graphdef = nnx.split(abstract_model(family, dtype=self.dtype))[0]
        self._compiled: dict[Any, Callable] = {}
        self._converted: tuple[Any, Any] | None = None
        self._laid_out: tuple[Any, Storage, Any] | None = None

    def compiled(self, name: str, **static: Any) -> Callable:
        """The function of this name below, with these static settings."""
        key = (name, *sorted(static.items()))
        if key not in self._compiled:
            # Of an array cut over several processes, none of them could read the whole.
            several = self._mesh is not None and jax.process_count() > 1
            whole = sharding.replicated(self._mesh) if several else None
            body, options = BODIES[name]
            function = functools.partial(body, self._family, self._graphdef, **static)
            self._compiled[key] = jax.jit(function, **options(whole))
        return self._compiled[key]

    def weights(self, params: dict[str, Any]) -> dict[str, Any]:
        """Parameters as programs read them: converted or rounded once for all calls."""
        if self.precision == "float32":
            return params
        if self._converted is None or self._converted[0] is not params:
            model = abstract_model(self._family, dtype=self.dtype)
            self._converted = params, as_read(model, params, self.precision)
        return self._converted[1]

    def laid_out(self, params: dict[str, Any], batch: int, num_guided: int) -> Any:
        """The model as samplers of so many samples read it, made once and kept.

        In a sampler it would take 4 % of LlamaGen-B's time at batch 1 (two CPU cores).
        """
        rows, storage = self._family.usual_rows(batch, num_guided), Storage.WIDE
        if rows is not None:
            storage = storage_for(rows, self.dtype, is_rounded=self.precision == "int8")
        kept = self._laid_out
        if kept is None or kept[0] is not params or kept[1] != storage:
            self._laid_out = kept = None  # frees what another layout takes
            # From the parameters themselves: what `weights` keeps need not be there as well.
            lay_out = self.compiled("lay_out", storage=storage, precision=self.precision)
            made = lay_out(params)
            self._laid_out = params, storage, made
        return self._laid_out[2]


def as_read(model: nnx.Module, params: dict[str, Any], precision: str) -> dict[str, Any]:
    """Parameters converted or rounded as programs of a precision read them."""
    return rounded(model, params) if precision == "int8" else converted(model, params)


def lay_out(family, graphdef, params, *, storage, precision):
    """Traced body of what samplers read."""
    model = nnx.merge(graphdef, params)
    return family.lay_out(nnx.merge(graphdef, as_read(model, params, precision)), storage)


def sample(family, graphdef, laid_out, batch, draws, scale_N, sampling, **static):
    """Traced body of `Generator.draw`."""
    return family.sample(
        laid_out, batch, draws=draws, scale_N=scale_N, sampling=sampling, **static
    )  # fmt: skip


def start(family, graphdef, laid_out, batch, *, num_guided):
    """Traced body of how `Generator.stream` begins; a carry of buffers of its own."""
    held, carry = family.start(laid_out, batch, num_guided=num_guided)
    # What a program returns as it came is not copied, and a carry is donated.
    return held, jax.tree.map(jnp.copy, carry)


def fit(family, graphdef, carry, *, part):
    """Traced body of what comes between parts of unequal room."""
    return family.fit(carry, part)


def advance(family, graphdef, carry, held, values, draws, scale_N, sampling, *, part, options):
    """Traced body of a part of `Generator.stream`: the carry, the trace, and any latents so far."""
    if not part.alone:
        part = dataclasses.replace(part, values=values)
    how = Drawing(part.guided, scale_N, sampling, draws, options)
    carry, trace = family.advance(held, carry, part, how, keep_trace=True)
    return carry, trace, family.finish(held, carry, part.last).get("latents")


def translate(family, graphdef, params, rows, *, what):
    """Traced body of `Generator.from_data` and `Generator.to_data`."""
    return getattr(family, what)(nnx.merge(graphdef, params), rows)


def teacher_forced(family, graphdef, params, batch, drop_B, noise, *, what):
    """Traced body of `Generator.held_out` and `Generator.logits`."""
    condition = {name: batch[name] for name in family.condition_fields}
    model = nnx.merge(graphdef, params)
    return getattr(family, what)(model, batch["tokens"], condition, drop_B=drop_B, **noise)


# Body, and options of `jax.jit` from where results must be whole in each process.
BODIES = {
    "lay_out": (lay_out, lambda whole: {}),
    "sample": (sample, lambda whole: {"out_shardings": whole}),
    "start": (start, lambda whole: {}),
    "fit": (fit, lambda whole: {}),
    "advance": (
        advance,
        lambda whole: {"out_shardings": (None, whole, whole), "donate_argnums": 0},
    ),
    "translate": (translate, lambda whole: {"out_shardings": whole}),
    "teacher_forced": (teacher_forced, lambda whole: {"out_shardings": whole}),
}
