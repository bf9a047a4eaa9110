"""Classes by number or by name, on the command line and in pictures."""

from types import SimpleNamespace

import numpy as np
import pytest

from gen import api
from gen.data import write_dataset
from gen.errors import UserError
from gen.layouts import grid
from gen.prompts import parse_labels, prompts_for
from gen.train import prepare
from tests import tiny

NAMES = ["cat", "dog", "hen", "ox", "5-toed sloth"]


def asked(labels=None, num=None):
    return SimpleNamespace(num=num, labels=labels, captions=None, known=None)


def named():
    return tiny.generator(tiny.config(), about={"class_names": NAMES})


@pytest.mark.parametrize(
    ("text", "names", "labels"),
    [
        ("0,1,5-7", (), [0, 1, 5, 6, 7]),
        ("dog, 0,ox", NAMES, [1, 0, 3]),
        ("5-toed sloth,1-2", NAMES, [4, 1, 2]),
        ("1,0", ["1", "0"], [1, 0]),  # numbers are numbers
    ],
)
def test_classes(text, names, labels):
    assert parse_labels(text, names) == labels


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ("cat", (), '--labels takes numbers and ranges such as 0,1,5-9, not "cat"'),
        ("0,dgo", NAMES, 'not "0,dgo"; did you mean "dog"?'),
        ("zzz", NAMES, "; valid names: 5-toed sloth, cat, dog, hen, ox"),
        ("zzz", [f"class {n}" for n in range(1000)], "class 114, class 115 and 980 more"),
        ("3-1", NAMES, "write 1-3"),
        (
            "-1",
            NAMES,
            '--labels takes numbers, ranges and names of classes such as 0,1,5-9, not "-1"',
        ),
        ("", (), '--labels takes numbers and ranges such as 0,1,5-9, not ""'),
    ],
)
def test_what_is_no_class(text, names, message):
    with pytest.raises(UserError) as error:
        parse_labels(text, names)
    assert str(error.value).endswith(message)


def test_pictures_name_the_classes():
    assert prompts_for(asked("dog,0-1", num=4), named()).names == ["dog", "cat", "dog", "dog"]
    assert prompts_for(asked(num=6), named()).names == [*NAMES, "cat"]
    assert prompts_for(asked("4"), tiny.generator(tiny.config())).names == ["4"]


def test_a_checkpoint_keeps_the_names(tmp_path):
    named().save(tmp_path / "named")
    tiny.generator(tiny.config()).save(tmp_path / "unnamed")
    assert list(api.load(tmp_path / "named").class_names) == NAMES
    assert api.load(tmp_path / "unnamed").class_names is None


def test_a_run_takes_the_names_of_its_data(tmp_path):
    rng = np.random.default_rng(0)
    rows = {"tokens": rng.integers(0, 11, (10, 12)), "label": rng.integers(0, 5, 10)}
    write_dataset(
        tmp_path, name="mine", splits={"train": rows, "test": rows}, layout=grid(3, 4, 11),
        condition={"kind": "class", "num_classes": 5, "names": NAMES},
    )  # fmt: skip
    config = tiny.write_config(tmp_path / "tiny.py", **{"data.name": "mine"})
    arguments = ["--config", config, "--workdir", tmp_path / "run", "--config.data.dir", tmp_path]
    assert prepare([str(a) for a in arguments]).job.about == {"class_names": NAMES}
