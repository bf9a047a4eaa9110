"""What `gen.encode` is told about pixels: sources, sizes, crops and shares, made into a `Job`."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gen import schema, sharding, tokenizers
from gen.data.importing import split_evenly
from gen.encoding.job import Job
from gen.errors import UserError
from gen.images import Cut, DigitImages, ImageFolder, Images, TFDSImages, VideoFolder
from gen.images.crops import TEN_CROP_RANGES
from gen.images.cut import KINDS

Splits = Mapping[str, Images]
SIZE = (256, 256)  # in pixels, where neither the user nor the tokenizer tells
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
        if images.class_names and SPLIT_NAMES.issuperset(images.class_names):
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


def add_common(add: Callable[..., Any]) -> None:
    """The arguments of everything that has pixels."""
    add("--tokenizer", required=True, metavar="FILE", help="what encodes: .safetensors of ours")
    add("--name", help="name of the dataset to write")
    add(
        "--preview", metavar="FILE.png",
        help="a picture of some originals beside their reconstructions; without --name that alone",
    )  # fmt: skip
    add("--dir", help="data directory; default: $GEN_DATA_DIR or ~/.cache/gen/data")
    add(
        "--size", metavar="HEIGHT,WIDTH",
        help="pixels that are encoded (default: what it was trained on, if it tells, or 256,256)",
    )  # fmt: skip
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
    add("--part-size", type=int, default=64, help="kept together, lost by a kill (%(default)s)")
    add("--shard", default="0/1", metavar="I/N", help="do this of N shares, counted from 0")
    add(
        "--beam", action="store_true",
        help="as a Beam pipeline through TFDS (extra beam), for sets that outgrow a machine",
    )  # fmt: skip
    add("--beam-options", default="", metavar="TEXT", help='such as "--runner=FlinkRunner"')
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
    tokenizer = tokenizers.load(args.tokenizer, mesh=sharding.local_replicas())
    own = ",".join(map(str, tokenizer.meta.get("size", SIZE)))
    size = schema.parse(tuple[int, int], args.size or own, "--size HEIGHT,WIDTH")
    if args.ranges and args.crops != "tencrop":
        raise UserError("--ranges are those of --crops tencrop")
    ranges = TEN_CROP_RANGES if args.crops == "tencrop" else ()
    if args.ranges:
        ranges = schema.parse(tuple[float, ...], args.ranges, "--ranges")
    cut = Cut(size, args.crops, ranges)
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


def shard_of(text: str) -> tuple[int, int]:
    """(I, N) of `I/N`; raises `UserError` if there is no such share."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    index, count = map(int, match.groups()) if match else (0, 0)
    if index >= count:
        raise UserError(f"--shard is one of 0/N to N-1/N, such as 0/4, not {text}")
    return index, count
