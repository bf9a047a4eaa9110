"""Samples in the making: a stream ends with what one call gives, and a trace tells all of it.

Axes: B samples, N steps, R entries of a step, P positions, V vocabulary.
"""

import functools
import itertools

import jax
import numpy as np
import pytest

from gen import streaming
from gen.bench.work import scan_counts
from gen.decoding import trace
from gen.decoding.draws import RecordedDraws
from gen.decoding.parts import pieces
from tests import tiny
from tests.data_helpers import error_of

LABELS = [0, 3, 1]
NUMBER = {"labels": LABELS, "guidance": 2.0}

CASES = {
    "next token": (
        {"model.grid": [8, 12], "model.backbone.depth": 1},
        NUMBER | {"guidance_interval": 40},
    ),
    "text": (tiny.text(**{"model.backbone.depth": 1}), {}),
    "next neighbour": (tiny.neighbours(), NUMBER),
    "next scale": (tiny.scales(), NUMBER | {"more_smooth": True}),
    "masked": (tiny.masked(), NUMBER | {"num_steps": 6, "guidance_interval": 1}),
    "flow": (tiny.flow(), NUMBER | {"num_steps": 4, "guided_below": 1.0}),
}
STEPS = {"next token": 96, "text": 12, "next neighbour": 6, "next scale": 3, "masked": 6, "flow": 2}
# The prompt and the rest; guided tokens, others, and those of longer caches.
PHASES = {"text": 2, "next token": 3}


@functools.cache
def generator_of(case):
    return tiny.generator(tiny.config(**CASES[case][0]))


def settings_of(case):
    condition = generator_of(case).family.condition
    captions = {"captions": tiny.captions(condition, 3)} if condition.kind == "text" else {}
    return CASES[case][1] | captions


@functools.cache
def whole(case):
    logits = {} if case == "flow" else {"keep_logits": True}
    return generator_of(case).draw(5, keep_trace=True, **logits, **settings_of(case))


@functools.cache
def moments_of(case, every=1):
    return list(generator_of(case).stream(5, every=every, **settings_of(case)))


def is_there(canvas_BP):
    """Where a canvas has tokens, `(B, P)`."""
    if canvas_BP.dtype == np.float32:
        return ~np.isnan(canvas_BP).any(axis=-1)
    return canvas_BP != -1


def close(case):
    """Latents of programs that were compiled apart may differ in the last digits."""
    return functools.partial(np.testing.assert_allclose, atol=1e-5, err_msg=case)


@pytest.mark.parametrize("case", CASES)
def test_a_stream_ends_with_what_one_call_gives(case):
    moments, steps = moments_of(case), STEPS[case]
    assert [moment.step for moment in moments] == list(range(1, steps + 1))
    assert {moment.num_steps for moment in moments} == {steps}
    if case != "flow":
        np.testing.assert_array_equal(moments[-1].tokens, whole(case)["tokens"])
    found = streaming.whole(moments)
    assert set(found) == set(whole(case)) - {"logits"}
    for name, array in found.items():
        assert array.dtype == whole(case)[name].dtype, name
        close(case)(array, whole(case)[name])


@pytest.mark.parametrize("case", ["next token", "text"])
def test_phases(case):
    moments = moments_of(case, None)
    assert len(moments) == PHASES[case] and moments[-1].step == STEPS[case]
    found = streaming.whole(moments)
    for name, array in streaming.whole(moments_of(case)).items():
        close(case)(found[name], array)


@pytest.mark.parametrize("case", ["text", "masked"])
def test_a_trace_changes_no_sample(case):
    plain = generator_of(case).draw(5, **settings_of(case))
    assert set(plain) == {"tokens"}
    np.testing.assert_array_equal(plain["tokens"], whole(case)["tokens"])


