"""What samples are conditioned on, as the command line gives it: classes, captions, known tokens.

Axes: N samples, P positions.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from gen import captions
from gen.api import Generator
from gen.checks import check_known
from gen.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Prompts:
    """What each of N samples is conditioned on.

    Attributes:
      given: the conditions by the names that `Generator.draw` takes, arrays of a row for each.
      row_N: the row of each sample.
      known: tokens `(N, P)` to start from, or none.
      names: how each is called in pictures.
      record: what the `.npz` keeps of each, name -> `(N,)`.
    """

    given: dict[str, Any]
    row_N: np.ndarray
    known: np.ndarray | None
    names: list[str]
    record: dict[str, np.ndarray]

    def arguments(self, sample_B: np.ndarray) -> dict[str, Any]:
        """Arguments of `Generator.draw` for the samples of these numbers.

        Captions are read here, and for these samples alone: a row of 120 x 2048 features takes
        half a megabyte.
        """
        known = None if self.known is None else self.known[sample_B]
        rows_B = self.row_N[sample_B]
        return jax.tree.map(lambda array: np.asarray(array[rows_B]), self.given) | {"known": known}

    def digests(self) -> dict[str, str]:
        """SHA-256 of what the samples are conditioned on, by name."""
        arrays = self.record | ({} if self.known is None else {"known": self.known})
        return {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}


def parse_labels(text: str, names: Sequence[str] = ()) -> list[int]:
    """`"0,1,5-9"`, or names of classes without commas, as a list of class numbers."""
    labels: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        is_number = first.isdigit() and (not dash or last.isdigit())
        if not is_number and part.strip() in names:
            first = last = str(list(names).index(part.strip()))
        elif not is_number:
            is_word = names and not part.strip().lstrip("-").replace(".", "").isdigit()
            known = nearest(part.strip(), names) if is_word else ""
            takes = "numbers, ranges and names of classes" if names else "numbers and ranges"
            raise UserError(f'--labels takes {takes} such as 0,1,5-9, not "{text}"{known}')
        if int(last or first) < int(first):
            raise UserError(f"--labels: the range {part.strip()} goes down; write {last}-{first}")
        labels.extend(range(int(first), int(last or first) + 1))
    return labels


def name_of(label: int, names: Sequence[str] | None) -> str:
    """The name of a class, or its number."""
    # A number that is out of range is refused where samples are drawn.
    return names[label] if names and label < len(names) else str(label)


def read_known(path: str | None) -> np.ndarray | None:
    """Tokens known in advance, `(N, P)`, -1 where one is to be made."""
    if path is None:
        return None
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"--known {path} cannot be read: {error}") from None


def prompts_for(args: Any, generator: Generator) -> Prompts:
    """One condition per sample: those given in turn, or all classes in turn.

    Args:
      args: the command line's `num`, `labels`, `captions` and `known`.
      generator: what they are for.

    Raises:
      UserError: they do not fit the model.
    """
    if args.num is not None and args.num < 1:
        raise UserError(f"--num is at least 1, not {args.num}")
    family, class_names = generator.family, generator.class_names
    condition = family.condition
    if condition.kind == "text":
        if args.labels or not args.captions:
            raise UserError("this model is conditioned on captions: give --captions FOLDER")
        found = captions.load(args.captions)
        row_N = np.resize(np.arange(len(found.texts)), args.num or len(found.texts))
        given = {"captions": (found.caption, found.caption_valid)}
        names = [found.texts[row] for row in row_N]
        record = {"captions": np.array(names)}
    else:
        if args.captions:
            raise UserError("this model is conditioned on classes: give --labels, not --captions")
        chosen = list(range(condition.num_classes))
        if args.labels is not None:
            chosen = parse_labels(args.labels, class_names or ())
        row_N = np.resize(np.arange(len(chosen)), args.num or (len(chosen) if args.labels else 100))
        given = {"labels": np.array(chosen)}
        record = {"labels": given["labels"][row_N]}
        names = [name_of(label, class_names) for label in record["labels"]]
    known = check_known(family.layout, read_known(args.known), len(row_N))
    return Prompts(given, row_N, known, names, record)
