"""Next-scale generation of continuous latents with a flow head (FlowAR, Ren et al. 2025).

Axes: B samples, Q rows, P positions of all scales (= S slots), R positions of one scale, L scales,
H height and W width of the latent, C channels, D width.

A scale is the latent averaged down to its size; the last is the latent. A slot's input is the
scale before its own, enlarged and averaged down again; the slot of the first scale holds the
class. All slots of a scale are decoded at once: the transformer gives a condition for each, and
the flow head integrates from noise to the latents of that scale.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gen.decoding.cached import Drawing, Sampled
from gen.decoding.ode import EulerOptions, guided_euler
from gen.decoding.phases import alone
from gen.decoding.plan import Now, Plan, Step
from gen.errors import UserError
from gen.families.base import DecodeState, group_means
from gen.families.cached import CachedFamily
from gen.layouts import Layout
from gen.models.conditioning import ConditionConfig, Prompt
from gen.models.flow_block import FlowStackConfig, ModulatingClass, TwoStacks, xavier
from gen.models.flow_head import FlowHead, FlowHeadConfig
from gen.models.latents import LatentConfig
from gen.models.layers import RMSNorm, linear
from gen.models.pyramid import Pyramid
from gen.models.resize import bicubic_matrix, resize

# Of the held-out loss: times of each position, one in each of so many equal parts of [0, 1).
HELD_OUT_TIMES = 4
NO_LOGITS = "this kind of generator draws latents from a flow: there are no logits and no nll"


@dataclasses.dataclass(frozen=True)
class FlowScaleConfig:
    """A FlowAR model.

    Attributes:
      scales: (height, width) of each scale, coarse to fine; the first is (1, 1).
      latents: what the data are.
      condition: classes.
      encoder: the first stack of blocks.
      decoder: the second, of the same width.
      head: the flow head.
      reach: cells that a side of any scale stands for in rotary positions.
      embed_std: standard deviation of embeddings and positions at the start.
    """

    scales: tuple[tuple[int, int], ...]
    latents: LatentConfig
    condition: ConditionConfig
    encoder: FlowStackConfig
    decoder: FlowStackConfig
    head: FlowHeadConfig
    reach: float = 16.0
    embed_std: float = 0.02

    def __post_init__(self) -> None:
        if not self.scales or self.scales[0] != (1, 1):
            raise UserError(f"the first scale is (1, 1), the place of the class: {self.scales}")
        if any(a > b for pair in zip(self.scales, self.scales[1:]) for a, b in zip(*pair)):
            raise UserError(f"scales go from coarse to fine: {self.scales}")
        if self.encoder.width != self.decoder.width:
            raise UserError("encoder and decoder have one width: the class modulates both")
        if self.condition.kind != "class":
            raise UserError("this family is conditioned on classes: condition.kind must be class")

    def shrunken(self) -> FlowScaleConfig:
        """The same model small enough to compile and run in seconds, for `:debug`."""
        return dataclasses.replace(
            self,
            scales=tuple(s for s in self.scales if max(s) <= 4),
            encoder=self.encoder.shrunken(),
            decoder=self.decoder.shrunken(),
            head=self.head.shrunken(),
        )


class FlowScaleModel(nnx.Module):
    """Parameters of a FlowAR model."""

    def __init__(self, config: FlowScaleConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        width, channels, std = config.encoder.width, config.latents.channels, config.embed_std
        slots = Pyramid(config.scales).bounds[-1]
        options = {"dtype": dtype, "rngs": rngs}
        self.condition = ModulatingClass(config.condition, width, std=std, **options)
        self.latents = linear(channels, width, std=xavier(channels, width), bias=True, **options)
        self.positions = nnx.Param(std * jax.random.normal(rngs.params(), (slots, width)))
        self.in_norm = RMSNorm(width, eps=config.encoder.norm_eps)
        self.backbone = TwoStacks(config.encoder, config.decoder, slots=slots, std=std, **options)
        self.out_norm = RMSNorm(width, eps=config.decoder.norm_eps)
        self.out_positions = nnx.Param(std * jax.random.normal(rngs.params(), (slots, width)))
        self.flow = FlowHead(config.head, channels=channels, memory_width=width, **options)


class FlowScale(CachedFamily):
    """One call of the transformer per scale, and of the flow head one per Euler step."""

    Config = FlowScaleConfig
    Options = EulerOptions
    measure: ClassVar[str] = "flow_loss"

    def __init__(self, config: FlowScaleConfig):
        super().__init__(config)
        self.condition = config.condition
        self.pyramid = pyramid = Pyramid(config.scales)
        lattices = tuple((1, *scale) for scale in config.scales)
        self.layout = Layout("scales", lattices, channels=config.latents.channels)
        parts = [np.flatnonzero(pyramid.scale_P == scale) for scale in range(len(lattices))]
        self.groups = {f"scale_{scale:02d}": part for scale, part in enumerate(parts)}
        steps = [Step(part, part - part[0], part) for part in parts]
        phases = alone(steps)
        dims = dict.fromkeys((config.encoder.head_dim, config.decoder.head_dim))
        rope_S2C = np.concatenate([pyramid.rope(dim, config.reach) for dim in dims], axis=-1)
        self.plan = Plan(pyramid.scale_P, rope_S2C, phases)
        self.head_rope_P2C = pyramid.rope(config.head.head_dim, config.reach)

    def build(self, rngs: nnx.Rngs, *, dtype: jnp.dtype = jnp.float32) -> FlowScaleModel:
        return FlowScaleModel(self.config, dtype=dtype, rngs=rngs)

    @property
    def data_layout(self) -> Layout:
        return self.config.latents.layout(self.pyramid.size)

    def from_data(
        self, model: FlowScaleModel, data: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        return self.pyramid.averaged(self.config.latents.from_data(data, self.pyramid.size, key))

    def to_data(self, model: FlowScaleModel, tokens_BPC: jax.Array) -> jax.Array:
        return self.config.latents.to_data(tokens_BPC[:, self.pyramid.slots(-1)])

    def latents_to_data(self, model: FlowScaleModel, latents_BHWC: jax.Array) -> jax.Array:
        rows, *_, channels = latents_BHWC.shape
        return self.config.latents.to_data(latents_BHWC.reshape(rows, -1, channels))

    def inputs(self, model: FlowScaleModel, tokens_BPC: jax.Array, prompt: Prompt) -> jax.Array:
        x_BSD = model.latents(self.pyramid.starts(tokens_BPC))
        x_BPD = jnp.concatenate([prompt.x_BTD, x_BSD], axis=1)
        return self._placed(model, x_BPD, slice(0, None))

    def inputs_at(
        self, model: FlowScaleModel, state: DecodeState, prompt: Prompt, now: Now
    ) -> jax.Array:
        if now.index == 0:
            return self._placed(model, prompt.x_BTD, slice(0, 1))
        x_BRD = model.latents(self.pyramid.start(state.tokens, now.index))
        x_QRD = jnp.tile(x_BRD, (prompt.x_BTD.shape[0] // x_BRD.shape[0], 1, 1))
        return self._placed(model, x_QRD, self.pyramid.slots(now.index))

    def _placed(self, model: FlowScaleModel, x_BSD: jax.Array, slots: slice) -> jax.Array:
        return model.in_norm(x_BSD + model.positions[...][slots].astype(x_BSD.dtype))

    def predict(self, model: FlowScaleModel, hidden: list[jax.Array], prompt: Prompt) -> jax.Array:
        """What the flow head is told of all positions, `(B, P, D)`."""
        return self._told(model, hidden, slice(0, None))

    def predict_at(
        self, model: FlowScaleModel, hidden: list[jax.Array], prompt: Prompt, now: Now
    ) -> jax.Array:
        return self._told(model, hidden, self.pyramid.slots(now.index))

    def _told(self, model: FlowScaleModel, hidden: list[jax.Array], slots: slice) -> jax.Array:
        place_SD = model.out_positions[...][slots]
        return model.out_norm(hidden[-1]) + place_SD.astype(hidden[-1].dtype)

    def guidance(self, number: float, interval: int, options: EulerOptions) -> np.ndarray:
        """1 + (number - 1) k / (L - 1) at scale k where that exceeds 1, else none.

        None after scale `interval` + 1, too: that is ours. Source: wangqiang9/FlowAR,
        `sample_tokens`; its sampler leaves out guidance of 1 or less.
        """
        scales_N = np.arange(len(self.groups))
        scale_N = 1.0 + (number - 1.0) * scales_N / max(len(scales_N) - 1, 1)
        off_N = (interval >= 0) & (scales_N > interval + 1)
        return np.where(off_N, 1.0, np.maximum(scale_N, 1.0)).astype(np.float32)

    def draw_at(
        self, model: FlowScaleModel, hidden: list[jax.Array], prompt: Prompt, now: Now, how: Drawing
    ) -> Sampled:
        if how.sampling.top_k or how.sampling.nucleus:
            raise UserError("top-k and top-p choose among tokens: latents of a flow have none")
        slots = self.pyramid.slots(now.index)
        blocks, rope = model.flow.backbone.unstack(), jnp.asarray(self.head_rope_P2C[slots])

        def velocity(x_QRC: jax.Array, time: jax.Array, told_QRD: jax.Array) -> jax.Array:
            return model.flow(x_QRC, time[None, None], told_QRD, rope=rope, blocks=blocks)

        shape = (len(rope), self.config.latents.channels)
        latents_BRC = guided_euler(
            velocity,
            how.draws.normal("flow", now.index, shape) * how.sampling.temperature,
            self.predict_at(model, hidden, prompt, now),
            scale=how.scale if how.guided else None,
            options=how.options,
        )
        return Sampled(latents_BRC, how)

    def errors(
        self, model: FlowScaleModel, tokens_BPC: jax.Array, told_BPD: jax.Array, **at: Any
    ) -> jax.Array:
        """Squared error of the head's velocity, mean over channels, `(B, P)`.

        Args:
          model: the family's module.
          tokens_BPC: latents of all scales.
          told_BPD: what `predict` gave.
          at: arguments of `FlowHead.between`: noise, times and dropout key.
        """
        velocity_BPC = self.velocity(model, tokens_BPC, told_BPD, **at)
        return jnp.mean(jnp.square(velocity_BPC - (at["noise_BRC"] - tokens_BPC)), axis=-1)

    def velocity(
        self, model: FlowScaleModel, tokens_BPC: jax.Array, told_BPD: jax.Array, **at: Any
    ) -> jax.Array:
        """The head's velocity `(B, P, C)`; arguments as `errors`."""
        rows = {"rope": jnp.asarray(self.head_rope_P2C), "scale_R": self.pyramid.scale_P}
        return model.flow.between(tokens_BPC, told_BPD, **rows, **at)

    def total(self, errors_BP: jax.Array) -> jax.Array:
        """The loss: means over scales, weighted by their sizes relative to the last, summed."""
        return jnp.mean(jnp.sum(errors_BP, axis=1) / math.prod(self.pyramid.size))

    def loss(
        self, model: FlowScaleModel, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """As published: a time for each image and scale, uniform."""
        data_key, drop_key, time_key, noise_key, stack_key, head_key = jax.random.split(key, 6)
        tokens_BPC = self.from_data(model, batch["tokens"], data_key)
        condition = {name: batch[name] for name in self.condition_fields}
        drop_B = self.null_rows(drop_key, len(tokens_BPC))
        told_BPD = super().logits(model, tokens_BPC, condition, drop_B=drop_B, key=stack_key)
        at = {
            "time_BL": jax.random.uniform(time_key, (len(tokens_BPC), len(self.groups))),
            "noise_BRC": jax.random.normal(noise_key, tokens_BPC.shape),
        }
        errors_BP = self.errors(model, tokens_BPC, told_BPD, key=head_key, **at)
        means = {f"flow_loss/{n}": jnp.mean(errors_BP[:, p]) for n, p in self.groups.items()}
        return self.total(errors_BP), means

    def held_out(
        self,
        model: FlowScaleModel,
        tokens_BPC: jax.Array,
        condition: dict[str, jax.Array],
        *,
        draws: Any,
        drop_B: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        told_BPD = super().logits(model, tokens_BPC, condition, drop_B=drop_B)

        def one(number: jax.Array) -> jax.Array:
            parts_BL = draws.uniform("time", number, (len(self.groups),))
            noise_BRC = draws.normal("noise", number, tokens_BPC.shape[1:])
            time_BL = (number + parts_BL) / HELD_OUT_TIMES
            return self.errors(model, tokens_BPC, told_BPD, time_BL=time_BL, noise_BRC=noise_BRC)

        errors_BP = jnp.mean(jax.lax.map(one, jnp.arange(HELD_OUT_TIMES)), axis=0)
        return {"flow_loss": errors_BP} | group_means(errors_BP, self.groups, "flow_loss")

    def logits(self, *_: Any, **__: Any) -> jax.Array:
        raise UserError(NO_LOGITS)

    def start(self, *arguments: Any, keep_logits: bool = False, **settings: Any) -> tuple:
        if keep_logits:
            raise UserError(NO_LOGITS)
        return super().start(*arguments, **settings)

    def latents_at(self, model: FlowScaleModel, state: DecodeState, last: int) -> jax.Array:
        """The last scale, or before it is there, the one there is, enlarged (bicubic)."""
        scale_BRC = state.tokens[:, self.pyramid.slots(last)]
        scale, size = self.pyramid.scales[last], self.pyramid.size
        x_BHWC = scale_BRC.reshape(scale_BRC.shape[0], *scale, -1)
        return x_BHWC if scale == size else resize(x_BHWC, *map(bicubic_matrix, scale, size))
