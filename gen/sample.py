"""`python -m gen.sample RUN`: samples of a trained generator, as `.npz` and as a PNG grid.

Axes: N samples, P positions.

The settings default to what the run's config gives under `sample`. The `.npz` holds `tokens`
(N, P), `labels` (N,) and `settings` (JSON), the PNG a labelled grid.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from gen import pictures, schema
from gen.api import Generator, load
from gen.config import Parser, SampleConfig
from gen.errors import UserError, ensure_writable, exit_on_user_error
from gen.layouts import Layout


def gray_images(tokens_NP: np.ndarray, layout: Layout) -> np.ndarray:
    """Tokens of an image grid as gray levels, uint8 `(N, H, W)`, where no pixels are at hand."""
    frames, height, width = layout.shapes[0]
    if layout.geometry != "grid" or frames != 1:
        raise UserError(f"only tokens of an image grid can be shown as gray levels, not {layout}")
    return pictures.tokens_to_gray(
        tokens_NP, height=height, width=width, vocab_size=layout.vocab_sizes[0]
    )


def save_samples(
    path: Path, tokens_NP: np.ndarray, *, layout: Layout, labels: list[str] | None, title: str
) -> None:
    """Writes the labelled grid; ten to a row, so that class-balanced digits form columns."""
    images_NHW = gray_images(tokens_NP, layout)
    if layout.vocab_sizes[0] > 256:
        title += " (token ids as gray levels: pixels need the tokenizer)"
    columns = min(10, len(images_NHW))
    pictures.save_grid(path, images_NHW, labels=labels, columns=columns, title=title)


def parse_labels(text: str) -> list[int]:
    """`"0,1,5-9"` as a list of class numbers."""
    labels: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise UserError(f'--labels takes numbers and ranges such as 0,1,5-9, not "{text}"')
        labels.extend(range(int(first), int(last or first) + 1))
    return labels


def make_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m gen.sample", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("run", help="a run's folder, or one of its checkpoints")
    add("--labels", help="classes, such as 0,1,5-9; default: all in turn")
    add("--num", type=int, help="number of samples; labels are repeated in turn (default: 100)")
    add("--guidance", help="guidance as the published code counts it, or none")
    add("--guidance-interval", help="last guided step after the first; -1 guides all")
    add("--temperature", help="0 takes the most likely token")
    add("--top-k", help="keep the k most likely tokens; 0 keeps all")
    add("--top-p", help="keep the smallest set of this probability; 1 keeps all")
    add("--batch-size", help="samples decoded together")
    add("--seed", type=int, default=0)
    add("--raw", action="store_true", help="use the weights, not their average")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="compute dtype")
    add("--out", default="samples", help="writes OUT.npz and OUT.png")
    return parser


def settings_from(args: Any, defaults: SampleConfig) -> dict[str, Any]:
    """The config's sampling settings with those given on the command line in their place."""
    settings = {}
    for name, kind in schema.hints(SampleConfig).items():
        text = getattr(args, name)
        flag = "--" + name.replace("_", "-")
        settings[name] = getattr(defaults, name) if text is None else schema.parse(kind, text, flag)
    return settings


def labels_for(args: Any, generator: Generator) -> np.ndarray:
    """One class per sample: those given, or all, in turn."""
    if generator.family.condition.kind != "class":
        raise UserError("this model is conditioned on captions: sample it through the Python API")
    chosen = parse_labels(args.labels) if args.labels else None
    if args.num is not None and args.num < 1:
        raise UserError(f"--num is at least 1, not {args.num}")
    num = args.num or (len(chosen) if chosen else 100)
    if chosen is None:
        chosen = list(range(generator.family.condition.num_classes))
    return np.resize(np.array(chosen), num)


@exit_on_user_error
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    args = make_parser().parse_args(argv)
    out = Path(args.out)
    ensure_writable(out.parent)
    generator = load(args.run, averaged=not args.raw, dtype=args.dtype)
    settings = settings_from(args, generator.config.sample)
    labels_N = labels_for(args, generator)
    # The delay keeps a bar that never moved out of the way of an error message.
    with tqdm(total=len(labels_N), unit="sample", desc="sampling", delay=0.5) as bar:
        tokens_NP = generator.sample(
            args.seed,
            labels=labels_N,
            progress=lambda done: bar.update(done - bar.n),
            **settings,
        )
    record = json.dumps({"run": args.run, "seed": args.seed, **settings})
    np.savez(out.with_name(out.name + ".npz"), tokens=tokens_NP, labels=labels_N, settings=record)
    picture = out.with_name(out.name + ".png")
    title = f"guidance {settings['guidance']}, temperature {settings['temperature']:g}"
    shown = slice(0, 100)
    save_samples(
        picture,
        tokens_NP[shown],
        layout=generator.family.layout,
        labels=[str(label) for label in labels_N[shown]],
        title=title,
    )
    print(f"{len(tokens_NP)} samples: {out}.npz, the first {min(len(tokens_NP), 100)} in {picture}")


if __name__ == "__main__":
    main(sys.argv[1:])
