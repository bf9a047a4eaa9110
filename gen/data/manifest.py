"""The manifest of a dataset: what its records hold, and the size and hash of every shard.

`manifest.json` lies beside the shards. The generator's configuration is compared with it before
training starts, so that tokens of another tokenizer are refused rather than learnt.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gen.errors import UserError
from gen.layouts import Layout

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"
NO_AUGMENTATION = {"kind": "none", "count": 1}
NO_TOKENIZER = {"id": "none", "sha256": None}
AUGMENTATIONS = ("none", "flip", "tencrop")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a dataset holds.

    Attributes:
      name: name of the dataset.
      layout: geometry and value type of one sample.
      condition: `{"kind": "class", "num_classes": n, "names": [...] or None}`,
        `{"kind": "text", "length": T, "dim": C, "encoder": id}` (optionally `"dtype"`, `float16`
        as stored by default, or `float32`) or `{"kind": "none"}`.
      splits: number of examples of each split.
      shards: `{"bytes": n, "sha256": hex, "records": n}` for each file; empty if in memory.
      tokenizer: `{"id": ..., "sha256": hex of its weights or None, ...}`.
      augmentation: `{"kind": "none" | "flip" | "tencrop", "count": A}`; each record holds A
        versions of its tokens.
      version: version of the dataset, three numbers.
      licence: licence of the data.
      source: where the data came from.
      details: what else is worth knowing, as JSON: `content_sha256` of each split's records in
        their order, and what `gen.encode` was told. Manifests of older versions have none.
    """

    name: str
    layout: Layout
    condition: Mapping[str, Any]
    splits: Mapping[str, int]
    shards: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    tokenizer: Mapping[str, Any] = dataclasses.field(default_factory=lambda: dict(NO_TOKENIZER))
    augmentation: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: dict(NO_AUGMENTATION)
    )
    version: str = "1.0.0"
    licence: str = ""
    source: str = ""
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_condition(self.condition)
        check_augmentation(self.augmentation)
        if not isinstance(self.tokenizer, Mapping) or "id" not in self.tokenizer:
            raise UserError(f'a tokenizer is described by at least an "id": {self.tokenizer!r}')
        if not isinstance(self.splits, Mapping) or not all(map(_is_count, self.splits.values())):
            raise UserError(f"the splits must be counts of examples: {self.splits!r}")
        if not isinstance(self.shards, Mapping) or not all(map(_is_shard, self.shards.values())):
            raise UserError("each shard needs its bytes, records (counts) and sha256 (text)")
        if not isinstance(self.details, Mapping):
            raise UserError(f"the details must be names and values: {self.details!r}")

    @property
    def num_copies(self) -> int:
        """A, the number of versions of the tokens in each record."""
        return self.augmentation["count"]

    @property
    def num_classes(self) -> int | None:
        return self.condition["num_classes"] if self.condition["kind"] == "class" else None

    @property
    def caption_shape(self) -> tuple[int, int] | None:
        """(T, C) of the captions, or None."""
        if self.condition["kind"] != "text":
            return None
        return self.condition["length"], self.condition["dim"]

    def check_fits(
        self,
        layout: Layout,
        *,
        num_classes: int | None = None,
        caption: tuple[int, int] | None = None,
    ) -> None:
        """Raises `UserError`, naming both sides, unless a model can be trained on this data.

        Args:
          layout: layout of the samples that the model makes.
          num_classes: number of classes of a class-conditional model.
          caption: (length, dim) of the captions of a text-conditional model.
        """
        pairs = list(zip(_traits(self.layout), _traits(layout)))
        if num_classes is not None:
            own = "no class labels" if self.num_classes is None else f"{self.num_classes} classes"
            pairs.append((own, f"{num_classes} classes"))
        if caption is not None:
            pairs.append((_caption_trait(self.caption_shape), _caption_trait(tuple(caption))))
        differing = [(own, other) for own, other in pairs if own != other]
        if differing:
            own = ", ".join(pair[0] for pair in differing)
            other = ", ".join(pair[1] for pair in differing)
            raise UserError(f'the data has {own}, the model {other} (dataset "{self.name}")')

    def to_json(self) -> dict[str, Any]:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields["layout"] = self.layout.to_json()
        return {"format_version": FORMAT_VERSION, **fields}

    @classmethod
    def from_json(cls, record: Any) -> Manifest:
        """The manifest that `to_json` wrote; raises `UserError` if the record is not one."""
        if not isinstance(record, dict):
            raise UserError("it holds no JSON object")
        version = record.get("format_version")
        if version != FORMAT_VERSION:
            raise UserError(f"its format_version is {version!r}; this program reads version 1")
        record = {"details": {}, **record}
        names = {field.name for field in dataclasses.fields(cls)}
        missing = sorted(names - record.keys())
        unknown = sorted(record.keys() - names - {"format_version"})
        if missing or unknown:
            raise UserError(f"it lacks the fields {missing} or has unknown fields {unknown}")
        if any(not isinstance(record[name], str) for name in ("name", "version")):
            raise UserError("its name and version must be text")
        fields = {name: record[name] for name in names}
        return cls(**{**fields, "layout": Layout.from_json(record["layout"])})

    def write(self, directory: Path) -> None:
        """Writes `manifest.json` into a dataset's directory."""
        text = json.dumps(self.to_json(), indent=1, sort_keys=True)
        (directory / FILE_NAME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Reads `manifest.json`; raises `UserError` naming the file if that is impossible."""
        path = directory / FILE_NAME
        advice = f"; remove {directory} and copy or make the dataset again"
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UserError(f"{path} is missing{advice}") from None
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror})") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is damaged ({error}){advice}") from None
        except UserError as error:
            raise UserError(f"{path} is no manifest: {error}{advice}") from None


def check_condition(condition: Any) -> None:
    """Raises `UserError` unless this is one of the three kinds of condition."""
    kind = condition.get("kind") if isinstance(condition, Mapping) else None
    if kind == "class":
        _check_positive(condition, "num_classes")
        names = condition.get("names")
        if names is not None and not isinstance(names, list | tuple):
            raise UserError(f'"names" must be a list of class names: {names!r}')
        if names is not None and len(names) != condition["num_classes"]:
            raise UserError(f"{len(names)} names for {condition['num_classes']} classes")
    elif kind == "text":
        _check_positive(condition, "length")
        _check_positive(condition, "dim")
        if not isinstance(condition.get("encoder"), str):
            raise UserError('captions need the "encoder" that made them, as text')
        if condition.get("dtype", "float16") not in ("float16", "float32"):
            raise UserError("captions are stored as float16 or float32")
    elif kind != "none":
        raise UserError(f'a condition is of kind "class", "text" or "none": {condition!r}')


def check_augmentation(augmentation: Any) -> None:
    """Raises `UserError` unless this is a known augmentation with its number of copies."""
    kind = augmentation.get("kind") if isinstance(augmentation, Mapping) else None
    if kind not in AUGMENTATIONS:
        raise UserError(f"an augmentation is of kind {', '.join(AUGMENTATIONS)}: {augmentation!r}")
    _check_positive(augmentation, "count")
    if (kind == "none") != (augmentation["count"] == 1):
        raise UserError(f'augmentation "{kind}" cannot have {augmentation["count"]} copies')


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_shard(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and _is_count(value.get("bytes"))
        and _is_count(value.get("records"))
        and isinstance(value.get("sha256"), str)
    )


def _check_positive(record: Mapping[str, Any], key: str) -> None:
    if not _is_count(record.get(key)) or record[key] < 1:
        raise UserError(f'"{key}" must be a positive whole number: {dict(record)!r}')


def _traits(layout: Layout) -> tuple[str, ...]:
    shapes = " + ".join("x".join(map(str, shape)) for shape in layout.shapes)
    sizes = layout.vocab_sizes
    if layout.is_continuous:
        values = f"latents of {layout.channels} channels"
    elif len(sizes) == 1:
        values = f"vocabulary {sizes[0]}"
    else:
        values = f"vocabularies {sizes} ({layout.factor_mode})"
    return f"geometry {layout.geometry}", f"lattice {shapes}", values


def _caption_trait(shape: tuple[int, int] | None) -> str:
    return "no captions" if shape is None else f"captions of {shape[0]} vectors of width {shape[1]}"
