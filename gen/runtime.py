"""What a command sets up before JAX starts a device: the compilation cache, and sets of XLA flags.

Importing the package changes nothing of this: the commands call `start`, and a notebook may, before
anything else touches JAX. Two environment variables say otherwise than the defaults:

  GEN_COMPILATION_CACHE   a folder instead of `~/.cache/gen/compiled`, or `off`
  GEN_XLA_FLAGS           the name of a set in `FLAG_SETS`; none by default

Loading a compiled program executes what is in the folder: give none that others can write to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import platform
from pathlib import Path

import jax

from gen.errors import UserError, ensure_writable, nearest, note

CACHE, FLAGS = "GEN_COMPILATION_CACHE", "GEN_XLA_FLAGS"
DEFAULT_CACHE = "~/.cache/gen/compiled"
MAX_BYTES = 2 * 2**30  # of a folder; the programs of LlamaGen-B take 0.6 MB


@dataclasses.dataclass(frozen=True)
class FlagSet:
    """Flags that go together, and the environment variable that their compiler reads."""

    variable: str
    flags: dict[str, str]


# None of these is measured by us yet: they are what the vendors advise, to be tried one by one with
# `launch/bench_gpu.py`. A flag that does not exist ends the process; `tests/test_runtime.py` tries
# those of GPUs on each jaxlib.
FLAG_SETS = {
    # One GPU. Source: JAX's "GPU performance tips".
    "gpu": FlagSet(
        "XLA_FLAGS",
        {
            # Products by Triton wherever it can, so that what follows is fused with them.
            "xla_gpu_triton_gemm_any": "true",
        },
    ),
    # The same program gives the same bits in every process: no algorithm is chosen by timing it.
    # For `gen.encode`, whose restarts and shards then agree to the last bit. Source: the help text
    # of XLA's flag.
    "gpu_exact": FlagSet("XLA_FLAGS", {"xla_gpu_deterministic_ops": "true"}),
    # Decoding at small batches, where starting kernels takes longer than running them. Source: the
    # help text of XLA's flag, and "CUDA graphs" in NVIDIA's JAX-Toolbox, docs/GPU_performance.md.
    "gpu_graphs": FlagSet(
        "XLA_FLAGS",
        {
            # Loops and branches too become CUDA graphs: a whole decoding phase is one start.
            "xla_gpu_enable_command_buffer": "+WHILE,+CONDITIONAL",
            # Short runs of kernels as well (default: 5).
            "xla_gpu_graph_min_graph_size": "1",
        },
    ),
    # Several GPUs. Source: "Optimization level" and "FSDP" in the same page of JAX-Toolbox.
    "gpu_mesh": FlagSet(
        "XLA_FLAGS",
        {
            # Communication runs while something else computes.
            "xla_gpu_enable_latency_hiding_scheduler": "true",
            # ... also that of the next layer of a scan, and of the one before.
            "xla_gpu_enable_pipelined_all_gather": "true",
            "xla_gpu_enable_pipelined_reduce_scatter": "true",
            "xla_gpu_enable_pipelined_all_reduce": "true",
            # Else each layer waits for the buffers of the one before.
            "xla_gpu_enable_while_loop_double_buffering": "true",
            # One message for a layer: at least its weights, 128 MiB in bfloat16 at width 2304.
            "xla_gpu_all_gather_combine_threshold_bytes": "134217728",
            "xla_gpu_reduce_scatter_combine_threshold_bytes": "134217728",
            "xla_gpu_all_reduce_combine_threshold_bytes": "134217728",
        },
    ),
    # Several TPUs. Source: MaxText, benchmarks/xla_flags_library.py ("continuation fusion", data
    # parallel overlap). Only libtpu knows these, so nothing could try them here.
    "tpu_mesh": FlagSet(
        "LIBTPU_INIT_ARGS",
        {
            # Gathers of weights and sums of gradients run while products do.
            "xla_enable_async_all_gather": "true",
            "xla_enable_async_all_reduce": "true",
            "xla_tpu_enable_async_collective_fusion": "true",
            "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
            "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
            "xla_tpu_overlap_compute_collective_tc": "true",
            # Sums over data parallel replicas overlap with the next pass.
            "xla_tpu_enable_data_parallel_all_reduce_opt": "true",
            "xla_tpu_data_parallel_opt_different_sized_ops": "true",
        },
    ),
}


def start() -> None:
    """Sets up this process; nothing may have touched a device before.

    Compiled programs are kept in a folder of the user's, apart for each type of CPU: XLA loads
    what was compiled for another, and may then die of an illegal instruction. What JAX itself was
    told (`JAX_COMPILATION_CACHE_DIR`, `XLA_FLAGS`, ...) wins. A folder that cannot be written to
    costs a note and the cache.

    Raises:
      UserError: `GEN_XLA_FLAGS` names no set, or `XLA_FLAGS` a file to which none can be added.
    """
    if name := os.environ.get(FLAGS):
        add_flags(name)
    chosen = os.environ.get(CACHE) or DEFAULT_CACHE
    config = jax.config
    if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return
    if chosen.lower() == "off":
        return
    try:
        folder = ensure_writable(Path(chosen).expanduser().absolute() / cpu_type())
    except (UserError, RuntimeError) as error:  # RuntimeError: there is no home
        note(f"nothing compiled is kept: {error} ({CACHE}=DIR gives another place, or off)")
        return
    if config.jax_compilation_cache_max_size == -1:
        trim(folder, MAX_BYTES)
    config.update("jax_compilation_cache_dir", str(folder))


def add_flags(name: str) -> None:
    """Adds a set of `FLAG_SETS` to the environment; flags that are there stay as they are.

    Raises:
      UserError: there is no such set, or the variable names a file of flags.
    """
    if name not in FLAG_SETS:
        raise UserError(f'{FLAGS}: "{name}" is no set of flags{nearest(name, FLAG_SETS)}')
    chosen = FLAG_SETS[name]
    given = os.environ.get(chosen.variable, "").split()
    if given and not given[0].startswith("-"):
        raise UserError(
            f"{chosen.variable} names a file, to which {FLAGS} can't add: write them out"
        )
    there = {flag.lstrip("-").partition("=")[0] for flag in given}
    added = [f"--{flag}={value}" for flag, value in chosen.flags.items() if flag not in there]
    os.environ[chosen.variable] = " ".join(added + given)


def cpu_type() -> str:
    """A short name of this type of CPU: what it is, and the instructions it has."""
    described = [platform.machine(), platform.processor()]
    # As Linux tells it: the first processor's lines on x86 and on ARM.
    keys = ("vendor_id", "model name", "flags", "CPU implementer", "CPU part", "Features")
    with contextlib.suppress(OSError):
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
        described += [line for line in first.splitlines() if line.startswith(keys)]
    return hashlib.sha256("\n".join(described).encode()).hexdigest()[:12]


def trim(folder: Path, max_bytes: int) -> None:
    """Removes the programs not used for the longest time, until no more bytes are left than that.

    JAX's own bound needs a further package, and one killed process stops all later writing
    (jax-ml/jax#39880). Other processes may read, write and trim meanwhile: at worst one of them
    compiles again.
    """
    found = []
    for path in folder.glob("*-cache"):
        with contextlib.suppress(OSError):
            stat = path.stat()
            # Empty: written when the disk was full. JAX would complain of it for ever.
            used = max(stat.st_atime, stat.st_mtime) if stat.st_size else 0.0
            found.append((used, stat.st_size, path))
    total = sum(size for _, size, _ in found)
    for used, size, path in sorted(found):
        if used and total <= max_bytes:
            return
        with contextlib.suppress(OSError):
            path.unlink()
        total -= size
