"""The contract of a job: what a run needs beside its training step.

The loop of `gen.train` knows no more than this: where batches come from, what the weights are worth
on held-out data, and what is left behind at the end.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import jax

from gen.training.state import Params, Trainer, TrainState


class Job(abc.ABC):
    """A checked job of one trainer, before anything is compiled.

    Attributes:
      free: dotted fields of its config (or their beginnings) on which no parameter depends: a
        resumed run may change them.
      trainer: of the run.
      curves: values of the log that are drawn at the end -> what the lines are called.
      unit: of these values.
      name: what is trained, in a word.
      num_examples: of an epoch.
      num_parameters: numbers in the weights of what is trained, stored buffers left out.
      is_warm: whether it starts from trained weights, which are then scored before the first step.
      about: what its checkpoints tell beside the config, JSON by name.
    """

    free: ClassVar[tuple[str, ...]] = ()

    trainer: Trainer
    curves: dict[str, str]
    unit: str
    name: str
    num_examples: int
    num_parameters: int
    is_warm: bool
    about: dict[str, Any]

    @abc.abstractmethod
    def __init__(
        self, trainer: Trainer, *, init_from: str | None, tokenizer: str | None, is_new: bool
    ) -> None:
        """Opens what the config and the command line name.

        Args:
          trainer: of the run.
          init_from: `--init_from`.
          tokenizer: `--tokenizer`.
          is_new: the run has no checkpoint yet, and so needs all that step 0 takes.

        Raises:
          UserError: anything that a user can get wrong.
        """

    @abc.abstractmethod
    def start(self) -> TrainState:
        """The state at step 0."""

    @abc.abstractmethod
    def batches(self, start: int) -> Iterator[dict[str, jax.Array]]:
        """Training batches from step `start` on, without end, cut over the mesh."""

    @abc.abstractmethod
    def held_out(self, params: Params) -> dict[str, float]:
        """Scores of held-out data by name; none where the config names no such data."""

    @abc.abstractmethod
    def finish(self, params: Params, workdir: Path) -> dict[str, Any]:
        """Scores the finished weights and writes what they made; returns what is to be told."""
