"""`python -m tests.parity DIR...`: holds our code against cases made by published code.

A case is a folder with `meta.json`, `weights.safetensors` and `io.npz`. Only arrays of role
`input` and the settings in `config` and `decode` reach the model. Every array of role `output` is
computed anew and must lie within its own tolerance; intermediates are compared where the system
offers them, to help find a fault, and decide nothing. Exit code 0 means that every output of every
case holds and that each case has one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gen.errors import UserError
from gen.published import from_published, system_named

INFINITY = 1e30  # cases store -inf as -1e30


@dataclasses.dataclass
class Result:
    """How one array came out: `error` is the largest difference, `text` a complaint or empty."""

    name: str
    role: str
    passed: bool
    error: float
    text: str


class Case:
    """One case, whose outputs the model cannot reach.

    Attributes:
      inputs: arrays of role `input`.
      expected: the other arrays, for comparison alone.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        self.roles = {name: about["role"] for name, about in self.meta["arrays"].items()}
        self.decode: Mapping[str, Any] = self.meta.get("decode", {})
        with np.load(folder / "io.npz", allow_pickle=False) as arrays:
            stored = {name: arrays[name] for name in arrays.files}
        self.inputs = {n: stored[n] for n, role in self.roles.items() if role == "input"}
        self.expected = {n: stored[n] for n, role in self.roles.items() if role != "input"}
        self.system = system_named(self.meta["system"])
        self.model = from_published(
            self.system.name, folder / "weights.safetensors", self.meta["config"]
        )
        self._computed: dict[str, np.ndarray] = {}

    def compute(self, name: str) -> np.ndarray:
        """Our value of an array that is no input.

        Raises:
          LookupError: the system does not say how.
        """
        if name not in self._computed:
            self._computed[name] = np.asarray(self._call(name))
        return self._computed[name]

    def _call(self, name: str) -> Any:
        entry = self.entry(name)
        if "function" not in entry:
            output = self.system.output(name)
            if output is None:
                raise LookupError(f"{self.system.name} does not compute it")
            return output(self.model, self.inputs)
        function = self.system.functions.get(entry["function"])
        if function is None:
            raise LookupError(f"{self.system.name} has no function {entry['function']}")
        given = entry.get("inputs", {}) | entry.get("injected", {})
        arguments = {name: self._argument(text) for name, text in given.items()}
        return function(self.model, entry, arguments)

    def entry(self, name: str) -> Mapping[str, Any]:
        """How the reference computed an array: its own settings over those of the same run."""
        entry = self.decode.get(name, {})
        return self.entry(entry["same_run_as"]) | entry if "same_run_as" in entry else entry

    def _argument(self, text: str) -> np.ndarray:
        """An array by name, with a slice after it if any, such as `logits[:, -6:]`.

        An output that the reference fed back is our own, never the case's.
        """
        name, cut = re.match(r"(\w+)(\[[^]]*\])?", text).groups()
        if name not in self.roles:
            raise LookupError(f'its argument "{text}" is no array of the case')
        array = self.inputs[name] if name in self.inputs else self.compute(name)
        return array[indices(cut[1:-1])] if cut else array

    def compare(self, name: str) -> Result:
        """Computes one array and holds it against the stored one."""
        about, expected = self.meta["arrays"][name], self.expected[name]
        role = about["role"]
        try:
            found = self.compute(name)
        except LookupError as error:
            return Result(name, role, False, np.nan, str(error))
        except UserError as error:
            return Result(name, role, False, np.nan, f"refused: {error}")
        if found.shape != expected.shape:
            text = f"shape {found.shape}, not {expected.shape}"
            return Result(name, role, False, np.nan, text)
        error, passed = distance(found, expected, about)
        return Result(name, role, passed, error, "" if passed else limits(about))


def indices(text: str) -> tuple[int | slice, ...]:
    """Whole numbers and slices of them, with commas between.

    Raises:
      LookupError: the text holds anything else.
    """
    found: list[int | slice] = []
    for part in text.split(","):
        bounds = [bound.strip() for bound in part.split(":")]
        if not all(re.fullmatch(r"-?\d+" if len(bounds) == 1 else r"(-?\d+)?", b) for b in bounds):
            raise LookupError(f'"[{text}]" holds more than whole numbers and slices')
        numbers = [int(bound) if bound else None for bound in bounds]
        found.append(slice(*numbers) if len(numbers) > 1 else numbers[0])
    return tuple(found)


def distance(
    found: np.ndarray, expected: np.ndarray, about: Mapping[str, Any]
) -> tuple[float, bool]:
    """Largest difference, and whether all lie within the array's own tolerance."""
    found = np.where(np.isneginf(found), -INFINITY, found) if found.dtype.kind == "f" else found
    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    largest = float(difference.max(initial=0.0))
    if about.get("exact"):
        return largest, bool(np.array_equal(found, expected))
    if "atol" not in about and "rtol" not in about:
        return largest, about["role"] != "output"  # an output without a tolerance shows nothing
    bound = about.get("atol", 0.0) + about.get("rtol", 0.0) * np.abs(expected.astype(np.float64))
    return largest, bool(np.all(difference <= bound))  # NaN fails


def limits(about: Mapping[str, Any]) -> str:
    """The tolerance in words."""
    if about.get("exact"):
        return "must be equal"
    given = [f"{name} {about[name]:g}" for name in ("atol", "rtol") if name in about]
    return f"allowed: {', '.join(given) or 'nothing (no tolerance given)'}"


def run_case(folder: Path) -> list[Result]:
    """All arrays of a case; one failed result if it cannot be opened."""
    try:
        case = Case(folder)
        return [case.compare(name) for name in case.expected]
    except Exception as error:  # a fault of ours in one case must not hide the others
        if not isinstance(error, (UserError, OSError)):
            traceback.print_exc()
        return [Result("(case)", "output", False, np.nan, f"{type(error).__name__}: {error}")]


def report(folder: Path, results: list[Result]) -> bool:
    """Prints a case; true if it has outputs and all of them hold."""
    outputs = [result for result in results if result.role == "output"]
    passed = bool(outputs) and all(result.passed for result in outputs)
    held = sum(result.passed for result in outputs)
    print(f"{'pass' if passed else 'FAIL'}  {folder}  {held} of {len(outputs)} outputs")
    for result in results:
        is_output = result.role == "output"
        word = ("ok" if result.passed else "FAIL") if is_output else "info"
        error = "-" if np.isnan(result.error) else f"{result.error:.3g}"
        print(f"      {word:<5}{result.name:<28}{error:<12}{result.text}")
    return passed


def main(argv: list[str] | None = None) -> int:
    """Entry point; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("cases", nargs="+", type=Path, metavar="DIR")
    folders = parser.parse_args(argv).cases
    passed = [report(folder, run_case(folder)) for folder in folders]
    print(f"{sum(passed)} of {len(passed)} cases hold")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
