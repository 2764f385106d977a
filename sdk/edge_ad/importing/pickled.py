"""Reading a pickle as data: no class of the file is looked up, nothing in it is called.

Python's unpickler calls whatever a file names. This one knows the opcodes only as a way of writing down
values: a name stays a :class:`Global`, an object a :class:`Record` of what the file would have built it from.
"""

from __future__ import annotations

import pickletools
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from edge_ad_runtime.errors import InputError

# The description of a checkpoint takes some 100 kB; its weights lie outside the pickle.
MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class Global:
    """The name of a function or class, which is not looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Record:
    """An object that is not built: what would have been called, with what, and what would have been put in.

    ``entries`` are a mapping's, ``elements`` a sequence's.
    """

    of: Global
    args: tuple[Any, ...]
    state: Any = None
    entries: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)


class Malformed(ValueError):
    """What a pickle says makes no sense as data."""


Build: TypeAlias = Callable[[tuple[Any, ...]], Any]
"""Turns the arguments that a file gives to a known function into data; raises Malformed where it cannot."""

_ORDERED_DICT = Global("collections", "OrderedDict")
_KEYS = (str, bytes, int, float, Global, Record, type(None))
_LITERALS = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
})  # fmt: skip
_FIXED: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class _Mark:
    """Where a run of values on the stack begins."""


def read_pickle(data: bytes, known: Mapping[Global, Build], persistent: Build, where: str) -> Any:
    """The value in a pickle: None, bool, int, float, str, bytes, tuple, list, dict, Global or Record.

    Args:
        data: the pickle, protocol 0 to 5.
        known: what the functions of these names make of their arguments; ``OrderedDict`` becomes a dict anyway.
        persistent: makes the value of a persistent id, which it gets as the one argument.
        where: names the file in errors.

    Raises:
        InputError: the pickle is damaged, too long, or uses something that data has no use for.
    """
    if len(data) > MAX_BYTES:
        raise InputError(
            f"{where}: its description takes {len(data)} bytes; a model's takes no more than {MAX_BYTES}"
        )
    reader = _Reader(known, persistent)
    try:
        return _run(reader, data)
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        OverflowError,
        struct.error,
        Warning,
    ) as error:
        raise InputError(f"{where}: is damaged, or not written by torch.save ({error})") from error


def _run(reader: _Reader, data: bytes) -> Any:
    with warnings.catch_warnings():
        # pickletools warns of texts with escapes that do not exist, which no pickle has.
        warnings.simplefilter("error")
        for opcode, arg, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return reader.pop()
            reader.step(opcode.name, arg)
    raise Malformed("it has no end")


def mapping(value: Any) -> dict[Any, Any]:
    """The entries of a dict, or of an object of a class derived from it; nothing for anything else."""
    if isinstance(value, Record):
        return value.entries
    return value if isinstance(value, dict) else {}


class _Reader:
    """The stack machine of the pickle protocol; raises Malformed where a file breaks its rules."""

    def __init__(self, known: Mapping[Global, Build], persistent: Build) -> None:
        self._known, self._persistent = known, persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, arg: Any) -> None:
        """Execute one opcode."""
        if name in _LITERALS:
            self._push(arg)
        elif name in _FIXED:
            self._push(_FIXED[name])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[arg] = self._top()
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._top()
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self._push(self._memo[arg])
        elif (method := _OPERATIONS.get(name)) is not None:
            method(self, arg)
        else:
            raise Malformed(f"the opcode {name} has no place in a model's file")

    def pop(self) -> Any:
        """The value on top, taken off."""
        value = self._stack.pop()
        if isinstance(value, _Mark):
            raise Malformed("a value is missing")
        return value

    def _top(self) -> Any:
        value = self.pop()
        self._push(value)
        return value

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _since_mark(self) -> list[Any]:
        values: list[Any] = []
        while not isinstance(value := self._stack.pop(), _Mark):
            values.append(value)
        values.reverse()
        return values

    def _nothing(self, _arg: Any) -> None:
        pass

    def _mark(self, _arg: Any) -> None:
        self._push(_Mark())

    def _drop(self, _arg: Any) -> None:
        self._stack.pop()

    def _drop_to_mark(self, _arg: Any) -> None:
        self._since_mark()

    def _duplicate(self, _arg: Any) -> None:
        self._push(self._top())

    def _empty_list(self, _arg: Any) -> None:
        self._push([])

    def _empty_dict(self, _arg: Any) -> None:
        self._push({})

    def _list(self, _arg: Any) -> None:
        self._push(self._since_mark())

    def _tuple(self, _arg: Any) -> None:
        self._push(tuple(self._since_mark()))

    def _dict(self, _arg: Any) -> None:
        values, target = self._since_mark(), dict[Any, Any]()
        _set_items(target, values)
        self._push(target)

    def _tuple1(self, _arg: Any) -> None:
        self._push((self.pop(),))

    def _tuple2(self, _arg: Any) -> None:
        b, a = self.pop(), self.pop()
        self._push((a, b))

    def _tuple3(self, _arg: Any) -> None:
        c, b, a = self.pop(), self.pop(), self.pop()
        self._push((a, b, c))

    def _append(self, _arg: Any) -> None:
        value = self.pop()
        _elements(self._top()).append(value)

    def _appends(self, _arg: Any) -> None:
        values = self._since_mark()
        _elements(self._top()).extend(values)

    def _set_item(self, _arg: Any) -> None:
        value, key = self.pop(), self.pop()
        _set_items(self._top(), [key, value])

    def _set_many(self, _arg: Any) -> None:
        values = self._since_mark()
        _set_items(self._top(), values)

    def _global(self, arg: Any) -> None:
        module, _, name = str(arg).partition(" ")
        self._push(Global(module, name))

    def _stack_global(self, _arg: Any) -> None:
        name, module = self.pop(), self.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise Malformed("a name is not text")
        self._push(Global(module, name))

    def _make(self, what: Any, args: Any) -> None:
        if not (isinstance(what, Global) and isinstance(args, tuple)):
            raise Malformed("something that is no name is called")
        if what in self._known:
            self._push(self._known[what](args))
        elif what == _ORDERED_DICT:
            self._push(_ordered_dict(args))
        else:
            self._push(Record(what, args))

    def _reduce(self, _arg: Any) -> None:
        args, what = self.pop(), self.pop()
        self._make(what, args)

    def _new_with_names(self, _arg: Any) -> None:
        names, args, what = self.pop(), self.pop(), self.pop()
        if not isinstance(names, dict):
            raise Malformed("named arguments are not a mapping")
        self._make(what, args)

    def _inst(self, arg: Any) -> None:
        module, _, name = str(arg).partition(" ")
        self._make(Global(module, name), tuple(self._since_mark()))

    def _obj(self, _arg: Any) -> None:
        what, *args = self._since_mark()
        self._make(what, tuple(args))

    def _build(self, _arg: Any) -> None:
        state = self.pop()
        target = self._top()
        if isinstance(target, Record):
            target.state = state
        elif not isinstance(target, dict):  # a state dict carries attributes, which hold no weights
            raise Malformed("a value that is no object is given attributes")

    def _persistent_id(self, _arg: Any) -> None:
        self._push(self._persistent((self.pop(),)))


_OPERATIONS: dict[str, Callable[[_Reader, Any], None]] = {
    "PROTO": _Reader._nothing,
    "FRAME": _Reader._nothing,
    "MARK": _Reader._mark,
    "POP": _Reader._drop,
    "POP_MARK": _Reader._drop_to_mark,
    "DUP": _Reader._duplicate,
    "EMPTY_LIST": _Reader._empty_list,
    "EMPTY_SET": _Reader._empty_list,
    "EMPTY_DICT": _Reader._empty_dict,
    "LIST": _Reader._list,
    "FROZENSET": _Reader._list,
    "TUPLE": _Reader._tuple,
    "DICT": _Reader._dict,
    "TUPLE1": _Reader._tuple1,
    "TUPLE2": _Reader._tuple2,
    "TUPLE3": _Reader._tuple3,
    "APPEND": _Reader._append,
    "APPENDS": _Reader._appends,
    "ADDITEMS": _Reader._appends,
    "SETITEM": _Reader._set_item,
    "SETITEMS": _Reader._set_many,
    "GLOBAL": _Reader._global,
    "STACK_GLOBAL": _Reader._stack_global,
    "REDUCE": _Reader._reduce,
    "NEWOBJ": _Reader._reduce,
    "NEWOBJ_EX": _Reader._new_with_names,
    "INST": _Reader._inst,
    "OBJ": _Reader._obj,
    "BUILD": _Reader._build,
    "BINPERSID": _Reader._persistent_id,
}


def _elements(target: Any) -> list[Any]:
    if isinstance(target, Record):
        return target.elements
    if not isinstance(target, list):
        raise Malformed("values are appended to something that is no list")
    return target


def _set_items(target: Any, values: list[Any]) -> None:
    entries = target.entries if isinstance(target, Record) else target
    if not isinstance(entries, dict) or len(values) % 2:
        raise Malformed("entries are put into something that is no mapping")
    for key, value in zip(values[::2], values[1::2], strict=True):
        # Only keys whose hash costs nothing: that of a deeply nested tuple would exhaust the stack.
        if not isinstance(key, _KEYS):
            raise Malformed(f"a {type(key).__name__} is used as a key")
        entries[key] = value


def _ordered_dict(args: tuple[Any, ...]) -> dict[Any, Any]:
    target: dict[Any, Any] = {}
    for pair in args[0] if args else ():
        _set_items(target, list(pair))
    return target
