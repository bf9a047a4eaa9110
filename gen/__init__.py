"""Trains and samples autoregressive and masked image and video generators over tokens.

Public API: `gen.load(run_or_checkpoint)` returns a `gen.Generator`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gen.api import Generator, load

__version__ = "0.1.0"
__all__ = ["Generator", "load"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `import gen` costs nothing and entry points can set up JAX first.
    if name in __all__:
        from gen import api

        return getattr(api, name)
    raise AttributeError(f"module 'gen' has no attribute {name!r}")
