"""Ways to compute attention beside the plain one of `attention.attend`, and which is chosen where.

Axes: B batch, S slots fed now, T slots attended, H query heads, K key heads, E channels of a head.

A choice is made while a program is traced, from the platform and from `Case`, what of the call its
speed depends on. `CHOICES` holds what `python -m gen.bench CONFIG --attention` has measured to be
faster than the plain products; where nothing is in it, nothing was measured and they are taken.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

PLAIN = "xla"
FEW = 16  # queries of a decoding step; above it, scales, prefixes and training


class Case(NamedTuple):
    """A call of `attend`: sizes by axis, and whether attention weights are dropped."""

    B: int
    S: int
    T: int
    H: int
    K: int
    E: int
    dtype: str
    dropped: bool


class Kind(NamedTuple):
    """A way to compute it: where, which calls, and how; masks are `(B or 1, 1, S, T)`."""

    platforms: tuple[str, ...]
    supports: Callable[[Case], bool]
    call: Callable[..., jax.Array]


def by_jax(implementation: str) -> Callable[..., jax.Array]:
    """`jax.nn.dot_product_attention`."""

    def call(q_BSHE, k_BTKE, v_BTKE, mask_B1ST, scale):
        return jax.nn.dot_product_attention(
            q_BSHE, k_BTKE, v_BTKE, mask=mask_B1ST, scale=scale, implementation=implementation
        )

    return call


def by_flash(q_BSHE, k_BTKE, v_BTKE, mask_B1ST, scale):
    """JAX's Pallas kernel for TPUs. The mask goes in as what is added to the products."""
    from jax.experimental.pallas.ops.tpu.flash_attention import flash_attention

    heads = q_BSHE.shape[2]
    shape = (q_BSHE.shape[0], heads, *mask_B1ST.shape[2:])
    bias_BHST = jnp.broadcast_to(jnp.where(mask_B1ST, 0.0, -1e30), shape)
    k_BTHE, v_BTHE = (jnp.repeat(a, heads // a.shape[2], axis=2) for a in (k_BTKE, v_BTKE))
    q_BHSE, k_BHTE, v_BHTE = (jnp.swapaxes(a, 1, 2) for a in (q_BSHE, k_BTHE, v_BTHE))
    return jnp.swapaxes(flash_attention(q_BHSE, k_BHTE, v_BHTE, bias_BHST, sm_scale=scale), 1, 2)


# Of the other kernels that JAX ships, those for GPUs know causal masks and ranges alone, and splash
# attention masks that are the same for all rows: not the masks of our plans.
KINDS = {
    "jax": Kind(("cpu", "gpu", "tpu"), lambda case: not case.dropped, by_jax("xla")),
    # Limits of jax._src.cudnn: half precision, heads of up to 128 channels before Hopper, and, to
    # be differentiated with a mask, even numbers of slots.
    "cudnn": Kind(
        ("gpu",),
        lambda case: (
            not case.dropped
            and case.dtype in ("bfloat16", "float16")
            and case.E % 8 == 0
            and case.E <= 128
            and (case.S <= FEW or (case.S % 2 == 0 and case.T % 2 == 0))
        ),
        by_jax("cudnn"),
    ),
    # Whole blocks of 128 slots, and one device: the kernel does not divide itself over a mesh.
    "flash": Kind(
        ("tpu",),
        lambda case: (
            not case.dropped and case.S % 128 == 0 and case.T % 128 == 0 and jax.device_count() == 1
        ),
        by_flash,
    ),
}

# (platform, dtype, "few" or "many" queries) -> kind.
#   cpu: plain. The gradient of "jax" takes two to three times as long (2 cores, float32).
#   gpu, tpu: not measured yet, so plain.
CHOICES: dict[tuple[str, str, str], str] = {}

_only: ContextVar[str | None] = ContextVar("only", default=None)
_seen: ContextVar[dict[Case, None] | None] = ContextVar("seen", default=None)


def choose(case: Case) -> str:
    """The kind to compute a call with here: one of `KINDS`, or `PLAIN`."""
    if (seen := _seen.get()) is not None:
        seen[case] = None
    platform = jax.default_backend()
    chosen = _only.get() or CHOICES.get((platform, case.dtype, count(case)), PLAIN)
    return chosen if chosen in available(case, platform) else PLAIN


def count(case: Case) -> str:
    """Whether its queries are "few" or "many"."""
    return "few" if case.S <= FEW else "many"


def available(case: Case, platform: str) -> list[str]:
    """The kinds that can compute a call on a platform, the plain one first."""
    fitting = [n for n, k in KINDS.items() if platform in k.platforms and k.supports(case)]
    return [PLAIN, *fitting]


@contextlib.contextmanager
def only(kind: str) -> Iterator[None]:
    """What is traced in this block is computed so, where it can be."""
    token = _only.set(kind)
    try:
        yield
    finally:
        _only.reset(token)


@contextlib.contextmanager
def watched() -> Iterator[dict[Case, Any]]:
    """Collects the calls that are traced in this block, each once and in order."""
    token = _seen.set({})
    try:
        yield _seen.get()
    finally:
        _seen.reset(token)
