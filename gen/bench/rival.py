"""Another implementation, from a file of the user's, to be timed beside ours."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gen.errors import UserError, nearest


def load(spec: str) -> Callable[[], Any]:
    """The callable that `FILE.py:callable` names.

    It takes no arguments, makes one batch of the size that is compared, and returns when that is
    done. What it needs before its first batch it may build when the file is loaded or in the first
    call, which is not timed.

    Raises:
      UserError: there is no such file, it cannot be run, or it has no such callable.
    """
    path, colon, name = spec.rpartition(":")
    if not colon or not name.isidentifier():
        raise UserError(f"--against takes FILE.py:callable, not {spec}")
    file = Path(path)
    if not file.is_file():
        raise UserError(f"--against: there is no file {path}")
    module_spec = importlib.util.spec_from_file_location(file.stem, file)
    if module_spec is None:
        raise UserError(f"--against: {path} is no Python file")
    module = importlib.util.module_from_spec(module_spec)
    sys.path.insert(0, str(file.parent.resolve()))  # its own imports
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"--against: {path} fails: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    found = getattr(module, name, None)
    if not callable(found):
        valid = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise UserError(f"--against: {path} has no callable {name}{nearest(name, valid)}")
    return found
