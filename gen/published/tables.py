"""Tables from a published checkpoint's keys to our parameters, and their application.

A table is a list of `Entry`: a name of theirs, a path of ours, and what is done to the array in
between. Numbers in names are fields in braces: a field on both sides maps one to one, a field on
their side alone is stacked along a new first axis. Which tensors must be there follows from our
model's own parameters, so that every tensor on either side is accounted for.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from gen.errors import UserError

MAX_LISTED = 12  # of each kind of problem; the message stays readable and gives the count


def same(array: np.ndarray) -> np.ndarray:
    """The array as it is."""
    return array


def transposed(array: np.ndarray) -> np.ndarray:
    """A torch linear weight (out, in) as a kernel (in, out)."""
    return array.T


def conv_kernel(array: np.ndarray) -> np.ndarray:
    """A torch 2-D convolution weight (out, in, height, width) as (height, width, in, out)."""
    return np.transpose(array, (2, 3, 1, 0))


def fused_rows(start: int, stop: int, total: int) -> Callable[[np.ndarray], np.ndarray]:
    """Rows `start` to `stop` of a fused torch linear weight of `total` rows, as a kernel (in, out).

    The total is checked: a slice alone would fit any weight with rows enough.
    """

    def change(array: np.ndarray) -> np.ndarray:
        if array.shape[0] != total:
            raise ValueError(f"{array.shape[0]} rows, not {total}")
        return array[start:stop].T

    return change


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of a table.

    Attributes:
      theirs: their name, such as `layers.{i}.attention.wo.weight`.
      ours: our path, such as `backbone/blocks/attention/out/kernel`.
      change: their array -> ours; views only, so that shapes can be tried without data.
      part: which of the system's files holds it.
    """

    theirs: str
    ours: str
    change: Callable[[np.ndarray], np.ndarray] = same
    part: str = "model"


@dataclasses.dataclass(frozen=True)
class Source:
    """Where one parameter comes from: one tensor, or several to be stacked."""

    entry: Entry
    names: tuple[str, ...]
    is_stacked: bool


def _fields(template: str) -> list[str]:
    return re.findall(r"{(\w+)}", template)


def _pattern(template: str) -> re.Pattern[str]:
    """Matches a template with its fields as numbers, and anything for a star."""
    pieces = re.split(r"{(\w+)}", template)
    return re.compile(
        "".join(
            f"(?P<{piece}>\\d+)" if i % 2 else re.escape(piece).replace(r"\*", ".*")
            for i, piece in enumerate(pieces)
        )
    )


def sources(table: Sequence[Entry], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Source]:
    """For each of our parameters, where it comes from.

    Raises:
      ValueError: the table leaves a parameter out or gives it twice, which is a mistake of ours.
    """
    found: dict[str, Source] = {}
    for entry in table:
        stacked = [field for field in _fields(entry.theirs) if field not in _fields(entry.ours)]
        if len(stacked) > 1:
            raise ValueError(f"{entry.theirs}: only one number can be stacked")
        pattern = _pattern(entry.ours)
        for path, shape in shapes.items():
            match = pattern.fullmatch(path)
            if match is None:
                continue
            if path in found:
                raise ValueError(f"{path} comes from {found[path].entry.theirs} and {entry.theirs}")
            indices = range(shape[0]) if stacked else (None,)
            names = tuple(
                entry.theirs.format(**match.groupdict(), **dict.fromkeys(stacked, i))
                for i in indices
            )
            found[path] = Source(entry, names, bool(stacked))
    left = [path for path in shapes if path not in found]
    if left:
        raise ValueError(f"the table does not say where these come from: {left}")
    return found


def _listed(kind: str, items: Sequence[str]) -> list[str]:
    """`["3 missing: a, b, c"]`, shortened, or nothing."""
    if not items:
        return []
    more = f" and {len(items) - MAX_LISTED} more" if len(items) > MAX_LISTED else ""
    return [f"{len(items)} {kind}: {', '.join(items[:MAX_LISTED])}{more}"]


def _changed_shape(entry: Entry, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape after the entry's change, found without data; none if it can't be changed."""
    try:
        return entry.change(np.broadcast_to(np.float32(0), shape)).shape
    except (ValueError, IndexError):
        return None


def _is_number(dtype: np.dtype) -> bool:
    return np.dtype(dtype).kind == "f" or np.dtype(dtype).name == "bfloat16"


def check(
    where: Mapping[str, Source],
    shapes: Mapping[str, tuple[int, ...]],
    theirs: Mapping[str, Mapping[str, tuple[tuple[int, ...], np.dtype]]],
    *,
    ignored: Iterable[str] = (),
) -> None:
    """Holds all tensors of a checkpoint against all parameters of ours, without reading data.

    Args:
      where: what `sources` gave.
      shapes: our path -> shape.
      theirs: part -> name -> (shape, dtype).
      ignored: patterns of their names that carry no weights, such as caches.

    Raises:
      UserError: tensors are missing, unknown or of the wrong shape or type; one line names all.
    """
    missing: list[str] = []
    misfits: dict[str, str] = {}  # one for each tensor, of how many parameters it may be
    used: dict[str, set[str]] = {part: set() for part in theirs}
    for path, source in where.items():
        tensors = theirs[source.entry.part]
        wanted = shapes[path][1:] if source.is_stacked else shapes[path]
        for name in source.names:
            used[source.entry.part].add(name)
            if name not in tensors:
                missing.append(name)
                continue
            shape, dtype = tensors[name]
            changed = _changed_shape(source.entry, shape)
            if changed != wanted:
                misfits[name] = f"{name} {shape} (for {path}: {changed}, not {wanted})"
            elif not _is_number(dtype):
                misfits[name] = f"{name} (dtype {dtype})"
    skipped = [_pattern(pattern) for pattern in ignored]
    unknown = [
        name
        for part, tensors in theirs.items()
        for name in tensors
        if name not in used[part] and not any(p.fullmatch(name) for p in skipped)
    ]
    # A fused tensor serves several parameters but is missing once.
    missing = list(dict.fromkeys(missing))
    problems = _listed("missing", missing) + _listed("unknown", unknown)
    problems += _listed("of the wrong shape or type", list(misfits.values()))
    if problems:
        raise UserError(f"the weights do not fit: {'; '.join(problems)}")


def read(
    where: Mapping[str, Source],
    shapes: Mapping[str, tuple[int, ...]],
    read_tensor: Callable[[str, str], np.ndarray],
) -> dict[str, np.ndarray]:
    """Our parameters, flat, float32; `read_tensor` takes a part and a name of theirs.

    Raises:
      UserError: a tensor holds a value that is not finite.
    """
    params = {}
    for path, source in where.items():
        out = np.empty(shapes[path], np.float32)
        rows = out if source.is_stacked else out[None]
        for row, name in zip(rows, source.names, strict=True):
            array = source.entry.change(read_tensor(source.entry.part, name))
            row[...] = array.astype(np.float32, copy=False)
            if not np.isfinite(row).all():
                raise UserError(f"the weights are damaged: {name} holds values that are no numbers")
        params[path] = out
    return params
