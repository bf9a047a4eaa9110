"""`python -m gen.evaluate RUN`: likelihood of held-out data, and scores of samples.

Axes: N examples, P positions.

Prints one JSON object: nats per token and bits per dim of a split, and, where the config asks
for them, scores of samples (of the digits, still or moving), unguided and at the config's
guidance.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gen import beside, runtime, schema
from gen.api import Generator, load
from gen.command_line import Parser, add_dtype, split_overrides
from gen.config import overridden
from gen.data import Dataset, Split, eval_batches
from gen.decoding.draws import check_seed
from gen.errors import UserError, ensure_file, exit_on_user_error, nearest, note
from gen.inputs import open_data
from gen.metrics.likelihood import histogram_baseline, summarise_loss, summarise_nll
from gen.programs import PRECISIONS

LEAST_SAMPLES = 200  # of the scores: fewer say nothing
CONDITION_ARGUMENTS = {
    "class": lambda batch: {"labels": batch["label"]},
    "text": lambda batch: {"captions": (batch["caption"], batch["caption_valid"])},
}


def split_scores(generator: Generator, split: Split, *, batch_size: int) -> dict[str, np.ndarray]:
    """`Generator.held_out` of every example of a split, in order: `(N, P)` and `(N,)` by name."""
    arguments = CONDITION_ARGUMENTS[generator.family.condition.kind]
    parts: list[dict[str, np.ndarray]] = []
    done = 0
    for batch in eval_batches(split, batch_size):
        tokens = generator.from_data(batch["tokens"])
        found = generator.held_out(tokens, **arguments(batch), first=done)
        parts.append({name: rows[batch["weight"] > 0] for name, rows in found.items()})
        done += len(tokens)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def held_out(generator: Generator, split: Split, *, batch_size: int) -> dict[str, float]:
    """What a split's examples are worth to the model: likelihood, or its loss.

    Nats per token and bits per dim where it has a likelihood, or bounds one from above
    (`is_bound` 1); else the mean of its loss and the standard error. Then the means of what else
    the family tells apart. A dim is one position of the data: a token, or a pixel for the digits.
    """
    family = generator.family
    scores = split_scores(generator, split, batch_size=batch_size)
    rows_NP = scores.pop(family.measure)
    if family.measure == "nll":
        result = summarise_nll(rows_NP, num_dims=family.data_layout.num_positions)
        result |= {"is_bound": 1} if family.is_bound else {}
    else:
        result = summarise_loss(rows_NP, name=family.measure)
    return result | {name: float(rows_N.mean()) for name, rows_N in scores.items()}


def arrays(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """All tokens `(N, P)` and labels `(N,)` of a class-conditional split."""
    batches = list(eval_batches(split, batch_size=len(split)))
    return batches[0]["tokens"], batches[0]["label"]


def sampled(
    generator: Generator, labels_N: np.ndarray, *, seed: int
) -> Iterator[tuple[str, np.ndarray, dict[str, Any]]]:
    """Samples `(N, P)` as the data has them, under a name and with the settings they were drawn by.

    `unguided` is at temperature 1 without filters, with the family's options of the config;
    `guided` at the config's sampling settings.
    """
    guided = generator.config.sample.settings()
    rows = guided.pop("batch_size")
    names = schema.hints(generator.family.Options)
    options = {name: value for name, value in guided.items() if name in names}
    for name, choice in {"unguided": options, "guided": guided}.items():
        tokens_NP = generator.sample(seed, labels=labels_N, batch_size=rows, **choice)
        yield name, generator.to_data(tokens_NP), choice


def digit_scores(
    generator: Generator, dataset: Dataset, *, num_samples: int, seed: int
) -> dict[str, Any]:
    """Scores of class-balanced 8x8 digits, and the likelihood of a histogram to compare with."""
    from gen.metrics.digits import feature_network, score_samples

    data, family = generator.config.data, generator.family
    train, test = arrays(dataset.split(data.train)), arrays(dataset.split(data.test))
    labels_N = np.arange(num_samples) % family.condition.num_classes
    scores: dict[str, Any] = {
        "histogram_bits_per_dim": histogram_baseline(
            *train,
            *test,
            vocab_size=family.data_layout.vocab_sizes[0],
            num_classes=family.condition.num_classes,
        )
    }
    shared = {"train": train, "test": test, "network": feature_network(*train)}
    for name, samples_NP, choice in sampled(generator, labels_N, seed=seed):
        scores[name] = score_samples(samples_NP, labels_N, **shared) | choice
    return scores


def digit_video_scores(
    generator: Generator, dataset: Dataset, *, num_samples: int, seed: int
) -> dict[str, Any]:
    """Scores of class-balanced clips of one moving digit each."""
    from gen.metrics.digits_video import frame_network, score_clips

    data, family = generator.config.data, generator.family
    train, test = arrays(dataset.split(data.train)), arrays(dataset.split(data.test))
    labels_N = np.arange(num_samples) % family.condition.num_classes
    size = family.data_layout.shapes[0]
    shared = {"size": size, "train": train, "test": test, "network": frame_network(*train, size)}
    return {
        name: score_clips(clips_NP, labels_N, **shared) | choice
        for name, clips_NP, choice in sampled(generator, labels_N, seed=seed)
    }


SAMPLE_SCORES: dict[str, Callable[..., dict[str, Any]]] = {
    "digits": digit_scores,
    "digits_video": digit_video_scores,
}


def check_scores(names: tuple[str, ...], num_samples: int) -> None:
    """Raises `UserError` for a score that does not exist, or of too few samples; 0 scores none."""
    if names and 0 != num_samples < LEAST_SAMPLES:
        raise UserError(
            f"scores need {LEAST_SAMPLES} samples (config.eval.num_samples; 0: no scores), "
            f"not {num_samples}"
        )
    for name in names:
        if name not in SAMPLE_SCORES:
            raise UserError(
                f'config.eval.scores: "{name}" is unknown{nearest(name, SAMPLE_SCORES)}'
            )


def evaluate(
    generator: Generator,
    dataset: Dataset,
    *,
    split: str,
    scores: tuple[str, ...] = (),
    num_samples: int = 1500,
    seed: int = 0,
) -> dict[str, Any]:
    """Likelihood of one split and the scores asked for, as one nested dict."""
    check_scores(scores, num_samples)
    batch_size = generator.config.eval.batch_size
    result: dict[str, Any] = {
        "split": split,
        "held_out": held_out(generator, dataset.split(split), batch_size=batch_size),
    }
    for name in scores if num_samples else ():
        result[name] = SAMPLE_SCORES[name](generator, dataset, num_samples=num_samples, seed=seed)
    return result


def make_parser() -> Parser:
    """The command line."""
    parser = Parser(
        prog="python -m gen.evaluate",
        description=__doc__.splitlines()[0],
        epilog="Fields of the stored config: --config.data.name=..., --config.sample.guidance=...",
    )
    parser.add_argument("run", help="a run's folder, or one of its checkpoints")
    parser.add_argument("--split", help="split to score; default: the config's test split")
    parser.add_argument("--data-dir", help="where the data is, if not where it was in training")
    parser.add_argument("--num-samples", type=int, help="samples to score; 0 scores none")
    parser.add_argument("--seed", type=int, default=0, help="seed of the samples")
    parser.add_argument("--raw", action="store_true", help="the weights, not their average")
    add_dtype(parser, PRECISIONS)
    parser.add_argument("--out", help="also write the JSON to this file")
    parser.add_argument(
        "--pictures", metavar="FILE.png", help="real examples above samples of their conditions"
    )
    parser.add_argument("--tokenizer", metavar="FILE", help="shows their pixels in --pictures")
    return parser


@exit_on_user_error
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    runtime.start()
    args, rest = make_parser().parse_known_args(argv)
    check_seed(args.seed)
    overrides = split_overrides(rest)
    if args.data_dir:
        overrides.append(("data.dir", args.data_dir))
    generator = load(args.run, averaged=not args.raw, dtype=args.dtype)
    config = generator.config = overridden(
        generator.config, overrides, groups=("data", "eval", "sample")
    )
    for path in filter(None, (args.out, args.pictures)):
        ensure_file(path)
    pixels = beside.opened(generator, args.tokenizer) if args.pictures else None
    if args.pictures and not args.pictures.lower().endswith(".png"):
        raise UserError(f"--pictures is a PNG: {args.pictures} should end in .png")
    if args.tokenizer and not args.pictures:
        raise UserError("--tokenizer is for --pictures")
    num_samples = config.eval.num_samples if args.num_samples is None else args.num_samples
    check_scores(config.eval.scores, num_samples)
    dataset = open_data(config, generator.family)
    split = args.split or config.data.test or config.data.valid
    if split is None:
        names = ", ".join(dataset.manifest.splits)
        raise UserError(f"the config names no test split: give --split, the data has {names}")
    if args.num_samples and not config.eval.scores:
        note("--num-samples: this config asks for no scores of samples (config.eval.scores)")
    result = evaluate(
        generator,
        dataset,
        split=split,
        scores=config.eval.scores if num_samples else (),
        num_samples=num_samples,
        seed=args.seed,
    )
    text = json.dumps({"run": args.run, "dtype": args.dtype, **result}, indent=2)
    print(text)
    if args.out:
        Path(args.out).write_text(text + "\n")
    if args.pictures:
        how = {"split": split, "seed": args.seed, "pixels": pixels}
        beside.save_beside(args.pictures, generator, dataset, **how)
        note(f"real examples and samples: {args.pictures}")


if __name__ == "__main__":
    main(sys.argv[1:])
