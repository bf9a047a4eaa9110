"""The data that a config names, opened and held against the model it is for."""

from __future__ import annotations

from typing import Any

from gen.config import Config
from gen.data import Dataset, Manifest, open_dataset
from gen.errors import UserError
from gen.families import Family


def open_data(config: Config, family: Family) -> Dataset:
    """Opens the config's dataset and checks that it fits the model and has the splits named.

    Raises:
      UserError: the data is missing, damaged, of another layout or condition than the model's,
        or lacks a split.
    """
    condition = family.condition
    wanted: dict[str, Any] = {"kind": condition.kind}
    if condition.kind == "class":
        wanted |= {"num_classes": condition.num_classes, "names": None}
    else:
        wanted |= {
            "length": condition.caption_length,
            "dim": condition.caption_dim,
            "encoder": "random",
        }
    dataset = open_dataset(
        config.data.name, directory=config.data.dir, layout=family.data_layout, condition=wanted
    )
    check_fits(dataset.manifest, family)
    for role in ("train", "valid", "test"):
        spec = getattr(config.data, role)
        if spec is not None and not len(dataset.split(spec)):
            raise UserError(f'config.data.{role} "{spec}" holds no example')
    return dataset


def check_fits(manifest: Manifest, family: Family) -> None:
    """Raises `UserError`, naming both sides, unless the family can be trained on the data."""
    condition = family.condition
    if condition.kind == "class":
        manifest.check_fits(family.data_layout, num_classes=condition.num_classes)
    else:
        shape = (condition.caption_length, condition.caption_dim)
        manifest.check_fits(family.data_layout, caption=shape)


def class_names(dataset: Dataset, num_classes: int) -> list[str]:
    """Names of the classes as the data gives them, or their numbers."""
    names = dataset.manifest.condition.get("names")
    return list(names) if names else [str(i) for i in range(num_classes)]
