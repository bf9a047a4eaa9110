"""Checkpoints that survive a kill at any moment, and that know when they are damaged.

A checkpoint is a folder `checkpoints/<step>` with the items `params`, `ema`, `optimizer` and
`meta` (resolved config, counters, versions), written by Orbax under a temporary name and renamed
when complete. Orbax does not notice a flipped bit in array data, so a manifest of SHA-256 sums
is added once a checkpoint is complete, and checked before it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import Mesh, SingleDeviceSharding

from gen import distributed, sharding
from gen.config import Config
from gen.errors import UserError, ensure_writable, note
from gen.models.layers import Buffer
from gen.training.state import Params, TrainState, join, split, trained_paths

MANIFEST = "sha256.json"
FORMAT = 1


def _sums(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file of a checkpoint but the manifest itself."""
    sums = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != MANIFEST:
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            sums[file.relative_to(folder).as_posix()] = digest
    return sums


def seal(folder: Path) -> None:
    """Writes the manifest of a complete checkpoint, atomically."""
    temporary = folder / f".{MANIFEST}.{os.getpid()}"
    temporary.write_text(json.dumps(_sums(folder), indent=1))
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(folder / MANIFEST)


def verify(folder: Path) -> None:
    """Compares a checkpoint with its manifest, if it has one (a kill may have come before).

    Raises:
      UserError: naming the first file that is missing or changed.
    """
    if not (folder / MANIFEST).is_file():
        return
    try:
        wanted = json.loads((folder / MANIFEST).read_text())
    except (ValueError, OSError) as error:
        raise UserError(
            f"checkpoint {folder} is damaged: {MANIFEST} is unreadable ({error})"
        ) from None
    found = _sums(folder)
    for name, digest in wanted.items():
        if name not in found:
            raise UserError(f"checkpoint {folder} is damaged: file {name} is missing")
        if found[name] != digest:
            raise UserError(f"checkpoint {folder} is damaged: file {name} was changed or cut")


def _verify_once(folder: Path) -> None:
    """`verify` by process 0 alone, with the same outcome in all."""
    problem = None
    if distributed.is_main():
        try:
            verify(folder)
        except UserError as error:
            problem = error
    if distributed.any_process(problem is not None):
        raise problem or UserError(f"checkpoint {folder} is damaged, says process 0")


def steps_in(folder: Path) -> list[int]:
    """Steps of the complete checkpoints below a folder, newest first."""
    # An emptied folder is no checkpoint: Orbax would count it as the latest step.
    steps = [name for name in _inside(folder) if name.isdigit() and _inside(folder / name)]
    return sorted(map(int, steps), reverse=True)


