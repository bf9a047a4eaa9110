"""`python -m gen.sample RUN`: samples of a trained generator, as `.npz` and as a PNG grid.

Axes: N samples, P positions.

The settings default to what the run's config gives under `sample`. The `.npz` holds `tokens`
(N, P), `labels` (N,) or `captions` (N,), and `settings` (JSON); the PNG is a labelled grid. With a
tokenizer, pixels are decoded: the grid shows them, and each sample is a PNG (of videos a GIF) of
its own. `--animate` adds the grid as it fills in, OUT.gif, and `--trace` to the `.npz` what each
step did; `--mp4` adds the grid of videos as a film.

`--parts` is for many samples. OUT/ keeps each batch as it is done, the same command goes on from
there, and at the end OUT.npz is made of them. With a tokenizer it also holds the pixels `arr_0`,
uint8 (N, H, W, 3), and the labels `arr_1`, as evaluators of the Frechet distance read them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gen import distributed, runtime, sharding
from gen.api import load
from gen.command_line import Parser
from gen.decoding.draws import check_seed
from gen.errors import UserError, ensure_file, ensure_writable, exit_on_user_error
from gen.pictures.movies import check_mp4
from gen.pixels import Pixels, pixels_of, save_each
from gen.prompts import prompts_for
from gen.sampling import animate
from gen.sampling.flags import add_settings, settings_from
from gen.sampling.job import Job
from gen.sampling.parts import check_batch, sample_in_parts

ENDINGS = (".npz", ".png", ".gif", ".mp4")


def save_pixels(
    folder: Path, drawn: dict[str, np.ndarray], pixels: Pixels, *, keep: int, batch_size: int = 16
) -> np.ndarray:
    """Decodes and writes each sample; returns the first `keep`, uint8 `(N, [T,] H, W, 3)`."""
    ensure_writable(folder)
    kept, total = [], len(drawn["tokens"])
    with tqdm(total=total, unit="sample", desc="decoding", delay=0.5) as bar:
        for start in range(0, total, batch_size):
            rows = {name: array[start : start + batch_size] for name, array in drawn.items()}
            images = pixels(rows, batch_size=batch_size)
            save_each(folder, images, start)
            kept.extend(images[: max(keep - start, 0)])
            bar.update(len(images))
    return np.stack(kept)


def make_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m gen.sample", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("run", help="a run's folder, or one of its checkpoints")
    add("--labels", help="classes, such as 0,1,5-9 or by name; default: all in turn")
    add("--num", type=int, help="number of samples; conditions are taken in turn (default: 100)")
    add("--captions", metavar="FOLDER", help="captions that gen.encode text wrote, for text models")
    add("--tokenizer", metavar="FILE", help="tokenizer of gen.convert: also writes pixels")
    add("--batch-size", help="samples decoded together")
    add("--known", metavar="FILE.npy",
        help="tokens (N, P) to keep, -1 where one is to be made; not all models can")  # fmt: skip
    add("--seed", type=int, default=0)
    add("--out", default="samples", help="writes OUT.npz, OUT.png, and OUT/ for pixels")
    add("--animate", action="store_true",
        help="writes OUT.gif: how samples fill in (videos as strips of frames)")  # fmt: skip
    add("--mp4", action="store_true", help="videos: also writes OUT.mp4 (extra `video`)")
    add("--trace", action="store_true",
        help="adds to OUT.npz what each step did: trace_step, trace_positions, trace_tokens and "
        "trace_confidence")  # fmt: skip
    add("--parts", action="store_true",
        help="for many samples, on all devices: OUT/ keeps each batch, the same command goes on "
        "from there, and OUT.npz is made of them, with pixels as arr_0 for FID")  # fmt: skip
    add("--distributed", choices=distributed.MODES, default="off",
        help="auto: one of several processes, which share the parts")  # fmt: skip
    add_settings(parser)
    return parser


def sample_at_once(job: Job) -> None:
    """Samples in memory, on one device."""
    # The delay keeps a bar that never moved out of the way of an error message.
    with tqdm(total=job.num, unit="sample", desc="sampling", delay=0.5) as bar:
        if job.args.animate:
            drawn, frames = animate.draw(job, bar.update)
        else:
            drawn = job.generator.draw(
                job.args.seed,
                **job.prompts.arguments(np.arange(job.num)),
                progress=lambda done: bar.update(done - bar.n),
                keep_trace=job.args.trace,
                **job.settings,
            )
    given = {name: getattr(job.args, name) for name in ("run", "dtype", "seed")}
    np.savez(job.file, **job.arrays(drawn), settings=json.dumps(given | job.settings))
    images = save_pixels(job.out, drawn, job.pixels, keep=100) if job.pixels else None
    job.show(drawn["tokens"][:100], images)
    if job.args.animate:
        animate.save(job, frames, images)


@exit_on_user_error
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    runtime.start()
    args = make_parser().parse_args(argv)
    if args.distributed != "off" and not args.parts:
        raise UserError("--distributed is for --parts, which several processes share")
    if args.parts and (args.animate or args.trace):
        raise UserError("--animate and --trace are for samples made at once: leave out --parts")
    if args.mp4:
        check_mp4()
    check_seed(args.seed)
    distributed.start(args.distributed)
    out, mesh = Path(args.out), sharding.local_replicas() if args.parts else None
    if out.suffix in ENDINGS:  # it names one of the files
        out = out.with_suffix("")
    if not out.name:
        raise UserError(f"--out is the start of file names, not {args.out or 'nothing'}")
    with distributed.together("its checks"):
        ensure_writable(out if args.parts else out.parent)
        for ending in ENDINGS:
            ensure_file(out.with_name(out.name + ending))
    if args.parts:
        distributed.check_shared(out)
    generator = load(args.run, averaged=not args.raw, mesh=mesh, dtype=args.dtype)
    with distributed.together("its checks"):
        settings = settings_from(args, generator)
        if mesh:
            check_batch(settings["batch_size"], mesh)
        prompts = prompts_for(args, generator)
        pixels = pixels_of(generator, args.tokenizer) if args.tokenizer else None
        if args.animate and not pixels:
            animate.check(generator.family)
        still = len(pixels.shape) == 2 if pixels else generator.family.layout.shapes[-1][0] == 1
        if args.mp4 and still:
            raise UserError("--mp4 is for videos: these samples are images")
    job = Job(args, out, generator, settings, prompts, pixels)
    sample_in_parts(job) if args.parts else sample_at_once(job)


if __name__ == "__main__":
    main(sys.argv[1:])
