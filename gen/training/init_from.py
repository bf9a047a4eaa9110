"""Starting a run from other weights, where the two models may differ in their classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
from flax import traverse_util

from gen import config as configs
from gen.errors import UserError, note
from gen.training import checkpoint
from gen.training.state import Trainer, TrainState

CLASS_TABLE = "condition/table/embedding"


def start_from(path: str, trainer: Trainer) -> TrainState:
    """The state at step 0 with the (averaged) weights of a run or checkpoint.

    A class table of another size starts fresh but for its last row, the null class, so that
    guidance keeps its unconditional branch. All else must agree.

    Raises:
      UserError: there is no such checkpoint, or parameters differ; all that differ are named.
    """
    folder = checkpoint.find(Path(path))
    source = configs.from_json(checkpoint.read_meta(folder)["config"])
    given = checkpoint.read_weights(folder, source, mesh=trainer.mesh)
    fresh = trainer.init().params
    note(f"starting from the weights of {folder}")
    params = adapt(
        traverse_util.flatten_dict(given, sep="/"),
        traverse_util.flatten_dict(fresh, sep="/"),
        nulls=(_has_null(source), _has_null(trainer.config)),
    )
    return trainer.init_from(traverse_util.unflatten_dict(params, sep="/"))


def _has_null(config: configs.Config) -> bool:
    return configs.FAMILIES[config.family](config.model).condition.has_null


def adapt(
    given: dict[str, jax.Array], fresh: dict[str, jax.Array], *, nulls: tuple[bool, bool]
) -> dict[str, jax.Array]:
    """Fresh parameters with the given ones in their place; both flat, path -> array."""
    problems: list[Any] = [f"{path} is not in this model" for path in given if path not in fresh]
    params = dict(fresh)
    for path, new in fresh.items():
        old = given.get(path)
        if old is None:
            problems.append(f"{path} is missing")
        elif old.shape == new.shape:
            params[path] = old
        elif path == CLASS_TABLE and nulls == (True, False) and old[:-1].shape == new.shape:
            params[path] = old[:-1]  # the same classes, without the null class
        elif path == CLASS_TABLE and old.shape[1:] == new.shape[1:]:
            kept = "but for its null class" if all(nulls) else "whole"
            note(f"the class table starts fresh {kept}: {len(old)} rows before, {len(new)} now")
            params[path] = new.at[-1].set(old[-1]) if all(nulls) else new
        else:
            problems.append(f"{path} has shape {old.shape} for {new.shape}")
    if problems:
        raise UserError(f"--init_from: the checkpoint does not fit: {'; '.join(problems)}")
    return params
