"""Reading a line file: TOML to :class:`edge_ad_runtime.line.config.LineConfig`, with every error at its line."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edge_ad_runtime.cameras import redact
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.line.config import (
    MOTION,
    CameraSection,
    FailsafeSection,
    HeartbeatSection,
    LineConfig,
    MotionSection,
    OutputSection,
    PicturesSection,
    RecordsSection,
    RegionSection,
    ScorerSection,
    ThresholdSection,
    TravelSection,
    TriggerSection,
)
from edge_ad_runtime.line.key_lines import KeyPath, key_lines
from edge_ad_runtime.line.key_names import remedy, unit_name
from edge_ad_runtime.line.section import Problem, Section, SectionError, expected, value_problem

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST = 1_000_000
"""Bytes of a line file."""
OUTPUT = "output"
SECTIONS: Mapping[str, type[Section]] = {
    section.table: section
    for section in (
        CameraSection,
        RegionSection,
        TriggerSection,
        TravelSection,
        OutputSection,
        HeartbeatSection,
        FailsafeSection,
        RecordsSection,
        PicturesSection,
        ThresholdSection,
        ScorerSection,
    )
}
_TABLES = {
    "": ("name",),
    **{table: tuple(f.name for f in msgspec.structs.fields(s)) for table, s in SECTIONS.items()},
    MotionSection.table: tuple(f.name for f in msgspec.structs.fields(MotionSection)),
}
_OFTEN_MEANT = {
    "outputs": "[[output]]",
    "reject": "[[output]]",
    "rejects": "[[output]]",
    "roi": "[region]",
    "fail_safe": "[failsafe]",
    "encoder": "encoder in [travel]",
    "belt": "belt in [travel]",
    "motion": "[trigger]",
    "images": "[pictures]",
    "events": "[records]",
}
_AT = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$")
_S = TypeVar("_S", bound=Section)


class LineFileError(InputError):
    """A line file that cannot be used; ``problems`` are all that were found, with their lines."""

    def __init__(self, file: str, problems: Iterable[tuple[Problem, int | None]]) -> None:
        self.file = file
        self.problems = tuple(problems)
        super().__init__("\n".join(told(file, problem, line) for problem, line in self.problems))


def told(file: str, problem: Problem, line: int | None) -> str:
    """A problem with its place."""
    place = file if line is None else f"{file}:{line}"
    warning = "warning: " if problem.level == "warning" else ""
    return f"{place}: {warning}{problem.key}: {problem.text}" if problem.key else f"{place}: {problem.text}"


@dataclass(frozen=True)
class LineFile:
    """A line and where it was read from."""

    path: Path
    config: LineConfig
    lines: Mapping[KeyPath, int]

    def line_of(self, key: str) -> int | None:
        """The line of a key, or else of the nearest table around it."""
        return _line_of(key, self.lines)

    def locate(self, problems: Iterable[Problem]) -> list[tuple[Problem, int | None]]:
        """Problems with their lines."""
        return [(problem, self.line_of(problem.key)) for problem in problems]


def read_line_file(path: Path) -> LineFile:
    """Read a line file.

    Raises:
        LineFileError: it is missing, not TOML, or holds what cannot be understood; every problem is told.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
    except OSError as error:
        raise LineFileError(str(path), [(Problem("", f"cannot be read ({error.strerror})"), None)]) from error
    if len(raw) > LARGEST:
        raise LineFileError(str(path), [(Problem("", "is larger than 1 MB; this is no line file"), None)])
    try:
        # An editor may have put a byte order mark before it.
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise LineFileError(
            str(path), [(Problem("", "is not UTF-8 text; save it as UTF-8"), line)]
        ) from error
    return parse_line(text, path)


