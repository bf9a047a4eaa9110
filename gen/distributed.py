"""One run over several processes: joining them, and deciding things together.

Every process runs the same program. What one process alone may do (write files, print) is asked
with `is_main`; the functions below it are called by every process at the same point, and with
one process they return at once.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gen.errors import UserError, note

MODES = ("auto", "off")
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
FOUND_NONE = (
    "--distributed auto found no cluster (Cloud TPU, SLURM, Open MPI, Kubernetes, or "
    f"{', '.join(VARIABLES)} in the environment): leave it out to run one process"
)
# A process that leaves alone takes the others with it after this many seconds. Processes that
# are done wait for one another before they leave, so it need not cover their work.
LEAVING_S = 60
VISIBLE_S = 10  # network file systems show a new file late


def start(mode: str, *, timeout: int = 300) -> None:
    """Joins the processes of this run; nothing may have touched a device before.

    `auto` takes the three `VARIABLES` if they are set, and else what JAX finds: Cloud TPU, SLURM,
    Open MPI or Kubernetes. JAX itself reads of the three the address alone. If the others do not
    come in time, JAX ends the process with exit code 134.

    Args:
      mode: `auto` or `off`.
      timeout: seconds to wait for the other processes.

    Raises:
      UserError: the environment names no cluster or an impossible one, or process 0 does not
        answer; or several processes are there although the mode is `off`.
    """
    explicit = explicit_cluster()
    if mode == "off":
        if explicit and explicit["num_processes"] > 1:
            raise UserError("JAX_NUM_PROCESSES is set: give --distributed auto, or unset it")
        if jax.process_count() > 1:
            raise UserError(f"there are {jax.process_count()} processes: give --distributed auto")
        return
    # Its handler would swallow SIGTERM until the run installs its own.
    jax.config.update("jax_enable_preemption_service", False)
    options = {"initialization_timeout": timeout, "shutdown_timeout_seconds": LEAVING_S}
    if explicit:
        # Else JAX would still look for a cluster, and give each process one local device.
        options |= explicit | {"cluster_detection_method": "deactivate"}
        address, index = explicit["coordinator_address"], explicit["process_id"]
        note(f"joining {explicit['num_processes']} processes at {address}, for at most {timeout} s")
        if index:
            _wait_for(address, timeout)
    try:
        jax.distributed.initialize(**options)
    except Exception as error:  # the detection of clusters raises many types
        reason = " ".join(str(error).split())[:200]
        nothing_found = isinstance(error, ValueError) and "defined" in reason
        raise UserError(FOUND_NONE if nothing_found else f"--distributed auto: {reason}") from None
    devices = f"{jax.local_device_count()} of {jax.device_count()} devices"
    where = f"{jax.process_index()} of {jax.process_count()} on {socket.gethostname()}"
    note(f"process {where}, {devices} ({jax.devices()[0].device_kind})")


def explicit_cluster() -> dict[str, str | int] | None:
    """Arguments of `jax.distributed.initialize` from the environment, or none.

    The address alone is left to JAX, which takes it with the rest of what it finds.

    Raises:
      UserError: some of the three are missing, or a value is impossible.
    """
    given = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    if not given.keys() - {VARIABLES[0]}:
        return None
    missing = [name for name in VARIABLES if name not in given]
    if missing:
        raise UserError(f"{', '.join(given)} is set but not {', '.join(missing)}: set all or none")
    address, count, index = (given[name] for name in VARIABLES)
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit() and int(port) < 2**16):
        raise UserError(f'JAX_COORDINATOR_ADDRESS is HOST:PORT of process 0, not "{address}"')
    if not (count.isdigit() and int(count) > 0):
        raise UserError(f'JAX_NUM_PROCESSES is a number from 1, not "{count}"')
    if not (index.isdigit() and int(index) < int(count)):
        raise UserError(f'JAX_PROCESS_ID is a number from 0 to {int(count) - 1}, not "{index}"')
    return {
        "coordinator_address": address,
        "num_processes": int(count),
        "process_id": int(index),
    }


def _wait_for(address: str, timeout: float) -> None:
    """Returns once process 0 listens; JAX would end the process with a stack trace instead."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"process 0 does not answer at {address} (JAX_COORDINATOR_ADDRESS): {error}"
                ) from None
        time.sleep(0.2)


def is_main() -> bool:
    """Whether this is process 0, which alone writes logs, results and pictures."""
    return jax.process_index() == 0


@functools.cache
def _all_devices() -> Mesh:
    return Mesh(np.array(jax.devices()), ("devices",))


@functools.cache
def _any() -> jax.stages.Wrapped:
    return jax.jit(jnp.any, out_shardings=NamedSharding(_all_devices(), P()))


@functools.cache
def _flags(mine: bool) -> jax.Array:
    where = NamedSharding(_all_devices(), P("devices"))
    return jax.make_array_from_process_local_data(where, np.full(jax.local_device_count(), mine))


def ask(flag: bool) -> jax.Array | np.bool_:
    """Starts `any_process` without waiting; `bool` of the answer waits."""
    if jax.process_count() == 1:
        return np.bool_(flag)
    with jax.set_mesh(_all_devices()):
        return _any()(_flags(flag))


def any_process(flag: bool) -> bool:
    """Whether the flag is set in at least one process."""
    return bool(ask(flag))


def barrier() -> None:
    """Waits for all processes."""
    any_process(False)


@contextlib.contextmanager
def together(what: str) -> Iterator[None]:
    """A block that fails in all processes if it fails in one.

    What the processes do together inside of it must fail in all of them, or in none.

    Raises:
      UserError: another process failed.
    """
    try:
        yield
    except Exception:
        any_process(True)
        raise
    if any_process(False):
        raise UserError(f"another process failed in {what}: its own output tells why")


def check_shared(folder: Path) -> None:
    """Checks that all processes see one and the same folder.

    Raises:
      UserError: a file that process 0 wrote into it is not there for another.
    """
    count = jax.process_count()
    if count == 1:
        return
    from jax.experimental import multihost_utils

    number = np.int32(random.SystemRandom().randrange(2**31))
    mark = folder / f".shared-{int(multihost_utils.broadcast_one_to_all(number))}"
    if is_main():
        mark.touch()
    barrier()
    deadline = time.monotonic() + VISIBLE_S
    while not mark.exists() and time.monotonic() < deadline:
        os.listdir(folder)  # makes a network file system look again
        time.sleep(0.2)
    lost = any_process(not mark.exists())
    if is_main():
        mark.unlink()
    if lost:
        raise UserError(
            f"{folder} is not the same folder for all {count} processes, and checkpoints need "
            "one: give a --workdir on a file system that all of them share"
        )
