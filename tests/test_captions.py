"""Captions from text to features, to training data, to samples."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import gen
from gen import captions, data, encode, layouts, sample, train
from gen.errors import UserError
from tests import tiny

LENGTH, DIM = 6, 7
TEXTS = ["a red bird", "two boats", "snow", "a very long caption of many many words", "cat"]
TEXT = tiny.text()


def fake_encoder(texts):
    """As many valid slots as words; the features of a caption depend on that caption alone."""
    features = np.zeros((len(texts), LENGTH, DIM), np.float32)
    valid = np.zeros((len(texts), LENGTH), int)
    for row, text in enumerate(texts):
        count = min(len(text.split()), LENGTH)
        seed = sum(text.encode())
        # A real encoder's padding is not zero.
        features[row] = np.random.default_rng(seed).normal(size=(LENGTH, DIM))
        valid[row, :count] = 1
    return features, valid


def encoded(folder, texts=TEXTS, **options):
    settings = {"name": "fake", "length": LENGTH, "dim": DIM, "batch_size": 2} | options
    captions.encode(texts, settings.pop("encoder", fake_encoder), folder, **settings)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return encoded(tmp_path_factory.mktemp("captions") / "set")


def test_captions_stand_at_the_end(folder):
    found = captions.load(folder)
    features, valid = fake_encoder(TEXTS)
    assert found.texts == TEXTS and found.encoder == "fake"
    for row, count in enumerate(valid.sum(axis=1)):
        np.testing.assert_array_equal(
            found.caption[row, -count:], features[row, :count].astype(np.float16)
        )
        assert not found.caption[row, :-count].any()
        np.testing.assert_array_equal(found.caption_valid[row], np.arange(LENGTH) >= LENGTH - count)


def test_left_padding_wants_right_padding():
    with pytest.raises(UserError, match="caption 1: its valid slots must be the first"):
        captions.left_padded(np.zeros((2, 3, 1)), [[1, 1, 0], [0, 1, 1]])
    with pytest.raises(UserError, match="caption 0"):
        captions.left_padded(np.zeros((1, 3, 1)), [[0, 0, 0]])


def test_a_stopped_encoding_goes_on(folder, tmp_path):
    calls = []

    def failing(texts):
        calls.append(texts)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fake_encoder(texts)

    with pytest.raises(KeyboardInterrupt):
        encoded(tmp_path / "set", encoder=failing)
    with pytest.raises(UserError, match=r"unfinished \(4 of 5 captions\)"):
        captions.load(tmp_path / "set")
    encoded(tmp_path / "set", encoder=failing)
    assert [len(texts) for texts in calls] == [2, 2, 1, 1]
    wanted, found = captions.load(folder), captions.load(tmp_path / "set")
    np.testing.assert_array_equal(found.caption, wanted.caption)
    np.testing.assert_array_equal(found.caption_valid, wanted.caption_valid)
    with pytest.raises(UserError, match="holds other captions"):
        encoded(tmp_path / "set", texts=["another", *TEXTS[1:]])


def test_overflow_is_refused(tmp_path):
    def large(texts):
        features, valid = fake_encoder(texts)
        return features * 1e6, valid

    with pytest.raises(UserError, match="no numbers in float16"):
        encoded(tmp_path / "set", encoder=large)


def test_texts_from_files(tmp_path):
    plain = tmp_path / "captions.txt"
    plain.write_text(" a  bird \nçédille\n", encoding="utf-8")
    assert captions.read_texts(plain) == ["a bird", "çédille"]
    lines = tmp_path / "captions.jsonl"
    lines.write_text('{"caption": "one"}\n{"text": "two", "id": 3}\n')
    assert captions.read_texts(lines) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "the file is empty"),
        ("a.txt", b"one\n\ntwo\n", "line 2: the caption is empty"),
        ("a.txt", b"\xff\xfe\xfa", "cannot be read"),
        ("a.jsonl", b'{"caption": "x"}\nnonsense\n', "line 2: expected a JSON object"),
        ("a.jsonl", b'{"label": 3}\n', "line 1: expected a JSON object"),
        ("a.jsonl", b'{"caption": 3}\n', "line 1: expected a JSON object"),
    ],
)
def test_bad_texts(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        captions.read_texts(tmp_path / name)


def test_bad_folders(folder, tmp_path):
    with pytest.raises(UserError, match="no folder of captions"):
        captions.load(tmp_path)
    with pytest.raises(UserError, match="no folder of captions"):
        captions.load(tmp_path / "absent")
    about = json.loads((folder / "encoder.json").read_text())
    for name in ("captions.txt", "caption_valid.npy"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    np.save(tmp_path / "caption.npy", np.zeros((5, LENGTH, DIM + 1), np.float16))
    (tmp_path / "encoder.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="is damaged: its arrays have shapes"):
        captions.load(tmp_path)
    (tmp_path / "caption.npy").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"caption\.npy cannot be read"):
        captions.load(tmp_path)


def test_without_the_extra(tmp_path):
    """`gen.encode text` says what to install, whether or not torch is here."""
    (tmp_path / "captions.txt").write_text("a bird\n")
    block = (
        "import sys; sys.modules['torch'] = None; from gen import encode; encode.main(sys.argv[1:])"
    )
    found = subprocess.run(
        [sys.executable, "-c", block, "text", "captions.txt", "out"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tiny.ROOT), *sys.path])},
    )
    assert found.returncode == 2
    assert "encoding text needs the torch extra" in found.stderr and found.stderr.count("\n") == 1


def test_with_the_extra(tmp_path):
    """A tiny T5 of random weights, where the extra is installed."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    pieces = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "red": 4, "bird": 5}
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(pieces, unk_token="<unk>"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    raw.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=6, d_model=16, d_kv=4, d_ff=8, num_layers=1, num_heads=2
    )
    model = transformers.T5EncoderModel(config)
    model.save_pretrained(tmp_path / "t5")
    fast.save_pretrained(tmp_path / "t5")
    (tmp_path / "captions.txt").write_text("A red bird\nbird\n")
    arguments = ["--encoder", str(tmp_path / "t5"), "--length", "5", "--batch-size", "2"]
    encode.main(["text", str(tmp_path / "captions.txt"), str(tmp_path / "out"), *arguments])
    found = captions.load(tmp_path / "out")
    assert found.caption_valid.sum(axis=1).tolist() == [4, 2]  # the end mark is one of them
    with torch.no_grad():
        alone = model.eval()(input_ids=torch.tensor([[5, 1]])).last_hidden_state[0].numpy()
    np.testing.assert_allclose(found.caption[1, -2:], alone, atol=2e-3)


