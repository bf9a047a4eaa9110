"""The notebooks run from top to bottom without a screen, with training and published weights."""

import json

import nbformat
import pytest
from nbclient import NotebookClient

from tests import cases, tiny

NOTEBOOKS = tiny.ROOT / "notebooks"


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


def executed(name, values):
    """The notebook, run with other parameters."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert all(f"{each} =" in cell.source for each in values)
    cell.source += "".join(f"\n{each} = {value!r}" for each, value in values.items())
    where = {"metadata": {"path": str(NOTEBOOKS)}}
    NotebookClient(notebook, timeout=85, kernel_name="python3", resources=where).execute()
    return notebook


def test_sampling_and_published_weights(tmp_path, published, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tiny.ROOT))
    values = {"RUN": str(tmp_path / "run"), "CONFIG": "configs/digits_llamagen.py:debug"}
    notebook = executed("sample.ipynb", values | {"STEPS": 4, **published})
    said = texts(notebook)
    assert "parameters, 64 tokens per sample" in said
    assert "10 samples compiled" in said and "8 images of 6x6 pixels" in said
    # Curves, one class, three guidances, published weights.
    assert pictures(notebook) == 6
    assert (tmp_path / "run" / "result.json").exists()


def test_from_a_folder_of_images_to_samples(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tiny.ROOT))
    values = {"OUT": str(tmp_path), "TOKENIZER_STEPS": 4, "GENERATOR_STEPS": 4, "SIZE": 16}
    notebook = executed("own_images.ipynb", values | {"EXAMPLES": 20})
    said = texts(notebook)
    assert "20 images of 5 classes: circle, cross, ring, square, triangle" in said
    assert "{'test': 2, 'train': 18} images of 4x4 tokens, ids below 512" in said
    assert "40 samples, guidance 2" in said
    # Images, two of the tokenizer, the generator's curves, samples.
    assert pictures(notebook) == 5


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda p: p.stem)
def test_is_stored_without_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
