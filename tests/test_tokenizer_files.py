"""A tokenizer's file: what was saved comes back, and nothing else passes for it."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from gen import tokenizers
from gen.errors import UserError
from gen.models.convolution import Conv
from gen.models.layers import Series
from gen.tokenizers import VQConfig, VQTokenizer
from gen.tokenizers import files as tokenizer_files

CONFIG = VQConfig(
    codebook_size=7,
    codebook_dim=3,
    width=4,
    encoder_multipliers=(1, 2),
    decoder_multipliers=(2, 1),
    blocks_per_level=1,
    z_channels=4,
    normalise_codes=True,
    norm_groups=2,
    norm_eps=1e-5,
)
META = {"id": "tiny", "sha256": "ab" * 32, "source": "a test", "note": "ä"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    rng = np.random.default_rng(0)
    shapes = VQTokenizer.shapes(CONFIG).items()
    flat = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes}
    params = traverse_util.unflatten_dict(flat, sep="/")
    tokenizer = VQTokenizer(CONFIG, params, meta=META)
    path = tmp_path_factory.mktemp("tokenizer") / "deep" / "tiny.safetensors"
    tokenizers.save(tokenizer, path)
    return tokenizer, path


def refusal(path):
    """The one line with which a file is refused."""
    with pytest.raises(UserError) as caught:
        tokenizers.load(path)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text
    return text


def test_round_trip(saved):
    tokenizer, path = saved
    loaded = tokenizers.load(path)
    assert type(loaded) is VQTokenizer
    assert (loaded.config, loaded.meta) == (CONFIG, META)
    before = traverse_util.flatten_dict(tokenizer.params, sep="/")
    after = traverse_util.flatten_dict(loaded.params, sep="/")
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 4, 3)).astype(np.uint8)
    np.testing.assert_array_equal(loaded.encode(pixels), tokenizer.encode(pixels))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_paths_are_plain(saved):
    names = set(load_file(saved[1]))
    assert {
        "encoder/conv_in/kernel",
        "encoder/levels/0/blocks/0/conv1/kernel",
        "encoder/levels/1/blocks/0/shortcut/bias",
        "encoder/levels/1/attention/0/query/kernel",
        "encoder/levels/0/downsample/kernel",
        "encoder/middle/1/out/kernel",
        "encoder/norm_out/scale",
        "decoder/levels/0/upsample/kernel",
        "decoder/levels/1/blocks/1/norm2/bias",
        "quant/kernel",
        "post_quant/bias",
        "codebook/embedding",
    } <= names
    assert "encoder/levels/1/downsample/kernel" not in names
    assert "encoder/levels/0/attention/0/query/kernel" not in names


def test_a_series_keeps_its_order():
    # Keys of a file are text, and as text, "10" comes before "2".
    def make():
        options = {"dtype": jnp.float32, "rngs": nnx.Rngs(0)}
        return Series(Conv(1, 1, 1, **options) for _ in range(12))

    flat = {}
    for i in range(12):
        flat |= {f"{i}/bias": np.full(1, i), f"{i}/kernel": np.full((1, 1, 1, 1), i)}
    graphdef, _ = nnx.split(nnx.eval_shape(make))
    series = nnx.merge(graphdef, traverse_util.unflatten_dict(flat, sep="/"))
    assert [conv.kernel[...].item() for conv in series] == list(range(12))
    assert series[-1].bias[...].item() == 11 and len(series) == 12


def test_any_flipped_bit_is_noticed(saved, tmp_path):
    data = saved[1].read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(0)
    places = [0, 7, *rng.integers(8, header, 30), *rng.integers(header, len(data), 6)]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        path = tmp_path / "damaged.safetensors"
        path.write_bytes(damaged)
        refusal(path)


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_cut_file_is_refused(saved, tmp_path, length):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(saved[1].read_bytes()[:length])
    assert "damaged or no safetensors file" in refusal(path)


def test_files_of_others_are_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "none.safetensors")
    assert "is a folder: name the .safetensors file in it" in refusal(tmp_path)
    published = tmp_path / "published.safetensors"
    save_file({"encoder.conv_in.weight": np.zeros((3, 3), np.float32)}, published)
    assert "not written by gen; published weights are converted with `python -m gen.convert`" in (
        refusal(published)
    )
    pickled = tmp_path / "vq_ds16_c2i.pt"
    pickled.write_bytes(b"PK\x03\x04" + bytes(200))
    assert "gen.convert" in refusal(pickled)


HEADERS = {
    "header is no JSON": lambda record: "{",
    "has not the fields": lambda record: record.pop("meta"),
    "of format 2; this program reads 1": lambda record: record.update(format=2),
    'no kind of tokenizer "vp"; did you mean "vq"?': lambda record: record.update(kind="vp"),
    'did you mean "width"': lambda record: record["config"].update(wdith=3),
    "config.width must be int": lambda record: record["config"].update(width="4"),
    "config is a group of fields": lambda record: record.update(config=[]),
    "levels": lambda record: record["config"].update(encoder_multipliers=[1]),
    "codebook/embedding has shape (7, 3) for (8, 3)": lambda record: record["config"].update(
        codebook_size=8
    ),
    "do not match their sum": lambda record: record["config"].update(norm_eps=1e-6),
}


@pytest.mark.parametrize("message", HEADERS)
def test_bad_headers(saved, tmp_path, message):
    with safe_open(saved[1], framework="numpy") as file:
        record = json.loads(file.metadata()["gen"])
    text = HEADERS[message](record)
    path = tmp_path / "other.safetensors"
    header = text if isinstance(text, str) else json.dumps(record)
    save_file(load_file(saved[1]), path, metadata={"gen": header})
    assert message in refusal(path)


def test_bad_arrays(saved, tmp_path):
    with safe_open(saved[1], framework="numpy") as file:
        metadata = file.metadata()
    arrays = load_file(saved[1])
    path = tmp_path / "other.safetensors"
    bias = arrays.pop("quant/bias")
    save_file(arrays | {"quant/bais": bias}, path, metadata=metadata)
    assert "quant/bias is missing; quant/bais is unknown" in refusal(path)
    save_file(arrays | {"quant/bias": bias.astype(np.float16)}, path, metadata=metadata)
    assert "quant/bias is stored as F16, not as float32" in refusal(path)
    save_file(arrays | {"quant/bias": bias + 1}, path, metadata=metadata)
    assert "do not match their sum" in refusal(path)


def test_saving_needs_a_place(saved, tmp_path):
    tokenizer, _ = saved
    with pytest.raises(UserError, match=r"should end so"):
        tokenizers.save(tokenizer, tmp_path / "tiny.npz")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the tokenizer"):
        tokenizers.save(tokenizer, tmp_path / "file" / "tiny.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(UserError, match="cannot write the tokenizer"):
        tokenizers.save(tokenizer, tmp_path / "folder.safetensors")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder.safetensors"]


def test_a_failed_write_leaves_the_old_file(saved, tmp_path, monkeypatch):
    tokenizer, _ = saved
    path = tmp_path / "tiny.safetensors"
    tokenizers.save(tokenizer, path)
    before = path.read_bytes()

    def full(arrays, target, metadata):
        target.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(tokenizer_files, "save_file", full)
    with pytest.raises(UserError, match="No space left"):
        tokenizers.save(tokenizer, path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
