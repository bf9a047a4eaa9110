"""The report on a dataset: right about a good one, and complete about a damaged one."""

import json
from pathlib import Path

import numpy as np
import pytest

from gen.data import check_dataset, open_dataset, write_dataset
from gen.data.__main__ import main
from gen.data.report_text import format_report
from tests import data_helpers as helpers
from tests import tiny
from tests.data_helpers import CLASSES, FACTORS, LATENTS, SMALL, TEXT, UNCONDITIONAL, error_of


def check(capsys, *arguments, code=0):
    """What the command prints; it must leave with this exit code."""
    if code:
        with pytest.raises(SystemExit) as stop:
            main(["check", *map(str, arguments)])
        assert stop.value.code == code
    else:
        main(["check", *map(str, arguments)])
    return capsys.readouterr().out


def write_splits(directory, *, classes=CLASSES, **changes):
    """Writes 40 training records in four shards and 8 test records, and returns the arrays."""
    splits = {
        "train": helpers.records(SMALL, classes, count=40) | changes,
        "test": helpers.records(SMALL, classes, count=8, seed=1),
    }
    write_dataset(
        directory, name="toy", splits=splits, layout=SMALL, condition=classes,
        tokenizer={"id": "vq", "sha256": "ab" * 32}, records_per_shard=10, licence="CC0",
    )  # fmt: skip
    return splits, directory / "toy" / "1.0.0"


def test_report_on_a_good_set(tmp_path, capsys):
    names = {**CLASSES, "names": ["ant", "bee", "cat"]}
    splits, version = write_splits(tmp_path, classes=names)
    text = check(capsys, tmp_path / "toy", "--json", tmp_path / "new" / "report.json")
    found = json.loads((tmp_path / "new" / "report.json").read_text())
    assert found == json.loads(json.dumps(check_dataset(version))) and found["problems"] == []
    assert format_report(found) + "\n" == text
    for line in (
        "dataset toy 1.0.0",
        f"folder      {version}",
        "samples     2x3 grid, vocabulary 17",
        f"tokenizer   vq, SHA-256 {'ab' * 32}",
        "condition   3 classes, with names",
        "licence     CC0",
        "files: 5 of 5 as the manifest says",
        "split train: 40 records in 4 shards",
        "readable    40 of 40",
        "duplicates: none",
    ):
        assert line in text
    assert text.endswith("\n\nno problems found\n")
    for split, arrays in splits.items():
        summary = found["splits"][split]
        counts = np.bincount(arrays["label"], minlength=3)
        assert summary["classes"]["counts"] == counts.tolist()
        assert summary["classes"]["median"] == np.median(counts)
        assert all(f" {name} " in text for name in names["names"])
        ids = np.bincount(arrays["tokens"].ravel(), minlength=17)
        share = ids[ids > 0] / ids.sum()
        use = summary["vocabularies"][0]
        assert use["used"] == (ids > 0).sum() and use["top_share"] == share.max()
        assert np.isclose(use["perplexity"], np.prod(share**-share))


def test_several_versions_factors_and_captions(tmp_path):
    flip = {"kind": "flip", "count": 2}
    arrays, version = helpers.write(tmp_path, FACTORS, TEXT, count=30, augmentation=flip)
    found = check_dataset(version)
    assert found["problems"] == [] and found["layout"] == (
        "2x3 grid, 2 factors (product) of vocabularies 5, 300"
    )
    lengths = np.sort(arrays["caption_valid"].sum(1))
    assert found["splits"]["train"]["captions"] == {
        "min": lengths[0], "median": lengths[14], "max": lengths[-1],
    }  # fmt: skip
    for factor, use in enumerate(found["splits"]["train"]["vocabularies"]):
        ids = arrays["tokens"][..., factor].ravel()
        assert use["used"] == len(np.unique(ids)) and use["size"] == FACTORS.vocab_sizes[factor]
        assert use["top_share"] == np.bincount(ids).max() / ids.size
    text = format_report(found)
    assert "2 per record (flip)" in text and "captions    1 / 2 / 4 valid positions" in text
    _, version = helpers.write(tmp_path / "latents", LATENTS, UNCONDITIONAL)
    found = check_dataset(version)
    assert found["problems"] == [] and "vocabularies" not in found["splits"]["train"]
    assert "line of 4 positions, latents of 2 channels" in format_report(found)


def test_the_digits_have_no_problems(tmp_path, capsys):
    open_dataset("digits", directory=tmp_path)
    config = f"{tiny.ROOT}/configs/digits_llamagen.py"
    text = check(capsys, tmp_path / "digits", "--config", config)
    assert f"\nfits {config}\n" in text and text.endswith("no problems found\n")
    assert text.index("split train") < text.index("split test")


def on_first(change):
    """Does something to the first training shard."""
    return lambda version: change(version / FIRST)


def edit(change):
    return lambda version: helpers.edit_manifest(version, change)