def _inside(folder: Path) -> list[str]:
    """Names of what lies in a folder; none where it is gone, which a running process may see to."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def find(path: str | Path) -> Path:
    """The checkpoint folder that a run, its `checkpoints` folder or a checkpoint itself names.

    Raises:
      UserError: there is none.
    """
    path = Path(path).absolute()
    if not path.exists():
        raise UserError(f"checkpoint or run {path} does not exist")
    if (path / "meta").is_dir() or (path / "params").is_dir():
        return path
    for folder in (path / "checkpoints", path):
        steps = steps_in(folder)
        if steps:
            return folder / str(steps[0])
    raise UserError(f"{path} holds no checkpoint (looked for checkpoints/<step>)")


def _restore(folder: Path, items: dict[str, Any]) -> dict[str, Any]:
    """Reads items of a checkpoint; whatever goes wrong is a damaged checkpoint."""
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            return dict(reader.restore(folder, args=ocp.args.Composite(**items)))
    except Exception as error:  # Orbax raises seven types here, bare Exception among them
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"checkpoint {folder} cannot be read: {reason}") from None


def read_meta(folder: Path) -> dict[str, Any]:
    """The resolved config, step and versions of a checkpoint, after checking its sums."""
    _verify_once(folder)
    if not (folder / "meta").is_dir():
        raise UserError(f"checkpoint {folder} is incomplete: meta is missing")
    meta = _restore(folder, {"meta": ocp.args.JsonRestore()})["meta"]
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise UserError(f"checkpoint {folder} is of another format than {FORMAT}")
    # An option of older versions, which a trace has replaced.
    (meta["config"].get("sample", {}).get("options") or {}).pop("keep_steps", None)
    return meta


def read_weights(
    folder: Path, config: Config, *, averaged: bool = True, mesh: Mesh | None = None
) -> Params:
    """The parameters of a checkpoint, averaged where the run kept averages and they are wanted.

    Raises:
      UserError: the checkpoint is damaged or does not hold what its config says.
    """
    learner = config.learner()
    model = nnx.eval_shape(lambda: learner.build(nnx.Rngs(0)))
    shapes = nnx.to_pure_dict(nnx.state(model))
    if mesh is None:
        where = jax.tree.map(lambda _: SingleDeviceSharding(jax.devices()[0]), shapes)
    else:
        where = sharding.shardings(shapes, mesh)
    abstract = jax.tree.map(
        lambda s, w: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=w), shapes, where
    )
    items = {"params": abstract}
    if averaged and (folder / "ema").is_dir():
        buffers = nnx.to_pure_dict(nnx.state(model, Buffer))
        trained = trained_paths(shapes, buffers=buffers, freeze=config.train.freeze)
        items["ema"] = split(abstract, trained)[0]
    read = _restore(folder, {name: ocp.args.StandardRestore(tree) for name, tree in items.items()})
    return join(read["params"], read.get("ema", {}))


def write_weights(
    folder: str | Path, config: Config, params: Params, *, about: Mapping[str, Any]
) -> None:
    """Writes weights alone, without moments, as step 0: something to load or to start from.

    `about`: what is told of them beside the config, JSON by name.

    Raises:
      UserError: the folder holds checkpoints already or cannot be written to.
    """
    destination = ensure_writable(folder).absolute() / "checkpoints" / "0"
    if steps_in(destination.parent):
        raise UserError(f"{folder} holds checkpoints already: choose another folder")
    meta = {"format": FORMAT, "step": 0, "skipped": 0, "config": config.to_json()}
    meta |= {"weights_only": True} | about
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
        items = ocp.args.Composite(
            meta=ocp.args.JsonSave(meta),
            params=ocp.args.StandardSave(params),
        )
        writer.save(destination, args=items)
    seal(destination)


class WeightsOnly(UserError):
    """A checkpoint that `write_weights` wrote: no run can go on from it."""


class Checkpoints:
    """The checkpoints of one run. Saving goes on in the background; `close` waits for it."""

    def __init__(self, workdir: str | Path, *, keep: int, meta: dict[str, Any]):
        self.folder = Path(workdir).absolute() / "checkpoints"
        self.meta = meta
        self._unsealed: int | None = None
        if distributed.is_main():
            self._remove_empty()
        distributed.barrier()
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, create=True, cleanup_tmp_directories=True
            ),
        )

    def _remove_empty(self) -> None:
        """Removes emptied steps, which Orbax would take for saved ones and not save again."""
        for entry in self.folder.glob("*") if self.folder.is_dir() else ():
            if entry.is_dir() and entry.name.isdigit() and not any(entry.iterdir()):
                entry.rmdir()

    def save(self, state: TrainState) -> None:
        """Starts saving; returns once the arrays are off the device."""
        self.wait()
        step = int(state.step)
        items = {"params": state.params, "optimizer": state.optimizer}
        items |= {"ema": state.ema} if state.ema else {}
        meta = self.meta | {"format": FORMAT, "step": step, "skipped": int(state.skipped)}
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                meta=ocp.args.JsonSave(meta),
                **{name: ocp.args.StandardSave(tree) for name, tree in items.items()},
            ),
            force=True,
        )
        if not saved:
            raise RuntimeError(f"Orbax refused to save step {step} in {self.folder}")
        self._unsealed = step

    def wait(self) -> None:
        """Waits for the save under way and seals it with its sums."""
        self._manager.wait_until_finished()
        if self._unsealed is not None and distributed.is_main():
            seal(self.folder / str(self._unsealed))
        self._unsealed = None

    def restore_latest(self, abstract: TrainState) -> TrainState | None:
        """The newest state that is whole, or none if nothing was saved yet.

        A damaged checkpoint is moved aside (`<step>.damaged`), reported, and the one before it
        is tried.

        Raises:
          UserError: there are checkpoints, but every one is damaged or holds weights alone.
        """
        problems = []
        for step in steps_in(self.folder):
            folder = self.folder / str(step)
            try:
                with distributed.together(f"reading checkpoint {folder}"):
                    state = self._read(folder, abstract)
            except WeightsOnly:
                raise  # whole, and not ours to move
            except UserError as error:
                problems.append(str(error))
                if distributed.is_main():
                    note(f"{error}; trying the one before it")
                    folder.rename(self.folder / f"{step}.damaged")
                distributed.barrier()
                continue
            self._manager.reload()
            return state
        if problems:
            raise UserError(f"no checkpoint of this run is whole: {problems[0]}")
        return None

    def _read(self, folder: Path, abstract: TrainState) -> TrainState:
        meta = read_meta(folder)
        if meta.get("weights_only"):
            raise WeightsOnly(
                f"{self.folder.parent} holds weights, not a run: give --init_from "
                f"{self.folder.parent} and another --workdir"
            )
        trees = {"params": abstract.params, "optimizer": abstract.optimizer}
        trees |= {"ema": abstract.ema} if abstract.ema else {}
        items = {name: ocp.args.StandardRestore(tree) for name, tree in trees.items()}
        read = _restore(folder, items)
        counters = (meta["step"], meta["skipped"])
        step, skipped = (
            sharding.put(np.int32(value), abstract.step.sharding) for value in counters
        )
        return TrainState(step, skipped, read["params"], read.get("ema") or {}, read["optimizer"])

    def close(self) -> None:
        self.wait()
        self._manager.close()
