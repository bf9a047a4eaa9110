"""What is timed: the generator that the command names, and its guidance."""

from __future__ import annotations

import jax
from flax import nnx

from gen import config as configs
from gen.api import Generator, load
from gen.bench.made_up import filled
from gen.errors import UserError
from gen.families import FAMILIES


def open_generator(target: str, overrides: list[tuple[str, str]], dtype: str) -> Generator:
    """The generator of a run, or one of a config with random weights."""
    if not target.partition(":")[0].endswith(".py"):
        if overrides:
            raise UserError("--config.X overrides go with a config file, not with a run")
        return load(target, dtype=dtype)
    config = configs.of_generator(configs.load(target, overrides))
    family = FAMILIES[config.family](config.model)
    make = jax.jit(lambda: filled(nnx.to_pure_dict(nnx.state(family.build(nnx.Rngs(0))))))
    return Generator(config, make(), dtype=dtype)


def guidances_of(text: str | None, generator: Generator) -> list[float | None]:
    """The guidance numbers to time."""
    own = generator.config.sample.guidance
    if text in (None, "both"):
        return [None] if own is None else [own, None]
    if text == "none":
        return [None]
    try:
        return [float(text)]
    except ValueError:
        raise UserError(f"--guidance takes a number, none or both, not {text}") from None
