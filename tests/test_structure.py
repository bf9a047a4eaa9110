"""House rules that a machine can check: direction of imports, sizes, no family named outside."""

import ast
import graphlib
import inspect
import re
from pathlib import Path

import pytest

from gen.families import FAMILIES
from gen.published import SYSTEMS
from tests import tiny

FILES = sorted((tiny.ROOT / "gen").rglob("*.py"))
# A layer may import those before it, never those after it.
LAYERS = [
    ("errors",),
    ("learner",),
    (
        "layouts",
        "sharding",
        "schema",
        "config_file",
        "command_line",
        "distributed",
        "runtime",
        "pictures",
        "metrics",
    ),
    ("models", "data", "captions"),
    ("images",),
    ("checks", "decoding", "tokenizers"),
    ("families", "autoencoding"),
    ("settings",),
    ("config", "programs", "asked"),
    ("streaming",),
    ("inputs", "training", "api"),
    ("published", "pixels"),
    ("parts", "prompts"),
    ("sampling", "beside"),
    ("sample", "evaluate", "convert"),
    ("encoding", "encode"),
    ("export", "bench"),
    ("jobs",),
    ("train",),
    ("compare",),
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


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_family_is_one_small_file(family):
    text = Path(inspect.getfile(family)).read_text()
    documents = (ast.Module, ast.ClassDef, ast.FunctionDef)
    prose = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, documents) and ast.get_docstring(node)
        for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    code = [
        line
        for number, line in enumerate(text.splitlines(), 1)
        if number not in prose and line.strip() and not line.strip().startswith("#")
    ]
    assert len(code) < 200


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(tiny.ROOT)))
def test_imports_point_one_way(path):
    part = part_of(path)
    if part == "__init__":
        return
    # `python -m gen.X` of a package is an entry point, wherever the package stands.
    rank = max(RANK.values()) if path.name == "__main__.py" else RANK[part]
    for node in ast.walk(tree_of(path)):
        modules = []
        if isinstance(node, ast.ImportFrom) and node.module:
            tops = [node.module] if node.module != "gen" else [f"gen.{a.name}" for a in node.names]
            modules = [m for m in tops if m.startswith("gen.")]
        for module in modules:
            other = module.split(".")[1]
            if other in (part, "__version__"):
                continue
            assert RANK[other] <= rank, f"{part} imports {module}"


def file_of(module):
    """The file of a module's name, or none."""
    place = tiny.ROOT / module.replace(".", "/")
    return next((f for f in (place / "__init__.py", place.with_suffix(".py")) if f.is_file()), None)


def test_no_two_files_import_each_other():
    # Also through others, inside functions and for types alone.
    graph = {path: set() for path in FILES if path != tiny.ROOT / "gen/__init__.py"}
    for path, imported in graph.items():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                own = [f"{node.module}.{alias.name}" for alias in node.names]
                modules = [name if file_of(name) else node.module for name in own]
            else:
                continue
            imported |= {file_of(m) for m in modules if file_of(m) in graph}
    assert sum(map(len, graph.values())) > 500  # it follows imports at all
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(tiny.ROOT)))
def test_shared_code_names_no_family(path):
    own = {type(system).__module__.rpartition(".")[2] for system in SYSTEMS.values()}
    if part_of(path) == "families" or (part_of(path) == "published" and path.stem in own):
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
