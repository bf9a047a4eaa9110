"""The training step as the benchmark runs it, on made-up data of the model's own layout."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from gen import config as configs
from gen import sharding
from gen.bench import rates, timing
from gen.bench.made_up import training_batch
from gen.bench.work import count
from gen.errors import UserError
from gen.training.state import Trainer


def bench_training(
    target: str, overrides: list[tuple[str, str]], *, dtype: str, rounds: int
) -> dict[str, Any]:
    """Times the step of a config and prints what it reaches.

    Raises:
      UserError: the target is no config, or its batch does not fit the mesh.
    """
    if not target.partition(":")[0].endswith(".py"):
        raise UserError(f"--train takes a config file, not {target}")
    config = configs.of_generator(configs.load(target, overrides))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, dtype=dtype))
    rows, passes = config.train.batch_size, config.optim.accumulate
    if rows % passes:
        raise UserError(f"config.train.batch_size {rows} does not divide into {passes} passes")
    mesh = sharding.make_mesh(config.mesh, batch_size=rows // passes)
    trainer = Trainer(config, mesh)
    batch = sharding.put(training_batch(trainer.learner, rows), sharding.batch_sharding(mesh))
    start = time.perf_counter()
    traced = trainer.jit_step().trace(trainer.abstract, batch)
    step = traced.lower().compile()
    compile_s = time.perf_counter() - start
    work = count(traced.jaxpr, len(jax.tree.leaves(trainer.abstract)))[""]
    state = [trainer.init()]

    def once() -> None:
        state[0], _ = step(state[0], batch)
        jax.block_until_ready(state[0])

    once()
    leaves = jax.tree.leaves(trainer.abstract.params)
    shapes = {tuple(leaf.shape[-2:]) for leaf in leaves if leaf.ndim >= 2}
    probes = rates.probes(shapes, jnp.dtype(dtype))
    calls = {"step": once} | {name: probe.call for name, probe in probes.items()}
    with tqdm(total=rounds * len(calls), unit="call", desc="timing", delay=0.5) as bar:
        times = timing.interleave(calls, rounds=rounds, done=lambda name: bar.update())
    reached, taken = rates.best(probes, times), times["step"]
    flops = work.weight_flops + work.other_flops
    bound = flops / (reached.flops_per_s * mesh.size)
    tokens = rows * trainer.learner.layout.num_positions
    print(
        f"step of {rows} samples: {1e3 * taken.median:.1f} ms "
        f"(p95 {1e3 * taken.percentile(95):.1f}), {tokens / taken.median:.4g} tokens/s, "
        f"{bound / taken.median:.0%} of {reached.flops_per_s / 1e9:.0f} GF/s a device, "
        f"measured in turn; {flops / 1e9:.1f} GF a step; compiled in {compile_s:.1f} s"
    )
    return {
        "training": {
            "batch": rows,
            "compile_s": compile_s,
            "seconds": list(taken.seconds),
            "p50_s": taken.median,
            "tokens_per_s": tokens / taken.median,
            "flops": flops,
            "bound_s": bound,
            "share_of_bound": bound / taken.median,
        },
        "rates": vars(reached),
    }
