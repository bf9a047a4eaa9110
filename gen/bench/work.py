"""What a program must read and multiply, counted in its jaxpr.

A jaxpr is walked once, loops multiplied by their lengths. An array that follows from parameters
alone is a weight wherever it meets anything else: it has to be read for that. Products are the
floating-point work; everything between them is left out. What is counted is therefore less than
what any machine does, as a bound must be.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from typing import Any

import jax
import numpy as np
from jax.extend import core


@dataclasses.dataclass
class Work:
    """Of the part of a program: bytes and floating-point operations (a multiply-add is two).

    Attributes:
      weight_bytes: of weights, each time they are read.
      weight_flops: of products of weights with activations.
      other_flops: of products of activations with each other, such as attention's.
    """

    weight_bytes: float = 0.0
    weight_flops: float = 0.0
    other_flops: float = 0.0


def count(jaxpr: core.ClosedJaxpr, num_weights: int, scopes: tuple[str, ...] = ()) -> dict:
    """The work of a program by scope.

    Args:
      jaxpr: of `jax.make_jaxpr`.
      num_weights: how many of its inputs, from the first, are parameters.
      scopes: names of `jax.named_scope`; what lies in none of them counts under "".

    Returns:
      scope -> `Work`.
    """
    walk = _Walk(scopes)
    sizes = [
        _nbytes(var.aval) if i < num_weights else None for i, var in enumerate(jaxpr.jaxpr.invars)
    ]
    walk.run(jaxpr.jaxpr, sizes, 1, "")
    return dict(walk.found)


def _nbytes(aval: Any) -> float:
    return math.prod(aval.shape) * np.dtype(aval.dtype).itemsize if _is_plain(aval) else 0.0


def _is_plain(aval: Any) -> bool:
    """Whether it is an array of numbers, and not of random keys."""
    return hasattr(aval, "shape") and not jax.dtypes.issubdtype(aval.dtype, jax.dtypes.extended)


class _Walk:
    """One walk over a program."""

    def __init__(self, scopes: tuple[str, ...]):
        self.scopes = scopes
        self.found: dict[str, Work] = defaultdict(Work)

    def run(
        self, jaxpr: core.Jaxpr, sizes: list[float | None], times: float, scope: str
    ) -> list[float | None]:
        """Counts a jaxpr whose inputs have these bytes of weights; returns those of its outputs."""
        # Of variables that follow from weights alone: the bytes behind them.
        weights = {var: size for var, size in zip(jaxpr.invars, sizes) if size is not None}
        constants = set(jaxpr.constvars)
        for eqn in jaxpr.eqns:
            inner = self._scope_of(eqn, scope)
            given = [
                None if isinstance(var, core.Literal) else weights.get(var) for var in eqn.invars
            ]
            # Numbers in the program's text belong to whatever they meet.
            neutral = [isinstance(v, core.Literal) or v in constants for v in eqn.invars]
            made = self._one(eqn, given, neutral, times, inner)
            for var, size in zip(eqn.outvars, made, strict=True):
                if size is not None:
                    weights[var] = min(size, _nbytes(var.aval))
                elif all(neutral):
                    constants.add(var)
        return [
            None if isinstance(var, core.Literal) else weights.get(var) for var in jaxpr.outvars
        ]

    def _scope_of(self, eqn: Any, outer: str) -> str:
        names = str(eqn.source_info.name_stack).split("/")
        return next((name for name in names if name in self.scopes), outer)

    def _one(
        self, eqn: Any, given: list, neutral: list[bool], times: float, scope: str
    ) -> list[float | None]:
        name = eqn.primitive.name
        inner = _inner(eqn)
        if inner is not None:
            jaxpr, sources, length = inner
            sizes = [None if i is None else given[i] for i in sources]
            if name == "scan":  # of what it scans over, a part at a time
                first = sum(scan_counts(eqn))
                sizes[first:] = [size and size / length for size in sizes[first:]]
            made = self.run(jaxpr, sizes, times * length, scope)
            # What a loop carries or makes is no weight, whatever it began as.
            return [None] * len(eqn.outvars) if name in ("scan", "while") else made
        known = [size for size in given if size is not None]
        if known and all(size is not None or n for size, n in zip(given, neutral)):
            return [sum(known)] * len(eqn.outvars)  # follows from weights alone
        work = self.found[scope]
        if name in ("dot_general", "conv_general_dilated"):
            flops = times * _flops(eqn)
            if known:
                work.weight_flops += flops
            else:
                work.other_flops += flops
        if name == "gather":
            known = [min(size, _nbytes(eqn.outvars[0].aval)) for size in known]
        work.weight_bytes += times * sum(known)
        return [None] * len(eqn.outvars)


def scan_counts(eqn: Any) -> tuple[int, int]:
    """How many inputs of a scan stay the same, and how many arrays it carries.

    By their shapes: what a scan goes through or stacks has one axis less inside. How the equation
    tells it differs between versions of JAX.
    """
    body = eqn.params["jaxpr"].jaxpr

    def alike(outer: list, inner: list) -> int:
        return sum(a.aval.ndim == b.aval.ndim for a, b in zip(outer, inner, strict=True))

    num_carry = alike(eqn.outvars, body.outvars)
    return alike(eqn.invars, body.invars) - num_carry, num_carry


def _inner(eqn: Any) -> tuple[core.Jaxpr, list[int | None], float] | None:
    """The jaxpr within an equation, which of the equation's inputs each of its inputs is, and how
    often it runs. Loops of unknown length count once, of branches the last counts."""
    params, count_in = eqn.params, len(eqn.invars)
    if eqn.primitive.name == "scan":
        first_carry, num_carry = scan_counts(eqn)
        stop_carry = first_carry + num_carry
        kept = [None if first_carry <= i < stop_carry else i for i in range(count_in)]
        return params["jaxpr"].jaxpr, kept, params["length"]
    if eqn.primitive.name == "while":
        start = params["cond_nconsts"]
        consts = params["body_nconsts"]
        carried = count_in - start - consts
        return params["body_jaxpr"].jaxpr, [*range(start, start + consts), *[None] * carried], 1
    if eqn.primitive.name == "cond":
        return params["branches"][-1].jaxpr, list(range(1, count_in)), 1
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if key in params:
            jaxpr = params[key]
            return getattr(jaxpr, "jaxpr", jaxpr), list(range(count_in)), 1
    return None


def _flops(eqn: Any) -> float:
    """2 x outputs x what is summed over for each."""
    outputs = math.prod(eqn.outvars[0].aval.shape)
    left, right = (var.aval.shape for var in eqn.invars[:2])
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return 2.0 * outputs * math.prod(left[dim] for dim in contracted)
    spec = eqn.params["dimension_numbers"].rhs_spec  # (out, in, *window)
    return 2.0 * outputs * math.prod(right[dim] for dim in spec[1:])
