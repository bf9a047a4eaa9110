"""What the compiled samplers do at each step, read from the programs themselves."""

import re

import jax
import pytest

from gen.bench.work import count
from tests import tiny

# Grids whose caches have shapes that nothing else in the program has.
CASES = {
    "next token": {"model.grid": [9, 10]},
    "next token, text": tiny.text(**{"model.grid": [9, 10]}),
    "next neighbour": tiny.neighbours(**{"model.grid": [9, 10]}),
}


def compiled_text(case, rows, **settings):
    generator = tiny.generator(tiny.config(**CASES[case]))
    condition = generator.family.condition
    given = tiny.captions(condition, rows) if condition.kind == "text" else None
    traced, _ = generator.traced(0, num=rows, captions=given, **settings)
    return generator, traced.lower().compile().as_text()


def computations(text):
    """Name -> lines of each computation of an HLO module."""
    found, name = {}, None
    for line in text.splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name = head[1]
            found[name] = []
        elif name and line.startswith("}"):
            name = None
        elif name:
            found[name].append(line)
    return found


def inside_loops(text):
    """Lines of all loop bodies and of what they call."""
    every = computations(text)
    open_names = set(re.findall(r"body=%?([\w.\-]+)", text))
    assert open_names, "the program has loops"
    seen, lines = set(), []
    while open_names:
        name = open_names.pop()
        if name in seen or name not in every:
            continue
        seen.add(name)
        lines += every[name]
        called = r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)"
        open_names |= set(re.findall(called, "\n".join(every[name])))
    return lines


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("guidance", [None, 2.0])
def test_no_cache_is_copied_inside_a_loop(case, guidance):
    rows = 3
    generator, text = compiled_text(case, rows, guidance=guidance)
    backbone = generator.config.model.backbone
    lengths = {phase.cache_length for phase in generator.family.plan.phases}
    branches = 2 if guidance else 1
    lines = inside_loops(text)
    updated = False
    for length in lengths:
        shape = f"{branches * rows},{length},{backbone.heads},{backbone.width // backbone.heads}"
        of_cache = [line for line in lines if f"f32[{shape}]" in line]
        updated |= any("dynamic-update-slice" in line or "scatter" in line for line in of_cache)
        copies = [line for line in of_cache if re.search(rf"= f32\[{shape}\]\S* copy\(", line)]
        assert not copies, copies[0]
    assert updated, "the caches are written in loops"


def test_a_copy_would_be_found():
    text = """\
%body (p: (f32[2,64,4,8])) -> (f32[2,64,4,8]) {
  %c = f32[2,64,4,8]{3,2,1,0} copy(%x)
}

ENTRY %main (a: f32[2]) -> f32[2] {
  %w = (f32[2,64,4,8]) while(%t), condition=%cond, body=%body
}
"""
    assert any("copy(" in line for line in inside_loops(text))


def test_a_step_does_not_grow_with_the_capacity():
    """The first steps of a long sequence are those of a short one: the same products."""
    found = []
    for grid in ([8, 9], [8, 40]):
        generator = tiny.generator(tiny.config(**{"model.grid": grid}))
        plan = generator.family.plan
        first = next(phase for phase in plan.phases if phase.num_steps > 1)
        traced, (weights, *_) = generator.traced(0, num=2)
        scopes = tuple(phase.scope for phase in plan.phases)
        work = count(traced.jaxpr, len(jax.tree.leaves(weights)), scopes)[first.scope]
        found.append((work.other_flops / first.num_steps, work.weight_bytes / first.num_steps))
        assert first.cache_length == 64
    assert found[0] == found[1]
