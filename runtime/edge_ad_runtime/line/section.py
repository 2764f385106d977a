"""A table of the line file as a value that checks itself, and how a problem in it is told."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import msgspec

from edge_ad_runtime.cameras import redact
from edge_ad_runtime.errors import InputError

NAME = "^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$"
"""What the name of a line may be: it is also the name of a folder."""
_IN_WORDS = {NAME: 'a text of letters, digits, ".", "_" and "-", at most 40'}


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with a key, and the remedy. An ``error`` keeps the line from starting, a ``warning`` does not.

    ``key`` is a dotted path; of several outputs ``output[2]`` is the second one.
    """

    key: str
    text: str
    level: Literal["error", "warning"] = "error"


class SectionError(InputError):
    """Values that are out of range or do not fit together; ``problems`` are all that were found."""

    def __init__(self, table: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        prefix = f"{table}." if table else ""
        super().__init__("; ".join(f"{prefix}{problem.key}: {problem.text}" for problem in problems))


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the line file. Making one raises :class:`SectionError` where a value is not usable."""

    table: ClassVar[str] = ""

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        for field in msgspec.structs.fields(type(self)):
            wrong = value_problem(getattr(self, field.name), field.type)
            if wrong is not None:
                problems.append(Problem(field.encode_name, wrong))
        problems = problems or list(self.rules())
        if problems:
            raise SectionError(self.table, problems)

    def rules(self) -> Iterator[Problem]:
        """What does not fit together."""
        return iter(())

    def __repr__(self) -> str:
        # Addresses may hold passwords.
        values = ((f.name, getattr(self, f.name), f.default) for f in msgspec.structs.fields(type(self)))
        shown = ", ".join(f"{name}={_hidden(value)!r}" for name, value, default in values if value != default)
        return f"{type(self).__name__}({shown})"


def _hidden(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, tuple):
        return tuple(_hidden(item) for item in value)
    return value


def value_problem(value: Any, kind: Any) -> str | None:
    """What is wrong with a value of a field of this type; None when nothing is."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return f"must be {expected(msgspec.inspect.type_info(kind))}, not {_shown(value)}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"must be {expected(msgspec.inspect.type_info(kind))}, not {_shown(value)}"
    return None


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{redact(value)}"' if len(value) <= 80 else "a text of this length"
    return f"{value:g}" if isinstance(value, float) else "a table" if isinstance(value, dict) else str(value)


def expected(kind: msgspec.inspect.Type) -> str:
    """A type in words, for messages."""
    if isinstance(kind, msgspec.inspect.UnionType):
        return " or ".join(expected(t) for t in kind.types if not isinstance(t, msgspec.inspect.NoneType))
    if isinstance(kind, (msgspec.inspect.FloatType, msgspec.inspect.IntType)):
        noun = "a number" if isinstance(kind, msgspec.inspect.FloatType) else "a whole number"
        if kind.gt is not None and kind.lt is not None:
            return f"{noun} between {kind.gt:g} and {kind.lt:g}"
        if kind.gt is not None:
            return f"{noun} above {kind.gt:g}" + (
                f" and at most {kind.le:.10g}" if kind.le is not None else ""
            )
        if kind.ge is not None:
            return f"{noun} from {kind.ge:.10g}" + (f" to {kind.le:.10g}" if kind.le is not None else " on")
        return noun
    if isinstance(kind, msgspec.inspect.LiteralType):
        return " or ".join(f'"{v}"' if isinstance(v, str) else str(v) for v in kind.values)
    if isinstance(kind, msgspec.inspect.BoolType):
        return "true or false"
    if isinstance(kind, msgspec.inspect.StrType):
        if kind.pattern is not None:
            return _IN_WORDS.get(kind.pattern, f"a text of the form {kind.pattern}")
        return "a text"
    if isinstance(kind, (msgspec.inspect.VarTupleType, msgspec.inspect.ListType)):
        return "a list of texts"
    if isinstance(kind, msgspec.inspect.TupleType):
        return f"a list of {len(kind.item_types)} numbers"
    return "a table"
