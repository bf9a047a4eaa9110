"""The Python API: a generator with its weights, the same for every family.

Axes: B samples, P positions, V vocabulary, T caption slots, C caption channels.

    tokens = gen.load("runs/digits_llamagen").sample(0, labels=[3, 1, 4], guidance=2.0)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gen import config as configs
from gen import sharding, streaming
from gen.asked import Asked, ask
from gen.checks import Captions, check_condition, check_tokens
from gen.config import Config
from gen.decoding import draws as drawing
from gen.errors import UserError
from gen.families import FAMILIES, Family
from gen.families.base import count_parameters
from gen.programs import Precision, Programs, precision_of
from gen.streaming import Moment

ABOUT = ("published", "class_names")  # what a checkpoint tells beside its config


class Generator:
    """A model ready to sample and to score.

    Attributes:
      config: the resolved `Config` it was trained with.
      params: nested dict of float32 arrays.
      family: what kind of generator it is.
      precision: one of `gen.programs.PRECISIONS`.
      dtype: what it computes in.
      published: where converted weights came from; none for weights trained here.
      class_names: as the training data gives them, where it does.
    """

    def __init__(
        self,
        config: Config,
        params: dict[str, Any],
        *,
        mesh: Mesh | None = None,
        dtype: Precision = "float32",
        about: Mapping[str, Any] | None = None,
    ):
        """`mesh`: devices to spread batches over, else one; `about`: the last two, by name."""
        self.config, self.params = config, params
        self.published, self.class_names = map((about or {}).get, ABOUT)
        self.mesh = mesh
        self.family: Family = FAMILIES[config.family](config.model)
        self._programs = Programs(self.family, dtype, mesh)
        self.precision, self.dtype = self._programs.precision, self._programs.dtype

    @property
    def num_parameters(self) -> int:
        """Trained numbers in the model; stored buffers do not count."""
        return count_parameters(self.family)

    def held_out(
        self,
        tokens: np.ndarray,
        *,
        labels: Sequence[int] | None = None,
        captions: Captions | None = None,
        null: bool = False,
        first: int = 0,
    ) -> dict[str, np.ndarray]:
        """What the model makes of given tokens: its `family.measure` for each, and more by name.

        Args:
          tokens: `(B, P)` ids or `(B, P, C)` latents.
          labels: int `(B,)`, for a class model; -1 is no class, where the model has a null class.
          captions: features `(B, T, C)` and their validity `(B, T)` (or none: all valid), for a
            text model.
          null: score under the null condition instead; padding stays masked.
          first: number of the first row, where a measure is estimated: row i of a set has the
            same noise whatever batch it comes in.

        Returns:
          `family.measure` -> float32 `(B, P)`; others `(B,)`.

        Raises:
          UserError: tokens or condition do not fit the model.
        """
        rows_B = first + np.arange(len(np.atleast_1d(tokens)))
        found = self._teacher_forced("held_out", tokens, labels, captions, null, rows_B)
        return {name: np.asarray(values) for name, values in found.items()}

    def nll(self, tokens: np.ndarray, **arguments: Any) -> np.ndarray:
        """-log p of each token in nats, of the shape of the tokens; arguments as `held_out`.

        Where `family.is_bound`, the sum over a sample bounds -log p from above. Raises `UserError`
        also where the model has no likelihood.
        """
        if self.family.measure != "nll":
            raise UserError(f"this model has no likelihood: held_out gives {self.family.measure}")
        return self.held_out(tokens, **arguments)["nll"]

    def logits(
        self,
        tokens: np.ndarray,
        *,
        labels: Sequence[int] | None = None,
        captions: Captions | None = None,
        null: bool = False,
    ) -> np.ndarray:
        """Teacher-forced logits, float32 `(B, P, V)`; arguments as `held_out`."""
        if not hasattr(self.family, "logits"):
            raise UserError("this model has no teacher-forced logits")
        return np.asarray(self._teacher_forced("logits", tokens, labels, captions, null))

    def sample(self, seed: int | jax.Array, **settings: Any) -> np.ndarray:
        """The `tokens` of `draw`, which takes the same arguments."""
        return self.draw(seed, **settings)["tokens"]

    def draw(
        self,
        seed: int | jax.Array,
        *,
        num: int | None = None,
        labels: Sequence[int] | None = None,
        captions: Captions | None = None,
        guidance: float | None = None,
        guidance_interval: int = -1,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        known: np.ndarray | None = None,
        first: int = 0,
        draws: Any = None,
        keep_logits: bool = False,
        keep_trace: bool = False,
        batch_size: int = 64,
        progress: Callable[[int], None] | None = None,
        **options: Any,
    ) -> dict[str, np.ndarray]:
        """Generates samples; but for rounding, sample i is the same for any batch and devices.

        Args:
          seed: an int or a typed PRNG key.
          num: how many; one per label or caption by default; without either, classes in turn.
          labels, captions: as for `held_out`.
          guidance: the number that the published code takes; none is unguided.
          guidance_interval: last guided step after the first; -1 guides all.
          temperature: 0 takes the most likely token.
          top_k, top_p: keep the k most likely, or the smallest set of this probability.
          known: int `(B, P)`, tokens to keep, -1 where one is to be made; not all families can.
          first: number of the first sample: a set drawn in several calls is the set of one.
          draws: noise instead of the seed's, for one batch.
          keep_logits: also return what tokens were drawn from, after guidance.
          keep_trace: also return what each step did (`gen.decoding.trace`).
          batch_size: rows decoded together.
          progress: called with the number of samples done after each batch.
          options: the family's own, such as `more_smooth=True`.

        Returns:
          `tokens` (B, P[, C]), `latents` (B, H, W, C) if there are any, `logits` (B, P, V) if kept;
          of a trace `trace_step` (N,), and `trace_` `positions`, `tokens`, `confidence` (B, N, R).

        Raises:
          UserError: a setting is out of range, unknown, or does not fit the model.
        """
        asked = ask(
            self.family, num=num, labels=labels, captions=captions, guidance=guidance,
            guidance_interval=guidance_interval, temperature=temperature, top_k=top_k, top_p=top_p,
            known=known, first=first, **options,
        )  # fmt: skip
        kept = {"keep_logits": keep_logits, "keep_trace": keep_trace}
        run = self._programs.compiled("sample", **asked.static, **kept)
        size = min(batch_size, asked.rows) if draws is None else asked.rows
        run = functools.partial(run, self._laid_out(size, asked))
        noise = drawing.of_rows(seed, first, draws)
        return streaming.at_once(run, asked, noise, size, self.mesh, progress)

    def stream(
        self,
        seed: int | jax.Array,
        *,
        every: int | None = 1,
        first: int = 0,
        draws: Any = None,
        batch_size: int | None = None,
        **settings: Any,
    ) -> Iterator[Moment]:
        """Generates samples and yields them in the making; the last are those of `draw`.

        Args:
          seed, first, draws: as for `draw`.
          every: steps between two moments, at most; none: as many as are alike (a phase).
          batch_size: not used, all samples are one batch; so all settings of a config can be given.
          settings: the others of `draw`, from `num` to `known`, and the family's options.

        Raises:
          UserError: as `draw`, or for `every`; at once, and before anything is compiled.
        """
        asked = ask(self.family, first=first, **settings)
        asked = asked._replace(batch=sharding.put_batch(asked.batch, self.mesh))
        noise = drawing.of_rows(seed, first, draws)(np.arange(asked.rows))
        laid_out = self._laid_out(asked.rows, asked)
        return streaming.stream(self.family, self._programs, laid_out, asked, noise, every)

    def traced(
        self, seed: int | jax.Array, *, num: int, keep_trace: bool = False, **settings: Any
    ) -> tuple[jax.stages.Traced, tuple]:
        """The program of `draw` for `num` samples at once (classes in turn), and its arguments:
        weights, condition, noise, guidance scales and token sampling."""
        asked = ask(self.family, num=num, **settings)
        kept = {"keep_logits": False, "keep_trace": keep_trace}
        run = self._programs.compiled("sample", **asked.static, **kept)
        batch = sharding.put_batch(asked.batch, self.mesh)
        noise = drawing.keyed(seed, np.arange(num))
        arguments = (self._laid_out(num, asked), batch, noise, asked.scale_N, asked.sampling)
        return run.trace(*arguments), arguments

    def _laid_out(self, rows: int, asked: Asked) -> Any:
        """The weights as samplers of so many rows read them."""
        return self._programs.laid_out(self.params, rows, asked.static["num_guided"])

    def from_data(self, data: np.ndarray) -> np.ndarray:
        """The model's tokens of data as datasets hold them (see `Family`)."""
        return self._translated("from_data", check_tokens(self.family.data_layout, data))

    def to_data(self, tokens: np.ndarray) -> np.ndarray:
        """What tokens stand for in terms of the data; the tokens themselves where they are it."""
        return self._translated("to_data", check_tokens(self.family.layout, tokens))

    def latents_to_data(self, latents: np.ndarray) -> np.ndarray:
        """The same of `latents`, also unfinished ones, of a model that makes its own tokens."""
        return self._translated("latents_to_data", latents)

    def save(self, folder: str | Path) -> None:
        """Writes the weights and the config as a checkpoint that `load` and `--init_from` take.

        Raises:
          UserError: the folder holds checkpoints already or cannot be written to.
        """
        from gen.training import checkpoint

        about = {n: getattr(self, n) for n in ABOUT}
        checkpoint.write_weights(folder, self.config, self.params, about=about)

    def _translated(self, what: str, rows: np.ndarray) -> np.ndarray:
        if self.family.data_layout == self.family.layout:
            return rows
        run = self._programs.compiled("translate", what=what)
        return np.asarray(run(self.params, sharding.put_batch({"": rows}, self.mesh)[""]))

    def _teacher_forced(
        self,
        what: str,
        tokens: np.ndarray,
        labels: Sequence[int] | None,
        captions: Captions | None,
        null: bool,
        rows_B: np.ndarray | None = None,
    ) -> Any:
        tokens = check_tokens(self.family.layout, tokens)
        condition = check_condition(
            self.family.condition, len(tokens), labels, captions, required=True, null=null
        )
        run = self._programs.compiled("teacher_forced", what=what)
        batch = sharding.put_batch(condition | {"tokens": tokens}, self.mesh)
        noise = {} if rows_B is None else {"draws": drawing.keyed(0, rows_B)}
        return run(self._programs.weights(self.params), batch, np.full((len(tokens),), null), noise)


def load(
    path: str | Path, *, averaged: bool = True, mesh: Mesh | None = None,
    dtype: Precision = "float32",
) -> Generator:  # fmt: skip
    """The generator of a run or of one of its checkpoints.

    Args:
      path: a run's folder (its newest checkpoint is taken) or `checkpoints/<step>`.
      averaged: take the averaged parameters (EMA) where the run kept them.
      mesh: devices to spread parameters and batches over; one device by default.
      dtype: what to compute in, as `gen.programs.precision_of` takes it.

    Raises:
      UserError: there is no such checkpoint, it is damaged, or the dtype is another.
    """
    precision_of(dtype)  # before gigabytes are read
    # Orbax and the training state are needed here alone: sampling code imports without them.
    from gen.training import checkpoint

    folder = checkpoint.find(path)
    meta = checkpoint.read_meta(folder)
    config = configs.of_generator(configs.from_json(meta["config"]))
    params = checkpoint.read_weights(folder, config, averaged=averaged, mesh=mesh)
    return Generator(config, params, mesh=mesh, dtype=dtype, about=meta)
