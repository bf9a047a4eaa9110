"""A tokenizer in one safetensors file: its weights, and a header that says what they are.

The metadata of the file has one field, `gen`: JSON with the version of the format, the kind of
tokenizer, its config, where the weights come from, and a SHA-256 sum over all of these and the
weights. safetensors reads changed bytes without a word; the sum does not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from jax.sharding import Mesh
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gen import schema
from gen.errors import UserError, nearest
from gen.tokenizers.base import Tokenizer
from gen.tokenizers.kl import KLTokenizer
from gen.tokenizers.maskgit_vq import MaskGITVQTokenizer
from gen.tokenizers.msvq import MSVQTokenizer
from gen.tokenizers.titok import TiTokTokenizer
from gen.tokenizers.vq import VQTokenizer
from gen.tokenizers.vq3d import MAGVITTokenizer
from gen.tokenizers.weights import check_shapes

FORMAT = 1
FIELDS = ("format", "kind", "config", "meta", "sum")
KINDS = (
    *(VQTokenizer, MSVQTokenizer, MaskGITVQTokenizer, KLTokenizer),
    *(TiTokTokenizer, MAGVITTokenizer),
)
TOKENIZERS: dict[str, type[Tokenizer]] = {cls.kind: cls for cls in KINDS}
ADVICE = "published weights are converted with `python -m gen.convert`"


def save(tokenizer: Tokenizer, path: str | Path) -> None:
    """Writes a tokenizer to one `.safetensors` file, whole or not at all.

    Raises:
      UserError: the file has another ending or cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"a tokenizer is saved as .safetensors; {path} should end so")
    flat = traverse_util.flatten_dict(tokenizer.params, sep="/")
    arrays = {name: np.ascontiguousarray(leaf, np.float32) for name, leaf in flat.items()}
    record = {
        "format": FORMAT,
        "kind": tokenizer.kind,
        "config": dataclasses.asdict(tokenizer.config),
        "meta": tokenizer.meta,
    }
    header = json.dumps(record | {"sum": _sum(record, arrays)})
    partial = path.with_name(f".partial-{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(arrays, partial, metadata={"gen": header})
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write the tokenizer {path}: {error}") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def load(path: str | Path, *, mesh: Mesh | None = None, dtype: str = "float32") -> Tokenizer:
    """The tokenizer that `save` or `python -m gen.convert` wrote.

    Args:
      path: the `.safetensors` file.
      mesh: devices to spread batches over; one device by default.
      dtype: what decoding computes in, `float32` or `bfloat16`.

    Raises:
      UserError: the file is missing, damaged, none of ours, or its weights are not those that
        its config asks for.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"tokenizer {path} is a folder: name the .safetensors file in it")
    if not path.is_file():
        raise UserError(f"tokenizer {path} does not exist")
    try:
        with safe_open(path, framework="numpy") as file:
            return _read(file, mesh=mesh, dtype=dtype)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"tokenizer {path} is damaged or no safetensors file ({error}); {ADVICE}"
        ) from None
    except UserError as error:
        raise UserError(f"tokenizer {path}: {error}") from None


def _read(file: Any, *, mesh: Mesh | None, dtype: str) -> Tokenizer:
    record = _header(file.metadata())
    kind = TOKENIZERS[record["kind"]]
    config = schema.build(kind.Config, record["config"], "config")
    parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    check_shapes({name: part.get_shape() for name, part in parts.items()}, kind.shapes(config))
    for name, part in parts.items():
        if part.get_dtype() != "F32":
            raise UserError(f"{name} is stored as {part.get_dtype()}, not as float32")
    arrays = {name: file.get_tensor(name) for name in parts}
    if record.pop("sum") != _sum(record, arrays):
        raise UserError("it is damaged: its contents do not match their sum")
    params = traverse_util.unflatten_dict(arrays, sep="/")
    return kind(config, params, meta=record["meta"], mesh=mesh, dtype=dtype)


def _header(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """The record of what the file holds, with a format and a kind that this program knows."""
    if not metadata or "gen" not in metadata:
        raise UserError(f"it was not written by gen; {ADVICE}")
    try:
        record = json.loads(metadata["gen"])
    except (ValueError, RecursionError) as error:
        raise UserError(f"it is damaged: its header is no JSON ({error})") from None
    if not isinstance(record, dict) or sorted(record) != sorted(FIELDS):
        raise UserError(f"it is damaged: its header has not the fields {', '.join(FIELDS)}")
    if record["format"] != FORMAT:
        raise UserError(f"it is of format {record['format']!r}; this program reads {FORMAT}")
    if str(record["kind"]) not in TOKENIZERS:
        kind = str(record["kind"])
        raise UserError(f'there is no kind of tokenizer "{kind}"{nearest(kind, TOKENIZERS)}')
    return record


def _sum(record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of everything in a file, hexadecimal."""
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()
