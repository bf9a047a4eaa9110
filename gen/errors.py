"""Mistakes a user can make, told in one line.

Code that can tell a user's mistake (a misspelt field, missing data, an impossible mesh) raises
`UserError`; entry points wrap `main` in `exit_on_user_error`, which prints the message and leaves
with exit code 2. Anything else is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
import functools
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

MOST_NAMES = 20  # that a message lists


class UserError(Exception):
    """A mistake in the configuration, the data or the command; its text is one clear line."""


def close_to(name: str, valid: Iterable[str], *, cutoff: float = 0.5) -> str:
    """`'; did you mean "steps"?'` for the closest of the valid names; nothing if none is close."""
    close = difflib.get_close_matches(name, sorted(valid), n=1, cutoff=cutoff)
    return f'; did you mean "{close[0]}"?' if close else ""


def nearest(name: str, valid: Iterable[str]) -> str:
    """What `close_to` says, or the list of the valid names, cut where it is long."""
    valid = sorted(valid)
    if not valid:
        return ": there are none"
    rest = f" and {len(valid) - MOST_NAMES} more" if len(valid) > MOST_NAMES else ""
    return close_to(name, valid) or f"; valid names: {', '.join(valid[:MOST_NAMES])}{rest}"


def ensure_writable(folder: str | os.PathLike[str]) -> Path:
    """The folder, made if need be, once a file could be written into it.

    Raises:
      UserError: the folder cannot be made or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write to folder {folder}: {error.strerror}") from None
    return folder


def ensure_file(path: str | os.PathLike[str]) -> Path:
    """The path, once a file could be written there; its folder is made if need be.

    Raises:
      UserError: it is a folder, or cannot be written to.
    """
    path = Path(path)
    ensure_writable(path.parent)
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file")
    return path


def note(text: str) -> None:
    """Tells the user something in one line on stderr."""
    print(f"gen: {' '.join(text.split())}", file=sys.stderr, flush=True)


def exit_on_user_error(main: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps an entry point: a `UserError` becomes one line on stderr and exit code 2."""

    @functools.wraps(main)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return main(*args, **kwargs)
        except UserError as error:
            note(f"error: {error}")
            raise SystemExit(2) from None
        except (RuntimeError, AssertionError) as error:
            if not _is_of_backends(error):
                raise
            asked = os.environ.get("JAX_PLATFORMS", "")
            reason = f": {error}" if str(error) else ""
            note(f'error: JAX finds no device here, with JAX_PLATFORMS="{asked}"{reason}')
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            note("interrupted")
            raise SystemExit(130) from None

    return wrapped


def _is_of_backends(error: Exception) -> bool:
    """Whether JAX raised it where it looks for devices."""
    frames = traceback.extract_tb(error.__traceback__)  # without JAX's own, where it filters them
    there = bool(frames) and Path(frames[-1].filename).name == "xla_bridge.py"
    return there or str(error).startswith("Unable to initialize backend")
