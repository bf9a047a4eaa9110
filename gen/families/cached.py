"""Families of the cached loop: positions are decoded step by step, each once.

Axes: B samples, Q rows (samples, or twice as many under guidance), P positions, S slots,
W slots fed in one step, R positions sampled in one step, D width, V vocabulary.

`inputs_at` must equal rows of `inputs`, and `predict_at` rows of `predict`: that is what makes
cached decoding equal the full forward.
"""

from __future__ import annotations

import abc
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from gen.decoding import cached, draws, laid_out
from gen.decoding.cached import Drawing, Sampled
from gen.decoding.laid_out import LaidOut
from gen.decoding.parts import Part
from gen.decoding.plan import Now, Plan, Usage
from gen.decoding.trace import Trace
from gen.families.base import DecodeState, Family, abstract_model, group_means
from gen.models.conditioning import Prompt
from gen.models.linear import Storage


class CachedFamily(Family):
    """What the cached loop asks of a family beside `Family`.

    Attributes:
      plan: static steps, positions and phases.
    """

    plan: Plan

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

    def begin(self, model: nnx.Module, batch: int) -> DecodeState:
        """The state before the first step."""
        dtype = jnp.float32 if self.layout.is_continuous else jnp.int32
        return DecodeState(jnp.zeros((batch, *self.layout.sample_shape), dtype))

    def draw_at(
        self, model: nnx.Module, hidden: list[jax.Array], prompt: Prompt, now: Now, how: Drawing
    ) -> Sampled:
        """What one step samples, from the hidden states of its rows: tokens drawn from logits."""
        return cached.draw_tokens(self.predict_at(model, hidden, prompt, now), now, how)

    def commit(
        self, model: nnx.Module, state: DecodeState, sampled: Sampled, now: Now
    ) -> DecodeState:
        """Writes the tokens of one step; targets beyond the last position are padding."""
        tokens = state.tokens.at[:, now.target_R].set(sampled.tokens_BR, mode="drop")
        return state.replace(tokens=tokens)

    def latents_at(self, model: nnx.Module, state: DecodeState, last: Any) -> jax.Array | None:
        """The latents `(B, H, W, C)` that a state after the step `last` amounts to, if any."""
        return None

    # What follows serves every family of this loop as it is.

    def num_steps(self, options: Any) -> int:
        return self.plan.num_steps

    def usage(self, num_guided: int, dtype: jnp.dtype) -> dict[str, Usage]:
        backbone = abstract_model(self, dtype=dtype).backbone
        caches = jax.eval_shape(lambda: backbone.empty_cache(1, 1))
        size = sum(array.size * array.dtype.itemsize for array in jax.tree.leaves(caches))
        return self.plan.usage(num_guided, size)

    def hidden(
        self,
        model: nnx.Module,
        tokens_BP: jax.Array,
        prompt: Prompt,
        key: jax.Array | None = None,
    ) -> list[jax.Array]:
        """Teacher-forced hidden states `(B, S, D)` at the taps."""
        x_BSD = self.inputs(model, tokens_BP, prompt)
        slots_S = jnp.arange(x_BSD.shape[1])
        mask = cached.with_validity(jnp.asarray(self.plan.mask_SS), slots_S, prompt.valid_BT)
        rope = None if self.plan.rope_S2C is None else jnp.asarray(self.plan.rope_S2C)
        return model.backbone(
            x_BSD, mask=mask, rope=rope, cond=prompt.cond, key=key, taps=self.plan.taps
        )

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
        return self.predict(model, self.hidden(model, tokens_BP, prompt, key), prompt)

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

    def held_out(
        self,
        model: nnx.Module,
        tokens_BP: jax.Array,
        condition: dict[str, jax.Array],
        *,
        draws: draws.KeyedDraws | Any,
        drop_B: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        nll_BP = self.nll(model, tokens_BP, condition, drop_B=drop_B)
        return {"nll": nll_BP} | group_means(nll_BP, self.groups, "nll")

    def loss(
        self, model: nnx.Module, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean NLL of a training batch with guidance dropout and dropouts, and that of groups."""
        drop_key, noise_key = jax.random.split(key)
        rows = batch["tokens"].shape[0]
        condition = {name: batch[name] for name in self.condition_fields}
        tokens = self.from_data(model, batch["tokens"])
        drop_B = self.null_rows(drop_key, rows)
        nll = self.nll(model, tokens, condition, drop_B=drop_B, key=noise_key)
        # Per sample first: one long float32 sum would lose digits that depend on the mesh.
        loss = jnp.mean(jnp.mean(nll.reshape(rows, -1), axis=1))
        return loss, {f"nll/{name}": jnp.mean(nll[:, part]) for name, part in self.groups.items()}

    def parts(self, num_guided: int, options: Any, every: int | None = None) -> list[Part]:
        return cached.cut(self.plan, num_guided, every)

    def usual_rows(self, batch: int, num_guided: int) -> int:
        return laid_out.usual_rows(self.plan, batch, num_guided)

    def lay_out(self, model: nnx.Module, storage: Storage = Storage.WIDE) -> LaidOut:
        return laid_out.lay_out(model, storage)

    def start(
        self,
        laid_out: LaidOut,
        batch: dict[str, jax.Array],
        *,
        num_guided: int,
        keep_logits: bool = False,
    ) -> tuple[cached.Held, cached.Carry]:
        return cached.begin(self, laid_out, batch, num_guided=num_guided, keep_logits=keep_logits)

    def fit(self, carry: cached.Carry, part: Part) -> cached.Carry:
        return cached.fit(carry, part)

    def advance(
        self,
        held: cached.Held,
        carry: cached.Carry,
        part: Part,
        how: Drawing,
        *,
        keep_trace: bool = False,
    ) -> tuple[cached.Carry, Trace | None]:
        return cached.advance(self, held, carry, part, how, keep_trace=keep_trace)

    def finish(self, held: cached.Held, carry: cached.Carry, last: Any) -> dict[str, jax.Array]:
        latents_BHWC = self.latents_at(held.model, carry.state, last)
        found = {
            "tokens": carry.state.tokens,
            "latents": latents_BHWC,
            "logits": carry.logits_BPV,
        }
        return {name: array for name, array in found.items() if array is not None}


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
