"""What the compiled samplers do at each step, read from the programs themselves."""

import re

import jax
import pytest

from gen.bench.work import count
from tests import tiny

# Grids whose caches have shapes that nothing else in the program has.
CASES = {
    "next token": {"model.grid": [9, 10]},
    "next neighbour": tiny.neighbours(**{"model.grid": [9, 10]}),
}


def compiled_text(case, rows, dtype="float32", **settings):
    generator = tiny.generator(tiny.config(**CASES[case]), dtype=dtype)
    traced, _ = generator.traced(0, num=rows, **settings)
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


def moved(lines, dims):
    """Lines that copy, convert or transpose an array of these dimensions, in whatever order."""
    verbs = "copy|convert|transpose"
    made = (re.search(rf"= \w+\[([\d,]+)\]\S* ({verbs})\(", line) for line in lines)
    wanted = sorted(map(str, dims))
    return [m.string for m in made if m and sorted(m[1].split(",")) == wanted]


@pytest.mark.parametrize(
    ("case", "guidance", "dtype"),
    [
        ("next token", None, "float32"),
        ("next token", 2.0, "bfloat16"),
        ("next neighbour", None, "bfloat16"),
        ("next neighbour", 2.0, "float32"),
    ],
)
def test_no_cache_is_moved_inside_a_loop(case, guidance, dtype):
    rows = 3
    generator, text = compiled_text(case, rows, dtype, guidance=guidance)
    backbone, lines = generator.config.model.backbone, inside_loops(text)
    lengths = {phase.cache_length for phase in generator.family.plan.phases}
    updated = False
    for length in lengths:
        heads, dim = backbone.heads, backbone.width // backbone.heads
        dims = ((2 if guidance else 1) * rows, heads, length, dim)
        shape = f"f32[{','.join(map(str, dims))}]"
        updates = ("dynamic-update-slice", "scatter")
        updated |= any(shape in line and any(u in line for u in updates) for line in lines)
        assert not moved(lines, dims), moved(lines, dims)[0]
    assert updated, "the caches are written in loops"


def test_what_moves_a_cache_would_be_found():
    text = """\
%fused (p: f32[2,4,64,8]) -> f32[2,4,8,64] {
  %t = f32[2,4,8,64]{3,2,1,0} transpose(%p), dimensions={0,1,3,2}
}

%body (p: (f32[2,4,64,8])) -> (f32[2,4,64,8]) {
  %c = f32[2,4,64,8]{3,2,1,0} copy(%x)
  %f = f32[2,4,8,64]{3,2,1,0} fusion(%c), kind=kLoop, calls=%fused
}

ENTRY %main (a: f32[2]) -> f32[2] {
  %w = (f32[2,4,64,8]) while(%t), condition=%cond, body=%body
  %d = f32[2,4,64,8]{3,2,1,0} copy(%y)
}
"""
    assert len(moved(inside_loops(text), (2, 4, 64, 8))) == 2


def test_a_step_does_not_grow_with_the_capacity():
    """The first steps of a long sequence are those of a short one: the same products."""
    found = []
    for grid in ([8, 20], [8, 31]):
        generator = tiny.generator(tiny.config(**{"model.grid": grid}))
        plan = generator.family.plan
        first = next(phase for phase in plan.phases if phase.num_steps > 1)
        traced, (weights, *_) = generator.traced(0, num=2)
        scopes = tuple(phase.scope for phase in plan.phases)
        work = count(traced.jaxpr, len(jax.tree.leaves(weights)), scopes)[first.scope]
        found.append((work.other_flops / first.num_steps, work.weight_bytes / first.num_steps))
        assert first.cache_length == 64
    assert found[0] == found[1]