def replace(shard, index, **changes):
    return lambda version: helpers.replace_record(
        version, helpers.shards(version)[shard], index, **changes
    )


FIRST = "toy-train.array_record-00000-of-00004"
STRANGER = {"../x": {"bytes": 1, "records": 1, "sha256": ""}}
# What is done to a good set, and what each of its problems says.
DAMAGE = {
    "byte": (
        on_first(lambda shard: helpers.flip_byte(shard, 600)),
        [f"{FIRST}: SHA-256 differs", f"unreadable records: 1; the first is {FIRST}, record"],
    ),
    "size": (
        on_first(lambda shard: shard.write_bytes(shard.read_bytes() + b"x")),
        [f"{FIRST}: size differs (131,073 bytes, the manifest says 131,072)", "records: 10;"],
    ),
    "missing": (on_first(Path.unlink), [f"{FIRST}: missing", f"10; the first is {FIRST}"]),
    "extra": (lambda v: (v / "notes.txt").touch(), ["notes.txt: not in the manifest"]),
    "count": (edit(lambda m: m["splits"].update(train=41)), ["promises 41 examples of split"]),
    "shard count": (
        edit(lambda m: (m["shards"][FIRST].update(records=9), m["splits"].update(train=39))),
        ["disagree", f"{FIRST} holds 10 records, the manifest says 9"],
    ),
    "hash": (edit(lambda m: m["shards"][FIRST].update(sha256="0")), ["SHA-256 differs"]),
    "stranger": (edit(lambda m: m["shards"].update(STRANGER)), ['lists "../x", which is no shard']),
    "unlisted": (
        edit(lambda m: (m["shards"].pop(FIRST), m["splits"].update(train=30))),
        [f"{FIRST}: not in the manifest", "dataset_info.json and manifest.json disagree"],
    ),
    "layout": (
        edit(lambda m: m["layout"].update(shapes=[[1, 3, 3]])),
        ["manifest.json describes", "unreadable records: 40;", "unreadable records: 8;"],
    ),
    "classes": (
        edit(lambda m: m["condition"].update(num_classes=2)),
        ['"train", records with a bad label: 13;', '"test", records with a bad label: 4;'],
    ),
    "features": (lambda v: (v / "features.json").write_text("{"), ["features.json is damaged"]),
    "info": (lambda v: (v / "dataset_info.json").unlink(), ["dataset_info.json is missing"]),
    "id": (
        replace(1, 2, tokens=np.full(6, 17, np.uint8)),
        [f"with ids out of range: 1; the first is {FIRST}, record 2: token id 17"],
    ),
    "label": (replace(1, 2, label=3), [f"label: 1; the first is {FIRST}, record 2: label 3 is"]),
    "record": (replace(1, 2, raw=b"bad"), [f"1; the first is {FIRST}, record 2: DecodeError"]),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_found_and_nothing_else(tmp_path, capsys, case):
    damage, expected = DAMAGE[case]
    _, version = write_splits(tmp_path)
    damage(version)
    text = check(capsys, tmp_path / "toy", code=2)
    problems = check_dataset(version)["problems"]
    for part in expected:
        assert sum(part in line for line in problems) == 1, problems
        assert part in text
    assert len(problems) == len(expected) and not any("\n" in line for line in problems)
    assert text.splitlines()[-len(problems) - 1].startswith(f"{len(problems)} problem")


def test_the_report_goes_on_after_each_problem(tmp_path):
    splits, version = write_splits(tmp_path)
    shards = helpers.shards(version)
    replace(4, 2, tokens=np.full(6, 17, np.uint8), label=3)(version)
    replace(4, 5, raw=b"")(version)
    shards[1].write_bytes(np.random.default_rng(0).bytes(131072))
    shards[2].unlink()
    found = check_dataset(version)
    states = [file["state"] for file in found["files"]]
    assert states == ["ok", "SHA-256 differs", "missing", "ok", "ok"]
    summary = found["splits"]["train"]
    assert (summary["scanned"], summary["readable"]) == (40, 19)
    good = np.delete(np.arange(20, 40), [12, 15])
    expected = np.bincount(splits["train"]["label"][good], minlength=3)
    assert summary["classes"]["counts"] == expected.tolist()
    assert found["splits"]["test"]["readable"] == 8


def test_captions_that_are_not_finite(tmp_path):
    arrays, version = helpers.write(tmp_path, SMALL, TEXT)
    bad = arrays["caption"][0].copy()
    bad[1, 2] = np.nan
    shard = helpers.shards(version)[0]
    helpers.replace_record(version, shard, 4, caption=bad)
    helpers.replace_record(version, shard, 5, caption_valid=np.zeros(4, bool))
    one, two = check_dataset(version)["problems"]
    assert "with a caption that is not finite: 1;" in one and "record 4: caption" in one
    assert "without a valid position: 1;" in two and "record 5: caption_valid" in two


def test_duplicates_and_their_labels(tmp_path):
    splits, _ = write_splits(tmp_path / "a")
    tokens, labels = splits["train"]["tokens"].copy(), splits["train"]["label"].copy()
    tokens[[9, 30]] = tokens[2]
    tokens[11] = splits["test"]["tokens"][3]
    labels[9], labels[30] = labels[2], (labels[2] + 1) % 3
    labels[11] = splits["test"]["label"][3]
    _, version = write_splits(tmp_path / "b", tokens=tokens, label=labels)
    found = check_dataset(version)
    assert found["problems"] == [] and len(found["notes"]) == 3
    assert found["duplicates"] == {
        "within": {"train": 2, "test": 0},
        "across": {"train": 1, "test": 1},
        "other_labels": 1,
        "pairs_within": [("train", 2, "train", 9), ("train", 2, "train", 30)],
        "pairs_across": [("train", 11, "test", 3)],
    }
    text = format_report(found)
    assert "train 2, test 0; first: train[2] = train[9], train[2] = train[30]" in text
    assert "train 1, test 1; first: train[11] = test[3]" in text
    assert "records with another label than an earlier one of their tokens: 1" in text
    assert check_dataset(version, split="test")["duplicates"]["across"] == {"test": 0}


def test_only_the_first_version_makes_a_duplicate(tmp_path):
    arrays = helpers.records(SMALL, CLASSES, copies=2)
    arrays["tokens"][4, 1] = arrays["tokens"][3, 1]
    arrays["tokens"][8, 0] = arrays["tokens"][7, 0]
    write_dataset(
        tmp_path, name="toy", splits={"train": arrays}, layout=SMALL, condition=CLASSES,
        augmentation={"kind": "flip", "count": 2},
    )  # fmt: skip
    duplicates = check_dataset(tmp_path / "toy")["duplicates"]
    assert duplicates["pairs_within"] == [("train", 7, "train", 8)]


def test_classes_that_are_rare_or_absent(tmp_path):
    classes = {"kind": "class", "num_classes": 30, "names": None}
    labels = np.repeat([0, 1, 7], [30, 8, 2])
    _, version = write_splits(tmp_path, classes=classes, label=labels)
    found = check_dataset(version, split="train")
    assert found["notes"] == ['split "train", classes without a record: 27']
    text = format_report(found)
    assert "3 of 30 have records: 0 / 0 / 30 each" in text and "#" not in text
    assert "split test" not in text


def test_large_splits_are_sampled(tmp_path, capsys, monkeypatch):
    import gen.data.__main__ as entry

    monkeypatch.setattr(entry, "SCAN_LIMIT", 5)
    splits, version = write_splits(tmp_path)
    text = check(capsys, version, "--split", "train", "--json", tmp_path / "r.json")
    assert "scanned     5, evenly spread (--full scans all)" in text
    labels = splits["train"]["label"][[0, 10, 20, 29, 39]]
    found = json.loads((tmp_path / "r.json").read_text())["splits"]["train"]
    assert found["classes"]["counts"] == np.bincount(labels, minlength=3).tolist()
    text = check(capsys, version, "--split", "train", "--full")
    assert "evenly" not in text and "readable    40 of 40" in text


def test_fit_to_a_config(tmp_path, capsys):
    _, version = write_splits(tmp_path)
    config = tiny.write_config(tmp_path / "tiny.py")
    text = check(capsys, version, "--config", config, code=2)
    assert f"does not fit {config}" in text and "\n1 problem:\n" in text
    for part in ("lattice 1x2x3, vocabulary 17, 3 classes", "lattice 1x3x4, vocabulary 11, 5 cl"):
        assert part in text
    changes = ["--config.model.grid=2,3", "--config.model.vocab_size=17"]
    changes += ["--config.model.condition.num_classes", "3"]
    text = check(capsys, version, "--config", config, *changes)
    assert f"\nfits {config}\n" in text and text.endswith("no problems found\n")
    captions = tiny.write_config(tmp_path / "text.py", **tiny.text())
    assert "no captions" in check(capsys, version, "--config", captions, code=2)


def test_what_cannot_be_checked_at_all(tmp_path, capsys):
    _, version = write_splits(tmp_path)
    for arguments, message in (
        ([tmp_path / "nosuch"], "nosuch does not exist"),
        ([tmp_path], "is no dataset: it holds neither manifest.json"),
        ([version, "--split", "tset"], 'no split "tset"; did you mean "test"?'),
        ([version, "--config", "nosuch.py"], "nosuch.py does not exist"),
        ([version, "--confg"], "unknown argument --confg"),
        ([version, "--json", "/proc/no/report.json"], "cannot write to folder"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["check", *map(str, arguments)])
        err = capsys.readouterr().err
        assert stop.value.code == 2 and message in err and err.count("\n") == 1
    (version / "manifest.json").write_text("{")
    assert "manifest.json is damaged" in error_of(check_dataset, version)
