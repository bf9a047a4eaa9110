"""Trains and samples autoregressive and masked image and video generators over tokens.

Public API: `gen.load(run_or_checkpoint)` and `gen.from_published(system, weights)` return a
`gen.Generator`; the latter a tokenizer where the system is one. `gen.pixels_of` decodes what a
generator makes, `gen.save_pictures` shows it; `gen.load_tokenizer` opens a tokenizer's file.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gen.api import Generator, load
    from gen.pixels import pixels_of, save_pictures
    from gen.published import from_published
    from gen.tokenizers import load as load_tokenizer

# A command, `python -m gen.X`, shows XLA's errors and not its warnings: on meshes the partitioner
# warns of dozens of small arrays, half a page each. XLA reads this when JAX is imported, so it
# cannot wait for `gen.runtime.start`. Importing the package elsewhere changes nothing.
if sys.argv[:1] == ["-m"]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

__version__ = "0.1.0"
__all__ = [
    "Generator",
    "from_published",
    "load",
    "load_tokenizer",
    "pixels_of",
    "save_pictures",
]

_HOMES = {"Generator": "gen.api", "load": "gen.api", "from_published": "gen.published"}
_HOMES |= {"pixels_of": "gen.pixels", "save_pictures": "gen.pixels"}
_HOMES |= {"load_tokenizer": "gen.tokenizers"}
_NAMES = {"load_tokenizer": "load"}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    # Lazy, so that `import gen` costs nothing and entry points can set up JAX first.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), _NAMES.get(name, name))
    raise AttributeError(f"module 'gen' has no attribute {name!r}")
