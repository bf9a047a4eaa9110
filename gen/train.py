"""`python -m gen.train --config FILE --workdir DIR`: trains a generator or a tokenizer.

Read from the top: check everything a user can get wrong, open or resume the run, step, and at
the end score it, show what it makes and write `result.json`. Started again with the same
arguments, a run goes on from its newest whole checkpoint and ends bit-identical to one that was
never stopped. What is different between generators and tokenizers is in `gen/jobs/`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from pathlib import Path

import jax

from gen import __version__, distributed, runtime, sharding
from gen import config as configs
from gen.command_line import Parser, split_overrides
from gen.config import Config, TokenizerRun
from gen.errors import UserError, ensure_writable, exit_on_user_error, note
from gen.jobs import JOBS, Job
from gen.schema import differences
from gen.training import checkpoint
from gen.training.logs import Logs, average, write_overview
from gen.training.state import Params, Trainer, TrainState
from gen.training.stop import RESTART, StopSignal

# What may change when a run is resumed: nothing that its parameters depend on.
FREE = ("mesh", "eval", "data.dir", "train.keep")
FREE += ("train.log_every", "train.eval_every", "train.save_every")
FREE += tuple(name for job in JOBS.values() for name in job.free)


@dataclasses.dataclass
class Run:
    """A checked run, before anything is compiled."""

    config: Config | TokenizerRun
    workdir: Path
    trainer: Trainer
    job: Job

    @property
    def checkpoints(self) -> Path:
        return self.workdir / "checkpoints"


def make_parser() -> Parser:
    """The command line."""
    parser = Parser(
        prog="python -m gen.train",
        description=__doc__.splitlines()[0],
        epilog="Any field: --config.optim.lr=3e-4. FILE:debug runs a few steps of a small model.",
    )
    parser.add_argument("--config", required=True, help="config file, FILE.py or FILE.py:argument")
    parser.add_argument("--workdir", help="folder of the run; default: runs/NAME_ARGUMENT")
    parser.add_argument("--init_from", help="start from the weights of this run or checkpoint")
    parser.add_argument("--tokenizer", help="tokenizer file, for models that hold a part of theirs")
    parser.add_argument(
        "--distributed", choices=distributed.MODES, default="off",
        help="auto: one of several processes (Cloud TPU, SLURM, Open MPI, Kubernetes, JAX_...)",
    )  # fmt: skip
    return parser


def prepare(argv: list[str] | None) -> Run:
    """Everything that can be refused is refused here, before compilation."""
    args, rest = make_parser().parse_known_args(argv)
    config = configs.load(args.config, split_overrides(rest))
    distributed.start(args.distributed)
    with distributed.together("its checks"):
        workdir = Path(args.workdir or Path("runs") / run_name(args.config))
        rows, passes = config.train.batch_size, config.optim.accumulate
        if rows % passes:
            raise UserError(f"config.train.batch_size {rows} does not divide into {passes} passes")
        mesh = sharding.make_mesh(config.mesh, batch_size=rows // passes)
        trainer = Trainer(config, mesh)
        is_new = not checkpoint.steps_in(workdir / "checkpoints")
        check_resumable(config, workdir)
        if args.init_from and not is_new and distributed.is_main():
            note(f"--init_from {args.init_from} is not read again: {workdir} goes on from its own")
        options = {"init_from": args.init_from, "tokenizer": args.tokenizer, "is_new": is_new}
        job = JOBS[type(config)](trainer, **options)
        ensure_writable(workdir)  # last: what is refused leaves no folder behind
    distributed.check_shared(workdir)
    return Run(config, workdir, trainer, job)


def run_name(spec: str) -> str:
    """`llamagen_b_384_debug` for `configs/llamagen_b.py:384,debug`."""
    path, _, argument = spec.partition(":")
    return "_".join([Path(path).stem, *(word for word in argument.split(",") if word)])


def check_resumable(config: Config | TokenizerRun, workdir: Path) -> None:
    """Refuses to go on with a run that was started with other settings."""
    steps = checkpoint.steps_in(workdir / "checkpoints")
    for step in steps:
        try:
            meta = checkpoint.read_meta(workdir / "checkpoints" / str(step))
        except UserError:
            continue  # damaged; the one before it will be tried
        # Through JSON, which makes lists of tuples.
        now = json.loads(json.dumps(config.to_json()))
        changed = [p for p in differences(meta["config"], now) if not p.startswith(FREE)]
        if changed:
            raise UserError(
                f"the run in {workdir} was started with other settings of "
                f"{', '.join(changed)}: these need another folder (--workdir; of gen.compare "
                "--runs), with --init_from to use its weights"
            )
        return


def open_state(run: Run, saved: checkpoint.Checkpoints) -> TrainState:
    """The newest whole checkpoint, other weights, or a fresh start."""
    state = saved.restore_latest(run.trainer.abstract)
    if state is not None:
        if distributed.is_main():
            print(f"going on from step {int(state.step)} of {run.workdir}", file=sys.stderr)
        return state
    return run.job.start()


def check_finite(run: Run, skipped: int, step: int) -> None:
    """Ends a run whose updates have stopped being finite."""
    if skipped >= run.config.train.max_skipped:
        raise UserError(
            f"{skipped} updates in a row up to step {step} were not finite: lower "
            f"config.optim.lr; the newest checkpoint in {run.checkpoints} is from before"
        )


def train(run: Run) -> Params:
    """Steps to the end, with reports, held-out scores and checkpoints on the way.

    Returns:
      The parameters to use: averages where there are any.
    """
    config, trainer, job = run.config, run.trainer, run.job
    saved = checkpoint.Checkpoints(
        run.workdir, keep=config.train.keep,
        meta={"config": config.to_json(), "versions": versions()} | job.about,
    )  # fmt: skip
    stopping = False
    with StopSignal() as stop, contextlib.ExitStack() as stack:
        stack.callback(saved.close)
        state = open_state(run, saved)
        start, total = int(state.step), config.train.steps
        logs = Logs(run.workdir, start=start, total=total, curves=job.curves, unit=job.unit)
        stack.callback(logs.close)
        if job.is_warm and start == 0:
            log_held_out(job, trainer.averaged(state), logs, 0)
        stepper, stream = trainer.jit_step(), job.batches(start)
        stack.callback(stream.close)
        recent: list[dict[str, jax.Array]] = []
        began = time.perf_counter()
        for step in range(start + 1, total + 1):
            state, metrics = stepper(state, next(stream))
            recent.append(metrics)
            logs.advance()
            stopping = stop.agreed() and step < total  # once: a signal may come in between
            due = step == total or stopping
            if due or step % config.train.log_every == 0:
                values = average(recent)
                check_finite(run, int(values["skipped"]), step)
                logs.report(step, values, rows=len(recent) * config.train.batch_size, began=began)
                recent, began = [], time.perf_counter()
            if step == total or step % config.train.eval_every == 0:
                log_held_out(job, trainer.averaged(state), logs, step)
                began = time.perf_counter()
            if due or step % config.train.save_every == 0:
                saved.save(state)
            if stopping:
                logs.say(f"stopped at step {step}; the same command goes on from there")
                break
        else:
            logs.save_curves()
    if stopping:
        distributed.barrier()  # the last checkpoint is sealed before any process leaves
        raise SystemExit(RESTART)
    return trainer.averaged(state)


def log_held_out(job: Job, params: Params, logs: Logs, step: int) -> None:
    """Scores held-out data, if the config names any; step 0 is before the first update."""
    scores = job.held_out(params)
    if scores:
        logs.write(step, {f"valid/{name}": value for name, value in scores.items()})


def describe(run: Run) -> str:
    """One line on what is about to run."""
    mesh = "x".join(str(size) for size in run.trainer.mesh.shape.values())
    return (
        f"{run.job.name}, {run.job.num_parameters:,} parameters "
        f"({len(run.trainer.trained)} arrays trained), {run.job.num_examples} training examples, "
        f"mesh {mesh} (data x fsdp x tensor) -> {run.workdir}"
    )


def note_averages(config: Config | TokenizerRun) -> None:
    """Tells if a run is too short for its averages, which are what is scored and sampled."""
    kept = config.optim.ema_decay**config.train.steps
    if kept > 0.05:
        others = "; gen.sample and gen.evaluate take the other weights with --raw"
        note(
            f"{config.train.steps} steps are few for averages of optim.ema_decay "
            f"{config.optim.ema_decay:g}: {kept:.0%} of them is still the start"
            + (others if isinstance(config, Config) else "")
        )


def versions() -> dict[str, str]:
    """What the figures of a run depend on."""
    device = jax.devices()[0]
    found = {"gen": __version__, "jax": jax.__version__, "python": sys.version.split()[0]}
    return found | {"device": f"{jax.device_count()} x {device.device_kind}"}


@exit_on_user_error
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    runtime.start()
    started, spent = time.perf_counter(), time.process_time()
    run = prepare(argv)
    with jax.set_mesh(run.trainer.mesh):
        if distributed.is_main():
            print(describe(run), file=sys.stderr)
            note_averages(run.config)
            write_overview(run.workdir / "parameters.txt", run.trainer.abstract.params)
        params = train(run)
        result = {"steps": run.config.train.steps, "parameters": run.job.num_parameters}
        result |= run.job.finish(params, run.workdir)
    result |= {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - spent,
        "versions": versions(),
        "config": run.config.to_json(),
    }
    if distributed.is_main():
        path = run.workdir / "result.json"
        path.write_text(json.dumps(result, indent=2) + "\n")
        summary = {k: v for k, v in result.items() if k not in ("config", "versions")}
        print(json.dumps(summary, indent=2))
        print(f"all of it is in {run.workdir}", file=sys.stderr)
    distributed.barrier()


if __name__ == "__main__":
    main(sys.argv[1:])
