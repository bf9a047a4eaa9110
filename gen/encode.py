"""`python -m gen.encode`: datasets of tokens from pixels, and captions as features.

    python -m gen.encode images FOLDER --tokenizer FILE --name flowers
    python -m gen.encode digits --tokenizer FILE --name digit_codes
    python -m gen.encode text CAPTIONS OUT

What encodes pixels works in parts, which `DIR/NAME.parts` keeps: stopped (exit code 42) or killed,
the same command goes on from there. `--shard 0/4` to `--shard 3/4` share the work between processes
or machines that see one data directory; the last to finish makes the dataset. `text` encodes
captions with a T5 encoder (extra `torch`) into a folder that `gen.sample --captions` takes.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from gen import captions, runtime, schema, tokenizers
from gen.config import Parser
from gen.data import Manifest
from gen.data.code_folders import split_evenly
from gen.data.report import layout_in_words
from gen.encoding import Job, complete
from gen.encoding.preview import save_preview
from gen.errors import UserError, ensure_file, ensure_writable, exit_on_user_error
from gen.images import Cut, DigitImages, ImageFolder, Images, TFDSImages, VideoFolder
from gen.images.crops import TEN_CROP_RANGES
from gen.images.cut import KINDS
from gen.parts.sampling import local_mesh

Splits = Mapping[str, Images]
# Names of folders that are splits rather than classes.
SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test"}


def _add_images(add: Callable[..., Any]) -> None:
    add(
        "sources", nargs="+", metavar="FOLDER",
        help="folder of images, or of a folder for each class; or several as SPLIT=FOLDER",
    )  # fmt: skip


def _images(args: Any) -> Splits:
    return _folders(args.sources, ImageFolder.find)


def _folders(sources: list[str], find: Callable[[str], Images]) -> Splits:
    """The source of each split of `FOLDER` or `SPLIT=FOLDER ...`."""
    named: dict[str, str] = {}
    for source in sources:
        match = re.fullmatch(r"([A-Za-z]\w*)=(.+)", source)
        split, folder = match.groups() if match and not Path(source).exists() else ("train", source)
        if split in named:
            raise UserError(f'two folders for the split "{split}": give SPLIT=FOLDER for each')
        named[split] = folder
    found = {split: find(folder) for split, folder in named.items()}
    for split, images in found.items():
        if set(images.class_names or ()) & SPLIT_NAMES == set(images.class_names or "-"):
            first = images.class_names[0]
            raise UserError(
                f"{named[split]} holds splits, not classes: give each as SPLIT=FOLDER, such as "
                f"{first}={Path(named[split]) / first}"
            )
    return found


def _add_videos(add: Callable[..., Any]) -> None:
    add(
        "sources", nargs="+", metavar="FOLDER",
        help="folder of videos, GIFs or folders of frames, or of a folder of these for each class; "
        "or several as SPLIT=FOLDER",
    )  # fmt: skip
    add("--frames", type=int, required=True, help="frames of a clip")
    add("--stride", type=int, default=1, help="take every so many frames (%(default)s)")
    add("--clips", type=int, default=1, help="clips of each video, evenly spread (%(default)s)")


def _videos(args: Any) -> Splits:
    options = {"frames": args.frames, "stride": args.stride, "clips": args.clips}
    return _folders(args.sources, functools.partial(VideoFolder.find, **options))


def _add_tfds(add: Callable[..., Any]) -> None:
    add("dataset", metavar="NAME[/CONFIG][:VERSION]", help="dataset that TFDS has made before")
    add("--tfds-dir", help="where it lies; default: $TFDS_DATA_DIR or ~/tensorflow_datasets")
    add("--split", default="train", help="its splits, such as train,test (%(default)s)")


def _tfds(args: Any) -> Splits:
    builder = TFDSImages.find(args.dataset, args.tfds_dir)
    return {split: TFDSImages(builder, split) for split in args.split.split(",")}


def _digits(args: Any) -> Splits:
    args.size = args.size or "8,8"
    return {split: DigitImages(split) for split in ("train", "test")}


# Name of a source: what it is, its arguments, and what opens the images of each split.
SOURCES: dict[str, tuple[str, Callable[..., None], Callable[[Any], Splits]]] = {
    "images": ("a folder of images, or of a folder for each class", _add_images, _images),
    "videos": ("a folder of videos, or of a folder for each class", _add_videos, _videos),
    "tfds": ("images of a TFDS dataset", _add_tfds, _tfds),
    "digits": ("the digits that ship with the package", lambda add: None, _digits),
}


def make_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m gen.encode", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (describe, add_arguments, _) in SOURCES.items():
        one = commands.add_parser(name, help=describe, description=describe)
        add_arguments(one.add_argument)
        _add_common(one.add_argument)
    text = commands.add_parser("text", help="captions to text-encoder features")
    text.add_argument("captions", help="text file, one caption per line, or .jsonl")
    text.add_argument("out", help="folder to write")
    text.add_argument(
        "--encoder", default="google/flan-t5-xl", help="T5 encoder: Hugging Face name or folder"
    )
    text.add_argument("--length", type=int, default=120, help="slots of a caption (default: 120)")
    text.add_argument("--batch-size", type=int, default=16, help="captions encoded together")
    return parser


def _add_common(add: Callable[..., Any]) -> None:
    """The arguments of everything that has pixels."""
    add("--tokenizer", required=True, metavar="FILE", help="what encodes: .safetensors of ours")
    add("--name", help="name of the dataset to write")
    add(
        "--preview", metavar="FILE.png",
        help="a picture of some originals beside their reconstructions; without --name that alone",
    )  # fmt: skip
    add("--dir", help="data directory; default: $GEN_DATA_DIR or ~/.cache/gen/data")
    add("--size", metavar="HEIGHT,WIDTH", help="pixels that are encoded (default: 256,256)")
    add(
        "--crops", choices=sorted(KINDS), default="centre",
        help="versions of each: its centre, that and its mirror image, or ten crops for each range",
    )  # fmt: skip
    add("--ranges", help="how much larger the part is that ten crops are of (default: 1.05,1.1)")
    add(
        "--holdout", type=int, default=0, metavar="N",
        help="N of a single split, spread evenly over all, become the split test",
    )  # fmt: skip
    add("--batch-size", type=int, default=16, help="encoded together on each device (%(default)s)")
    add("--part-size", type=int, default=256, help="kept together, lost by a kill (%(default)s)")
    add("--shard", default="0/1", metavar="I/N", help="do this of N shares, counted from 0")
    add(
        "--bad-files", type=int, metavar="N",
        help="leave out up to N that cannot be read (default: one in a thousand)",
    )  # fmt: skip


def make_job(args: Any) -> Job:
    """What a command asks for, checked.

    Raises:
      UserError: something does not exist, or does not fit together.
    """
    sources = SOURCES[args.command][2](args)
    size = schema.parse(tuple[int, int], args.size or "256,256", "--size")
    if args.ranges and args.crops != "tencrop":
        raise UserError("--ranges are those of --crops tencrop")
    ranges = TEN_CROP_RANGES if args.crops == "tencrop" else ()
    if args.ranges:
        ranges = schema.parse(tuple[float, ...], args.ranges, "--ranges")
    cut = Cut(size, args.crops, ranges)
    tokenizer = tokenizers.load(args.tokenizer, mesh=local_mesh())
    return Job(
        args.name or "preview", _with_holdout(sources, args.holdout), tokenizer, cut,
        frames=getattr(args, "frames", None), directory=args.dir,
        batch_size=args.batch_size, part_size=args.part_size, bad_files=args.bad_files,
    )  # fmt: skip


def _with_holdout(sources: Splits, holdout: int) -> dict[str, tuple[Images, np.ndarray]]:
    splits = {split: (images, np.arange(len(images))) for split, images in sources.items()}
    if not holdout:
        return splits
    if len(splits) > 1:
        raise UserError("--holdout is for one split; here are " + ", ".join(splits))
    ((_, (images, indices)),) = splits.items()
    train, test = split_evenly(indices, holdout, images.name)
    return {"train": (images, train), "test": (images, test)}


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    index, count = map(int, match.groups()) if match else (0, 0)
    if index >= count:
        raise UserError(f"--shard is one of 0/N to N-1/N, such as 0/4, not {text}")
    return index, count


def encode_pixels(args: Any) -> None:
    """`gen.encode` of everything that has pixels."""
    index, count = _shard(args.shard)
    if not args.name and not args.preview:
        raise UserError("give --name for a dataset, or --preview for a picture alone")
    if args.preview and ensure_file(args.preview).suffix != ".png":
        raise UserError(f"--preview is a picture: {args.preview} should end in .png")
    job = make_job(args)
    if args.preview and index == 0:
        print(f"{args.preview}: mean PSNR {save_preview(job, args.preview):.1f} dB")
    if not args.name:
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
