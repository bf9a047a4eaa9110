"""The training state and the one jitted step that advances it.

Axes: A passes of an accumulated batch, B rows of a batch.

State in, state out: parameters, their average and the optimiser's moments are one pytree, born
sharded and donated at each step. Frozen parameters and stored buffers stay in `params` but have
no gradient, no moments and no average; a learner may set them anew after each update.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct, traverse_util
from jax.sharding import Mesh

from gen import sharding
from gen.config import Config, TokenizerRun
from gen.errors import UserError
from gen.learner import Learner
from gen.models.layers import Buffer
from gen.training.optimizer import make_optimizer, make_schedule

Params = dict[str, Any]


@struct.dataclass
class TrainState:
    """Everything a run needs to go on: `step` updates are done, `skipped` in a row were not finite.

    `ema` holds the averages of the trained parameters, or is empty.
    """

    step: jax.Array
    skipped: jax.Array
    params: Params
    ema: Params
    optimizer: optax.OptState


def split(params: Params, trained: frozenset[str]) -> tuple[Params, Params]:
    """The parameters whose path is in `trained`, and the rest, as two nested dicts."""
    flat = traverse_util.flatten_dict(params, sep="/")
    parts = (
        {path: leaf for path, leaf in flat.items() if (path in trained) == wanted}
        for wanted in (True, False)
    )
    first, second = (traverse_util.unflatten_dict(part, sep="/") for part in parts)
    return first, second


def join(*parts: Params) -> Params:
    """One nested dict of several disjoint ones, later ones winning, keys in sorted order."""
    flat: dict[str, Any] = {}
    for part in parts:
        flat.update(traverse_util.flatten_dict(part, sep="/"))
    return traverse_util.unflatten_dict(dict(sorted(flat.items())), sep="/")


class Trainer:
    """The pure functions of a run: initial state, training step, and what they are made of.

    Attributes:
      learner: from the config.
      graphdef: static structure of the model in the compute dtype.
      trained: paths of the parameters that the optimiser moves.
      abstract: shapes, dtypes and shardings of a `TrainState`.
    """

    def __init__(self, config: Config | TokenizerRun, mesh: Mesh):
        self.config = config
        self.mesh = mesh
        self.learner: Learner = config.learner()
        self.optimizer = make_optimizer(config.optim, config.train.steps)
        self.schedule = make_schedule(config.optim, config.train.steps)
        model = nnx.eval_shape(lambda: self._build(jax.random.key(0)))
        self.graphdef, shapes = nnx.split(model)
        buffers = nnx.to_pure_dict(nnx.state(model, Buffer))
        self.trained = trained_paths(
            nnx.to_pure_dict(shapes), buffers=buffers, freeze=config.train.freeze
        )
        shapes = jax.eval_shape(self._init, jax.random.key(0))
        self.shardings = sharding.shardings(shapes, mesh)
        self.abstract = jax.tree.map(
            lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
            shapes,
            self.shardings,
        )

    def _build(self, key: jax.Array) -> nnx.Module:
        return self.learner.build(nnx.Rngs(key), dtype=jnp.dtype(self.config.train.dtype))

    def _init(self, key: jax.Array) -> TrainState:
        return self._fresh(nnx.to_pure_dict(nnx.state(self._build(key))))

    def _fresh(self, params: Params) -> TrainState:
        trained, _ = split(params, self.trained)
        # A copy: state is donated, and one buffer can't be donated twice.
        ema = jax.tree.map(jnp.copy, trained) if self.config.optim.ema_decay else {}
        zero = jnp.zeros((), jnp.int32)
        return TrainState(zero, zero, params, ema, self.optimizer.init(trained))

    def init(self) -> TrainState:
        """The state at step 0: parameters from the seed, each device making its own part."""
        make = jax.jit(self._init, out_shardings=self.shardings)
        return make(jax.random.key(self.config.train.seed))

    def init_from(self, params: Params) -> TrainState:
        """The state at step 0 with the given parameters."""
        params = jax.device_put(params, self.shardings.params)
        return jax.jit(self._fresh, out_shardings=self.shardings)(params)

    def loss(
        self, trained: Params, frozen: Params, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        model = nnx.merge(self.graphdef, join(trained, frozen))
        return self.learner.loss(model, batch, key)

    def gradients(
        self, state: TrainState, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], Params]:
        """Mean loss, metrics and gradients over the passes of an accumulated batch.

        Notes among the metrics are not averaged: they have a leading axis of the passes.
        """
        trained, frozen = split(state.params, self.trained)
        value_and_grad = jax.value_and_grad(self.loss, has_aux=True)
        passes = self.config.optim.accumulate
        if passes == 1:
            (loss, metrics), grads = value_and_grad(trained, frozen, batch, key)
            metrics, notes = _told_apart(metrics)
            return loss, metrics | {name: note[None] for name, note in notes.items()}, grads

        def cut(rows: jax.Array) -> jax.Array:
            # Rows a, a + A, ... form a pass, so that each device keeps the rows it has.
            return rows.reshape(-1, passes, *rows.shape[1:]).swapaxes(0, 1)

        def one_pass(total: Any, now: tuple) -> tuple[Any, dict[str, jax.Array]]:
            rows, number = now
            (loss, metrics), grads = value_and_grad(
                trained, frozen, rows, jax.random.fold_in(key, number)
            )
            metrics, notes = _told_apart(metrics)
            return jax.tree.map(jnp.add, total, (loss, metrics, grads)), notes

        rows_AB = jax.tree.map(cut, batch)
        first = jax.tree.map(lambda rows: rows[0], rows_AB)
        shapes = jax.eval_shape(
            lambda: (lambda v: (v[0][0], _told_apart(v[0][1])[0], v[1]))(
                value_and_grad(trained, frozen, first, key)
            )
        )
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, notes = jax.lax.scan(one_pass, zeros, (rows_AB, jnp.arange(passes)))
        loss, metrics, grads = jax.tree.map(lambda sum_: sum_ / passes, total)
        return loss, metrics | notes, grads

    def step(
        self, state: TrainState, batch: dict[str, jax.Array]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update; an update that is not finite is left out and counted."""
        seed_key = jax.random.key(self.config.train.seed)
        key = jax.random.fold_in(jax.random.fold_in(seed_key, 1), state.step)
        loss, metrics, grads = self.gradients(state, batch, key)
        metrics, notes = _told_apart(metrics)
        trained, frozen = split(state.params, self.trained)
        updates, optimizer = self.optimizer.update(grads, state.optimizer, trained)
        moved = optax.apply_updates(trained, updates)
        decay = self.config.optim.ema_decay
        ema = (
            jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), state.ema, moved)
            if decay
            else {}
        )
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        params = self.learner.updated(join(moved, frozen), notes)
        if ema:  # the average of what was set anew starts there
            again, _ = split(params, self.trained)
            start_anew = lambda a, b, e: e if a is b else jnp.where(a == b, e, b)  # noqa: E731
            ema = jax.tree.map(start_anew, moved, again, ema)
        before = (state.params, state.ema, state.optimizer)
        params, ema, optimizer = jax.tree.map(
            lambda new, old: old if new is old else jnp.where(finite, new, old),
            (params, ema, optimizer),
            before,
        )
        new = TrainState(
            step=state.step + 1,
            skipped=jnp.where(finite, 0, state.skipped + 1),
            params=params,
            ema=ema,
            optimizer=optimizer,
        )
        report = {"loss": loss, "grad_norm": grad_norm, "lr": self.schedule(state.step)}
        return new, report | metrics | {"skipped": new.skipped}

    def jit_step(self) -> Callable[[TrainState, dict[str, jax.Array]], tuple]:
        """`step` compiled for the mesh, the state donated."""
        whole = sharding.replicated(self.mesh)
        return jax.jit(
            self.step,
            in_shardings=(self.shardings, sharding.batch_sharding(self.mesh)),
            out_shardings=(self.shardings, whole),
            donate_argnums=0,
            compiler_options=self.learner.compiler_options(),
        )

    def averaged(self, state: TrainState) -> Params:
        """The parameters to evaluate and sample with: averages where there are any."""
        return join(state.params, state.ema)


def _told_apart(metrics: dict[str, jax.Array]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Numbers, which are averaged and reported, and arrays, which are notes."""
    numbers = {name: value for name, value in metrics.items() if not jnp.ndim(value)}
    return numbers, {name: value for name, value in metrics.items() if name not in numbers}


def trained_paths(shapes: Params, *, buffers: Params, freeze: tuple[str, ...]) -> frozenset[str]:
    """Paths of all parameters but buffers and those that a `freeze` pattern matches.

    Raises:
      UserError: a pattern matches nothing, or nothing is left to train.
    """
    stored = set(traverse_util.flatten_dict(buffers, sep="/"))
    paths = set(traverse_util.flatten_dict(shapes, sep="/")) - stored
    frozen: set[str] = set()
    for pattern in freeze:
        matched = {path for path in paths if re.search(pattern, path)}
        if not matched:
            groups = sorted({path.split("/")[0] for path in paths})
            raise UserError(
                f'config.train.freeze: "{pattern}" matches no parameter; they start with '
                f"{', '.join(groups)}"
            )
        frozen |= matched
    if frozen == paths:
        raise UserError("config.train.freeze freezes every parameter: nothing is left to train")
    return frozenset(paths - frozen)
