"""A config file, run for its fields."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gen.errors import UserError


def read_file(path: Path, argument: str | None) -> dict[str, Any]:
    """Runs the file's `get_config` and returns its fields as nested dicts.

    Raises:
      UserError: there is no such file, it fails, or it does not return a `ConfigDict`.
    """
    if not path.is_file():
        raise UserError(f"config file {path} does not exist")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None:
        raise UserError(f"config file {path} is not Python: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # a config may import its neighbour and change a field
    try:
        values = _run(path, lambda: _fields(path, spec.loader, module, argument))
    finally:
        sys.path.remove(str(path.parent))
    if not hasattr(values, "to_dict"):
        raise UserError(
            f"config file {path}: get_config() returns {type(values).__name__}, not a ConfigDict"
        )
    return values.to_dict()


def _fields(path: Path, loader: Any, module: Any, argument: str | None) -> Any:
    loader.exec_module(module)
    get_config = getattr(module, "get_config", None)
    if get_config is None:
        raise UserError(f"config file {path} defines no get_config()")
    if argument and not inspect.signature(get_config).parameters:
        raise UserError(f'config file {path} takes no argument, got ":{argument}" (":debug" works)')
    try:
        return get_config(argument) if argument else get_config()
    except (KeyError, ValueError):
        if not argument:
            raise
        raise UserError(
            f'config file {path} does not take the argument "{argument}"; '
            "its first lines say what it takes, and :debug works with all"
        ) from None


def _run(path: Path, body: Callable[[], Any]) -> Any:
    """What `body` returns; what it raises is the file's fault and told with its line."""
    try:
        return body()
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"config file {path}, line {error.lineno}: {error.msg}") from None
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if Path(f.filename).resolve() == path.resolve()]
        where = f", line {lines[-1]}" if lines else ""
        raise UserError(f"config file {path}{where}: {type(error).__name__}: {error}") from None
