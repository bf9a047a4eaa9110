"""AdamW with the decay rules, schedules and clipping of the published recipes."""

from __future__ import annotations

import re
from typing import Any

import jax
import optax

from gen.errors import UserError
from gen.settings import OptimConfig
from gen.sharding import path_of


def make_schedule(config: OptimConfig, num_steps: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up, then constant, linear or cosine to `final_lr`.

    Raises:
      UserError: the warm-up is longer than the run.
    """
    if config.warmup_steps >= num_steps:
        raise UserError(
            f"config.optim.warmup_steps {config.warmup_steps} must be below "
            f"config.train.steps {num_steps}"
        )
    rest = num_steps - config.warmup_steps
    after = {
        "constant": optax.constant_schedule(config.lr),
        "linear": optax.linear_schedule(config.lr, config.final_lr, rest),
        "cosine": optax.cosine_decay_schedule(config.lr, rest, alpha=config.final_lr / config.lr),
    }[config.schedule]
    if not config.warmup_steps:
        return after
    # Step 0 already moves: the first rate is lr / warmup_steps, not 0.
    warmup = optax.linear_schedule(
        config.lr / config.warmup_steps, config.lr, max(config.warmup_steps - 1, 1)
    )
    return optax.join_schedules([warmup, after], [config.warmup_steps])


def decay_mask(params: Any, no_decay: tuple[str, ...]) -> Any:
    """True for each parameter that is decayed: those whose path matches no `no_decay` pattern.

    By default norms and biases are left out, embeddings are not: LlamaGen's rule (decay what has
    two or more dimensions), told by name because stacked norms have two dimensions as well.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not any(re.search(pattern, path_of(path)) for pattern in no_decay), params
    )


def make_optimizer(config: OptimConfig, num_steps: int) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW with decoupled decay scaled by the learning rate."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            make_schedule(config, num_steps),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=lambda params: decay_mask(params, config.no_decay),
        ),
    )
