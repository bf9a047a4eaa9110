"""Tokenizers trained on real photographs, against transform codes of the same bits.

A transform code of patches as large as a tokenizer's cells knows as much at a time as a code does;
those of larger patches are stronger, and shown too.

As a program it trains both configs and draws the comparison:
`python -m tests.test_photographs FOLDER PICTURE.png`.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from gen import pictures, tokenizers
from gen.images.config import ImagesConfig
from gen.images.training import held_out_crops, open_pictures, training_crops
from gen.metrics.pixels import mean_psnr
from gen.metrics.transform_coding import fit_transform_code
from tests import photographs, tiny

SPECS = ("image_vq.py", "image_vq.py:multiscale")
CELL = 4
PATCHES = (CELL, 8, 16, 32)
NUM_FITTED = 8000  # crops that the transform code is fitted to: every training pixel, and more
LIMIT_S = 600
SHOWN = 8


def train(spec, root, train_dir, held_out_dir):
    """Its result and its workdir, from a process of its own."""
    workdir = root / spec.replace(":", "_")
    done = tiny.run_module(
        "gen.train", "--config", tiny.ROOT / "configs" / spec, "--workdir", workdir,
        f"--config.data.dir={train_dir}", f"--config.data.valid_dir={held_out_dir}",
        timeout=3000, XLA_FLAGS="",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((workdir / "result.json").read_text()), workdir


def crops_of(config):
    """Training crops to fit to, and the held-out crops of a run."""
    fields = {name: tuple(v) if isinstance(v, list) else v for name, v in config["data"].items()}
    config = ImagesConfig(**fields)
    train_set, held_out = open_pictures(config)
    read = training_crops(train_set, config, batch_size=NUM_FITTED, seed=1)
    return read(0)["pixels"], held_out_crops(held_out, config)


def transform_codes(fitted, held_out, bits_per_pixel):
    """Name -> (PSNR in dB, reconstructions), for each patch size."""
    found = {}
    for patch in PATCHES:
        code = fit_transform_code(fitted, patch=patch, bits_per_pixel=bits_per_pixel)
        made = code.reconstruct(held_out)
        found[f"PCA {patch}x{patch}"] = (mean_psnr(held_out, made), made)
    return found


def compare(spec, root, train_dir, held_out_dir):
    """Held-out crops; name -> (PSNR, reconstructions); and the run's result."""
    result, workdir = train(spec, root, train_dir, held_out_dir)
    fitted, held_out = crops_of(result["config"])
    tokenizer = tokenizers.load(workdir / "tokenizer.safetensors")
    size = held_out.shape[1:3]
    tokens = tokenizer.encode(held_out)
    made = tokenizer.to_uint8(tokenizer.decode(tokens, size))
    bits = tokens.shape[1] * math.log2(len(tokenizer.codebook))
    assert math.isclose(bits / math.prod(size), result["bits_per_pixel"])
    told = transform_codes(fitted, held_out, result["bits_per_pixel"])
    told["tokenizer"] = (mean_psnr(held_out, made), made)
    print(spec, f"{bits:.0f} bits", {name: round(one[0], 2) for name, one in told.items()})
    return held_out, told, result


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS)
def test_beats_a_transform_code_of_the_same_bits(tmp_path, spec):
    pytest.importorskip("skimage")
    _, told, result = compare(spec, tmp_path, *photographs.write(tmp_path / "photographs"))
    *codes, ours = (psnr for psnr, _ in told.values())
    assert ours > max(codes)
    assert result["held_out"]["psnr"] == pytest.approx(ours, abs=0.01)
    assert result["cpu_seconds"] < 2 * LIMIT_S


def draw(root, path):
    """The comparison as a picture: originals, transform code and tokenizer of each rate."""
    root, rows, names = Path(root), [], []
    folders = photographs.write(root / "photographs")
    for spec in SPECS:
        held_out, told, _ = compare(spec, root, *folders)
        shown = np.linspace(0, len(held_out) - 1, SHOWN).astype(int)
        if not rows:
            rows.append(held_out[shown])
            names += ["original"] * SHOWN
        for name, (psnr, made) in told.items():
            rows.append(made[shown])
            kind = name if name.startswith("PCA") else ("multi-scale" if ":" in spec else "plain")
            names += [f"{kind} {psnr:.1f} dB"] * SHOWN
    title = "Held out: original; transform codes and the plain tokenizer; the multi-scale one's"
    pictures.save_grid(
        path, np.concatenate(rows), labels=names, columns=SHOWN, title=title, scale=4
    )


if __name__ == "__main__":
    draw(*sys.argv[1:])
