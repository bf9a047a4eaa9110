"""`python -m gen.encode text CAPTIONS OUT`: what generators are conditioned on, made beforehand.

`text` encodes captions with a T5 encoder (extra `torch`) into a folder that `gen.sample
--captions` and the datasets of text-conditional models take. Stopped, it goes on when it is
started again.
"""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from gen import captions
from gen.config import Parser
from gen.errors import UserError, ensure_writable, exit_on_user_error


def make_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m gen.encode", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="text")
    text = commands.add_parser("text", help="captions to text-encoder features")
    text.add_argument("captions", help="text file, one caption per line, or .jsonl")
    text.add_argument("out", help="folder to write")
    text.add_argument(
        "--encoder", default="google/flan-t5-xl", help="T5 encoder: Hugging Face name or folder"
    )
    text.add_argument("--length", type=int, default=120, help="slots of a caption (default: 120)")
    text.add_argument("--batch-size", type=int, default=16, help="captions encoded together")
    return parser


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
    args = make_parser().parse_args(argv)
    encode_text(args)


if __name__ == "__main__":
    main(sys.argv[1:])
