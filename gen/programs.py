"""What `Generator` compiles: functions of parameters and arrays, without state.

Everything after the star, the family and the graphdef are static.
"""

from __future__ import annotations

from flax import nnx


def sample(
    family, graphdef, params, batch, draws, scale_N, sampling, *, num_guided, options, keep_logits
):
    """Traced body of `Generator.draw`."""
    model = nnx.merge(graphdef, params)
    return family.sample(
        model, batch, draws=draws, scale_N=scale_N, num_guided=num_guided, sampling=sampling,
        options=options, keep_logits=keep_logits,
    )  # fmt: skip


def translate(family, graphdef, params, rows, *, what):
    """Traced body of `Generator.from_data` and `Generator.to_data`."""
    return getattr(family, what)(nnx.merge(graphdef, params), rows)


def teacher_forced(family, graphdef, params, batch, drop_B, noise, *, what):
    """Traced body of `Generator.held_out` and `Generator.logits`."""
    condition = {name: batch[name] for name in family.condition_fields}
    model = nnx.merge(graphdef, params)
    return getattr(family, what)(model, batch["tokens"], condition, drop_B=drop_B, **noise)
