"""The colour photographs in scikit-image's and scikit-learn's wheels, as folders of images.

Regions are held out: the left three quarters of each photograph are there to learn from, its right
quarter to be scored on. No pixel is in both.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
NAMES += ("china.jpg", "flower.jpg")


def write(root: Path) -> tuple[Path, Path]:
    """Cuts the photographs; returns the folder to train on and the one held out."""
    sources = (resources.files("skimage") / "data", resources.files("sklearn.datasets") / "images")
    folders = root / "train", root / "held_out"
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        found = next(source / name for source in sources if (source / name).is_file())
        with found.open("rb") as file, Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"))
        cut = pixels.shape[1] * 3 // 4
        for folder, part in zip(folders, (pixels[:, :cut], pixels[:, cut:])):
            Image.fromarray(part).save(folder / f"{Path(name).stem}.png")
    return folders
