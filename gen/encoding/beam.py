"""The same work as a Beam pipeline, written by TFDS: for sets that outgrow a machine.

Needs the extra `beam`. Workers must see the pictures, the tokenizer's file and the data directory
under the paths that the command gives. Each part of the job is an element; a record is the same as
without Beam, and so is the order of all. What runs where, and what is tried again, is the engine's
matter.
"""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from gen.data import Manifest, files
from gen.data.records import ContentHash
from gen.data.writer import seal
from gen.encoding.arguments import make_job
from gen.encoding.encoder import Encoder
from gen.encoding.job import Job
from gen.encoding.merge import check_budget, description, write_bad_list
from gen.encoding.work import encode_numbers
from gen.errors import UserError, ensure_writable

try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.utils.shared import Shared
except ImportError as error:
    raise UserError(
        f"--beam needs the beam extra ({error}), in an environment of its own: "
        "pip install 'gen[beam]', or -e '.[beam]' in a checkout"
    ) from None

BAD = "bad"  # the output of what cannot be read


class Worker:
    """What a process keeps between parts: the job as this machine sees it, and its program."""

    def __init__(self, build: Callable[[], Job], settings: dict[str, Any]):
        self.job = build()
        if self.job.settings != settings:
            raise UserError("this machine sees another tokenizer or other pictures than the first")
        self.encoder = Encoder(self.job.tokenizer, self.job.shape, self.job.batch_size)


class EncodePart(beam.DoFn):
    """Number of a part -> (place in the split, record), and (number, reason) of what is bad."""

    def __init__(self, build: Callable[[], Job], settings: dict[str, Any], split: str):
        self._make = functools.partial(Worker, build, settings)
        self._split, self._shared = split, Shared()

    def setup(self) -> None:
        self._worker = self._shared.acquire(self._make)

    def process(self, part: int) -> Iterator[Any]:
        job = self._worker.job
        rows, mine = job.parts.rows(part), job.numbers(self._split)
        numbers = range(max(rows.start, mine.start), min(rows.stop, mine.stop))
        arrays = encode_numbers(job, self._worker.encoder, numbers)
        spec = job.spec
        for row, number in enumerate(numbers):
            why = str(arrays["why"][row])
            if why:
                yield beam.pvalue.TaggedOutput(BAD, json.dumps([number, why]))
            else:
                record = {name: arrays[name][row] for name in spec.fields}
                yield number - mine.start, spec.encode(record)


class EncodeSplit(beam.PTransform):
    """All records of a split; what is bad goes to a text file."""

    def __init__(self, job: Job, build: Callable[[], Job], split: str, bad_file: Path):
        super().__init__()
        mine, size = job.numbers(split), job.part_size
        self._parts = list(range(mine.start // size, (mine.stop - 1) // size + 1))
        self._encode = EncodePart(build, job.settings, split)
        self._bad_file = str(bad_file)

    def expand(self, start: Any) -> Any:
        """Adds its steps to the pipeline."""
        made = (
            start
            | "Parts" >> beam.Create(self._parts)
            | "Spread" >> beam.Reshuffle()
            | "Encode" >> beam.ParDo(self._encode).with_outputs(BAD, main="records")
        )
        _ = made[BAD] | "List" >> beam.io.WriteToText(self._bad_file, shard_name_template="")
        return made["records"]


def builder_of(job: Job, build: Callable[[], Job], stage: Path) -> tfds.core.DatasetBuilder:
    """A TFDS builder of the dataset, which writes into `stage`."""

    class Codes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        code_path = None
        VERSION = tfds.core.Version(files.VERSION)
        RELEASE_NOTES = {files.VERSION: "First version."}  # noqa: RUF012 (TFDS reads it so)
        name = files.tfds_name(job.name)

        def _info(self) -> tfds.core.DatasetInfo:
            # With whole-number keys this keeps the order.
            features = job.spec.features()
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {split: self._generate_examples(split) for split in job.splits}

        def _generate_examples(self, split: str) -> EncodeSplit:
            return EncodeSplit(job, build, split, _bad_file(stage, split))

    return Codes(data_dir=str(stage), file_format="array_record")


def encode_with_beam(job: Job, args: Any) -> Manifest:
    """Makes the dataset with a pipeline, whole or not at all.

    Args:
      job: what is to be made.
      args: the command that `make_job` made it of: workers do the same.

    Raises:
      UserError: more items are unreadable than allowed, there is another dataset of this name, or
        the data directory cannot be written to.
    """
    if there := job.finished():
        return there
    ensure_writable(job.root)
    with files.staging(job.root, job.name) as stage:
        builder = builder_of(job, functools.partial(make_job, args), stage)
        options = PipelineOptions(shlex.split(args.beam_options))
        config = tfds.download.DownloadConfig(try_download_gcs=False, beam_options=options)
        builder.download_and_prepare(download_dir=str(stage / "downloads"), download_config=config)
        bad = _bad(job, stage)
        check_budget(job, bad)
        about = description(job, bad)
        about["details"]["content_sha256"] = {
            split: _content(job, builder, split) for split in job.splits
        }
        lengths = {split: list(builder.info.splits[split].shard_lengths) for split in job.splits}
        built = Path(builder.data_dir)
        manifest = seal(built, Manifest(splits={}, **about), lengths)
        if not files.install(built, job.destination):
            raise UserError(f"{job.destination} exists already")
    if bad:
        write_bad_list(job, bad)
    return manifest


def _bad_file(stage: Path, split: str) -> Path:
    return stage / f"bad-{split}.txt"


def _bad(job: Job, stage: Path) -> dict[int, str]:
    """Numbers of the items that could not be read, and why."""
    lines = [line for split in job.splits for line in _bad_file(stage, split).open()]
    return dict(sorted(json.loads(line) for line in lines))


def _content(job: Job, builder: Any, split: str) -> str:
    """The hash of a split's records, read back in their order."""
    content, spec, records = ContentHash(), job.spec, builder.as_data_source(split)
    for index in range(len(records)):
        content.update(spec.encode(spec.decode(records[index])))
    return content.hexdigest()
