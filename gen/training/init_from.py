"""Starting a run from other weights.

The weights of another run, where the two models may differ in their classes; or a tokenizer, for
models that hold a part of theirs.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
from flax import traverse_util

from gen import config as configs
from gen import tokenizers
from gen.errors import MOST_NAMES, UserError, note
from gen.families import Family
from gen.schema import differences
from gen.tokenizers import Tokenizer
from gen.training import checkpoint
from gen.training.state import Trainer, TrainState

CLASS_TABLE = "condition/table/embedding"


@dataclasses.dataclass(frozen=True)
class Start:
    """What a run starts from: the checkpoint `source`, fresh weights on a tokenizer, or fresh."""

    source: Path | None = None
    tokenizer: Tokenizer | None = None

    @classmethod
    def checked(cls, family: Family, *, init_from: str | None, tokenizer: str | None) -> Start:
        """What the command line asks for.

        Raises:
          UserError: it is not there, or not for this model.
        """
        if init_from and tokenizer:
            raise UserError("--init_from brings the tokenizer's part too: leave --tokenizer out")
        source = checkpoint.find(init_from) if init_from else None
        if source:
            _config_of(source, family)
        return cls(source, read_tokenizer(tokenizer, family) if tokenizer else None)

    def check_enough(self, family: Family) -> None:
        """Refuses fresh weights alone for a model that holds a part of its tokenizer."""
        if family.tokenizer_parts and not (self.source or self.tokenizer):
            parts = ", ".join(family.tokenizer_parts)
            raise UserError(
                f"this model holds the {parts} of its tokenizer: give --tokenizer FILE "
                "(gen.convert writes one), or --init_from"
            )

    def state(self, trainer: Trainer) -> TrainState:
        """The state at step 0."""
        if self.source:
            return start_from(self.source, trainer)
        if not self.tokenizer:
            return trainer.init()
        given = {part: self.tokenizer.params[part] for part in trainer.learner.tokenizer_parts}
        return trainer.init_from(trainer.init().params | given)


def start_from(folder: Path, trainer: Trainer) -> TrainState:
    """The state at step 0 with the (averaged) weights of a checkpoint.

    A class table of another size starts fresh but for its last row, the null class, so that
    guidance keeps its unconditional branch. All else must agree.

    Raises:
      UserError: it is damaged, of another family or a tokenizer's, or parameters differ, which are
        named.
    """
    source = _config_of(folder, trainer.learner)
    given = checkpoint.read_weights(folder, source, mesh=trainer.mesh)
    fresh = trainer.init().params
    note(f"starting from the weights of {folder}")
    params = adapt(
        traverse_util.flatten_dict(given, sep="/"),
        traverse_util.flatten_dict(fresh, sep="/"),
        nulls=(_has_null(source), _has_null(trainer.config)),
    )
    return trainer.init_from(traverse_util.unflatten_dict(params, sep="/"))


def read_tokenizer(path: str, family: Family) -> Tokenizer:
    """The tokenizer that a model is to be trained on.

    Raises:
      UserError: it is no tokenizer, the model holds no part of one, or the parts differ.
    """
    if not family.tokenizer_parts:
        raise UserError("--tokenizer: this model holds no part of its tokenizer; leave it out")
    tokenizer = tokenizers.load(path)
    for part in family.tokenizer_parts:
        ours, theirs = getattr(family.config, part), getattr(tokenizer.config, part, None)
        if theirs is None:
            raise UserError(f"--tokenizer {path}: its kind, {tokenizer.kind}, has no {part}")
        changed = differences(dataclasses.asdict(ours), dataclasses.asdict(theirs))
        if changed:
            told = ", ".join(
                f"{name} {getattr(theirs, name)} for {getattr(ours, name)}" for name in changed
            )
            raise UserError(f"--tokenizer {path}: its {part} is not the model's: {told}")
    return tokenizer


def _config_of(folder: Path, family: Family) -> configs.Config:
    """That of a checkpoint; raises `UserError` unless it is of a model of this family."""
    try:
        config = configs.of_generator(configs.from_json(checkpoint.read_meta(folder)["config"]))
    except UserError as error:
        raise UserError(f"--init_from: {error}") from None
    if configs.FAMILIES[config.family] is not type(family):
        raise UserError(
            f"--init_from {folder}: it is a model of the family {config.family}, which this run's "
            "is not"
        )
    return config


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
        told = "; ".join(problems[:MOST_NAMES])
        rest = len(problems) - MOST_NAMES
        more = f"; and {rest} more" if rest > 0 else ""
        raise UserError(f"--init_from: the checkpoint does not fit: {told}{more}")
    return params
