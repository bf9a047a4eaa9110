"""Tests run on the CPU, and share a compilation cache within one run of the suite.

Most of their time would go into optimizing machine code that runs for milliseconds: it is left
out, unless XLA_FLAGS is set (`XLA_FLAGS= pytest` compiles as users do) or `-m` asks for the
slow tests, which train for minutes.
"""

import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Subprocesses inherit it: the second process of a test compiles nothing again.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="gen-test-cache-"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Where a test takes that away: nothing is written to the user's own.
os.environ["GEN_COMPILATION_CACHE"] = "off"
os.environ.pop("GEN_XLA_FLAGS", None)

QUICK = "--xla_backend_optimization_level=0"  # of LLVM; what XLA makes of a program stays the same


def pytest_configure(config):
    # Before the first test starts JAX; subprocesses inherit it.
    if config.option.markexpr in ("not slow and not beam", "beam"):
        os.environ.setdefault("XLA_FLAGS", QUICK)
