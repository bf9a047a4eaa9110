"""From a class or a caption to the condition slots in front of the tokens.

Axes: B batch, T condition slots, D width, C channels of a caption feature.

What reaches a model is a dict, as a dataset's batch has it: `label` (B,) int, or `caption`
(B, T, C) with `caption_valid` (B, T) bool. The null condition, which guidance and its training
dropout need, stands in for rows that the caller marks in `drop_B`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gen.errors import UserError
from gen.models.layers import Buffer, embedding, linear


@dataclasses.dataclass(frozen=True)
class ConditionConfig:
    """What a sample is conditioned on.

    Attributes:
      kind: `class` (one slot) or `text` (`caption_length` slots).
      num_classes: classes of a `class` condition; the null label is the index after the last.
      caption_length: T of a `text` condition.
      caption_dim: C of a `text` condition.
      drop_rate: share of training samples that get the null condition. A class model built
        with 0 has no null class and can't be guided.
    """

    kind: str = "class"
    num_classes: int = 0
    caption_length: int = 120
    caption_dim: int = 2048
    drop_rate: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in ("class", "text"):
            raise UserError(f'a condition is of kind "class" or "text", not "{self.kind}"')
        if self.kind == "class" and self.num_classes < 1:
            raise UserError("a class condition needs num_classes of at least 1")
        if self.kind == "text" and min(self.caption_length, self.caption_dim) < 1:
            raise UserError("a text condition needs caption_length and caption_dim of at least 1")
        if not 0.0 <= self.drop_rate < 1.0:
            raise UserError(f"drop_rate is a probability below 1, not {self.drop_rate}")

    def shrunken(self) -> ConditionConfig:
        """The same condition with short and narrow captions, for `:debug`."""
        return dataclasses.replace(
            self,
            caption_length=min(self.caption_length, 8),
            caption_dim=min(self.caption_dim, 32),
        )

    @property
    def num_slots(self) -> int:
        return 1 if self.kind == "class" else self.caption_length

    @property
    def has_null(self) -> bool:
        return self.kind == "text" or self.drop_rate > 0


class Prompt(NamedTuple):
    """An embedded condition.

    `x_BTD` are its slots, `valid_BT` marks those that are no padding (none: all). Where blocks and
    heads are modulated, `cond` `(B, ...)` is what the blocks take and `vector_BD` what heads take.
    """

    x_BTD: jax.Array
    valid_BT: jax.Array | None = None
    cond: jax.Array | None = None
    vector_BD: jax.Array | None = None


class ClassCondition(nnx.Module):
    """One slot holding the row of a table; the last row is the null class.

    Source: FoundationVision/LlamaGen, `LabelEmbedder`.
    """

    def __init__(self, config: ConditionConfig, width: int, **options: Any):
        self.null_label = config.num_classes
        rows = config.num_classes + int(config.has_null)
        self.table = embedding(rows, width, **options)

    def __call__(self, batch: dict[str, jax.Array], drop_B: jax.Array | None = None) -> Prompt:
        label_B = batch["label"]
        if drop_B is not None:
            label_B = jnp.where(drop_B, self.null_label, label_B)
        return Prompt(self.table(label_B)[:, None])


class TextCondition(nnx.Module):
    """Caption features through a two-layer map; the null caption is a stored, untrained buffer.

    The null caption replaces the features before the map; the padding mask of the row stays.
    Source: FoundationVision/LlamaGen, `CaptionEmbedder`.
    """

    def __init__(self, config: ConditionConfig, width: int, **options: Any):
        shape = (config.caption_length, config.caption_dim)
        scale = np.float32(config.caption_dim**-0.5)
        noise = jax.random.normal(options["rngs"].params(), shape)
        self.null_caption = Buffer(noise * scale)
        self.project_in = linear(config.caption_dim, width, **options)
        self.project_out = linear(width, width, **options)

    def __call__(self, batch: dict[str, jax.Array], drop_B: jax.Array | None = None) -> Prompt:
        caption_BTC = batch["caption"]
        if drop_B is not None:
            null_BTC = jnp.broadcast_to(self.null_caption[...], caption_BTC.shape)
            caption_BTC = jnp.where(drop_B[:, None, None], null_BTC, caption_BTC)
        x_BTD = jax.nn.gelu(self.project_in(caption_BTC), approximate=True)
        return Prompt(self.project_out(x_BTD), batch["caption_valid"].astype(bool))


def build(
    config: ConditionConfig, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs, std: float = 0.02
) -> ClassCondition | TextCondition:
    """The module for the kind of condition that the config names; weights start at N(0, std^2)."""
    kinds = {"class": ClassCondition, "text": TextCondition}
    return kinds[config.kind](config, width, dtype=dtype, rngs=rngs, std=std)


def with_null(batch: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], jax.Array]:
    """The rows twice, [given; null], and the mask of the null half: one batch for guidance."""
    doubled = {name: jnp.concatenate([rows, rows]) for name, rows in batch.items()}
    count = next(iter(batch.values())).shape[0]
    return doubled, jnp.arange(2 * count) >= count
