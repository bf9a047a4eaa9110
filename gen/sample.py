"""`python -m gen.sample RUN`: samples of a trained generator, as `.npz` and as a PNG grid.

Axes: N samples, P positions.

The settings default to what the run's config gives under `sample`. The `.npz` holds `tokens`
(N, P), `labels` (N,) or `captions` (N,), and `settings` (JSON); the PNG is a labelled grid. With a
tokenizer, pixels are decoded: the grid shows them, and each sample is a PNG of its own.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from gen import captions, pictures, schema, tokenizers
from gen.api import Generator, load
from gen.config import Parser, SampleConfig
from gen.errors import UserError, ensure_writable, exit_on_user_error, note
from gen.layouts import Layout

# Frames in one row of strips: ten strips of the shortest videos, one of the longer ones.
STRIP_FRAMES = 30


def gray_images(tokens_NP: np.ndarray, layout: Layout) -> np.ndarray:
    """Tokens of a grid as gray levels, where no pixels are at hand.

    Returns:
      uint8 `(N, H, W)`, or `(N, T, H, W)` of a grid of several frames.
    """
    frames, height, width = layout.shapes[0]
    if layout.geometry != "grid":
        raise UserError(f"only tokens of a grid can be shown as gray levels, not {layout}")
    gray = pictures.tokens_to_gray(
        tokens_NP, height=frames * height, width=width, vocab_size=layout.vocab_sizes[0]
    )
    return gray if frames == 1 else gray.reshape(-1, frames, height, width)


def save_samples(
    path: Path,
    tokens_NP: np.ndarray,
    *,
    layout: Layout,
    labels: list[str] | None,
    title: str,
    images: np.ndarray | None = None,
) -> bool:
    """Writes the labelled grid, ten to a row, so that class-balanced digits form columns.

    `images` are the pixels, uint8 `(N, H, W, 3)`; without them tokens are shown as gray levels.
    Of a grid of several frames, the PNG has strips of frames, and a GIF beside it moves. False,
    and a note, where nothing can be shown.
    """
    if images is None and (layout.geometry != "grid" or layout.is_continuous):
        note("no picture: latents, and tokens that are no grid, need --tokenizer FILE to be seen")
        return False
    if images is None:
        images = gray_images(tokens_NP, layout)
        if layout.vocab_sizes[0] > 256:
            title += " (token ids as gray levels: pixels need the tokenizer)"
    columns = min(10, len(images))
    frames = layout.shapes[-1][0]
    if frames == 1:
        pictures.save_grid(path, images, labels=labels, columns=columns, title=title)
        return True
    gif = path.with_suffix(".gif")
    pictures.save_gif(gif, images, labels=labels, columns=columns, title=title)
    columns = max(1, STRIP_FRAMES // frames)
    shown, labels = images[: 10 * columns], labels and labels[: 10 * columns]
    pictures.save_strips(path, shown, labels=labels, columns=columns, title=title)
    return True


def open_tokenizer(path: str, generator: Generator) -> tuple[tokenizers.Tokenizer, tuple[int, ...]]:
    """The tokenizer of a file and the (height, width) in pixels of the generator's samples.

    Raises:
      UserError: the file is no tokenizer, or its tokens are not the generator's.
    """
    tokenizer, layout = tokenizers.load(path), generator.family.layout
    if layout.is_continuous:  # of latents at several scales, the last are what is decoded
        layout = dataclasses.replace(layout, geometry="grid", shapes=layout.shapes[-1:])
    sides = tuple(n * factor for n, factor in zip(layout.shapes[-1], tokenizer.downsample))
    shape = sides[1:] if layout.shapes[-1][0] == 1 else sides
    differing = layout.differences(tokenizer.layout(shape))
    if differing:
        raise UserError(
            f"the tokenizer {path} does not fit the generator: {'; '.join(differing)} "
            "(the generator's against the tokenizer's)"
        )
    for part in generator.family.tokenizer_parts:
        ours, theirs = generator.params[part], tokenizer.params[part]
        if not all(map(np.array_equal, jax.tree.leaves(ours), jax.tree.leaves(theirs))):
            raise UserError(f"the tokenizer {path} has another {part} than the generator holds")
    return tokenizer, shape


def save_pixels(
    folder: Path,
    drawn: dict[str, np.ndarray],
    tokenizer: tokenizers.Tokenizer,
    shape: tuple[int, ...],
    *,
    keep: int,
    batch_size: int = 16,
) -> np.ndarray:
    """Decodes and writes `00000.png` and so on; returns the first `keep`, uint8 (N, H, W, 3).

    Latents are decoded where the generator gives them: some options smooth these alone.
    """
    ensure_writable(folder)
    kept, total = [], len(drawn["tokens"])
    with tqdm(total=total, unit="image", desc="decoding", delay=0.5) as bar:
        for start in range(0, total, batch_size):
            rows = slice(start, start + batch_size)
            if "latents" in drawn:
                pixels = tokenizer.decode_latents(drawn["latents"][rows], batch_size=batch_size)
            else:
                pixels = tokenizer.decode(drawn["tokens"][rows], shape, batch_size=batch_size)
            images = tokenizer.to_uint8(pixels)
            for index, image in enumerate(images, start):
                Image.fromarray(image).save(folder / f"{index:05d}.png")
            kept.extend(images[: max(keep - start, 0)])
            bar.update(len(images))
    return np.stack(kept)


def parse_labels(text: str) -> list[int]:
    """`"0,1,5-9"` as a list of class numbers."""
    labels: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise UserError(f'--labels takes numbers and ranges such as 0,1,5-9, not "{text}"')
        if int(last or first) < int(first):
            raise UserError(f"--labels: the range {part.strip()} goes down; write {last}-{first}")
        labels.extend(range(int(first), int(last or first) + 1))
    return labels


def make_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m gen.sample", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("run", help="a run's folder, or one of its checkpoints")
    add("--labels", help="classes, such as 0,1,5-9; default: all in turn")
    add("--num", type=int, help="number of samples; conditions are taken in turn (default: 100)")
    add("--captions", metavar="FOLDER", help="captions that gen.encode text wrote, for text models")
    add("--tokenizer", metavar="FILE", help="tokenizer of gen.convert: also writes pixels")
    add("--guidance", help="guidance as the published code counts it, or none")
    add("--guidance-interval", help="last guided step after the first; -1 guides all")
    add("--temperature", help="0 takes the most likely token")
    add("--top-k", help="keep the k most likely tokens; 0 keeps all")
    add("--top-p", help="keep the smallest set of this probability; 1 keeps all")
    add("--batch-size", help="samples decoded together")
    add("--option", action="append", default=[], metavar="NAME=VALUE",
        help="an option of the model's kind, such as more_smooth=true")  # fmt: skip
    add("--known", metavar="FILE.npy",
        help="tokens (N, P) to keep, -1 where one is to be made; not all models can")  # fmt: skip
    add("--seed", type=int, default=0)
    add("--raw", action="store_true", help="use the weights, not their average")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="compute dtype")
    add("--out", default="samples", help="writes OUT.npz, OUT.png, and OUT/ for pixels")
    return parser


def settings_from(args: Any, generator: Generator) -> dict[str, Any]:
    """The config's sampling settings with those given on the command line in their place."""
    options = generator.family.Options
    settings = dataclasses.asdict(options()) | generator.config.sample.settings()
    for name, kind in schema.hints(SampleConfig).items():
        text = getattr(args, name, None)
        if text is not None:
            settings[name] = schema.parse(kind, text, "--" + name.replace("_", "-"))
    given: dict[str, Any] = {}
    for pair in args.option:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UserError(f"--option takes NAME=VALUE, not {pair}")
        schema.override(options, given, name, text, root="options of sampling")
    return settings | given


