"""`gen.encode --beam` makes the records of `gen.encode`: `pytest -m beam`, with the extra."""

import dataclasses

import numpy as np
import pytest

from gen import encode, tokenizers
from gen.data import Manifest, check_dataset
from gen.images import ImageFolder
from tests import tiny
from tests.encode_helpers import image_folder, stored, vq

pytestmark = pytest.mark.beam

OPTIONS = ("--size", "8,8", "--batch-size", "4", "--part-size", "16", "--holdout", "7")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A tokenizer, and 2000 images of which two are broken."""
    folder = tmp_path_factory.mktemp("files")
    tokenizers.save(vq(), folder / "vq.safetensors")
    images = ImageFolder.find(image_folder(folder / "zoo", 2000))
    for index in (10, 1234):
        (folder / "zoo" / images.key(index)).write_bytes(b"no image")
    return folder


def command(files, out, *arguments):
    where = ("--tokenizer", files / "vq.safetensors", "--name", "my-codes", "--dir", out)
    return [str(a) for a in ("images", files / "zoo", *where, *OPTIONS, *arguments)]


def without_files(manifest):
    """What must be the same where TFDS cuts the shards."""
    return dataclasses.replace(manifest, shards={})


def test_2000_images_give_the_same_records_in_the_same_order(files, tmp_path):
    encode.main(command(files, tmp_path / "one"))
    encode.main(command(files, tmp_path / "beam", "--beam"))
    one, other = (Manifest.read(tmp_path / n / "my-codes" / "1.0.0") for n in ("one", "beam"))
    assert without_files(one) == without_files(other) and one.splits["test"] == 7
    assert sum(one.splits.values()) == 1998 and len(other.details["bad"]) == 2
    for split in one.splits:
        ours, theirs = (stored(tmp_path / n, split, "my-codes") for n in ("one", "beam"))
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert ours[1] == theirs[1]
    assert not check_dataset(tmp_path / "beam" / "my-codes")["problems"]
    lists = [(tmp_path / n / "my-codes.bad.txt").read_text() for n in ("one", "beam")]
    assert lists[0] == lists[1]
    assert sorted(p.name for p in (tmp_path / "beam").iterdir()) == ["my-codes", "my-codes.bad.txt"]


def test_worker_processes_build_the_job_themselves(files, tmp_path):
    options = "--direct_running_mode=multi_processing --direct_num_workers=2"
    arguments = ("--crops", "flip", "--part-size", "500")
    process = tiny.run_module(
        "gen.encode", *command(files, tmp_path / "beam", *arguments, "--beam"),
        "--beam-options", options,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-3000:]
    encode.main(command(files, tmp_path / "one", *arguments))
    one, other = (Manifest.read(tmp_path / n / "my-codes" / "1.0.0") for n in ("one", "beam"))
    assert without_files(one) == without_files(other)
    assert one.augmentation == {"kind": "flip", "count": 2}


def test_too_many_broken_files_leave_nothing_behind(files, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        encode.main(command(files, tmp_path, "--beam", "--bad-files", "1", "--part-size", "500"))
    assert stop.value.code == 2
    assert "2 of 2000 items cannot be read, --bad-files allows 1" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["my-codes.bad.txt"]


def test_workers_that_see_other_pictures_are_refused(files, tmp_path):
    from gen.encoding.beam import Worker
    from gen.errors import UserError

    args = encode.make_parser().parse_args(command(files, tmp_path))
    job = encode.make_job(args)
    with pytest.raises(UserError, match="sees another tokenizer or other pictures"):
        Worker(lambda: job, job.settings | {"items": "another"})
    assert Worker(lambda: job, job.settings).encoder.rows == 4
