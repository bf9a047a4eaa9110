"""Weights converted to the compute dtype once give what converting them at each use gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from gen.decoding.draws import keyed
from gen.models.linear import NARROW_ROWS
from gen.programs import Programs
from tests import tiny

CASES = {
    "next token": {},
    "next neighbour": tiny.neighbours(),
    "next scale": tiny.scales(),
    "masked": tiny.masked(),
    "flow, cross": tiny.flow(**{"model.head.kind": "cross"}),
}


@pytest.mark.parametrize("case", CASES)
def test_converted_once_is_converted_each_time(case):
    generator = tiny.generator(tiny.config(**CASES[case]), dtype="bfloat16")
    family, programs = generator.family, Programs(generator.family, generator.dtype, None)
    weights, rows_B = programs.weights(generator.params), np.arange(2)
    batch = {"tokens": tiny.random_data(family.layout, 2), "label": np.array([1, 4])}
    run = programs.compiled("teacher_forced", what="held_out")
    noise = {"draws": keyed(0, rows_B)}
    found, expected = (run(p, batch, rows_B > 0, noise) for p in (weights, generator.params))
    for name, array in expected.items():
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(array), err_msg=name)
    flat = traverse_util.flatten_dict(weights, sep="/")
    kernels = {n: a.dtype for n, a in flat.items() if n.endswith(("attention/query/kernel",))}
    assert kernels and set(kernels.values()) == {jnp.dtype("bfloat16")}
    scales = {n: a.dtype for n, a in flat.items() if n.endswith(("scale", "bias"))}
    assert scales and set(scales.values()) == {jnp.dtype("float32")}
    assert set(flat) == set(traverse_util.flatten_dict(generator.params, sep="/"))


def test_new_parameters_are_converted_anew():
    generator = tiny.generator(tiny.config(), dtype="bfloat16")
    before = generator.sample(0, labels=[1])
    generator.params = jax.tree.map(lambda a: a + 0.5, generator.params)
    assert (before != generator.sample(0, labels=[1])).any()


def test_sampling_keeps_no_converted_copy_beside_the_one_it_reads():
    for dtype in ("bfloat16", "int8"):
        generator = tiny.generator(tiny.config(), dtype=dtype)
        generator.sample(0, labels=[1])
        assert generator._programs._converted is None
        generator.logits(np.zeros((1, 12), np.int32), labels=[1])
        assert generator._programs._converted is not None


@pytest.mark.parametrize("guidance", [None, 2.0])
def test_a_prompt_does_not_decide_how_weights_are_stored(guidance):
    """Its step is one of many, and the others are narrow."""
    config = tiny.config(**tiny.text(**{"model.condition.caption_length": NARROW_ROWS}))
    family = tiny.generator(config).family
    assert max(phase.feed_NW.shape[1] for phase in family.plan.phases) >= NARROW_ROWS
    assert family.usual_rows(3, int(guidance is not None)) == (3 if guidance is None else 6)


def test_weights_are_laid_out_once():
    """For few rows and for many, and the parameters stay as they are."""
    generator = tiny.generator(tiny.config())
    before = jax.tree.map(np.array, generator.params)
    few = generator.traced(0, num=2)[1][0]
    assert generator.traced(0, num=NARROW_ROWS)[1][0] is few
    assert generator.traced(0, num=NARROW_ROWS, guidance=2.0)[1][0] is not few
    assert [block.feed_forward.down.flipped for block in few.blocks] == [True] * len(few.blocks)
    many = generator.traced(0, num=NARROW_ROWS + 1)[1][0]
    assert not any(block.feed_forward.down.flipped for block in many.blocks)
    jax.tree.map(np.testing.assert_array_equal, before, generator.params)
    # Float32 is not converted, so it is not copied either.
    assert generator._programs.weights(generator.params) is generator.params
    # Other parameters are laid out anew.
    generator.params = jax.tree.map(lambda leaf: leaf + 1, generator.params)
    assert generator.traced(0, num=NARROW_ROWS + 1)[1][0] is not many