def read_known(path: str | None) -> np.ndarray | None:
    """Tokens known in advance; what they must be is checked where they are used."""
    if path is None:
        return None
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"--known {path} cannot be read: {error}") from None


@dataclasses.dataclass(frozen=True)
class Prompts:
    """What each sample is conditioned on.

    Attributes:
      arguments: for `Generator.sample`.
      names: how each is called in pictures.
      record: what the `.npz` keeps.
    """

    arguments: dict[str, Any]
    names: list[str]
    record: dict[str, np.ndarray]


def prompts_for(args: Any, generator: Generator) -> Prompts:
    """One condition per sample: those given in turn, or all classes in turn.

    Raises:
      UserError: they do not fit the model.
    """
    if args.num is not None and args.num < 1:
        raise UserError(f"--num is at least 1, not {args.num}")
    condition = generator.family.condition
    if condition.kind == "text":
        if args.labels or not args.captions:
            raise UserError("this model is conditioned on captions: give --captions FOLDER")
        given = captions.load(args.captions)
        rows_N = np.resize(np.arange(len(given.texts)), args.num or len(given.texts))
        # The features of all samples at once: half a megabyte each at 120 x 2048.
        features = (given.caption[rows_N], given.caption_valid[rows_N])
        texts = [given.texts[row] for row in rows_N]
        return Prompts({"captions": features}, texts, {"captions": np.array(texts)})
    if args.captions:
        raise UserError("this model is conditioned on classes: give --labels, not --captions")
    chosen = parse_labels(args.labels) if args.labels else None
    num = args.num or (len(chosen) if chosen else 100)
    labels_N = np.resize(np.array(chosen or range(condition.num_classes)), num)
    return Prompts({"labels": labels_N}, [str(label) for label in labels_N], {"labels": labels_N})


@exit_on_user_error
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    args = make_parser().parse_args(argv)
    out = Path(args.out)
    ensure_writable(out.parent)
    generator = load(args.run, averaged=not args.raw, dtype=args.dtype)
    settings = settings_from(args, generator)
    prompts = prompts_for(args, generator)
    tokenizer = open_tokenizer(args.tokenizer, generator) if args.tokenizer else None
    # The delay keeps a bar that never moved out of the way of an error message.
    with tqdm(total=len(prompts.names), unit="sample", desc="sampling", delay=0.5) as bar:
        drawn = generator.draw(
            args.seed,
            known=read_known(args.known),
            **prompts.arguments,
            progress=lambda done: bar.update(done - bar.n),
            **settings,
        )
    tokens_NP = drawn["tokens"]
    record = json.dumps({"run": args.run, "seed": args.seed, **settings})
    tokens_file, picture = (out.with_name(out.name + ending) for ending in (".npz", ".png"))
    steps = {name: array for name, array in drawn.items() if name.endswith("_steps")}
    np.savez(tokens_file, tokens=tokens_NP, **steps, **prompts.record, settings=record)
    images = save_pixels(out, drawn, *tokenizer, keep=100) if tokenizer else None
    shown = save_samples(
        picture,
        generator.to_data(tokens_NP[:100]),
        layout=generator.family.data_layout,
        labels=prompts.names[:100],
        title=f"guidance {settings['guidance']}, temperature {settings['temperature']:g}",
        images=images,
    )
    pixels = f", each as a PNG in {out}" if tokenizer else ""
    first = f", the first {min(len(tokens_NP), 100)} in {picture}" if shown else ""
    print(f"{len(tokens_NP)} samples: {tokens_file}{first}{pixels}")


if __name__ == "__main__":
    main(sys.argv[1:])
