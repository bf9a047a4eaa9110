"""The contract of a family: what differs between generators, and nothing else.

Axes: B samples, P positions, N calls of the network.

A family is a value made from its config. It owns no parameters: `build` makes a module that
holds them, and every other method is a pure function of that module. What a position holds is
called its token: an id, or the floats of a continuous latent (see `gen.layouts`).
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct, traverse_util

from gen.decoding import draws, tokens, trace
from gen.decoding.cached import Drawing
from gen.decoding.parts import Part
from gen.decoding.plan import Usage
from gen.decoding.trace import Trace
from gen.errors import UserError
from gen.layouts import Layout
from gen.learner import Learner
from gen.models.conditioning import ConditionConfig
from gen.models.layers import Buffer
from gen.models.linear import Storage


@struct.dataclass
class DecodeState:
    """What a decoding loop carries besides its caches: the tokens so far, `(B, P)` int32."""

    tokens: jax.Array


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """Options of sampling that a family has beside those of all: here none."""


class Family(Learner):
    """A generator's science. Subclasses are one small file each.

    Attributes:
      config: an instance of the subclass's `Config`.
      layout: what a sample is; data must agree.
      condition: what it is conditioned on; data must agree.
      groups: name -> positions whose loss is also told apart, such as those of a scale.
      Options: frozen dataclass of options of sampling of its own.
      measure: what `held_out` gives for each position: "nll" (nats) where the model has a
        likelihood, else the name of its loss.
      is_bound: the nll bounds -log p from above.
    """

    Config: ClassVar[type]
    Options: ClassVar[type] = NoOptions
    measure: ClassVar[str] = "nll"
    is_bound: ClassVar[bool] = False

    layout: Layout
    condition: ConditionConfig
    groups: dict[str, np.ndarray]

    def __init__(self, config: Any):
        self.config = config
        self.groups = {}

    @property
    def tokenizer_parts(self) -> tuple[str, ...]:
        """Modules of the model that its tokenizer has too, whose weights it starts from."""
        return ()

    @property
    def data_layout(self) -> Layout:
        """What a sample of the data is; another than `layout` if the model makes its tokens."""
        return self.layout

    def from_data(
        self, model: nnx.Module, data: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        """The tokens of data of `data_layout`; `key` where these are drawn, as in training."""
        return data

    def to_data(self, model: nnx.Module, tokens_BP: jax.Array) -> jax.Array:
        """What tokens stand for, of `data_layout`."""
        return tokens_BP

    def latents_to_data(self, model: nnx.Module, latents_BHWC: jax.Array) -> jax.Array:
        """What latents stand for, of a `data_layout` that is another than `layout`."""
        raise NotImplementedError

    @abc.abstractmethod
    def build(self, rngs: nnx.Rngs, *, dtype: jnp.dtype = jnp.float32) -> nnx.Module:
        """A module with `condition` and `backbone`, float32 parameters, computing in `dtype`."""

    @abc.abstractmethod
    def held_out(
        self,
        model: nnx.Module,
        tokens_BP: jax.Array,
        condition: dict[str, jax.Array],
        *,
        draws: draws.KeyedDraws | Any,
        drop_B: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """What the model makes of given tokens, without dropout.

        Args:
          model: the family's module.
          tokens_BP: of `layout`.
          condition: fields of a batch.
          draws: noise of estimates, a key per row.
          drop_B: rows that get the null condition.

        Returns:
          `measure` -> float32 of a number per token, `(B, P)`; and further names -> `(B,)`, such
          as the mean of a group.
        """

    @abc.abstractmethod
    def num_steps(self, options: Any) -> int:
        """N, calls of the network (with a scale of guidance each) to make a sample."""

    @abc.abstractmethod
    def guidance(self, number: float, interval: int, options: Any) -> np.ndarray:
        """The published code's guidance number as a scale per step, `(N,)`; 1 is unguided."""

    def usage(self, num_guided: int, dtype: jnp.dtype) -> dict[str, Usage]:
        """What parts of the sampler use of what they compute; those not named use it all."""
        return {}

    def prepare(self, rows: int, known: np.ndarray | None, options: Any) -> dict[str, np.ndarray]:
        """What sampling needs from the host beside the condition: name -> `(B, ...)`.

        Where nothing is known all rows are alike: `gen.export` asks for one and repeats it.

        Args:
          rows: B.
          known: int `(B, P)`, -1 where a token is to be made; none: everywhere.
          options: an instance of `Options`.

        Raises:
          UserError: this kind of generator cannot start from tokens known in advance.
        """
        if known is not None:
            raise UserError("this kind of generator cannot start from known tokens")
        return {}

    # A sampler is a beginning, parts of consecutive steps, and what their last state amounts to.

    @abc.abstractmethod
    def parts(self, num_guided: int, options: Any, every: int | None = None) -> list[Part]:
        """The steps in order, as parts of at most `every`; none: as few as one program needs.

        Args:
          num_guided: steps up to the last guided one.
          options: an instance of `Options`.
          every: the most steps of a part.
        """

    def usual_rows(self, batch: int, num_guided: int) -> int | None:
        """Rows of a step of so many samples, if weights are stored to suit so many."""
        return None

    def lay_out(self, model: nnx.Module, storage: Storage = Storage.WIDE) -> Any:
        """The model as sampling reads it, which may change it; done once for all samples."""
        return model

    @abc.abstractmethod
    def start(
        self,
        laid_out: Any,
        batch: dict[str, jax.Array],
        *,
        num_guided: int,
        keep_logits: bool = False,
    ) -> tuple[Any, Any]:
        """What all parts read, and what the first of them is handed; arguments as `sample`."""

    def fit(self, carry: Any, part: Part) -> Any:
        """What a part is handed, with room for what it makes; of equal `room` it is the same."""
        return carry

    @abc.abstractmethod
    def advance(
        self, held: Any, carry: Any, part: Part, how: Drawing, *, keep_trace: bool = False
    ) -> tuple[Any, Trace | None]:
        """What the next part is handed, and if asked for, what the steps of this one did.

        Args:
          held, carry: from `start`; the carry from the part before, as `fit` leaves it.
          part: one of `parts`.
          how: noise, filters, options, and the guidance scale of each step of the part.
          keep_trace: whether a trace is made.
        """

    @abc.abstractmethod
    def finish(self, held: Any, carry: Any, last: Any) -> dict[str, jax.Array]:
        """What `sample` returns of the carry after the step `last`, which may be any."""

    # What follows serves every family as it is.

    def sample(
        self,
        laid_out: Any,
        batch: dict[str, jax.Array],
        *,
        draws: draws.KeyedDraws | Any,
        scale_N: jax.Array,
        num_guided: int,
        sampling: tokens.TokenSampling,
        options: Any = None,
        keep_logits: bool = False,
        keep_trace: bool = False,
    ) -> dict[str, jax.Array]:
        """Decodes a batch, all in one program.

        Args:
          laid_out: by `lay_out`, the family's module in the dtype to compute in.
          batch: fields of the condition and what `prepare` gave.
          draws: noise, see `gen.decoding.draws`.
          scale_N: guidance scale of each step; may be traced.
          num_guided: steps up to the last guided one (static); later steps run one branch.
          sampling: temperature and filters.
          options: an instance of `Options` (static); `Options()` by default.
          keep_logits: also return `logits`, float32 `(B, P, V)`.
          keep_trace: also return `trace_positions`, `trace_tokens` and `trace_confidence`.

        Returns:
          `tokens` of `layout`, and `latents` `(B, H, W, C)` where there are any.
        """
        options, traces = options or self.Options(), []
        held, carry = self.start(laid_out, batch, num_guided=num_guided, keep_logits=keep_logits)
        for part in self.parts(num_guided, options):
            scale = scale_N[part.first : part.stop]
            with jax.named_scope(part.scope):
                how = Drawing(part.guided, scale, sampling, draws, options)
                carry = self.fit(carry, part)
                carry, made = self.advance(held, carry, part, how, keep_trace=keep_trace)
            traces.append(made)
        found = self.finish(held, carry, part.last)
        return found | (trace.named(trace.join(traces)) if keep_trace else {})

    @property
    def condition_fields(self) -> tuple[str, ...]:
        """Names of the batch's fields that hold the condition."""
        return ("label",) if self.condition.kind == "class" else ("caption", "caption_valid")

    def null_rows(self, key: jax.Array, rows: int) -> jax.Array | None:
        """Which rows of a training batch get the null condition, bool `(B,)`; none: no row."""
        if not self.condition.drop_rate:
            return None
        return jax.random.bernoulli(key, self.condition.drop_rate, (rows,))

    def scales(self, number: float | None, interval: int = -1, options: Any = None) -> np.ndarray:
        """Guidance scale per step, `(N,)`; all 1 for None. `options` default to `Options()`.

        Raises:
          UserError: guidance is no number, or was asked of a model that has no null condition.
        """
        options = options or self.Options()
        if number is not None and not np.isfinite(number):
            raise UserError(f"guidance is a finite number, not {number}")
        if interval < -1:
            raise UserError(f"guidance_interval is at least -1, not {interval}")
        if number is None:
            return np.ones((self.num_steps(options),), np.float32)
        scale_N = self.guidance(number, interval, options)
        if np.any(scale_N != 1.0) and not self.condition.has_null:
            raise UserError(
                "this model was built without a null condition (drop_rate 0): guidance must be none"
            )
        return scale_N


def group_means(rows_BP: jax.Array, groups: dict[str, np.ndarray], name: str) -> dict[str, Any]:
    """`name/group` -> mean over its positions, `(B,)`, of a value per position."""
    flat_BP = rows_BP.reshape(*rows_BP.shape[:2], -1).mean(axis=-1)
    return {f"{name}/{group}": flat_BP[:, part].mean(axis=1) for group, part in groups.items()}


def abstract_model(family: Family, *, dtype: jnp.dtype = jnp.float32) -> nnx.Module:
    """The family's module with shapes in place of arrays; costs no memory."""
    return nnx.eval_shape(lambda: family.build(nnx.Rngs(0), dtype=dtype))


def count_parameters(family: Family) -> int:
    """Number of trained parameters, by shapes alone; stored buffers do not count."""
    model = abstract_model(family)
    every = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(model)))
    buffers = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(model, Buffer)))
    return sum(leaf.size for path, leaf in every.items() if path not in buffers)
