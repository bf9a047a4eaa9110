"""The configuration of a run: typed fields, one file, overrides on the command line.

A config file is Python with a `get_config(arg)` that returns an `ml_collections.ConfigDict`.
It is executed: load only files that you trust. The resolved configuration is stored as JSON
beside the weights, and that JSON, never the file, is read back when a run is resumed.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from gen import schema
from gen.data import Shift
from gen.errors import UserError, nearest
from gen.families import FAMILIES
from gen.sharding import MeshConfig


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which tokens: `name` under `dir` (default: `$GEN_DATA_DIR` or `~/.cache/gen/data`).

    `digits` is made on first use, `random` is made up from the model's own layout; any other
    name is a folder that `gen.data.write_dataset` wrote. Splits take slices: `train[:-150]`.
    `shift` moves gray-level images in training (see `gen.data.Shift`).
    """

    name: str
    dir: str | None = None
    train: str = "train"
    valid: str | None = None
    test: str | None = None
    shift: Shift = dataclasses.field(default_factory=Shift)


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW (Loshchilov & Hutter 2019), its schedule, clipping, accumulation and averaging.

    `schedule` is `constant`, `linear` or `cosine`, from `lr` to `final_lr` after a linear
    warm-up. Parameters whose path matches `no_decay` are not decayed. `accumulate` splits a
    batch into that many passes. `ema_decay` 0 keeps no average.
    """

    lr: float
    schedule: str = "constant"
    warmup_steps: int = 0
    final_lr: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.05
    no_decay: tuple[str, ...] = ("norm", "bias")
    clip_norm: float = 1.0
    accumulate: int = 1
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.schedule not in ("constant", "linear", "cosine"):
            close = nearest(self.schedule, ("constant", "linear", "cosine"))
            raise UserError(f'config.optim.schedule "{self.schedule}" is unknown{close}')
        for name in ("beta1", "beta2", "ema_decay"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(f"config.optim.{name} lies in [0, 1), not {getattr(self, name)}")
        for name in ("lr", "clip_norm"):
            if not getattr(self, name) > 0:
                raise UserError(f"config.optim.{name} is above 0, not {getattr(self, name)}")
        for name, least in (("accumulate", 1), ("warmup_steps", 0)):
            if getattr(self, name) < least:
                raise UserError(f"config.optim.{name} is at least {least}")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Length, batch, seed, precision, and how often to look and to save (in steps).

    `dtype` is the compute dtype; parameters, norms, softmax and logits are float32. Parameters
    whose path matches `freeze` stay as they are and get no optimiser moments. `keep` is the
    number of checkpoints on disk. A run stops after `max_skipped` updates in a row that were
    not finite (each is left out).
    """

    steps: int
    batch_size: int
    seed: int = 0
    dtype: str = "bfloat16"
    log_every: int = 50
    eval_every: int = 1000
    save_every: int = 1000
    keep: int = 2
    freeze: tuple[str, ...] = ()
    max_skipped: int = 10

    def __post_init__(self) -> None:
        if self.dtype not in ("bfloat16", "float32"):
            raise UserError(f'config.train.dtype is "bfloat16" or "float32", not "{self.dtype}"')
        for name in ("steps", "batch_size", "log_every", "eval_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise UserError(f"config.train.{name} is at least 1, not {getattr(self, name)}")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"config.train.seed lies in [0, 2^32), not {self.seed}")
        for pattern in self.freeze:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(
                    f'config.train.freeze: "{pattern}" is no pattern: {error}'
                ) from None


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """How the model is best sampled: the defaults of `gen.sample`.

    `guidance` is the number that the published code takes (none: unguided); `guidance_interval`
    is the last step after the first that is guided (-1: all). `options` are the family's own
    (none: its defaults).
    """

    guidance: float | None = None
    guidance_interval: int = -1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    batch_size: int = 64
    options: Any = None

    def settings(self) -> dict[str, Any]:
        """Arguments of `Generator.draw`."""
        values = dataclasses.asdict(self)
        options = values.pop("options")
        return values | (options or {})


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Held-out evaluation: rows at a time, and scores of samples (`digits`) at the end."""

    batch_size: int = 64
    scores: tuple[str, ...] = ()
    num_samples: int = 1500


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run; `model` is the config class of the family."""

    family: str
    model: Any
    data: DataConfig
    optim: OptimConfig
    train: TrainConfig
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    sample: SampleConfig = dataclasses.field(default_factory=SampleConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)

    def to_json(self) -> dict[str, Any]:
        """Nested plain values."""
        return dataclasses.asdict(self)


def config_class(values: dict[str, Any]) -> type:
    """`Config` with the types that the family named in its `family` field gives it."""
    family = values.get("family")
    if family not in FAMILIES:
        raise UserError(f'config.family "{family}" is unknown{nearest(str(family), FAMILIES)}')

    # Resolving annotations walks the bases, so only the fields that differ are named.
    def typed(base: type, fields: list[Any]) -> type:
        return dataclasses.make_dataclass(base.__name__, fields, bases=(base,), frozen=True)

    options = FAMILIES[family].Options | None
    sample = typed(SampleConfig, [("options", options, dataclasses.field(default=None))])
    return typed(Config, [
        ("model", FAMILIES[family].Config),
        ("sample", sample, dataclasses.field(default_factory=sample)),
    ])  # fmt: skip


def from_json(values: dict[str, Any]) -> Config:
    """The config that `to_json` gave; raises `UserError` where a field is unknown or wrong."""
    typed = schema.build(config_class(values), values, "config")

    def plain(base: type, value: Any) -> Any:
        return base(**{f.name: getattr(value, f.name) for f in dataclasses.fields(base)})

    return dataclasses.replace(plain(Config, typed), sample=plain(SampleConfig, typed.sample))


def read_file(path: Path, argument: str | None) -> dict[str, Any]:
    """Runs the file's `get_config` and returns its fields as nested dicts."""
    if not path.is_file():
        raise UserError(f"config file {path} does not exist")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # a config may import its neighbour and change a field
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"config file {path}, line {error.lineno}: {error.msg}") from None
    finally:
        sys.path.remove(str(path.parent))
    get_config = getattr(module, "get_config", None)
    if get_config is None:
        raise UserError(f"config file {path} defines no get_config()")
    if argument and not inspect.signature(get_config).parameters:
        raise UserError(f'config file {path} takes no argument, got ":{argument}" (":debug" works)')
    try:
        values = get_config(argument) if argument else get_config()
    except (KeyError, ValueError):
        if not argument:
            raise
        raise UserError(
            f'config file {path} does not take the argument "{argument}"; '
            "its first lines say what it takes, and :debug works with all"
        ) from None
    return values.to_dict()


