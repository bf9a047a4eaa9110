"""`python -m gen.data`: imports token datasets from other formats, and checks datasets.

    python -m gen.data import llamagen-codes SOURCE... --name imagenet256_vq16
    python -m gen.data import rar-jsonl FILE... --copies tencrop --name imagenet256_maskgit
    python -m gen.data import mar-moments SOURCE --name imagenet256_kl16
    python -m gen.data import llamagen-t2i CODES --features FOLDER --name captions256_vq16
    python -m gen.data check DIR [--config configs/llamagen_b.py:256]

Each format is a row of `FORMATS`; `import FORMAT --help` tells what it takes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gen import data, schema
from gen.command_line import Parser, split_overrides
from gen.data import files
from gen.data.code_folders import KINDS
from gen.data.manifest import Manifest
from gen.data.report import SCAN_LIMIT, check_dataset, layout_in_words
from gen.data.report_text import format_report
from gen.errors import UserError, ensure_writable, exit_on_user_error


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m gen.data",
        description=__doc__.partition("\n")[0].partition(": ")[2],
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    importing = commands.add_parser("import", help="write a dataset from tokens in another format")
    formats = importing.add_subparsers(dest="format", required=True, metavar="FORMAT")
    for name, (describe, add_arguments, run) in FORMATS.items():
        one = formats.add_parser(name, help=describe, description=describe)
        add_arguments(one)
        _add_common(one)
        one.set_defaults(run=run)
    _add_check(commands.add_parser("check", help="check a dataset and report what is in it"))
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    """The arguments of every format."""
    add = parser.add_argument
    add("--name", required=True, help="name of the dataset to write")
    add("--dir", help="data directory; default: $GEN_DATA_DIR or ~/.cache/gen/data")
    add("--tokenizer-id", help="what made the tokens (%(default)s)")
    add("--tokenizer-sha256", metavar="HEX", help="SHA-256 of the tokenizer's weights")
    add(
        "--holdout", type=int, default=0, metavar="N",
        help="N images, spread evenly over all, become the split test; the same N always gives the "
        "same images (default: 0, all images are the split train)",
    )  # fmt: skip


def _add_class_names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--class-names", metavar="FILE", help="text file with the name of a class on each line"
    )


def _add_grid(parser: argparse.ArgumentParser, *, vocab: int) -> None:
    add = parser.add_argument
    add("--vocab", type=int, default=vocab, help="number of token ids (%(default)s)")
    add("--grid", metavar="HEIGHT,WIDTH", help="default: a square")


def _add_code_folders(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(tokenizer_id="llamagen-vq16")
    add = parser.add_argument
    add(
        "sources", nargs="+", metavar="SOURCE",
        help="folder with *_codes and *_labels, or the *_codes itself; several (ten_crop and "
        "ten_crop_105) hold the same images, and their versions are put together",
    )  # fmt: skip
    add("--classes", type=int, default=1000, help="number of classes (%(default)s)")
    _add_grid(parser, vocab=16384)
    add(
        "--copies", choices=sorted(KINDS.values()),
        help="what the stored versions of an image are; default: 1 none, 2 flip, 10 tencrop",
    )  # fmt: skip
    _add_class_names(parser)


def _import_code_folders(args: Any) -> Manifest:
    return data.import_code_folder(
        *args.sources, num_classes=args.classes, vocab_size=args.vocab, grid=_grid(args),
        copies=args.copies, class_names=_class_names(args.class_names, args.classes),
        **_common(args),
    )  # fmt: skip


def _add_token_lines(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(tokenizer_id="maskgit-vqgan")
    add = parser.add_argument
    add(
        "sources", nargs="+", metavar="FILE", help=".jsonl or .jsonl.gz; the images of several "
        "files follow each other",
    )  # fmt: skip
    add("--classes", type=int, default=1000, help="number of classes (%(default)s)")
    _add_grid(parser, vocab=1024)
    add(
        "--copies", choices=sorted(KINDS.values()), required=True,
        help="what the lines of an image are, which a file does not tell: tencrop, ten that follow "
        "each other; flip, two (see --block); none, each line is an image",
    )  # fmt: skip
    add(
        "--block", type=int, metavar="N",
        help="for flip: images are followed by their mirror images batch by batch, N in a batch "
        "(--batch_size of pretokenization.py, in a file for each of its processes); 1 if each "
        "image is followed by its own",
    )  # fmt: skip
    _add_class_names(parser)


def _import_token_lines(args: Any) -> Manifest:
    return data.import_token_lines(
        *args.sources, copies=args.copies, block=args.block, num_classes=args.classes,
        vocab_size=args.vocab, grid=_grid(args),
        class_names=_class_names(args.class_names, args.classes), **_common(args),
    )  # fmt: skip


def _add_moment_folders(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(tokenizer_id="mar-kl16")
    add = parser.add_argument
    add("source", metavar="SOURCE", help="folder that holds a folder of .npz files for each class")
    add("--classes", type=int, help="number of class folders there must be (default: any)")
    _add_class_names(parser)


def _import_moment_folders(args: Any) -> Manifest:
    names = _class_names(args.class_names, args.classes)
    return data.import_moment_folders(
        args.source, num_classes=args.classes, class_names=names, **_common(args)
    )


def _add_captioned_codes(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(tokenizer_id="llamagen-vq16")
    add = parser.add_argument
    add("codes", metavar="CODES", help="folder of 0.npy, 1.npy, ..., or of such folders")
    captions = parser.add_mutually_exclusive_group(required=True)
    captions.add_argument(
        "--features", metavar="FOLDER", help="T5 features in files of the same names as the codes"
    )
    captions.add_argument(
        "--captions", metavar="FOLDER",
        help="what gen.encode text wrote: its first caption is that of 0.npy",
    )  # fmt: skip
    _add_grid(parser, vocab=16384)
    add("--length", type=int, help="slots of a caption; longer --features are cut (default: 120)")
    add("--encoder", help="what made the --features (default: google/flan-t5-xl)")


def _import_captioned_codes(args: Any) -> Manifest:
    return data.import_captioned_codes(
        args.codes, features=args.features, captions=args.captions, vocab_size=args.vocab,
        grid=_grid(args), length=args.length, encoder=args.encoder, **_common(args),
    )  # fmt: skip


# Name of a format: what it is, its arguments, and what imports it.
FORMATS: dict[str, tuple[str, Callable[..., None], Callable[..., Manifest]]] = {
    "llamagen-codes": (
        "Folders of .npy files, one per image, of LlamaGen's extract_codes_c2i.py.",
        _add_code_folders,
        _import_code_folders,
    ),
    "rar-jsonl": (
        "Files of a line for each image or crop, of 1d-tokenizer's pretokenization.py.",
        _add_token_lines,
        _import_token_lines,
    ),
    "mar-moments": (
        "Folders of .npz files of moments, one folder per class, of MAR's main_cache.py.",
        _add_moment_folders,
        _import_moment_folders,
    ),
    "llamagen-t2i": (
        "Folders of .npy files of codes, of LlamaGen's extract_codes_t2i.py, and their captions.",
        _add_captioned_codes,
        _import_captioned_codes,
    ),
}


def _common(args: Any) -> dict[str, Any]:
    """What every importer takes."""
    return {
        "name": args.name, "directory": args.dir, "tokenizer": _tokenizer(args),
        "holdout": args.holdout, "progress": True,
    }  # fmt: skip


def _grid(args: Any) -> tuple[int, int] | None:
    return args.grid and schema.parse(tuple[int, int], args.grid, "--grid")


def _tokenizer(args: Any) -> dict[str, Any]:
    sha256 = args.tokenizer_sha256
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise UserError(f'--tokenizer-sha256 has 64 hexadecimal digits, not "{sha256}"')
    return {"id": args.tokenizer_id, "sha256": sha256 and sha256.lower()}


def _class_names(path: str | None, num_classes: int | None) -> list[str] | None:
    if path is None:
        return None
    try:
        names = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text ({error})") from None
    if num_classes is not None and len(names) != num_classes:
        raise UserError(f"{path} has {len(names)} lines, one name each; --classes {num_classes}")
    return names


def _add_check(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("dir", metavar="DIR", help="folder of the dataset, or of one of its versions")
    add(
        "--config", metavar="FILE[:ARG]",
        help="also tell whether the data fit this model; --config.model... changes its fields",
    )  # fmt: skip
    add("--split", metavar="NAME", help="scan this split only")
    add(
        "--full", action="store_true",
        help=f"scan all records, not {SCAN_LIMIT:,} of each split at most",
    )  # fmt: skip
    add("--json", metavar="FILE", help="also write the report as JSON")


def _check(args: Any, rest: list[str]) -> None:
    family = _family(args.config, rest)
    if args.json:
        ensure_writable(Path(args.json).parent)
    from gen.inputs import check_fits

    limit = None if args.full else SCAN_LIMIT
    report = check_dataset(args.dir, split=args.split, limit=limit, progress=True)
    if family is not None:
        report["config"], report["fits"] = args.config, True
        try:
            check_fits(Manifest.read(Path(report["directory"])), family)
        except UserError as error:
            report["fits"] = False
            report["problems"].append(f"the data do not fit {args.config}: {error}")
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(format_report(report))
    if report["problems"]:
        raise SystemExit(2)


def _family(spec: str | None, rest: list[str]) -> Any:
    """The family that a config names, or None without one."""
    if spec is None:
        if rest:
            raise UserError(f"unknown argument {rest[0]} (see --help)")
        return None
    # Modules above `gen.data`, which is an entry point here alone.
    from gen import config as configs
    from gen.families import FAMILIES

    config = configs.of_generator(configs.load(spec, split_overrides(rest)))
    return FAMILIES[config.family](config.model)


@exit_on_user_error
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    args, rest = make_parser().parse_known_args(argv)
    if args.command == "check":
        _check(args, rest)
        return
    if rest:
        raise UserError(f"unknown argument {rest[0]} (see --help)")
    manifest = args.run(args)
    counts = ", ".join(f"{count:,} {name}" for name, count in manifest.splits.items())
    folder = files.data_root(args.dir) / manifest.name / manifest.version
    print(f"{folder}: {counts}; {layout_in_words(manifest.layout)}")


if __name__ == "__main__":
    main(sys.argv[1:])
