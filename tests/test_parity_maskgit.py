"""MaskGIT against plain NumPy; its weights in Flax's own file format."""

import math

import msgpack
import numpy as np
import pytest
from flax import serialization, traverse_util
from safetensors.numpy import load_file

import gen
from gen.decoding.mask_schedule import MaskOptions, mask_lengths
from gen.errors import UserError
from gen.published.weights import open_weights
from tests import cases_maskgit, maskgit_numpy, parity, tiny
from tests.data_helpers import error_of

GOLDEN = tiny.ROOT / "tests" / "goldens" / "maskgit-jax-open"


@pytest.mark.parametrize(
    "changes",
    [
        {"num_iter": 12, "latent_size": 4},
        {"num_iter": 18, "latent_size": 6, "num_layers": 1, "known": (0, 5)},
        {"num_iter": 5, "schedule": "pow2.5", "start_iter": 1, "known": (2, 4), "num_layers": 3},
        {"num_iter": 4, "schedule": "log", "num_heads": 1, "num_embeds": 20, "codebook_size": 40},
        {"num_iter": 7, "schedule": "exp", "known": (9, 8), "latent_size": 4},
        {"num_iter": 3, "schedule": "uniform", "num_class": 1, "num_heads": 6},
    ],
    ids=["12", "18", "pow", "log", "exp", "uniform"],
)
def test_maskgit_is_plain_numpy(changes, tmp_path, capsys):
    folder = cases_maskgit.maskgit(tmp_path / "case", **changes)
    assert parity.main([str(folder)]) == 0, capsys.readouterr().out


def test_float32_matters_in_a_case():
    # The cases of 12 and 18 steps would fail with lengths worked out in float64.
    for steps, positions in ((12, 16), (18, 36)):
        both = [
            mask_lengths(np.array([positions]), MaskOptions(num_steps=steps, schedule_dtype=dtype))
            for dtype in ("float32", "float64")
        ]
        assert (both[0] != both[1]).sum() == 1


@pytest.fixture(scope="module")
def tree():
    return traverse_util.unflatten_dict(load_file(GOLDEN / "weights.safetensors"), sep="/")


def test_weights_in_flax_format(tree, tmp_path):
    path = tmp_path / "checkpoint"
    path.write_bytes(serialization.to_bytes(tree))
    expected, weights = load_file(GOLDEN / "weights.safetensors"), open_weights(path)
    assert weights.shapes.keys() == expected.keys() and not weights.settings
    for name, array in expected.items():
        np.testing.assert_array_equal(weights.read(name), array)
        assert weights.read(name).dtype == weights.dtypes[name] == array.dtype
    model = gen.from_published("maskgit", path, {"codebook_size": 64})
    assert model.family.condition.num_classes == 10 and model.config.model.backbone.heads == 4
    assert model.num_parameters == sum(array.size for array in expected.values())
    assert model.published["settings"]["num_class"] == 10


def test_arrays_of_every_kind(tmp_path):
    tree = {
        "step": np.int32(7),
        "none": np.zeros((0, 3), np.float16),
        "many": {str(i): np.full((i, 1), i, np.float64) for i in range(20)},
        "long name " * 5: np.arange(300, dtype=np.uint16).reshape(1, 3, 100),
        "true": np.array([True, False]),
    }
    path = tmp_path / "arrays.msgpack"
    path.write_bytes(serialization.to_bytes(tree))
    weights = open_weights(path)
    flat = traverse_util.flatten_dict(tree, sep="/")
    assert weights.shapes.keys() == flat.keys()
    for name, array in flat.items():
        np.testing.assert_array_equal(weights.read(name), array)


def test_plain_values_beside_arrays(tmp_path):
    state = {
        "global_step": 3,
        "opt": {"0": {"count": np.zeros((), np.int32)}, "1": {}},
        "metadata": {"name": "ü" * 40, "loss": 0.5, "on": True, "off": False, "none": None},
        "numbers": {str(n): n for n in (127, 128, -1, -32, -33, -129, 2**16, 2**63, -(2**31) - 1)},
    }
    path = tmp_path / "checkpoint_3"
    path.write_bytes(serialization.to_bytes(state))
    weights = open_weights(path)
    assert list(weights.shapes) == ["opt/0/count"]
    flat = traverse_util.flatten_dict(state, sep="/")
    assert weights.settings == {name: flat[name] for name in flat if name in weights.settings}
    assert len(weights.settings) == 15


