"""Phases: the cheapest grouping of steps, and steps that are wider than they have to be."""

import itertools

import numpy as np
import pytest

from gen.decoding import phases
from gen.decoding.plan import Step


def steps_of(sizes, seed=0):
    """Steps of so many slots one after another, each sampling as many positions."""
    rng, first, steps = np.random.default_rng(seed), 0, []
    for size in sizes:
        read_RA = rng.integers(-1, size, (size, 2))
        steps.append(Step(first + np.arange(size), read_RA, first + np.arange(size)))
        first += size
    return steps, first


def cost_of(sizes, cuts, costs, num_slots):
    """What a grouping costs, from its definition."""
    firsts, total = np.cumsum([0, *sizes]), 0.0
    for start, stop in itertools.pairwise([0, *cuts, len(sizes)]):
        width = max(sizes[start:stop])
        reach = min(firsts[stop - 1] + width, num_slots)
        length = min(-(-reach // phases.ROUND) * phases.ROUND, num_slots)
        total += costs.of(stop - start, width, length)
    return total


@pytest.mark.parametrize("seed", range(6))
def test_no_other_grouping_is_cheaper(seed, monkeypatch):
    monkeypatch.setattr(phases, "ROUND", 4)
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, 8).tolist()
    costs = phases.Costs(rng.uniform(0.5, 4), rng.uniform(4, 40), rng.uniform(0, 6))
    steps, num_slots = steps_of(sizes)
    found = phases.group(steps, num_slots=num_slots, num_positions=num_slots, costs=costs)
    every = (c for n in range(len(sizes)) for c in itertools.combinations(range(1, len(sizes)), n))
    least = min(cost_of(sizes, cuts, costs, num_slots) for cuts in every)
    paid = sum(costs.of(p.num_steps, p.feed_NW.shape[1], p.cache_length) for p in found)
    assert paid == pytest.approx(least)
    assert [p.first_step for p in found] == np.cumsum([0, *(p.num_steps for p in found)])[
        :-1
    ].tolist()


def test_costs_decide_how_many():
    steps, num_slots = steps_of([1] * 256)
    count = {
        price: len(phases.group(
            steps, num_slots=num_slots, num_positions=256, costs=phases.Costs(phase=price)
        ))
        for price in (0.1, 20.0, 1000.0)
    }  # fmt: skip
    assert count == {0.1: 4, 20.0: 2, 1000.0: 1}


def test_a_wider_step_does_what_the_narrow_one_does():
    sizes = [1, 2, 3, 4, 3, 2, 1]
    steps, num_slots = steps_of(sizes)
    (phase,) = phases.group(
        steps, num_slots=num_slots, num_positions=99, costs=phases.Costs(phase=1e9)
    )
    assert phase.feed_NW.shape == (7, 4) and phase.cache_length == num_slots and phase.contiguous
    for step, feed_W, read_RA, target_R in zip(
        steps, phase.feed_NW, phase.read_NR, phase.target_NR, strict=True
    ):
        own = len(step.target_R)
        assert set(step.feed_W) <= set(feed_W) and feed_W.max() < num_slots
        np.testing.assert_array_equal(target_R[:own], step.target_R)
        assert (target_R[own:] == 99).all() and (read_RA[own:] == -1).all()
        votes = step.read_R >= 0
        assert (read_RA[:own][~votes] == -1).all()
        np.testing.assert_array_equal(feed_W[read_RA[:own][votes]], step.feed_W[step.read_R[votes]])


def test_only_runs_are_widened():
    """A step of slots that are no run is never grouped with a wider one."""
    feeds = [np.array([0, 2]), np.arange(3), np.arange(3, 6)]
    steps = [Step(feed, np.zeros(1, int), np.zeros(1, int)) for feed in feeds]
    found = phases.group(steps, num_slots=6, num_positions=1, costs=phases.Costs(phase=1e9))
    assert [phase.num_steps for phase in found] == [1, 2]
    assert not found[0].contiguous


def test_alone():
    steps, _ = steps_of([1, 4, 2])
    found = phases.alone(steps)
    assert [(p.num_steps, p.cache_length, p.first_step) for p in found] == [
        (1, 1, 0), (1, 5, 1), (1, 7, 2),
    ]  # fmt: skip
