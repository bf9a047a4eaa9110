"""Where datasets lie, and how they get there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gen.errors import UserError

VERSION = "1.0.0"
# Made from this package on first use, see `reader.open_dataset`.
BUILT_IN = ("digits", "digits_video")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


def data_root(directory: str | os.PathLike[str] | None = None) -> Path:
    """The directory of all datasets: the given one, `$GEN_DATA_DIR` or `~/.cache/gen/data`."""
    chosen = directory or os.environ.get("GEN_DATA_DIR") or "~/.cache/gen/data"
    return Path(chosen).expanduser().absolute()


def check_name(name: str) -> None:
    """Raises `UserError` for a name that could lead out of the data directory."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(
            f'"{name}" is no dataset name: it may hold letters, digits, "_", "-" and "." (not '
            "first); give the folder that holds the dataset as the data directory"
        )


def latest_version(root: Path) -> Path | None:
    """The newest version directory of the dataset in `root`, or None if there is none."""
    if not root.is_dir():
        return None
    found = [(_VERSION.fullmatch(path.name), path) for path in root.iterdir() if path.is_dir()]
    versions = [(tuple(map(int, match.groups())), path) for match, path in found if match]
    return max(versions)[1] if versions else None


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shard_table(directory: Path, records: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """The `shards` of a manifest: size, hash and number of records of each named file."""
    return {
        name: {
            "bytes": (directory / name).stat().st_size,
            "sha256": sha256_of(directory / name),
            "records": count,
        }
        for name, count in records.items()
    }


def shard_name(tfds_name: str, split: str, index: int, count: int) -> str:
    """Name of a shard, in the form that TFDS expects."""
    return f"{tfds_name}-{split}.array_record-{index:05d}-of-{count:05d}"


def tfds_name(name: str) -> str:
    """The name under which TFDS knows a dataset: it allows letters, digits and "_" only."""
    cleaned = re.sub(r"\W", "_", name)
    return cleaned if cleaned[0].isalpha() else f"d{cleaned}"


@contextlib.contextmanager
def staging(root: Path, name: str) -> Iterator[Path]:
    """A fresh directory inside `root`, removed at the end unless it was renamed away.

    It lies beside its destination, on the same file system, so that `install` is one rename. A
    process that is killed leaves it behind under a name that no reader looks at.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Not tempfile.mkdtemp: its mode 0700 would stay on the installed dataset, often shared.
        stage = root / f".partial-{name}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        stage.mkdir()
    except OSError as error:
        raise UserError(
            f"cannot write to the data directory {root} ({error.strerror}); "
            "choose another with GEN_DATA_DIR"
        ) from None
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def install(stage: Path, destination: Path) -> bool:
    """Renames a finished directory into place; False if something is already there."""
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        os.rename(stage, destination)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    return True
