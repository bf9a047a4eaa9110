"""The configuration of a run: typed fields, one file, overrides on the command line.

A config file is Python with a `get_config(arg)` that returns an `ml_collections.ConfigDict`.
It is executed: load only files that you trust. The resolved configuration is stored as JSON
beside the weights, and that JSON, never the file, is read back when a run is resumed.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from gen import schema
from gen.autoencoding import TRAINABLE, LossConfig, TokenizerLearner, blank
from gen.config_file import read_file
from gen.data import Shift
from gen.decoding.tokens import token_sampling
from gen.errors import UserError, nearest
from gen.families import FAMILIES, Family
from gen.images.config import ImagesConfig
from gen.settings import OptimConfig, TrainConfig
from gen.sharding import MeshConfig
from gen.tokenizers import TOKENIZERS


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

    def __post_init__(self) -> None:
        try:
            token_sampling(self.temperature, top_k=self.top_k, top_p=self.top_p)
        except UserError as error:
            raise UserError(f"sample: {error}") from None
        if self.guidance_interval < -1:
            raise UserError(
                f"sample: guidance_interval is at least -1, not {self.guidance_interval}"
            )
        if self.batch_size < 1:
            raise UserError(f"sample: batch_size is at least 1, not {self.batch_size}")

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
    """A whole run of a generator; `model` is the config class of the family."""

    family: str
    model: Any
    data: DataConfig
    optim: OptimConfig
    train: TrainConfig
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    sample: SampleConfig = dataclasses.field(default_factory=SampleConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)

    def learner(self) -> Family:
        """What is trained."""
        return FAMILIES[self.family](self.model)

    def to_json(self) -> dict[str, Any]:
        """Nested plain values."""
        return dataclasses.asdict(self)

    def shrunken(self) -> Config:
        """A few steps of a small model on random tokens."""
        return dataclasses.replace(
            _few_steps(self),
            model=self.model.shrunken(),
            data=DataConfig(name="random", valid="test[:16]", test="test[16:]"),
            sample=dataclasses.replace(self.sample, top_k=0),
            eval=EvalConfig(batch_size=8),
        )


@dataclasses.dataclass(frozen=True)
class PixelEvalConfig:
    """Held-out crops of a tokenizer: how many at a time."""

    batch_size: int = 64


@dataclasses.dataclass(frozen=True)
class TokenizerRun:
    """A whole run of a tokenizer; `model` is the config class of the kind that it names."""

    tokenizer: str
    model: Any
    data: ImagesConfig
    optim: OptimConfig
    train: TrainConfig
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    eval: PixelEvalConfig = dataclasses.field(default_factory=PixelEvalConfig)

    def __post_init__(self) -> None:
        after, steps = self.loss.quantise_after, self.train.steps
        if after >= steps:
            raise UserError(
                f"config.loss.quantise_after {after} must be below config.train.steps {steps}: "
                "nothing would be quantised"
            )

    def learner(self) -> TokenizerLearner:
        """What is trained."""
        return TokenizerLearner(TOKENIZERS[self.tokenizer], self.model, self.loss, self.data.size)

    def to_json(self) -> dict[str, Any]:
        """Nested plain values."""
        return dataclasses.asdict(self)

    def shrunken(self) -> TokenizerRun:
        """A few steps of a small model on random pixels."""
        model = self.model.shrunken()
        size = blank(TOKENIZERS[self.tokenizer], model).default_shape(16)
        return dataclasses.replace(
            _few_steps(dataclasses.replace(self, loss=self.loss.shrunken())),
            model=model,
            data=ImagesConfig(name="random", size=size, valid_crops=16),
            eval=PixelEvalConfig(batch_size=8),
        )


def _few_steps(config: Any) -> Any:
    """Any run with four steps of eight rows on all devices."""
    return dataclasses.replace(
        config,
        optim=dataclasses.replace(config.optim, warmup_steps=min(config.optim.warmup_steps, 1)),
        train=dataclasses.replace(
            config.train, steps=4, batch_size=8, log_every=1, eval_every=2, save_every=2
        ),
        mesh=MeshConfig(),
    )


# Resolving annotations walks the bases, so only the fields that differ are named.
def _typed(base: type, fields: list[Any]) -> type:
    return dataclasses.make_dataclass(base.__name__, fields, bases=(base,), frozen=True)


def config_class(values: dict[str, Any]) -> type:
    """`Config` or `TokenizerRun`, with the types that the family or the kind named gives it."""
    if "tokenizer" in values:
        kind = values["tokenizer"]
        if kind not in TRAINABLE:
            raise UserError(f'config.tokenizer "{kind}" is unknown{nearest(str(kind), TRAINABLE)}')
        return _typed(TokenizerRun, [("model", TOKENIZERS[kind].Config)])
    family = values.get("family")
    if family not in FAMILIES:
        raise UserError(f'config.family "{family}" is unknown{nearest(str(family), FAMILIES)}')
    options = FAMILIES[family].Options | None
    sample = _typed(SampleConfig, [("options", options, dataclasses.field(default=None))])
    return _typed(Config, [
        ("model", FAMILIES[family].Config),
        ("sample", sample, dataclasses.field(default_factory=sample)),
    ])  # fmt: skip


def from_json(values: dict[str, Any]) -> Config | TokenizerRun:
    """The config that `to_json` gave; raises `UserError` where a field is unknown or wrong."""
    typed = schema.build(config_class(values), values, "config")

    def plain(base: type, value: Any) -> Any:
        return base(**{f.name: getattr(value, f.name) for f in dataclasses.fields(base)})

    if isinstance(typed, TokenizerRun):
        return plain(TokenizerRun, typed)
    return dataclasses.replace(plain(Config, typed), sample=plain(SampleConfig, typed.sample))


def of_generator(config: Config | TokenizerRun) -> Config:
    """The config, unless it is that of a tokenizer, which raises `UserError`."""
    if isinstance(config, TokenizerRun):
        raise UserError(
            f'this is a run of a tokenizer ("{config.tokenizer}"), not of a generator: gen.sample '
            "and others take its tokenizer.safetensors as --tokenizer"
        )
    return config


def load(spec: str, overrides: list[tuple[str, str]] = ()) -> Config | TokenizerRun:
    """The config of `FILE[:ARGUMENT[,debug]]`, with overrides such as `("train.steps", "10")`.

    `debug` makes it a few steps of a small model on made-up data.

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
    values = from_json(values).shrunken().to_json()
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
