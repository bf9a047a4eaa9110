"""House rules that a machine can check: direction of imports, sizes, no family named outside."""

import ast
import re

import pytest

from gen.families import FAMILIES
from tests import tiny

FILES = sorted((tiny.ROOT / "gen").rglob("*.py"))
# A layer may import those before it, never those after it.
LAYERS = [
    ("errors",),
    ("layouts", "sharding", "schema", "pictures", "metrics"),
    ("models", "data"),
    ("checks", "decoding"),
    ("families",),
    ("config",),
    ("inputs", "training", "api"),
    ("sample", "evaluate"),
    ("train",),
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def tree_of(path):
    return ast.parse(path.read_text())


def part_of(path):
    return path.relative_to(tiny.ROOT / "gen").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(tiny.ROOT)))
def test_file_and_function_sizes(path):
    assert len(path.read_text().splitlines()) <= 300
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= 60, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(tiny.ROOT)))
def test_imports_point_one_way(path):
    part = part_of(path)
    if part == "__init__":
        return
    for node in ast.walk(tree_of(path)):
        modules = []
        if isinstance(node, ast.ImportFrom) and node.module:
            tops = [node.module] if node.module != "gen" else [f"gen.{a.name}" for a in node.names]
            modules = [m for m in tops if m.startswith("gen.")]
        for module in modules:
            other = module.split(".")[1]
            if other in (part, "__version__"):
                continue
            assert RANK[other] <= RANK[part], f"{part} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(tiny.ROOT)))
def test_shared_code_names_no_family(path):
    if part_of(path) == "families":
        return
    names = "|".join(FAMILIES)
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not re.fullmatch(names, node.value), f"line {node.lineno} names a family"


def test_nnx_stays_a_container():
    # Stateful NNX costs time per step and has changed from release to release.
    forbidden = (
        r"nnx\.(jit|grad|value_and_grad|scan|vmap|remat|Optimizer|Cache|Dropout|BatchNorm)\b"
    )
    for path in FILES:
        assert not re.search(forbidden, path.read_text()), path
