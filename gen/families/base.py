"""The contract of a family: what differs between generators, and nothing else.

Axes: B samples, Q rows (samples, or twice as many under guidance), P positions, S slots,
W slots fed in one step, R positions sampled in one step, D width, V vocabulary.

A family is a value made from its config. It owns no parameters: `build` makes a module that
holds them, and every other method is a pure function of that module. `inputs_at` must equal rows
of `inputs`, and `predict_at` rows of `predict`: that is what makes cached decoding equal the
full forward.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, struct, traverse_util

from gen.decoding import cached, draws, tokens
from gen.decoding.cached import Sampled
from gen.decoding.plan import Now, Plan
from gen.errors import UserError
from gen.layouts import Layout
from gen.models.conditioning import ConditionConfig, Prompt
from gen.models.layers import Buffer


@struct.dataclass
class DecodeState:
    """What a decoding loop carries besides its caches: the tokens so far, `(B, P)` int32."""

    tokens: jax.Array


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """Options of sampling that a family has beside those of all: here none."""


class Family(abc.ABC):
    """A generator's science. Subclasses are one small file each.

    Attributes:
      config: an instance of the subclass's `Config`.
      plan: static steps, positions and phases.
      layout: what a sample is; data must agree.
      condition: what it is conditioned on; data must agree.
      groups: name -> positions whose loss is also told apart, such as those of a scale.
    """

    Config: ClassVar[type]
    Options: ClassVar[type] = NoOptions

    plan: Plan
    layout: Layout
    condition: ConditionConfig
    groups: dict[str, np.ndarray]

    def __init__(self, config: Any):
        self.config = config
        self.groups = {}

    @property
    def data_layout(self) -> Layout:
        """What a sample of the data is; another than `layout` if the model makes its tokens."""
        return self.layout

    def from_data(self, model: nnx.Module, data: jax.Array) -> jax.Array:
        """The tokens of data of `data_layout`."""
        return data

    def to_data(self, model: nnx.Module, tokens_BP: jax.Array) -> jax.Array:
        """What tokens stand for, of `data_layout`."""
        return tokens_BP

    @abc.abstractmethod
    def build(self, rngs: nnx.Rngs, *, dtype: jnp.dtype = jnp.float32) -> nnx.Module:
        """A module with `condition` and `backbone`, float32 parameters, computing in `dtype`."""

    @abc.abstractmethod
    def inputs(self, model: nnx.Module, tokens_BP: jax.Array, prompt: Prompt) -> jax.Array:
        """Teacher-forced inputs of all slots, `(B, S, D)`."""

    @abc.abstractmethod
    def inputs_at(
        self, model: nnx.Module, state: DecodeState, prompt: Prompt, now: Now
    ) -> jax.Array:
        """The same for the slots fed in one step of decoding, `(Q, W, D)`: rows of `inputs`.

        `prompt` has Q rows; the state's B tokens serve each branch.
        """

    @abc.abstractmethod
    def predict(self, model: nnx.Module, hidden: list[jax.Array], prompt: Prompt) -> jax.Array:
        """Logits of all positions, float32 `(B, P, V)`, from the hidden states at the taps."""

    @abc.abstractmethod
    def predict_at(
        self, model: nnx.Module, hidden: list[jax.Array], prompt: Prompt, now: Now
    ) -> jax.Array:
        """Logits of the positions of one step, `(Q, R, V)`, from the rows to read."""

    @abc.abstractmethod
    def guidance(self, number: float, interval: int) -> np.ndarray:
        """The published code's guidance number as a scale per step, `(N,)`; 1 is unguided."""

    def begin(self, model: nnx.Module, batch: int) -> DecodeState:
        """The state before the first step."""
        return DecodeState(jnp.zeros((batch, *self.layout.sample_shape), jnp.int32))

    def commit(
        self, model: nnx.Module, state: DecodeState, sampled: Sampled, now: Now
    ) -> DecodeState:
        """Writes the tokens of one step; targets beyond the last position are padding."""
        tokens = state.tokens.at[:, now.target_R].set(sampled.tokens_BR, mode="drop")
        return state.replace(tokens=tokens)

    def results(self, model: nnx.Module, state: DecodeState) -> dict[str, jax.Array]:
        """What sampling gives: `tokens`, and `latents` `(B, H, W, C)` where a family has them."""
        return {"tokens": state.tokens}

    # What follows serves every family as it is.

    def logits(
        self,
        model: nnx.Module,
        tokens_BP: jax.Array,
        condition: dict[str, jax.Array],
        *,
        drop_B: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Teacher-forced logits, float32 `(B, P, V)`; `drop_B` marks null rows."""
        prompt = model.condition(condition, drop_B)
        x_BSD = self.inputs(model, tokens_BP, prompt)
        slots_S = jnp.arange(x_BSD.shape[1])
        mask = cached.with_validity(jnp.asarray(self.plan.mask_SS), slots_S, prompt.valid_BT)
        rope = None if self.plan.rope_S2C is None else jnp.asarray(self.plan.rope_S2C)
        hidden = model.backbone(
            x_BSD, mask=mask, rope=rope, cond=prompt.cond, key=key, taps=self.plan.taps
        )
        return self.predict(model, hidden, prompt)

    def nll(
        self,
        model: nnx.Module,
        tokens_BP: jax.Array,
        condition: dict[str, jax.Array],
        *,
        drop_B: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """-log p of each token in nats, float32, of the shape of the tokens."""
        logits_BPV = self.logits(model, tokens_BP, condition, drop_B=drop_B, key=key)
        return optax.softmax_cross_entropy_with_integer_labels(logits_BPV, tokens_BP)

    def loss(
        self, model: nnx.Module, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean NLL of a training batch with guidance dropout and dropouts, and its metrics."""
        drop_key, noise_key = jax.random.split(key)
        rows = batch["tokens"].shape[0]
        drop_B = None
        if self.condition.drop_rate:
            drop_B = jax.random.bernoulli(drop_key, self.condition.drop_rate, (rows,))
        condition = {name: batch[name] for name in self.condition_fields}
        tokens = self.from_data(model, batch["tokens"])
        nll = self.nll(model, tokens, condition, drop_B=drop_B, key=noise_key)
        # Per sample first: one long float32 sum would lose digits that depend on the mesh.
        loss = jnp.mean(jnp.mean(nll.reshape(rows, -1), axis=1))
        return loss, {f"nll/{name}": jnp.mean(nll[:, part]) for name, part in self.groups.items()}

    def sample(
        self,
        model: nnx.Module,
        condition: dict[str, jax.Array],
        *,
        draws: draws.KeyedDraws | Any,
        scale_N: jax.Array,
        num_guided: int,
        sampling: tokens.TokenSampling,
        options: Any = None,
        keep_logits: bool = False,
    ) -> tuple[DecodeState, jax.Array | None]:
        """Decodes a batch; see `gen.decoding.cached.sample`."""
        return cached.sample(
            self, model, condition, draws=draws, scale_N=scale_N, num_guided=num_guided,
            sampling=sampling, options=options or self.Options(), keep_logits=keep_logits,
        )  # fmt: skip

    @property
    def condition_fields(self) -> tuple[str, ...]:
        """Names of the batch's fields that hold the condition."""
        return ("label",) if self.condition.kind == "class" else ("caption", "caption_valid")

    def scales(self, number: float | None, interval: int = -1) -> np.ndarray:
        """Guidance scale per step, `(N,)`; all 1 for None.

        Raises:
          UserError: guidance was asked of a model that has no null condition.
        """
        if number is None:
            return np.ones((self.plan.num_steps,), np.float32)
        scale_N = self.guidance(number, interval)
        if np.any(scale_N != 1.0) and not self.condition.has_null:
            raise UserError(
                "this model was built without a null condition (drop_rate 0): guidance must be none"
            )
        return scale_N


def with_prompt(prompt: Prompt, x_BWD: jax.Array, feed_W: jax.Array) -> jax.Array:
    """Inputs `(Q, W, D)` of fed slots of which the first are the condition's, the rest tokens'.

    Args:
      prompt: embedded condition of Q rows; slot t holds its t-th.
      x_BWD: embedded tokens of the slots, for each branch the same; ignored for the condition's.
      feed_W: slot numbers.
    """
    num_cond = prompt.x_BTD.shape[1]
    x_QWD = jnp.tile(x_BWD, (prompt.x_BTD.shape[0] // x_BWD.shape[0], 1, 1))
    cond_QWD = prompt.x_BTD[:, jnp.minimum(feed_W, num_cond - 1)]
    return jnp.where((feed_W < num_cond)[:, None], cond_QWD, x_QWD)


def abstract_model(family: Family, *, dtype: jnp.dtype = jnp.float32) -> nnx.Module:
    """The family's module with shapes in place of arrays; costs no memory."""
    return nnx.eval_shape(lambda: family.build(nnx.Rngs(0), dtype=dtype))


def count_parameters(family: Family) -> int:
    """Number of trained parameters, by shapes alone; stored buffers do not count."""
    model = abstract_model(family)
    every = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(model)))
    buffers = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(model, Buffer)))
    return sum(leaf.size for path, leaf in every.items() if path not in buffers)