@pytest.mark.parametrize("case", CASES)
def test_what_is_there_stays(case):
    before = np.zeros((3, generator_of(case).family.layout.num_positions), bool)
    for moment in moments_of(case):
        there = is_there(moment.tokens)
        assert (there >= before).all() and (there > before).any(axis=1).all(), moment.step
        end = moments_of(case)[-1]
        np.testing.assert_array_equal(moment.tokens[there], end.tokens[there])
        np.testing.assert_array_equal(moment.confidence[there], end.confidence[there])
        assert np.isnan(moment.confidence[~there]).all()
        before = there
    assert before.all()


@pytest.mark.parametrize("case", CASES)
def test_a_trace_replayed_gives_the_canvases(case):
    found, layout = whole(case), generator_of(case).family.layout
    start = trace.unknown((3, *layout.sample_shape), continuous=layout.is_continuous)
    canvases = trace.canvases(start, found["trace_positions"], found["trace_tokens"])
    assert len(canvases) == 3 and not is_there(canvases[:, 0].copy()).any()
    for number, moment in enumerate(moments_of(case), start=1):
        close(case)(canvases[:, number], moment.tokens)
    np.testing.assert_array_equal(canvases[:, -1], found["tokens"])
    # Each position is placed once.
    placed = found["trace_positions"].reshape(3, -1)
    for row in placed:
        np.testing.assert_array_equal(np.sort(row[row >= 0]), np.arange(layout.num_positions))
    np.testing.assert_array_equal(found["trace_step"], np.arange(canvases.shape[1] - 1))


