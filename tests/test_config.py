"""Config files, overrides and their errors."""

import random

import pytest

from gen import config as configs
from gen import schema
from gen.command_line import split_overrides
from gen.errors import UserError
from gen.training import checkpoint
from tests import tiny

FILES = sorted(path.name for path in (tiny.ROOT / "configs").glob("*.py"))


@pytest.fixture
def file(tmp_path):
    return str(tiny.write_config(tmp_path / "tiny.py"))


def paths(values, prefix=""):
    """Every dotted leaf of nested fields."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from paths(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("train.steps", "7", 7),
        ("train.steps", "1e3", 1000),
        ("optim.lr", "3", 3.0),
        ("optim.lr", "1e-3", 1e-3),
        ("model.grid", "5,6", (5, 6)),
        ("model.grid", "(5, 6)", (5, 6)),
        ("train.freeze", "head,'tokens'", ("head", "tokens")),
        ("train.freeze", "", ()),
        ("model.backbone.remat", "true", True),
        ("sample.guidance", "none", None),
        ("sample.guidance", "2", 2.0),
        ("data.dir", "none", None),
        ("data.name", "none", "none"),
    ],
)
def test_override(file, field, text, value):
    found = configs.load(file, [(field, text)])
    for name in field.split("."):
        found = getattr(found, name)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("train.stepz", "7", 'config.train has no field "stepz"; did you mean "steps"?'),
        ("trian.steps", "7", 'config has no field "trian"; did you mean "train"?'),
        ("model.backbone.dept", "7", 'did you mean "depth"?'),
        ("train.steps", "ten", 'config.train.steps must be int, not "ten"'),
        ("train.steps", "1.5", "config.train.steps must be int"),
        ("train.steps", "none", "config.train.steps must be int"),
        ("optim.lr", "fast", "config.optim.lr must be float"),
        ("model.backbone.remat", "1", "must be true or false"),
        ("model.grid", "4", "config.model.grid must be"),
        ("model.grid", "4,a", "config.model.grid[1] must be int"),
        ("train", "7", "config.train is a group of fields"),
        ("train.steps.more", "7", "config.train.steps is a value"),
        ("train.steps", "0", "config.train.steps is at least 1"),
        ("train.dtype", "float16", "config.train.dtype"),
        ("optim.schedule", "cosin", 'did you mean "cosine"?'),
        ("model.backbone.heads", "5", "width 32 is not divisible by 5 heads"),
        ("model.backbone.width", "24", "divisible by 4"),
        ("model.condition.kind", "clas", "class"),
        ("train.freeze", "(", "no pattern"),
    ],
)
def test_override_refused(file, field, text, message):
    with pytest.raises(UserError) as error:
        config = configs.load(file, [(field, text)])
        configs.FAMILIES[config.family](config.model)
    assert message in str(error.value)


def test_a_thousand_misspelt_fields_are_all_refused(file):
    rng = random.Random(0)
    valid = [path for path, _ in paths(configs.load(file).to_json())]
    letters = "abcdefghijklmnopqrstuvwxyz_"
    refused = 0
    for _ in range(1000):
        path = rng.choice(valid)
        i = rng.randrange(len(path))
        typo = rng.choice([
            path[:i] + path[i + 1 :],
            path[:i] + rng.choice(letters) + path[i:],
            path[:i] + rng.choice(letters) + path[i + 1 :],
        ])  # fmt: skip
        if typo in valid:
            continue
        with pytest.raises(UserError):
            configs.load(file, [(typo, "1")])
        refused += 1
    assert refused > 900


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.step": 3}, 'config.train has no field "step"; did you mean "steps"?'),
        ({"train.steps": "3"}, "config.train.steps must be int, not '3' (str)"),
        ({"train.steps": True}, "config.train.steps must be int, not True (bool)"),
        ({"train.steps": 3.0}, "config.train.steps must be int"),
        ({"optim": {}}, "config.optim.lr is missing: it must be float"),
        ({"optim": 3}, "config.optim is a group of fields"),
        ({"family": "next_tokn"}, 'did you mean "next_token"?'),
    ],
)
def test_file_refused(tmp_path, overrides, message):
    with pytest.raises(UserError) as error:
        configs.load(str(tiny.write_config(tmp_path / "c.py", **overrides)))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ("x = (", "line 1"),
        ("x = 1", "no get_config"),
        ("import nosuchmodule", "line 1: ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("def get_config():\n    return {}[1]", "line 2: KeyError: 1"),
        ("def get_config():\n    return 3", "returns int, not a ConfigDict"),
    ],
)
def test_broken_file(tmp_path, text, message):
    if text is not None:
        (tmp_path / "c.py").write_text(text)
    with pytest.raises(UserError, match=message):
        configs.load(str(tmp_path / "c.py"))


def test_a_file_that_is_not_python(tmp_path):
    (tmp_path / "README.md").write_text("# no config")
    with pytest.raises(UserError, match=r"README\.md is not Python: its name must end in \.py"):
        configs.load(str(tmp_path / "README.md"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_k", -1),
        ("top_p", 2.0),
        ("temperature", -1.0),
        ("guidance_interval", -2),
        ("batch_size", 0),
    ],
)
def test_sampling_that_cannot_be(field, value):
    """It would be found when the run is done."""
    with pytest.raises(UserError, match=rf"^sample: {field} "):
        tiny.config(**{f"sample.{field}": value})


@pytest.mark.parametrize("name", FILES)
def test_shipped_configs_load_and_survive_json(name):
    path = tiny.ROOT / "configs" / name
    config = configs.load(str(path))
    assert configs.from_json(config.to_json()) == config
    assert len(path.read_text().splitlines()) <= 66, "a config is one screen"
    assert f"--config configs/{name}" in path.read_text()


def test_runs_of_older_versions_load(monkeypatch, tmp_path):
    """What they stored of an option that is no more is left out."""
    config = tiny.config(**tiny.masked())
    stored = config.to_json()
    stored["sample"]["options"] = stored["sample"]["options"] or {}
    stored["sample"]["options"]["keep_steps"] = False
    (tmp_path / "meta").mkdir()
    meta = {"format": checkpoint.FORMAT, "config": stored}
    monkeypatch.setattr(checkpoint, "_verify_once", lambda folder: None)
    monkeypatch.setattr(checkpoint, "_restore", lambda folder, args: {"meta": meta})
    read = configs.from_json(checkpoint.read_meta(tmp_path)["config"])
    assert read.model == config.model and not hasattr(read.sample.options, "keep_steps")


@pytest.mark.parametrize("name", FILES)
def test_debug_shrinks_any_config(name):
    config = configs.load(f"{tiny.ROOT}/configs/{name}:debug")
    assert config.data.name == "random" and config.train.steps <= 4
    overridden = configs.load(f"{tiny.ROOT}/configs/{name}:debug", [("train.steps", "2")])
    assert overridden.train.steps == 2


def test_argument_of_a_config():
    path = f"{tiny.ROOT}/configs/llamagen_b.py"
    assert configs.load(path).model.grid == (16, 16)
    assert configs.load(f"{path}:384").model.grid == (24, 24)
    assert configs.load(f"{path}:384,debug").data.name == "random"
    with pytest.raises(UserError, match='does not take the argument "385"'):
        configs.load(f"{path}:385")
    with pytest.raises(UserError, match="takes no argument"):
        configs.load(f"{tiny.ROOT}/configs/digits_nar.py:big")


def test_command_line_forms():
    pairs = split_overrides(["--config.a.b=1=2", "--config.c", "3"])
    assert pairs == [("a.b", "1=2"), ("c", "3")]
    for bad in (["--confg.a=1"], ["--config.a"], ["x"]):
        with pytest.raises(UserError):
            split_overrides(bad)


def test_differences():
    a, b = {"x": {"y": 1, "z": 2}, "w": 3}, {"x": {"y": 1, "z": 4}, "v": 3}
    assert schema.differences(a, b) == ["x.z", "w", "v"]
    assert schema.differences(a, a) == []


def test_keys_are_pinned():
    # Renaming a field breaks users' scripts and stored runs: do it knowingly.
    names = [path for path, _ in paths(tiny.config().to_json())]
    assert names == (tiny.ROOT / "tests" / "config_keys.txt").read_text().split()
