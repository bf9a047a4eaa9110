"""The colour photographs in scikit-image's and scikit-learn's wheels, as a folder of images.

No two crops of training and of testing share a pixel: whole photographs are held out.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

TRAIN = ("astronaut.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "flower.jpg")
HELD_OUT = ("chelsea.png", "china.jpg")


def write(root: Path) -> tuple[Path, Path]:
    """Copies the photographs; returns the folder to train on and the one held out."""
    sources = (resources.files("skimage") / "data", resources.files("sklearn.datasets") / "images")
    folders = root / "train", root / "held_out"
    for folder, names in zip(folders, (TRAIN, HELD_OUT)):
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            found = next(source / name for source in sources if (source / name).is_file())
            (folder / name).write_bytes(found.read_bytes())
    return folders