def record(shape, dtype, data):
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data), use_bin_type=True))


FOUR = np.arange(4, dtype=np.float32).tobytes()
ATTACKS = {
    "list": ({"a": {"b": [record((4,), "float32", FOUR)]}}, '"a/b" is no dict, array or plain'),
    "bytes": ({"a": b"x"}, "no dict, array or plain value"),
    "long text": ({"a": "x" * 1001}, "at most 1000"),
    "complex": ({"a": msgpack.ExtType(2, b"xx")}, "extension 2"),
    "time": ({"a": msgpack.Timestamp(1, 1)}, "extension 255"),
    "chunks": ({"a": {"__msgpack_chunked_array__": True}}, '"a" is an array in chunks'),
    "object": ({"a": record((4,), "object", FOUR)}, 'dtype "object" is not supported'),
    "huge": ({"a": record((2**40,), "float32", FOUR)}, "far more than"),
    "short": ({"a": record((5,), "float32", FOUR)}, "takes 20 bytes, but has 16"),
    "many axes": ({"a": record((1,) * 40, "float32", FOUR[:4])}, "40 dimensions"),
    "negative": ({"a": record((-4,), "float32", FOUR)}, "no whole number"),
    "control": ({"a\nb": record((4,), "float32", FOUR)}, "characters of control"),
    "long": ({"x" * 1001: record((4,), "float32", FOUR)}, "at most 1000"),
    "twice": ({"a/b": record((), "bool", b"x"), "a": {"b": record((), "bool", b"x")}}, "two val"),
    "twice plain": ({"a/b": 1, "a": {"b": None}}, "two values"),
    "no text": ({"a": record((4,), 4, FOUR)}, "no text"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_other_contents_are_refused(name, tmp_path):
    tree, expected = ATTACKS[name]
    path = tmp_path / "bad"
    path.write_bytes(msgpack.packb(tree))
    message = error_of(lambda: open_weights(path))
    assert expected in message and message.startswith(str(path)) and "\n" not in message


def test_damaged_files_are_refused(tree, tmp_path):
    path, whole = tmp_path / "cut", serialization.to_bytes({"a": tree["params"]["MlmLayer_0"]})
    rng = np.random.default_rng(0)
    for stop in [*range(1, 60), *rng.integers(60, len(whole), 40)]:
        path.write_bytes(whole[:stop])
        with pytest.raises(UserError):
            open_weights(path)
    path.write_bytes(whole + b"\0")
    assert "end at byte" in error_of(lambda: open_weights(path))
    deep = b"\x81\xa1a" * 40 + b"\xc0"
    path.write_bytes(deep)
    assert "levels deep" in error_of(lambda: open_weights(path))
    for place in rng.integers(0, 300, 300):  # other bytes are read or refused, never a traceback
        changed = bytearray(whole)
        changed[place] = rng.integers(256)
        path.write_bytes(changed)
        try:
            opened = open_weights(path)
            for name in opened.shapes:
                opened.read(name)
        except UserError as error:
            assert "\n" not in str(error)


def test_settings_that_contradict(tree, tmp_path):
    path = tmp_path / "checkpoint"
    path.write_bytes(serialization.to_bytes(tree))

    def refused(**settings):
        return error_of(lambda: gen.from_published("maskgit", path, settings))

    assert "codebook_size (codes of the tokenizer)" in refused()
    assert "vocab_size 70" in refused(codebook_size=64, vocab_size=70)
    assert "mask_token_id" in refused(codebook_size=64, mask_token_id=64)
    assert "word_embeddings" in refused(codebook_size=60, num_class=10)
    assert gen.from_published("maskgit", path, {"num_class": 11}).config.model.vocab_size == 63


def test_published_shapes_are_counted():
    sizes = {"codebook_size": 1024, "num_class": 1000, "num_layers": 24, "num_embeds": 768}
    sizes |= {"num_heads": 16, "intermediate_size": 3072}
    for side, millions in ((16, 172.46), (32, 173.05)):
        shapes = maskgit_numpy.shapes(sizes | {"latent_size": side})
        assert round(sum(map(math.prod, shapes.values())) / 1e6, 2) == millions
