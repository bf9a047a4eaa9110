"""Samples as they fill in, as one GIF: what `gen.sample --animate` does.

Axes: N samples, K frames of the GIF, P positions, T frames of a video (1 of an image), H height,
W width.

A frame shows what is there after some steps of the sampler. What tokens of a grid make of their
cells is shown as it looks in the end, and a shade of its own where there are none yet. Generators
whose steps add up to a latent show what that amounts to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from gen import streaming
from gen.decoding import trace
from gen.errors import UserError
from gen.families import Family
from gen.pictures.movies import save_gif, to_strips
from gen.pictures.samples import gray_images, has_gray, strip_columns
from gen.sampling.job import Job

FRAMES = 32
LARGEST = 2**21  # pixels of a frame before small ones are enlarged, unless one row has more
SHADE = (92, 112, 148)  # no gray level
SECONDS, PAUSE = 4.0, 2.0  # that the steps take, and that the last frame stays longer
FPS = (2.0, 10.0)

Arrays = dict[str, np.ndarray]


def check(family: Family) -> None:
    """Raises `UserError` unless samples can be seen without a tokenizer."""
    if not has_gray(family.data_layout):
        raise UserError(
            "--animate needs --tokenizer FILE here: latents, and tokens that are no grid, cannot "
            "be seen without"
        )


def draw(job: Job, progress: Callable[[int], object]) -> tuple[Arrays, list[Arrays]]:
    """Samples batch by batch.

    Args:
      job: what to sample.
      progress: called with the number of samples made since it was last called.

    Returns:
      What `Generator.draw` with `keep_trace` gives; and of each frame `tokens` and any `latents`.
    """
    kind, settings = job.generator.family.Options, job.settings
    options = kind(**{field.name: settings[field.name] for field in dataclasses.fields(kind)})
    every = -(-job.generator.family.num_steps(options) // FRAMES)
    size, ends, frames = min(settings["batch_size"], job.num), [], []
    for first in range(0, job.num, size):
        # Filled up with repeats of the last: the same programs for all batches.
        conditions = job.prompts.arguments(np.minimum(np.arange(first, first + size), job.num - 1))
        given = {"first": first, "every": every, **conditions, **settings}
        moments = list(job.generator.stream(job.args.seed, **given))
        ends.append(streaming.whole(moments))
        frames.append([made_so_far(moment) for moment in evenly(moments)])
        progress(min(size, job.num - first))
    steps = [end.pop(streaming.STEP) for end in ends]
    films = [together(batches, job.num) for batches in zip(*frames)]
    return together(ends, job.num) | {streaming.STEP: steps[0]}, films


def evenly(moments: list[streaming.Moment]) -> list[streaming.Moment]:
    """At most so many that `FRAMES` hold them and a first one; the last is among them."""
    count = min(FRAMES - 1, len(moments))
    return [moments[-(-(k + 1) * len(moments) // count) - 1] for k in range(count)]


def made_so_far(moment: streaming.Moment) -> Arrays:
    """What a frame shows."""
    latents = {} if moment.latents is None else {"latents": moment.latents}
    return {"tokens": moment.tokens} | latents


def together(batches: Sequence[Arrays], num: int) -> Arrays:
    """The first so many rows of all batches."""
    return {n: np.concatenate([rows[n] for rows in batches])[:num] for n in batches[0]}


def save(job: Job, frames: list[Arrays], pixels: np.ndarray | None) -> None:
    """Writes OUT.gif, and tells where.

    Args:
      job: what was sampled.
      frames: from `draw`.
      pixels: of the first samples as they are in the end, if there is a tokenizer.
    """
    end = pixels if pixels is not None else seen(job, frames[-1], slice(100))
    end_NTHWC = end if end.ndim == 5 else end[:, None]
    length, cells = end_NTHWC.shape[1], int(np.prod(end_NTHWC.shape[1:4]))
    columns = min(10 if length == 1 else strip_columns(length), len(end))
    shown = slice(columns * min(max(LARGEST // (columns * cells), 1), 10))
    end_NTHWC = end_NTHWC[shown]
    film = [start(job, frames[0], end_NTHWC)]
    film += [picture(job, frame, end_NTHWC) for frame in frames]
    flat = [f[:, 0] if length == 1 else to_strips(f) for f in film]
    gif = job.out.with_name(job.out.name + ".gif")
    save_gif(
        gif, np.stack(flat, axis=1), labels=job.prompts.names[shown], columns=columns,
        title=job.title, fps=float(np.clip(len(film) / SECONDS, *FPS)), pause=PAUSE,
    )  # fmt: skip
    print(f"how they came about: {gif}")


def start(job: Job, frame: Arrays, end_NTHWC: np.ndarray) -> np.ndarray:
    """The frame before the first step; `frame` is one of those after."""
    if "latents" in frame:
        return np.broadcast_to(np.uint8(SHADE), end_NTHWC.shape)
    known_NP = job.prompts.known
    if known_NP is None:
        known_NP = np.full_like(frame["tokens"], trace.UNKNOWN)
    return picture(job, {"tokens": known_NP}, end_NTHWC)


def picture(job: Job, frame: Arrays, end_NTHWC: np.ndarray) -> np.ndarray:
    """A frame of the samples that look like `end_NTHWC` in the end, of the same shape."""
    rows = slice(len(end_NTHWC))
    if "latents" in frame:
        return seen(job, frame, rows).reshape(*end_NTHWC.shape[:4], -1)
    lattice = job.generator.family.layout.shapes[-1]
    known = (frame["tokens"][rows] != trace.UNKNOWN).reshape(-1, *lattice)
    for axis, (pixels, cells) in enumerate(zip(end_NTHWC.shape[1:4], lattice), start=1):
        known = known.repeat(pixels // cells, axis)
    return np.where(known[..., None], end_NTHWC, np.uint8(SHADE))


def seen(job: Job, drawn: Arrays, rows: slice) -> np.ndarray:
    """Pixels of some samples, or their gray levels, uint8 `(N, [T,] H, W, 3)`."""
    generator = job.generator
    layout, drawn = generator.family.data_layout, {n: array[rows] for n, array in drawn.items()}
    if job.pixels:
        return job.images(drawn)
    if "latents" in drawn:
        data = generator.latents_to_data(drawn["latents"])
    else:
        data = generator.to_data(drawn["tokens"])
    return np.repeat(gray_images(data, layout)[..., None], 3, axis=-1)
