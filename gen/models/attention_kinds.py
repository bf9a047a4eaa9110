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
FEW = 16  # queries of what is never trained, a step of decoding
LARGE = 1 << 19  # products of a row and all heads from which it matters how they are made
MAPPED = 1 << 20  # from which the rows of a batch are better taken one after another


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


def by_heads(q_BSHE, k_BTKE, v_BTKE, mask_B1ST, scale):
    """Heads before slots in memory, and the division after the product with the values.

    XLA's CPU backend otherwise makes these products in the layout they come in, at a third of the
    speed. What a few heads need stays in the caches of the processor if large rows go in turn.
    """
    barrier, repeats = jax.lax.optimization_barrier, q_BSHE.shape[2] // k_BTKE.shape[2]
    k_BTHE, v_BTHE = (jnp.repeat(a, repeats, axis=2) for a in (k_BTKE, v_BTKE))
    parts = tuple(jnp.swapaxes(a, 1, 2) for a in (q_BSHE, k_BTHE, v_BTHE))
    bias_B1ST = jnp.where(mask_B1ST, 0.0, -1e30)

    def mixed(q_BHSE, k_BHTE, v_BHTE, bias_B1ST):
        q_BHSE, k_BHTE, v_BHTE = barrier((q_BHSE * scale, k_BHTE, v_BHTE))
        logits_BHST = barrier(jnp.einsum("bhse,bhte->bhst", q_BHSE, k_BHTE)) + bias_B1ST
        largest_BHS1 = jax.lax.stop_gradient(jnp.max(logits_BHST, axis=-1, keepdims=True))
        part_BHST = barrier(jnp.exp(logits_BHST - largest_BHS1))
        total_BHS1 = jnp.sum(part_BHST, axis=-1, keepdims=True)
        return barrier(jnp.einsum("bhst,bhte->bhse", part_BHST, v_BHTE)) / total_BHS1

    rows, heads, queries, slots = *parts[0].shape[:3], parts[1].shape[2]
    # Rows that lie on several devices are left together.
    if rows == 1 or heads * queries * slots < MAPPED or jax.device_count() > 1:
        return jnp.swapaxes(mixed(*parts, bias_B1ST), 1, 2)
    bias_B1ST = jnp.broadcast_to(bias_B1ST, (rows, *bias_B1ST.shape[1:]))
    out_BHSE = jax.lax.map(lambda row: mixed(*(a[None] for a in row))[0], (*parts, bias_B1ST))
    return jnp.swapaxes(out_BHSE, 1, 2)


# Of the other kernels that JAX ships, those for GPUs know causal masks and ranges alone, and splash
# attention masks that are the same for all rows: not the masks of our plans.
KINDS = {
    "jax": Kind(("cpu", "gpu", "tpu"), lambda case: not case.dropped, by_jax("xla")),
    "heads": Kind(
        ("cpu",),
        lambda case: (
            not case.dropped
            and case.dtype == "float32"
            and case.S > 1
            and (case.S < case.T or case.S * case.T * case.H >= LARGE)
        ),
        by_heads,
    ),
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

# (platform, dtype, "one", "some" or "all" queries) -> kind.
#   cpu: measured on 2 cores. The gradient of "jax" takes two to three times as long as plain.
#   gpu, tpu: not measured yet, so plain.
CHOICES: dict[tuple[str, str, str], str] = {
    ("cpu", "float32", "some"): "heads",
    ("cpu", "float32", "all"): "heads",
}

_only: ContextVar[str | None] = ContextVar("only", default=None)
_seen: ContextVar[dict[Case, None] | None] = ContextVar("seen", default=None)


def choose(case: Case) -> str:
    """The kind to compute a call with here: one of `KINDS`, or `PLAIN`."""
    if (seen := _seen.get()) is not None:
        seen[case] = None
    platform = jax.default_backend()
    chosen = _only.get() or CHOICES.get((platform, case.dtype, count(case)), PLAIN)
    return chosen if chosen in available(case, platform) else PLAIN


def computes_in(dtype: jnp.dtype) -> jnp.dtype:
    """What attention to arrays of a dtype is made in here, which is what caches are kept in.

    float32 for bfloat16 on CPUs: XLA's backend has no fast batches of products of bfloat16, and
    writes a slot of such a cache by converting all of it, there and back, at each step.
    """
    raised = dtype == jnp.bfloat16 and jax.default_backend() == "cpu" and not _only.get()
    return jnp.dtype(jnp.float32) if raised else dtype


def count(case: Case) -> str:
    """Whether its queries are "one", "some" of the slots (a step with a cache), or "all"."""
    if case.S == 1:
        return "one"
    return "some" if case.S < case.T else "all"


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
