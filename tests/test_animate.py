"""`gen.sample --animate` and `--trace`: how samples come about, as a GIF and as arrays.

Axes: K frames of a GIF, H height, W width, B samples, P positions.
"""

import numpy as np
import pytest
from PIL import Image

import gen
from gen import sample
from gen.decoding import trace
from gen.sampling import animate
from tests import tiny
from tests.test_movies import load_frames

MARGIN, GAP, TOP = 16, 8, 47
GRAY = {
    "quantizer": {"codebook_size": 41, "codebook_dim": 1, "scales": [[1, 1], [2, 2], [3, 4]],
                  "mixing": 0.0},
    "condition": {"kind": "class", "num_classes": 5},
    "backbone": {"depth": 1, "width": 32, "heads": 4, "init_std": 0.1},
    "gray_levels": 17,
}  # fmt: skip
CASES = {
    "next token": {},
    "masked": tiny.masked(**{"sample.options": {"num_steps": 5}}),
    "video": tiny.neighbours(
        **{"model.grid": [2, 3, 4], "model.positions": "learned", "model.backbone.depth": 3}
    ),
    "scales of gray levels": {"family": "next_scale", "model": GRAY},
    "flow of gray levels": tiny.flow(**{"model.latents": {"channels": 1, "gray_levels": 17}}),
}
STEPS = {"next token": 12, "masked": 5, "video": 7, "scales of gray levels": 3,
         "flow of gray levels": 2}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folder of a model by case, each saved once."""
    made = {}

    def folder(case):
        if case not in made:
            made[case] = tmp_path_factory.mktemp("model") / "model"
            tiny.generator(tiny.config(**CASES[case])).save(made[case])
        return made[case]

    return folder


def run(*arguments):
    sample.main([str(argument) for argument in arguments])


def error_of(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(lines) == 1, lines
    return lines[0]


def cells_of(frames, index, height, width):
    """What each frame shows of a sample of the first row, a pixel for each of its cells."""
    scale = -(-56 // min(height, width))
    x = MARGIN + index * (width * scale + GAP)
    part = frames[:, TOP : TOP + height * scale, x : x + width * scale]
    return part[:, scale // 2 :: scale, scale // 2 :: scale]


@pytest.mark.parametrize("case", CASES)
def test_a_gif_of_how_they_came_about(case, saved, tmp_path, capsys):
    out, arguments = tmp_path / "x", [saved(case), "--num", "7", "--seed", "3"]
    run(*arguments, "--batch-size", "4", "--animate", "--trace", "--out", out)
    assert f"how they came about: {out}.gif" in capsys.readouterr().out
    with np.load(out.with_suffix(".npz")) as stored:
        found = {name: stored[name] for name in stored}
    names = ("step", "positions", "tokens", "confidence")
    assert set(found) == {"tokens", "labels", "settings"} | {f"trace_{name}" for name in names}
    layout = gen.load(saved(case)).family.layout
    start = trace.unknown((7, *layout.sample_shape), continuous=layout.is_continuous)
    canvases = trace.canvases(start, found["trace_positions"], found["trace_tokens"])
    assert canvases.shape[1] == STEPS[case] + 1 == len(found["trace_step"]) + 1
    np.testing.assert_array_equal(canvases[:, -1], found["tokens"])
    frames, seconds = load_frames(out.with_suffix(".gif"))
    assert len(frames) == STEPS[case] + 1, "one before the first step"
    assert seconds[-1] == pytest.approx(seconds[0] + animate.PAUSE)
    picture = np.asarray(Image.open(out.with_suffix(".png")).convert("RGB")).astype(int)
    # Of more than 256 colours, which the edges of letters take, a GIF loses some.
    np.testing.assert_allclose(frames[-1], picture, atol=6)
    shade = (frames == animate.SHADE).all(axis=-1).sum(axis=(1, 2))
    assert shade[0] > 0 and shade[-1] == 0 and (np.diff(shade) <= 0).all()
    changes = np.abs(np.diff(frames, axis=0)).max(axis=(1, 2, 3))
    assert changes.min() > 0


def test_what_is_sampled_is_the_same(saved, tmp_path):
    arguments = [saved("next token"), "--num", "7", "--seed", "3"]
    for name, more in (
        ("plain", []),
        ("traced", ["--trace"]),
        ("animated", ["--animate", "--trace", "--batch-size", "4"]),
    ):
        run(*arguments, *more, "--out", tmp_path / name)
    plain, traced, animated = (
        dict(np.load(tmp_path / f"{name}.npz")) for name in ("plain", "traced", "animated")
    )
    np.testing.assert_array_equal(plain["tokens"], traced["tokens"])
    assert plain.keys() < traced.keys() == animated.keys()
    for name in traced.keys() - {"settings"}:
        np.testing.assert_allclose(animated[name], traced[name], atol=1e-5)
    assert not (tmp_path / "traced.gif").exists()


def test_each_frame_is_the_canvas_then(saved, tmp_path):
    run(saved("masked"), "--num", "7", "--animate", "--trace", "--out", tmp_path / "x")
    frames, _ = load_frames(tmp_path / "x.gif")
    *moments, last = gen.load(saved("masked")).stream(0, num=7, num_steps=5)
    for index in range(7):
        cells = cells_of(frames, index, 3, 4)
        assert (cells[0] == animate.SHADE).all()
        for number, moment in enumerate([*moments, last], start=1):
            tokens_HW = moment.tokens[index].reshape(3, 4)
            gray_HW = np.rint(tokens_HW * 25.5)
            there_HW = tokens_HW >= 0
            assert (cells[number][~there_HW] == animate.SHADE).all()
            np.testing.assert_array_equal(cells[number][there_HW][:, 0], gray_HW[there_HW])


def test_known_tokens_are_in_the_first_frame(saved, tmp_path):
    known = np.full((7, 12), -1)
    known[:, :4] = 10
    np.save(tmp_path / "known.npy", known)
    run(saved("masked"), "--num", "7", "--animate", "--known", tmp_path / "known.npy",
        "--out", tmp_path / "x")  # fmt: skip
    frames, _ = load_frames(tmp_path / "x.gif")
    first = cells_of(frames, 2, 3, 4)[0]
    assert (first[0] == 255).all() and (first[1:] == animate.SHADE).all()


def test_many_steps_make_few_frames(tmp_path):
    tiny.generator(tiny.config(**{"model.grid": [6, 6]})).save(tmp_path / "model")
    run(tmp_path / "model", "--num", "2", "--animate", "--out", tmp_path / "x")
    frames, _ = load_frames(tmp_path / "x.gif")
    assert len(frames) == 36 // 2 + 1
    found = animate.evenly(list(range(100)))
    assert len(found) == animate.FRAMES - 1 and found[-1] == 99
    assert set(np.diff(found)) == {3, 4}


def test_refused(saved, tmp_path, capsys):
    for flag in ("--animate", "--trace"):
        line = error_of(capsys, saved("masked"), "--parts", flag, "--out", tmp_path / "x")
        assert "leave out --parts" in line
    tiny.generator(tiny.config(**tiny.scales())).save(tmp_path / "model")
    line = error_of(capsys, tmp_path / "model", "--animate", "--out", tmp_path / "x")
    assert "--animate needs --tokenizer FILE" in line