def test_from_captions_to_samples(folder, tmp_path, capsys):
    """Captions beside tokens train a text model; the same folder prompts it."""
    found = captions.load(folder)
    tokens = np.random.default_rng(0).integers(0, 11, (len(TEXTS), 12))
    data.write_dataset(
        tmp_path / "data",
        name="captioned",
        splits={"train": {"tokens": tokens, "caption": found.caption,
                          "caption_valid": found.caption_valid}},
        layout=layouts.grid(3, 4, 11),
        condition={"kind": "text", "length": LENGTH, "dim": DIM, "encoder": found.encoder},
    )  # fmt: skip
    config = tiny.write_config(tmp_path / "tiny.py", **TEXT)
    run = tmp_path / "run"
    train.main([
        "--config", str(config), "--workdir", str(run), "--config.data.name=captioned",
        f"--config.data.dir={tmp_path / 'data'}", "--config.data.valid=train",
        "--config.train.batch_size=4",
    ])  # fmt: skip
    out = tmp_path / "samples"
    arguments = [str(run), "--captions", str(folder), "--num", "7", "--guidance", "3"]
    sample.main([*arguments, "--out", str(out)])
    stored = np.load(tmp_path / "samples.npz")
    assert stored["tokens"].shape == (7, 12)
    assert stored["captions"].tolist() == TEXTS + TEXTS[:2]
    model = gen.load(run)
    rows = [0, 1, 2, 3, 4, 0, 1]
    again = model.sample(0, captions=(found.caption[rows], found.caption_valid[rows]), guidance=3.0)
    np.testing.assert_array_equal(stored["tokens"], again)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "give --captions FOLDER"), (["--labels", "1"], "give --captions FOLDER")],
)
def test_text_models_need_captions(arguments, message, tmp_path, capsys):
    tiny.generator(tiny.config(**TEXT)).save(tmp_path / "model")
    with pytest.raises(SystemExit):
        sample.main([str(tmp_path / "model"), *arguments])
    assert message in capsys.readouterr().err
