"""The contract of a published system: how its checkpoints and its settings become ours."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from flax import nnx, traverse_util

from gen.api import Generator
from gen.config import Config
from gen.errors import UserError
from gen.families import FAMILIES
from gen.families.base import abstract_model
from gen.published.tables import Entry
from gen.tokenizers import Tokenizer

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Target:
    """What a checkpoint is turned into.

    Attributes:
      shapes: flat path -> shape of each parameter.
      make: nested parameters and a description of where they came from -> the object to return
        (`gen.Generator` or `gen.tokenizers.Tokenizer`).
    """

    shapes: Shapes
    make: Callable[[dict[str, Any], dict[str, Any]], Any]


class System(abc.ABC):
    """One upstream implementation. Subclasses are one small file each, without state.

    Attributes:
      name: what users call it.
      source: repository and commit whose behaviour is reproduced.
      Settings: dataclass of the reference's settings under its own names; a field that can be
        none is inferred from the weights.
      parts: name of each file of weights -> a tensor name that only it holds; where that name is
        found tells how the checkpoint is nested.
      ignored: patterns of tensor names that carry no weights.
      outputs: name of a reference output -> function of (model, inputs).
      functions: name of a reference function -> function of (model, settings, inputs), for
        outputs that the reference computes with settings: samples, filters, decoded pixels.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    Settings: ClassVar[type]
    parts: ClassVar[Mapping[str, str]]
    ignored: ClassVar[tuple[str, ...]] = ()
    outputs: ClassVar[Mapping[str, Callable[[Any, Mapping[str, np.ndarray]], np.ndarray]]] = {}
    functions: ClassVar[
        Mapping[str, Callable[[Any, Mapping[str, Any], Mapping[str, np.ndarray]], np.ndarray]]
    ] = {}

    def output(self, name: str) -> Callable[..., np.ndarray] | None:
        """What computes a reference output, as `outputs` has it; none if nothing does.

        Systems whose outputs have numbers in their names override it.
        """
        return self.outputs.get(name)

    @abc.abstractmethod
    def infer(self, shapes: Mapping[str, Shapes], stored: Mapping[str, Any]) -> dict[str, Any]:
        """Settings that the weights tell.

        Args:
          shapes: part -> their tensor name -> shape; names may be missing.
          stored: plain values saved beside the tensors, such as `args.gpt_model`, and the
            settings given, under their own names.

        Returns:
          Some of the fields of `Settings`.
        """

    @abc.abstractmethod
    def target(self, settings: Any) -> Target:
        """What to build; raises `UserError` where a setting is missing or not supported."""

    @abc.abstractmethod
    def table(self, settings: Any) -> list[Entry]:
        """Where each parameter comes from."""


def flat_shapes(model: nnx.Module) -> Shapes:
    """Path -> shape of each parameter and buffer of a module, abstract or not."""
    leaves = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(model)), sep="/")
    return {path: tuple(leaf.shape) for path, leaf in leaves.items()}


def generator_target(config: Config) -> Target:
    """A generator of this config."""
    family = FAMILIES[config.family](config.model)
    return Target(
        flat_shapes(abstract_model(family)),
        lambda params, published: Generator(config, params, about={"published": published}),
    )


def tokenizer_target(kind: type[Tokenizer], config: Any) -> Target:
    """A tokenizer of this kind and config."""
    return Target(
        kind.shapes(config), lambda params, published: kind(config, params, meta=published)
    )


def require(settings: Any, *names: str, hints: Mapping[str, str], **values: Any) -> None:
    """Refuses settings that are none: those named, and those given with a value worked out.

    Raises:
      UserError: naming all that are missing, each with its hint.
    """
    found = {name: getattr(settings, name) for name in names} | values
    missing = [name for name, value in found.items() if value is None]
    if missing:
        said = [f"{name} ({hints[name]})" if name in hints else name for name in missing]
        raise UserError(f"the weights do not tell {', '.join(said)}: give it as a setting")


def size(tensors: Shapes, name: str, axis: int) -> int | None:
    """A side of a tensor of theirs; none if there is no such tensor."""
    shape = tensors.get(name, ())
    return shape[axis] if len(shape) > axis else None


def count(tensors: Shapes, template: str) -> int:
    """How many tensors there are of a name with a number, from 0 without a gap."""
    number = 0
    while template.format(number) in tensors:
        number += 1
    return number
