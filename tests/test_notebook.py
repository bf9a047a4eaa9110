"""The notebook runs from top to bottom without a screen, with training and published weights."""

import json

import nbformat
import pytest
from nbclient import NotebookClient

from tests import cases, tiny

NOTEBOOK = tiny.ROOT / "notebooks" / "sample.ipynb"


def texts(notebook):
    return "".join(
        output.get("text", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )


def pictures(notebook):
    return sum(
        "image/png" in output.get("data", {})
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )


@pytest.fixture
def published(tmp_path):
    """Weights of a small LlamaGen and of a tokenizer that fits it."""
    generator = cases.llamagen(tmp_path / "c2i", vocab_size=64, num_classes=10)
    sizes = {"ch": 32, "groupnorm_groups": 32, "encoder_ch_mult": [1, 1], "downsample": None}
    tokenizer = cases.vq(
        tmp_path / "vq", codebook_size=64, decoder_ch_mult=[1, 1], height=4, width=4, **sizes
    )
    return {
        "WEIGHTS": str(generator / "weights.safetensors"),
        "TOKENIZER": str(tokenizer / "weights.safetensors"),
        "SETTINGS": {"n_head": 3, "block_size": 9},
    }


def test_runs_from_top_to_bottom(tmp_path, published, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tiny.ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    values = {"RUN": str(tmp_path / "run"), "CONFIG": "configs/digits_llamagen.py:debug"}
    values |= {"STEPS": 4, **published}
    chosen = "".join(f"\n{name} = {value!r}" for name, value in values.items())
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert all(f"{name} =" in cell.source for name in values)
    cell.source += chosen
    where = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=85, kernel_name="python3", resources=where).execute()
    said = texts(notebook)
    assert "parameters, 64 tokens per sample" in said
    assert "10 samples compiled" in said and "8 images of 6x6 pixels" in said
    # Curves, one class, three guidances, published weights.
    assert pictures(notebook) == 6
    assert (tmp_path / "run" / "result.json").exists()


def test_is_stored_without_outputs():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
