"""The pickle inside a torch file, followed without executing anything.

`pickletools` cuts the stream into instructions, of which those that `torch.save` writes are
followed here. A pickle names the functions it wants to run; here a name is only compared with a
list, never imported, so that nothing a file says can be called. Python's own unpickler is not
used even with a list of allowed names: an instruction of 5 bytes makes it allocate gigabytes.
"""

from __future__ import annotations

import dataclasses
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

import ml_dtypes  # noqa: F401
import numpy as np

from gen.errors import UserError

MAX_BYTES = 64 * 2**20
MAX_INSTRUCTIONS = 500_000
MAX_DIMS = 32

# The names that NumPy and torch share; ml_dtypes adds bfloat16 to those of NumPy.
_STORED = {
    "float32": "Float", "float64": "Double", "float16": "Half", "bfloat16": "BFloat16",
    "int64": "Long", "int32": "Int", "int16": "Short", "int8": "Char", "uint8": "Byte",
    "bool": "Bool",
}  # fmt: skip
_STORAGES = {f"torch.{name}Storage": np.dtype(dtype) for dtype, name in _STORED.items()}
# Saved dtypes are names without a call; they are kept as text.
_DTYPES = {f"torch.{dtype}" for dtype in _STORED}


@dataclasses.dataclass(frozen=True)
class Name:
    """An allowed name: a storage type or one of `_CALLS`."""

    text: str


@dataclasses.dataclass(frozen=True)
class Storage:
    """A run of `numel` numbers, kept outside the pickle under `key`."""

    dtype: np.dtype
    key: str
    numel: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage; `offset` and `strides` count elements, and all of it lies inside."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(eq=False)
class Namespace:
    """The fields of an `argparse.Namespace`."""

    fields: dict[str | int, Any]


def shown(text: str) -> str:
    """Text of unknown origin for a message: in double quotes, one line, cut at 80 characters."""
    plain = repr(text[:81])[1:-1]
    return f'"{plain if len(plain) <= 80 else plain[:80] + "..."}"'


def need(condition: Any, problem: str) -> None:
    """Raises `UserError` with the problem unless the condition holds."""
    if not condition:
        raise UserError(problem)


def intact(condition: bool, problem: str) -> None:
    """Raises `UserError` that the pickle is damaged unless the condition holds."""
    need(condition, f"its pickle is damaged ({problem})")


def is_count(value: Any) -> bool:
    """Whether this is a whole number from 0 that fits into 64 bits with a sign."""
    return type(value) is int and 0 <= value < 2**63


def follow(file: BinaryIO, limit: int) -> Any:
    """The value that a pickle describes; the file is left standing behind the pickle.

    Args:
      file: stands at the first byte of the pickle.
      limit: number of bytes that the pickle may have at most.

    Returns:
      dicts (with keys of text or whole numbers), lists, tuples (a device too), numbers, text,
      bytes, None, `Tensor` and `Namespace`, possibly shared and possibly within themselves.

    Raises:
      UserError: the pickle is damaged, too large, or asks for anything else.
    """
    machine = _Machine(_Limited(file, min(limit, MAX_BYTES)))
    try:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(machine.stream)):
            need(count < MAX_INSTRUCTIONS, f"its pickle has over {MAX_INSTRUCTIONS} instructions")
            step = _STEPS.get(instruction.name)
            need(step, f"its pickle has a {instruction.name}, which torch.save does not write")
            step(machine, argument)
    except ValueError as error:
        raise UserError(f"its pickle is damaged ({shown(str(error))[1:-1]})") from None
    value = machine.pop()
    intact(not machine.stack and not machine.below, "values are left over")
    return value


class _Limited:
    """The next `left` bytes of a file, as `pickletools` reads them."""

    def __init__(self, file: BinaryIO, left: int) -> None:
        self.file = file
        self.left = left

    def read(self, count: int) -> bytes:
        data = self.file.read(min(count, self.left))
        self.left -= len(data)
        return data

    def readline(self) -> bytes:
        line = self.file.readline(self.left)
        self.left -= len(line)
        return line