@pytest.mark.parametrize("case", CASES)
def test_confidence_is_the_probability_of_the_token(case):
    found, last = whole(case), moments_of(case)[-1]
    if case == "flow":
        assert np.isnan(last.confidence).all()
        return
    # Of a masked family, the logits kept are those of the step that placed the token.
    chance_BPV = np.asarray(jax.nn.softmax(found["logits"], axis=-1))
    chance_BP = np.take_along_axis(chance_BPV, found["tokens"][..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(last.confidence, chance_BP, atol=1e-5)
    assert np.std(chance_BP) > 0.01, "the case would pass with a dead model"


def test_filters_do_not_change_the_confidence():
    generator, settings = generator_of("masked"), {"labels": LABELS, "num_steps": 1}
    found = generator.draw(
        0, top_k=1, temperature=0.3, keep_trace=True, keep_logits=True, **settings
    )
    top_BP = np.asarray(jax.nn.softmax(found["logits"], axis=-1)).max(axis=-1)
    np.testing.assert_allclose(found["trace_confidence"][:, 0], top_BP, atol=1e-5)


def test_known_tokens_are_there_from_the_start():
    known = np.full((3, 12), -1)
    known[:, 2:7] = 4
    known[0] = 5
    settings = {"labels": LABELS, "known": known, "num_steps": 4, "start_step": 1}
    moments = list(generator_of("masked").stream(0, **settings))
    assert len(moments) == 3
    for moment in moments:
        np.testing.assert_array_equal(moment.tokens[known >= 0], known[known >= 0])
        assert np.isnan(moment.confidence[known >= 0]).all()
    positions = streaming.whole(moments)["trace_positions"]
    assert not np.isin(positions, [2, 3, 4, 5, 6]).any() and (positions[0] == -1).all()
    assert is_there(moments[-1].tokens).all()


def test_latents_so_far():
    """A latent of a scale is enlarged; codes add up."""
    family, moments = generator_of("flow").family, moments_of("flow")
    first = moments[0].tokens[:, 0]
    np.testing.assert_allclose(
        moments[0].latents, np.broadcast_to(first[:, None, None], (3, 2, 2, 3)), atol=1e-6
    )
    np.testing.assert_array_equal(
        moments[-1].latents.reshape(3, 4, 3), moments[-1].tokens[:, family.pyramid.slots(-1)]
    )
    scales = moments_of("next scale")
    steps = [np.abs(a.latents - b.latents).max() for a, b in itertools.pairwise(scales)]
    assert min(steps) > 1e-3
    assert all(moment.latents is None for moment in moments_of("masked"))


def test_few_programs():
    """One per kind of part: what differs from step to step is handed over."""
    for case, most in (("next token", 3), ("masked", 2)):
        generator = tiny.generator(tiny.config(**CASES[case][0]))
        list(generator.stream(0, every=1, **settings_of(case)))
        compiled = generator._programs._compiled
        parts = {key: run for key, run in compiled.items() if key[0] == "advance"}
        # Guided, unguided, and a longer cache; guided and unguided.
        assert len(parts) == most, case
        list(generator.stream(1, every=1, **settings_of(case)))
        assert {run._cache_size() for run in compiled.values()} == {1}, case


def test_parts_have_at_most_so_many_steps():
    for case in CASES:
        family = generator_of(case).family
        options = family.Options()
        num_steps = family.num_steps(options)
        for every in (None, 1, 3, 1000):
            parts = family.parts(num_steps // 2, options, every)
            assert [p.first for p in parts[1:]] == [p.stop for p in parts[:-1]]
            assert parts[0].first == 0 and parts[-1].stop == num_steps
            assert all(p.guided == (p.first < num_steps // 2) for p in parts)
            if every:
                assert max(p.num_steps for p in parts) <= every
    assert list(pieces(7, 3)) == [(0, 3), (3, 6), (6, 7)] and list(pieces(0, None)) == []


@pytest.mark.parametrize("case", CASES)
def test_unused_it_costs_nothing(case):
    """Without a trace a sampler computes and returns nothing of it."""
    generator = generator_of(case)
    given = {n: v for n, v in settings_of(case).items() if n != "labels"}
    plain, kept = (
        generator.traced(0, num=3, keep_trace=keep, **given)[0].jaxpr.jaxpr
        for keep in (False, True)
    )
    names = {"tokens"} | ({"latents"} & set(whole(case)))
    assert len(plain.outvars) == len(names) and len(kept.outvars) == len(names) + 3
    assert stacked(plain) == 0
    assert stacked(kept) > 0 or not scans(kept) or case == "flow"


def scans(jaxpr):
    """All scans in a jaxpr and what it calls."""
    own = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]
    called = (value for eqn in jaxpr.eqns for value in eqn.params.values())
    inner = (getattr(value, "jaxpr", None) for value in called)
    return own + [eqn for part in inner if part is not None for eqn in scans(part)]


def stacked(jaxpr):
    """Arrays that scans stack from step to step."""
    return sum(len(eqn.outvars) - scan_counts(eqn)[1] for eqn in scans(jaxpr))


def test_mistakes_are_told_at_the_call(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("compilation started before the mistake was found")

    generators = {case: tiny.generator(tiny.config(**CASES[case][0])) for case in CASES}
    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    for case, settings, expected in (
        ("next token", {"labels": [5]}, "labels lie in"),
        ("next token", {"labels": [1], "temperature": -1.0}, "temperature is at least 0"),
        ("next token", {"labels": [1], "every": 0}, "every is a whole number of at least 1"),
        ("next token", {"labels": [1], "num_stepz": 3}, "num_stepz"),
        ("next token", {"labels": [1], "known": np.zeros((1, 96), int)}, "known tokens"),
        ("next token", {"labels": [1], "draws": RecordedDraws({})}, "no noise was recorded"),
        ("masked", {"labels": [1], "schedule": "sine"}, 'schedule "sine" is unknown'),
        ("flow", {"labels": [1], "top_k": 3}, "latents of a flow have none"),
    ):
        assert expected in error_of(lambda c=case, s=settings: generators[c].stream(0, **s))


def test_the_settings_of_a_config_are_taken():
    generator, settings = generator_of("masked"), settings_of("masked")
    settings = generator.config.sample.settings() | settings | {"labels": [3, 1, 2]}
    assert "batch_size" in settings
    *_, last = generator.stream(5, first=1, **settings)
    np.testing.assert_array_equal(last.tokens[:2], whole("masked")["tokens"][1:])
