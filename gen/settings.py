"""Settings that every run has, whatever it trains: the optimiser's, and those of the loop."""

from __future__ import annotations

import dataclasses
import re

from gen.errors import UserError, nearest


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
