"""Real examples beside samples, and pictures of several kinds one above the other."""

import numpy as np
import pytest

import gen
from gen import beside, evaluate, tokenizers
from gen.data import write_dataset
from gen.errors import UserError
from gen.pictures import save_grid, save_stacks
from tests import tiny
from tests.test_movies import load
from tests.test_pixels import colours


def test_stacks_are_grids_of_tall_images(tmp_path):
    above, below = colours(3, 6, 5), colours(3, 6, 5)[::-1]
    save_stacks(tmp_path / "a.png", {"one": above, "two": below}, labels=list("xyz"), title="t")
    tall = np.concatenate([above, np.full((3, 1, 5, 3), 255, np.uint8), below], axis=1)
    title = "t: one / two (top to bottom)"
    save_grid(tmp_path / "b.png", tall, labels=list("xyz"), columns=3, title=title)
    assert np.array_equal(load(tmp_path / "a.png"), load(tmp_path / "b.png"))
    save_stacks(tmp_path / "c.png", {"one": colours(2, 3, 6, 5), "two": colours(2, 3, 6, 5)})
    with pytest.raises(UserError, match="one shape"):
        save_stacks(tmp_path / "d.png", {"one": above, "two": below[:, :4]})
    with pytest.raises(UserError, match="needs a picture"):
        save_stacks(tmp_path / "d.png", {})


CASES = {
    "next token": {},
    "flow": tiny.flow(),
    "text": tiny.text(),
}


def written(generator, tmp_path, copies=1):
    """A dataset of 30 random records of the generator's own kind."""
    family, rng = generator.family, np.random.default_rng(0)
    data = tiny.random_data(family.data_layout, 30 * copies)
    data = data.reshape(30, copies, *data.shape[1:]) if copies > 1 else data
    fields = {"tokens": data}
    condition = {"kind": "class", "num_classes": family.condition.num_classes, "names": None}
    if family.condition.kind == "text":
        features, valid = tiny.captions(family.condition, 30)
        fields |= {"caption": features.astype(np.float32), "caption_valid": valid}
        length, dim = family.condition.caption_length, family.condition.caption_dim
        condition = {"kind": "text", "length": length, "dim": dim, "encoder": "none"}
    else:
        fields["label"] = rng.integers(0, family.condition.num_classes, 30)
    augmentation = {"kind": "flip", "count": copies} if copies > 1 else None
    more = {"augmentation": augmentation} if augmentation else {}
    write_dataset(
        tmp_path, name="made", splits={"train": fields}, layout=family.data_layout,
        condition=condition, **more,
    )  # fmt: skip
    return fields


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("copies", [1, 2])
def test_what_is_real_is_what_the_data_hold(case, copies, tmp_path):
    generator = tiny.generator(tiny.config(**CASES[case]))
    fields = written(generator, tmp_path, copies)
    dataset = gen.data.open_dataset("made", directory=tmp_path)
    found = beside.spread(dataset.split("train"), 4)
    first = fields["tokens"][:, 0] if copies > 1 else fields["tokens"]
    np.testing.assert_allclose(found["tokens"], first[[0, 10, 19, 29]], rtol=1e-3)
    drawn = beside.real(generator, found["tokens"])
    if generator.family.layout.is_continuous:
        _, height, width = generator.family.layout.shapes[-1]
        assert drawn["latents"].shape[:3] == (4, height, width)
        last = drawn["tokens"][:, -height * width :].reshape(drawn["latents"].shape)
        assert np.array_equal(drawn["latents"], last)
    else:
        assert np.array_equal(drawn["tokens"], found["tokens"])


def test_the_picture_by_the_command(tmp_path, capsys):
    generator = tiny.generator(tiny.config())
    written(generator, tmp_path / "data")
    generator.save(tmp_path / "model")
    layout = generator.family.layout
    config = tokenizers.VQConfig(layout.vocab_sizes[0], 2, 4, (1, 2), (1, 2), 1, 4, True, 2)
    tokenizers.save(tokenizers.VQTokenizer.fresh(config), tmp_path / "vq.safetensors")
    run = [str(tmp_path / "model"), "--split", "train", "--num-samples", "0"]
    run += ["--config.data.name=made", "--data-dir", str(tmp_path / "data")]
    run += ["--config.data.test=train", "--config.data.valid=train"]
    for name, more in {
        "gray": [],
        "colour": ["--tokenizer", str(tmp_path / "vq.safetensors")],
    }.items():
        evaluate.main([*run, "--pictures", str(tmp_path / f"{name}.png"), *more])
    gray, colour = (load(tmp_path / f"{name}.png") for name in ("gray", "colour"))
    spans = [np.ptp(picture, axis=-1).max() for picture in (gray, colour)]
    assert spans[0] < 10 < spans[1]  # text is nearly gray
    assert "samples: " in capsys.readouterr().err


def test_mistakes(tmp_path, capsys):
    flow = tiny.generator(tiny.config(**tiny.flow()))
    with pytest.raises(UserError, match="needs --tokenizer"):
        beside.opened(flow, None)
    generator = tiny.generator(tiny.config())
    generator.save(tmp_path / "model")
    with pytest.raises(SystemExit):
        evaluate.main([str(tmp_path / "model"), "--tokenizer", "x.safetensors"])
    assert "--tokenizer is for --pictures" in capsys.readouterr().err
