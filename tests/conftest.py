"""Tests run on the CPU, and share a compilation cache within one run of the suite."""

import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Subprocesses inherit it: the second process of a test compiles nothing again.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="gen-test-cache-"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Where a test takes that away: nothing is written to the user's own.
os.environ["GEN_COMPILATION_CACHE"] = "off"
os.environ.pop("GEN_XLA_FLAGS", None)