def parse_line(text: str, path: Path) -> LineFile:
    """Read a line file's text; ``path`` is for messages.

    Raises:
        LineFileError: see :func:`read_line_file`.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LineFileError(str(path), [_syntax(str(error), text)]) from error
    except RecursionError:
        raise LineFileError(str(path), [(Problem("", "is nested too deeply"), None)]) from None
    lines = key_lines(text)
    reader = _Reader(lines)
    config = reader.line(data)
    if config is None:
        raise LineFileError(str(path), sorted(reader.problems, key=lambda p: p[1] or 0))
    return LineFile(path, config, lines)


def _syntax(message: str, text: str) -> tuple[Problem, int | None]:
    at = _AT.search(message)
    line = None if at is None else int(at[1]) if at[1] else max(len(text.splitlines()), 1)
    what = message if at is None else message[: at.start()]
    hint = ""
    if "overwrite" in what.lower():
        hint = "; a key or a table stands there twice"
    elif "invalid value" in what.lower():
        hint = '; texts stand in quotes, as in source = "0"'
    return Problem("", f"is not TOML: {what[:1].lower()}{what[1:]}{hint}"), line


def _line_of(key: str, lines: Mapping[KeyPath, int]) -> int | None:
    path: list[str | int] = []
    for part in key.split("."):
        name, _, number = part.partition("[")
        path.append(name)
        if number:
            path.append(int(number.rstrip("]")) - 1)
    while path:
        if (line := lines.get(tuple(path))) is not None:
            return line
        path.pop()
    return None


class _Reader:
    """Collects problems, so that all are told at once."""

    def __init__(self, lines: Mapping[KeyPath, int]) -> None:
        self._lines = lines
        self.problems: list[tuple[Problem, int | None]] = []

    def line(self, data: Mapping[str, Any]) -> LineConfig | None:
        """The whole line; None when there are problems."""
        for key, value in data.items():
            if key not in SECTIONS and key != "name":
                self._unknown(key, value)
        name = data.get("name", "line")
        wrong = value_problem(name, _field_types(LineConfig)["name"])
        if wrong is not None:
            self._add("name", wrong)
        camera = self._table(CameraSection, data, needed=True)
        outputs = self._outputs(data.get(OUTPUT, []))
        sections = {
            "region": self._table(RegionSection, data),
            "trigger": self._table(TriggerSection, data),
            "travel": self._table(TravelSection, data),
            "heartbeat": self._table(HeartbeatSection, data),
            "pictures": self._table(PicturesSection, data),
            "threshold": self._table(ThresholdSection, data),
        }
        failsafe = self._table(FailsafeSection, data) or FailsafeSection()
        records = self._table(RecordsSection, data) or RecordsSection()
        scorer = self._table(ScorerSection, data) or ScorerSection()
        if self.problems or camera is None:
            return None
        try:
            return LineConfig(
                name=name,
                camera=camera,
                outputs=outputs,
                failsafe=failsafe,
                records=records,
                scorer=scorer,
                **sections,  # type: ignore[arg-type]  # each under its own name
            )
        except SectionError as error:
            for problem in error.problems:
                self._add(problem.key, problem.text)
            return None

    def _add(self, key: str, text: str) -> None:
        self.problems.append((Problem(key, text), _line_of(key, self._lines)))

    def _unknown(self, key: str, value: Any) -> None:
        if isinstance(value, (dict, list)):
            near = difflib.get_close_matches(key.lower(), SECTIONS, n=1, cutoff=0.6)
            meant = _OFTEN_MEANT.get(key.lower()) or (
                None if not near else "[[output]]" if near[0] == OUTPUT else f"[{near[0]}]"
            )
            known = ", ".join("[[output]]" if t == OUTPUT else f"[{t}]" for t in SECTIONS)
            self._add(
                key, "is no known table; " + (f"did you mean {meant}?" if meant else f"known are {known}")
            )
        else:
            self._add(key, f"is not known; {remedy(key, value, '', _TABLES)}")

    def _table(self, kind: type[_S], data: Mapping[str, Any], *, needed: bool = False) -> _S | None:
        table = kind.table
        if table not in data:
            if needed:
                self._add(table, f"is missing; write [{table}]")
            return None
        return self._section(kind, data[table], table)

    def _outputs(self, value: Any) -> tuple[OutputSection, ...]:
        if not isinstance(value, list):
            self._add(OUTPUT, "may be given several times: write [[output]]")
            return ()
        keys = [OUTPUT if len(value) == 1 else f"{OUTPUT}[{i}]" for i in range(1, len(value) + 1)]
        read = [
            self._section(OutputSection, item, key, i)
            for i, (key, item) in enumerate(zip(keys, value, strict=True))
        ]
        return tuple(output for output in read if output is not None)

    def _section(self, kind: type[_S], value: Any, where: str, number: int | None = None) -> _S | None:
        table = kind.table
        path: KeyPath = (*table.split("."),) if number is None else (table, number)
        if not isinstance(value, dict):
            how = (
                f"is given more than once; write [{table}] once"
                if isinstance(value, list)
                else f"must be a table: write [{table}]"
            )
            self._add(where, how)
            return None
        types = _field_types(kind)
        before = len(self.problems)
        if kind is TriggerSection and MOTION in value:
            motion = self._section(MotionSection, value[MOTION], MotionSection.table)
            value = {key: item for key, item in value.items() if key != MOTION} | (
                {} if motion is None else {MOTION: motion}
            )

        def add(key: str, text: str) -> None:
            line = self._lines.get((*path, key)) or self._lines.get(path)
            self.problems.append((Problem(f"{where}.{key}", text), line))

        for key, item in value.items():
            if key not in types:
                add(key, f"is not known; {remedy(key, item, table, _TABLES)}")
            elif (wrong := value_problem(item, types[key])) is not None:
                add(key, wrong + _hint(key, item, types[key]))
        for field in msgspec.structs.fields(kind):
            if field.required and field.name not in value:
                add(field.name, f"is missing; it is {expected(msgspec.inspect.type_info(field.type))}")
        if len(self.problems) > before:
            return None
        try:
            return kind(**{key: msgspec.convert(item, types[key]) for key, item in value.items()})
        except SectionError as error:
            for problem in error.problems:
                add(problem.key, problem.text)
            return None


def _field_types(kind: type[Section]) -> dict[str, Any]:
    return {f.name: f.type for f in msgspec.structs.fields(kind)}


def _hint(key: str, value: Any, kind: Any) -> str:
    """What to write instead of a value of the wrong type."""
    unit = f" ({unit_name(key)})" if unit_name(key) else ""
    if isinstance(value, (dict, list)):
        return unit
    if isinstance(value, str) and value_problem([value], kind) is None:
        return f': write {key} = ["{redact(value)}"]'
    if isinstance(value, str):
        number = re.match(r"\s*([0-9.]+)", value)
        if number is not None and value_problem(_number(number[1]), kind) is None:
            return f"{unit}: write {key} = {number[1]}, without quotes"
        info = msgspec.inspect.type_info(kind)
        choices = [v for t in getattr(info, "types", (info,)) for v in getattr(t, "values", ())]
        near = difflib.get_close_matches(value.lower(), [v for v in choices if isinstance(v, str)], n=1)
        return f'; did you mean "{near[0]}"?' if near else unit
    return f': write {key} = "{value}"' if value_problem(str(value), kind) is None else unit


def _number(text: str) -> float | int | None:
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        return None