def shrink(config: Config) -> Config:
    """A few steps of a small model on random tokens: what `:debug` after a config's path means."""
    return dataclasses.replace(
        config,
        model=config.model.shrunken(),
        data=DataConfig(name="random", valid="test[:16]", test="test[16:]"),
        optim=dataclasses.replace(config.optim, warmup_steps=min(config.optim.warmup_steps, 1)),
        train=dataclasses.replace(
            config.train, steps=4, batch_size=8, log_every=1, eval_every=2, save_every=2
        ),
        mesh=MeshConfig(),
        sample=dataclasses.replace(config.sample, top_k=0),
        eval=EvalConfig(batch_size=8),
    )


def load(spec: str, overrides: list[tuple[str, str]] = ()) -> Config:
    """The config of `FILE[:ARGUMENT[,debug]]`, with overrides such as `("train.steps", "10")`.

    Raises:
      UserError: the file is missing or broken, or a field is unknown, missing or mistyped.
    """
    path, _, argument = spec.partition(":")
    words = [word for word in argument.split(",") if word]
    values = read_file(Path(path), ",".join(word for word in words if word != "debug") or None)
    cls = config_class(values)
    if "debug" not in words:
        for dotted, text in overrides:
            schema.override(cls, values, dotted, text, root="config")
        return from_json(values)
    values = shrink(from_json(values)).to_json()
    for dotted, text in overrides:
        schema.override(cls, values, dotted, text, root="config")
    return from_json(values)


def overridden(
    config: Config, overrides: list[tuple[str, str]], *, groups: tuple[str, ...]
) -> Config:
    """A stored config with other values in some of its groups, such as `data`.

    Raises:
      UserError: a field is unknown or mistyped, or is of a group that is fixed by the weights.
    """
    values = config.to_json()
    for dotted, text in overrides:
        if dotted.partition(".")[0] not in groups:
            raise UserError(f"config.{dotted} is fixed here: only {', '.join(groups)} can be set")
        schema.override(config_class(values), values, dotted, text, root="config")
    return from_json(values)


def split_overrides(arguments: list[str]) -> list[tuple[str, str]]:
    """`--config.a.b=value` and `--config.a.b value` as pairs; anything else is refused."""
    pairs, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--config."):
            raise UserError(f"unknown argument {argument}")
        name, equals, text = argument.removeprefix("--config.").partition("=")
        if not equals:
            if not rest:
                raise UserError(f"{argument} needs a value")
            text = rest.pop(0)
        pairs.append((name, text))
    return pairs


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line, like all others."""

    def error(self, message: str) -> None:
        raise UserError(f"{message} (see --help)")
