"""Where arrays live: a mesh of three axes, and an ordered list of rules from path to axes.

Mesh axes: `data` (replicas), `fsdp` (parameters cut, batch cut), `tensor` (heads, channels and
vocabulary cut). Written as in the scaling literature: a kernel `W[D_fsdp, F_tensor]` is cut over
both, an activation `x[B_(data,fsdp), S, D]` over its batch alone.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gen.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

# First match wins; the pattern is searched in a path such as
# "backbone/blocks/attention/query/kernel". Blocks are stacked: their first dim is the layer.
RULES: tuple[tuple[str, P], ...] = (
    (r"blocks/attention/(query|key|value)/kernel", P(None, "fsdp", "tensor")),
    (r"blocks/attention/out/kernel", P(None, "tensor", "fsdp")),
    (r"blocks/feed_forward/(gate|up)/kernel", P(None, "fsdp", "tensor")),
    (r"blocks/feed_forward/down/kernel", P(None, "tensor", "fsdp")),
    (r"blocks/.*(scale|bias)$", P(None, ("fsdp", "tensor"))),
    (r"blocks/.*kernel$", P(None, "fsdp", "tensor")),
    (r"heads?/.*logits/kernel", P("fsdp", "tensor")),
    # Of convolutions, (height, width, in, out): cut along a side, gradients come out wrong.
    (r"(tokenizer|discriminator)/.*kernel$", P(None, None, "fsdp", "tensor")),
    # Not over its rows: jax 0.11's partitioner aborts on looking up a table that is cut both ways.
    (r"embedding$", P(None, ("fsdp", "tensor"))),
    (r"kernel$", P("fsdp", "tensor")),
    (r"scale$|bias$", P(("fsdp", "tensor"))),
    (r"", P()),
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; -1 takes all that the other axes leave (at most one -1)."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def make_mesh(config: MeshConfig, *, batch_size: int, num_devices: int | None = None) -> Mesh:
    """The mesh of the given shape over the devices of this run.

    Args:
      config: devices per axis.
      batch_size: global rows of a (micro)batch, which `data` x `fsdp` must divide.
      num_devices: how many devices to use; all of them by default.

    Raises:
      UserError: the shape does not fit the devices, or the batch does not divide.
    """
    available = jax.device_count() if num_devices is None else num_devices
    sizes = [getattr(config, axis) for axis in AXES]
    shape = "x".join(str(size) for size in sizes)
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(f"mesh {shape} (data x fsdp x tensor): sizes are >= 1, at most one is -1")
    if -1 in sizes:
        known = math.prod(size for size in sizes if size != -1)
        if available % known:
            named = " x ".join(f"{axis} {n}" for axis, n in zip(AXES, sizes) if n not in (-1, 1))
            are = "is 1" if available == 1 else f"are {available}"
            raise UserError(f"mesh {named} needs a multiple of {known} devices, there {are}")
        sizes[sizes.index(-1)] = available // known
    if math.prod(sizes) != available:
        raise UserError(
            f"mesh {shape} (data x fsdp x tensor) needs {math.prod(sizes)} devices, "
            f"there are {available}"
        )
    if batch_size % (sizes[0] * sizes[1]):
        raise UserError(
            f"batch of {batch_size} rows does not divide over data x fsdp = {sizes[0]}x{sizes[1]}"
        )
    devices = jax.devices()[:available]
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def replicas(devices: Sequence[jax.Device]) -> Mesh:
    """A mesh that spreads batches over these devices, each of which has all parameters."""
    types = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh((len(devices), 1, 1), AXES, axis_types=types, devices=devices)


def local_replicas() -> Mesh:
    """All devices of this process as replicas: processes need not wait for one another."""
    return replicas(jax.local_devices())


def path_of(key_path: tuple[Any, ...]) -> str:
    """`"backbone/blocks/attention/query/kernel"` for a key path of `jax.tree_util`."""
    names = (getattr(k, "key", getattr(k, "name", getattr(k, "idx", None))) for k in key_path)
    return "/".join(str(name) for name in names)


def fit(spec: P, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The rule's spec, made to divide `shape`.

    An axis that does not divide the dimension which the rule names (a vocabulary of 17 over two
    devices) moves to the last other dimension that it does divide, so that bytes per device
    still fall; only where there is none the array stays whole along that axis.
    """
    wanted = [entry if isinstance(entry, tuple) else (entry,) for entry in spec]
    placed: list[list[str]] = [[] for _ in shape]

    def divides(dim: int, axis: str) -> bool:
        ways = math.prod(mesh.shape[name] for name in placed[dim]) * mesh.shape[axis]
        return shape[dim] % ways == 0

    homeless = []
    for dim, axes in enumerate(wanted[: len(shape)]):
        for axis in axes:
            if axis is None:
                continue
            if divides(dim, axis):
                placed[dim].append(axis)
            else:
                homeless.append(axis)
    for axis in homeless:
        for dim in reversed(range(len(shape))):
            if divides(dim, axis):
                placed[dim].append(axis)
                break
    return P(*(tuple(axes) if len(axes) > 1 else axes[0] if axes else None for axes in placed))


def shardings(tree: Any, mesh: Mesh, rules: tuple[tuple[str, P], ...] = RULES) -> Any:
    """A `NamedSharding` for each leaf of a tree of arrays or shapes, by the first matching rule.

    Paths are searched, not matched from the start: the moments of an optimiser carry the path of
    their parameter as a suffix and so are cut as it is.
    """

    def one(key_path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        path = path_of(key_path)
        spec = next(spec for pattern, spec in rules if re.search(pattern, path))
        return NamedSharding(mesh, fit(spec, np.shape(leaf), mesh))

    return jax.tree_util.tree_map_with_path(one, tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Batches are cut along their first dimension over `data` and `fsdp`."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, P())


def put(tree: Any, where: NamedSharding) -> Any:
    """Host arrays, the same in all processes, onto a mesh that may span several processes.

    `jax.device_put` would send every array around once more to compare it.
    """
    if where.is_fully_addressable:
        return jax.device_put(tree, where)
    return jax.tree.map(
        lambda a: jax.make_array_from_callback(np.shape(a), where, lambda cut: np.asarray(a)[cut]),
        tree,
    )


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh | None) -> dict[str, jax.Array]:
    """A batch on the device, or cut over the mesh where its rows divide."""
    if mesh is None:
        return jax.tree.map(jnp.asarray, batch)
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    even = len(next(iter(batch.values()))) % ways == 0
    return put(batch, batch_sharding(mesh) if even else replicated(mesh))


def constrain(x: jax.Array, *tail: str | None) -> jax.Array:
    """Pins an activation: batch over (data, fsdp), then `tail` for the dimensions after it.

    A no-op outside a mesh (sampling on one device, tests). Without these hints the partitioner
    may choose to gather activations instead of parameters.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not set(AXES) <= set(mesh.axis_names):
        return x
    rest = [
        axis if axis is None or x.shape[dim] % mesh.shape[axis] == 0 else None
        for dim, axis in enumerate(tail, start=1)
    ]
    return jax.lax.with_sharding_constraint(x, P(BATCH_AXES, *rest))
