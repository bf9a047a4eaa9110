"""`python -m gen.encode`: datasets of tokens from pixels, and captions as features.

    python -m gen.encode images FOLDER --tokenizer FILE --preview look.png
    python -m gen.encode images FOLDER --tokenizer FILE --name flowers
    python -m gen.encode videos FOLDER --frames 16 --tokenizer FILE --name clips
    python -m gen.encode tfds NAME --tokenizer FILE --name codes
    python -m gen.encode digits --tokenizer FILE --name digit_codes
    python -m gen.encode text CAPTIONS OUT

What encodes pixels works in parts, which `DIR/NAME.parts` keeps: stopped (exit code 42) or killed,
the same command goes on from there. `--shard 0/4` to `--shard 3/4` share the work between processes
or machines that see one data directory; the last to finish makes the dataset. `--beam` hands the
same work to a Beam pipeline (extra `beam`). `text` encodes captions with a T5 encoder (extra
`torch`) into a folder that `gen.sample --captions` takes.
"""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from gen import captions, runtime
from gen.command_line import Parser
from gen.data import Manifest
from gen.data.report import layout_in_words
from gen.encoding import Job, complete
from gen.encoding.arguments import SOURCES, add_common, make_job, shard_of
from gen.encoding.preview import save_preview
from gen.errors import UserError, ensure_file, ensure_writable, exit_on_user_error


def make_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m gen.encode", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (describe, add_arguments, _) in SOURCES.items():
        one = commands.add_parser(name, help=describe, description=describe)
        add_arguments(one.add_argument)
        add_common(one.add_argument)
    text = commands.add_parser("text", help="captions to text-encoder features")
    text.add_argument("captions", help="text file, one caption per line, or .jsonl")
    text.add_argument("out", help="folder to write")
    text.add_argument(
        "--encoder", default="google/flan-t5-xl", help="T5 encoder: Hugging Face name or folder"
    )
    text.add_argument("--length", type=int, default=120, help="slots of a caption (default: 120)")
    text.add_argument("--batch-size", type=int, default=16, help="captions encoded together")
    return parser


def encode_pixels(args: Any) -> None:
    """`gen.encode` of everything that has pixels."""
    index, count = shard_of(args.shard)
    if not args.name and not args.preview:
        raise UserError("give --name for a dataset, or --preview for a picture alone")
    if args.beam and count > 1:
        raise UserError("Beam shares the work itself: leave out --shard")
    if args.beam_options and not args.beam:
        raise UserError("--beam-options are those of --beam")
    if args.beam:
        from gen.encoding import beam
    if args.preview and ensure_file(args.preview).suffix != ".png":
        raise UserError(f"--preview is a picture: {args.preview} should end in .png")
    job = make_job(args)
    if args.preview and index == 0:
        print(f"{args.preview}: mean PSNR {save_preview(job, args.preview):.1f} dB")
    if not args.name:
        return
    if args.beam:
        _tell(job, beam.encode_with_beam(job, args))
        return
    manifest = complete(job, index=index, count=count)
    if manifest is None:
        absent = len(job.parts.absent())
        print(
            f"shard {args.shard} is done; {absent} of {job.parts.total} parts are missing still: "
            "the last shard to finish makes the dataset"
        )
        return
    _tell(job, manifest)


def _tell(job: Job, manifest: Manifest) -> None:
    counts = ", ".join(f"{manifest.splits[split]:,} {split}" for split in job.splits)
    print(f"{job.destination}: {counts}; {layout_in_words(manifest.layout)}")
    bad = manifest.details["bad"]
    if bad:
        print(f"{len(bad)} could not be read and are left out, listed in {job.bad_list}")


def encode_text(args: Any) -> None:
    """`gen.encode text`."""
    if min(args.length, args.batch_size) < 1:
        raise UserError("--length and --batch-size are at least 1")
    texts = captions.read_texts(args.captions)
    ensure_writable(args.out)
    encoder, dim = captions.t5_encoder(args.encoder, length=args.length)
    with tqdm(total=len(texts), unit="caption", desc="encoding", delay=0.5) as bar:
        captions.encode(
            texts, encoder, args.out, name=args.encoder, length=args.length, dim=dim,
            batch_size=args.batch_size, progress=lambda done: bar.update(done - bar.n),
        )  # fmt: skip
    print(f"{len(texts)} captions of {args.length} x {dim} in {args.out}")


@exit_on_user_error
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    runtime.start()
    args = make_parser().parse_args(argv)
    encode_text(args) if args.command == "text" else encode_pixels(args)


if __name__ == "__main__":
    main(sys.argv[1:])
