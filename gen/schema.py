"""From plain dicts and command-line strings to typed dataclasses, with errors that help.

A config is described once, by frozen dataclasses. Unknown fields and wrong types are refused
with the nearest valid field; nothing is converted silently except an int where a float is due.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from gen.errors import UserError, nearest


def hints(cls: type) -> dict[str, Any]:
    """Field name -> type of a dataclass, in order."""
    types_of = typing.get_type_hints(cls)
    return {field.name: types_of[field.name] for field in dataclasses.fields(cls)}


def _options(kind: Any) -> tuple[Any, ...]:
    """The members of `X | None`, or the type alone."""
    is_union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if is_union else (kind,)


def _name(kind: Any) -> str:
    names = {type(None): "none", int: "int", float: "float", bool: "true or false", str: "str"}

    def one(option: Any) -> str:
        if typing.get_origin(option) is tuple:
            return f"values with commas between them ({option!s})"
        return names.get(option, str(option))

    return " or ".join(one(option) for option in _options(kind))


def check(kind: Any, value: Any, path: str) -> Any:
    """The value as the given type.

    Raises:
      UserError: naming the path, the expected type and the value.
    """
    if value is None and type(None) in _options(kind):
        return None
    for option in _options(kind):
        if dataclasses.is_dataclass(option):
            return build(option, value, path)
        if typing.get_origin(option) is tuple and isinstance(value, (tuple, list)):
            inner = typing.get_args(option)
            if inner[-1] is Ellipsis:
                inner = (inner[0],) * len(value)
            if len(inner) == len(value):
                pairs = enumerate(zip(inner, value, strict=True))
                return tuple(check(kind, item, f"{path}[{i}]") for i, (kind, item) in pairs)
        elif option is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        # bool is a subclass of int, but true is no number of steps.
        elif typing.get_origin(option) is None and type(value) is option:
            return value
    raise UserError(f"{path} must be {_name(kind)}, not {value!r} ({type(value).__name__})")


def build(cls: type, values: Any, path: str) -> Any:
    """An instance of the dataclass from a nested dict.

    Raises:
      UserError: a field is unknown (the nearest is named), missing, or of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{path} is a group of fields ({', '.join(hints(cls))}), not {values!r}")
    kinds = hints(cls)
    for name in values:
        if name not in kinds:
            raise UserError(f'{path} has no field "{name}"{nearest(str(name), kinds)}')
    for field in dataclasses.fields(cls):
        optional = (
            field.default is not dataclasses.MISSING
            or field.default_factory is not dataclasses.MISSING
        )
        if field.name not in values and not optional:
            raise UserError(
                f"{path}.{field.name} is missing: it must be {_name(kinds[field.name])}"
            )
    return cls(**{name: check(kinds[name], v, f"{path}.{name}") for name, v in values.items()})


def parse(kind: Any, text: str, path: str) -> Any:
    """A command-line string as the given type: `none`, `true`, `1e3` for an int, `a,b` for a tuple.

    Raises:
      UserError: the text is no value of that type.
    """
    stripped = text.strip()
    for option in _options(kind):
        if option is type(None) and stripped.lower() == "none":
            return None
        if option is str and type(None) in _options(kind) and stripped.lower() == "none":
            return None
        if option is str:
            return text
        if option is bool and stripped.lower() in ("true", "false"):
            return stripped.lower() == "true"
        if option in (int, float):
            try:
                number = float(stripped)
            except ValueError:
                continue
            if option is float:
                return number
            if number.is_integer():
                return int(number)
        if typing.get_origin(option) is tuple:
            bare = re.fullmatch(r"[(\[](.*)[)\]]", stripped)
            listed = bare.group(1) if bare else stripped
            items = [item for item in listed.split(",") if item.strip()]
            inner = typing.get_args(option)
            if inner[-1] is Ellipsis:
                inner = (inner[0],) * len(items)
            if len(inner) == len(items):
                pairs = enumerate(zip(inner, items, strict=True))
                return tuple(parse(k, v.strip(" '\""), f"{path}[{i}]") for i, (k, v) in pairs)
    raise UserError(f'{path} must be {_name(kind)}, not "{text}"')


def override(cls: type, values: dict[str, Any], dotted: str, text: str, *, root: str) -> None:
    """Sets `a.b.c` in a nested dict from a command-line string, typed by the dataclasses.

    Raises:
      UserError: the path names no field, or a group of fields, or the value has the wrong type.
    """
    path, parts = root, dotted.split(".")
    for depth, name in enumerate(parts):
        kinds = hints(cls)
        if name not in kinds:
            raise UserError(f'{path} has no field "{name}"{nearest(name, kinds)}')
        path, kind = f"{path}.{name}", kinds[name]
        group = next((k for k in _options(kind) if dataclasses.is_dataclass(k)), None)
        last = depth == len(parts) - 1
        if last and group is None:
            values[name] = parse(kind, text, path)
        elif last:
            raise UserError(f"{path} is a group of fields: {', '.join(hints(group))}")
        elif group is None:
            raise UserError(f'{path} is a value; it has no field "{parts[depth + 1]}"')
        else:
            if values.get(name) is None:  # a group left out, or none by default
                values[name] = {}
            values, cls = values[name], group


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Dotted paths at which two nested dicts (or values) differ."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        keys = list(dict.fromkeys([*a, *b]))
        dotted = ((key, f"{path}.{key}" if path else str(key)) for key in keys)
        return [d for key, p in dotted for d in differences(a.get(key), b.get(key), p)]
    return [] if a == b else [path]
