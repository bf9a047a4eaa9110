"""Writers of small files in the formats of other code bases, and runners of the commands."""

import gzip
import json

import numpy as np
import pytest

VOCAB, CLASSES, SIDE = 50, 5, 4
LENGTH = SIDE * SIDE


def run(main, *arguments):
    main([str(argument) for argument in arguments])


def refusal(capsys, main, *arguments):
    """The one line that a command leaves, having exited with 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(main, *arguments)
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and lines[0].startswith("gen: error: "), lines
    return lines[0]


def token_lines(count, versions=1, *, seed=0, vocab=VOCAB, classes=CLASSES, length=LENGTH):
    """Lines as pretokenization.py writes them, and the tokens (N, A, P) they hold."""
    tokens = np.random.default_rng(seed).integers(0, vocab, (count, versions, length))
    lines = [
        json.dumps({"class_id": image % classes, "tokens": version.tolist()})
        for image, versions_AP in enumerate(tokens)
        for version in versions_AP
    ]
    return lines, tokens


def write_lines(path, lines):
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_codes(folder, count, *, seed=0, vocab=VOCAB, length=LENGTH):
    """Codes of `extract_codes_t2i.py` in a folder, and all of them (N, P)."""
    folder.mkdir(parents=True)
    codes = np.random.default_rng(seed).integers(0, vocab, (count, 1, length))
    for number, one in enumerate(codes):
        np.save(folder / f"{number}.npy", one)
    return codes[:, 0]


def write_features(folder, lengths, dim, *, seed=0):
    """Features of `extract_t5_feature.py`, one file for each caption of these lengths."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    features = [rng.normal(size=(1, length, dim)).astype(np.float32) for length in lengths]
    for number, one in enumerate(features):
        np.save(folder / f"{number}.npy", one)
    return [one[0] for one in features]


def write_moments(root, *, classes=CLASSES, count=2, channels=3, side=2, seed=0):
    """Moments as main_cache.py writes them: (2C, h, w) of each image and its mirror image."""
    rng = np.random.default_rng(seed)
    for label in range(classes):
        folder = root / f"n{label:02}"
        folder.mkdir(parents=True)
        for number in range(count):
            plain, flipped = rng.normal(size=(2, 2 * channels, side, side)).astype(np.float32)
            np.savez(folder / f"{number}.npz", moments=plain, moments_flip=flipped)
