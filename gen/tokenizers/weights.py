"""What comes with a tokenizer, held against what its config asks for: weights and meta."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx, traverse_util

from gen.errors import UserError

MAX_PROBLEMS = 10  # told of weights that do not fit; one wrong width gives hundreds


def shapes_of(state: nnx.State) -> dict[str, tuple[int, ...]]:
    """Path -> shape of the parameters of a module's state."""
    flat = traverse_util.flatten_dict(nnx.to_pure_dict(state), sep="/")
    return {path: tuple(leaf.shape) for path, leaf in flat.items()}


def digest_of(config: Any, params: Mapping[str, Any]) -> str:
    """SHA-256 of a tokenizer's config and weights, hexadecimal, whatever file they come from."""
    record = json.dumps(dataclasses.asdict(config), sort_keys=True)
    digest = hashlib.sha256(record.encode())
    for path, leaf in sorted(traverse_util.flatten_dict(params, sep="/").items()):
        digest.update(f"{path} {np.shape(leaf)}".encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


def check_meta(meta: dict[str, Any]) -> dict[str, Any]:
    """The meta, unless it is none that a manifest can hold, which raises `UserError`."""
    try:
        json.dumps(meta)
    except (TypeError, ValueError) as error:
        raise UserError(f"the meta of a tokenizer must be JSON: {error}") from None
    if not isinstance(meta["id"], str) or not isinstance(meta["sha256"], str | None):
        raise UserError(f"a tokenizer's id is text, its sha256 text or none: {meta!r}")
    return meta


def check_shapes(given: Mapping[str, Sequence[int]], wanted: Mapping[str, Sequence[int]]) -> None:
    """Raises `UserError`, naming what differs, unless both have the same paths and shapes."""
    problems = [f"{path} is missing" for path in wanted if path not in given]
    problems += [f"{path} is unknown" for path in given if path not in wanted]
    problems += [
        f"{path} has shape {tuple(given[path])} for {tuple(shape)}"
        for path, shape in wanted.items()
        if path in given and tuple(given[path]) != tuple(shape)
    ]
    if problems:
        more = len(problems) - MAX_PROBLEMS
        tail = f"; and {more} more" if more > 0 else ""
        raise UserError(f"weights do not fit: {'; '.join(problems[:MAX_PROBLEMS])}{tail}")