class _Machine:
    """The stack since the last mark, the stacks below earlier marks, and the memo."""

    def __init__(self, stream: _Limited) -> None:
        self.stream = stream
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        intact(bool(self.stack), "a value is missing")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        """The value on top, which stays there and must be of this kind."""
        fits = bool(self.stack) and isinstance(self.stack[-1], kind)
        intact(fits, f"a {kind.__name__} is missing")
        return self.stack[-1]

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        intact(bool(self.below), "a mark is missing")
        values, self.stack = self.stack, self.below.pop()
        return values

    def last(self, count: int) -> tuple[Any, ...]:
        """The last values, taken off, in the order in which they came."""
        return tuple([self.pop() for _ in range(count)][::-1])

    def remember(self, index: int) -> None:
        intact(index < MAX_INSTRUCTIONS, f"place {index} in its memo")
        self.memo[index] = self.top(object)

    def recall(self, index: int) -> None:
        intact(index in self.memo, "nothing in that place of its memo")
        self.push(self.memo[index])

    def append(self, values: list[Any]) -> None:
        self.top(list).extend(values)

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        intact(len(items) % 2 == 0, "a key without a value")
        for key, value in zip(items[::2], items[1::2]):
            need(type(key) in (str, int), f"a key is a {type(key).__name__}; expected text")
            target[key] = value

    def global_from_stack(self) -> None:
        module, name = self.last(2)
        intact(isinstance(module, str) and isinstance(name, str), "a name")
        self.push(_named(f"{module} {name}"))

    def call(self) -> None:
        function, arguments = self.last(2)
        intact(isinstance(function, Name), "a call of what is no function")
        make, counts = _CALLS.get(function.text, (None, ()))
        fits = isinstance(arguments, tuple) and len(arguments) in counts
        intact(fits, "a call with other arguments")
        self.push(make(*arguments))

    def new_object(self) -> None:
        kind, arguments = self.last(2)
        intact(kind == Name("argparse.Namespace") and arguments == (), "an unknown object")
        self.push(Namespace({}))

    def build(self) -> None:
        state = self.pop()
        target = self.top(object)
        need(isinstance(state, dict), "its pickle sets a state that is no dict")
        if isinstance(target, Namespace):
            need(not target.fields, "its pickle fills an argparse.Namespace twice")
            target.fields = state
        # A dict may carry attributes, as `_metadata` of a state_dict: no weights, left out.
        need(isinstance(target, Namespace | dict), "its pickle sets the state of what has none")


def _named(text: str) -> Any:
    """The inert value for the name `module name`; any name but the known ones is refused."""
    name = text.replace(" ", ".", 1)
    if name in _DTYPES:
        return name
    need(
        name in _STORAGES or name in _CALLS,
        f"it would run {shown(name)}, which is no tensor; refused",
    )
    return Name(name)


def _tensor(storage, offset, shape, strides, requires_grad, hooks, flags=None) -> Tensor:
    need(flags is None or flags == {}, "a tensor that is conjugated or negated")
    need(isinstance(storage, Storage), "a tensor without a storage")
    fits = isinstance(shape, tuple) and isinstance(strides, tuple)
    need(fits and len(shape) == len(strides) <= MAX_DIMS, "a tensor without a proper shape")
    fits = is_count(offset) and all(map(is_count, (*shape, *strides)))
    need(fits, "a tensor with a negative or fractional offset, shape or stride")
    span = 0 if 0 in shape else 1 + sum((n - 1) * stride for n, stride in zip(shape, strides))
    end = offset + span
    need(end <= storage.numel, f"a tensor takes {end} elements of a storage of {storage.numel}")
    return Tensor(storage, offset, shape, strides)


def _storage(pid: Any) -> Storage:
    """A storage of ("storage", type, key, place, numel, [view of another storage])."""
    fits = isinstance(pid, tuple) and len(pid) in (5, 6) and pid[5:] in ((), (None,))
    need(fits and pid[0] == "storage", "its pickle points to something that is no storage")
    kind, key, numel = pid[1], pid[2], pid[4]
    need(isinstance(kind, Name) and kind.text in _STORAGES, "a storage of an unknown type")
    need(isinstance(key, str) and is_count(numel), "a storage without a key or a size")
    return Storage(_STORAGES[kind.text], key, numel)


# Each with the numbers of arguments that it may have.
_CALLS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "collections.OrderedDict": (dict, (0,)),
    "argparse.Namespace": (Namespace, ()),
    "torch._utils._rebuild_tensor_v2": (_tensor, (6, 7)),
    "torch._utils._rebuild_parameter": (lambda tensor, requires_grad, hooks: tensor, (3,)),
    "torch.Size": (lambda sizes: sizes, (1,)),
    "torch.device": (lambda *place: place, (1, 2)),
}
_LITERALS = (
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINSTRING", "SHORT_BINSTRING",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
)  # fmt: skip
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(_LITERALS, _Machine.push),
    "PROTO": lambda m, version: need(2 <= version <= 5, f"its pickle has protocol {version}"),
    "FRAME": lambda m, size: intact(size <= m.stream.left, "a frame ends outside"),
    "STOP": lambda m, _: None,
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "MARK": lambda m, _: m.mark(),
    "TUPLE": lambda m, _: m.push(tuple(m.since_mark())),
    "TUPLE1": lambda m, _: m.push(m.last(1)),
    "TUPLE2": lambda m, _: m.push(m.last(2)),
    "TUPLE3": lambda m, _: m.push(m.last(3)),
    "APPEND": lambda m, _: m.append([m.pop()]),
    "APPENDS": lambda m, _: m.append(m.since_mark()),
    "SETITEM": lambda m, _: m.set_items(list(m.last(2))),
    "SETITEMS": lambda m, _: m.set_items(m.since_mark()),
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": lambda m, _: m.remember(len(m.memo)),
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "INST": lambda m, name: need(not _named(name), "its pickle makes an object in an old way"),
    "GLOBAL": lambda m, name: m.push(_named(name)),
    "STACK_GLOBAL": lambda m, _: m.global_from_stack(),
    "REDUCE": lambda m, _: m.call(),
    "NEWOBJ": lambda m, _: m.new_object(),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.push(_storage(m.pop())),
}
