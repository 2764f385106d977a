"""What was meant by a key that is not known: the right unit, the right table, the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

_FACTORS = {
    "time": {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3, "sec": 1e3, "seconds": 1e3, "min": 6e4},
    "length": {"um": 1e-3, "mm": 1.0, "cm": 10.0, "m": 1e3},
    "counts": {"counts": 1.0},
    "speed": {"mm_per_s": 1.0, "cm_per_s": 10.0, "m_per_s": 1e3, "m_per_min": 1e3 / 60},
    "count speed": {"counts_per_s": 1.0},
    "storage": {"kb": 1e-3, "mb": 1.0, "gb": 1e3},
    "temperature": {"k": 1.0},
}
_NAMES = {
    "s": "seconds",
    "us": "microseconds",
    "ms": "milliseconds",
    "mm": "millimetres",
    "counts": "counts of the encoder",
    "mm_per_s": "millimetres a second",
    "counts_per_s": "counts a second",
    "mb": "megabytes",
    "k": "kelvin",
}
# The longest first, so that "belt_mm_per_s" is not taken for seconds.
_SUFFIXES = sorted(
    ((unit, kind) for kind, units in _FACTORS.items() for unit in units), key=lambda u: -len(u[0])
)


def split_unit(key: str) -> tuple[str, str, str]:
    """A key's name without its unit, the unit, and what it measures; the last two are empty where there is none."""
    for unit, kind in _SUFFIXES:
        if key == unit:
            return "", unit, kind
        if key.endswith(f"_{unit}"):
            return key.removesuffix(f"_{unit}"), unit, kind
    return key, "", ""


def unit_name(key: str) -> str:
    """The unit in a key's name in words, or an empty text."""
    return _NAMES.get(split_unit(key)[1], "")


def remedy(key: str, value: Any, table: str, tables: Mapping[str, Iterable[str]]) -> str:
    """What to write instead of an unknown key.

    Args:
        key: the unknown key.
        value: what was given for it.
        table: the table in which it stands; empty at the top of the file.
        tables: the keys of each table; of the top of the file the keys that are not tables.
    """
    if (text := _other_unit(key, value, table, tables)) is not None:
        return text
    if (text := _other_table(key, tables)) is not None:
        return text
    known = list(tables[table]) if table else [*tables[table], *filter(None, tables)]
    near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"


def _other_unit(key: str, value: Any, table: str, tables: Mapping[str, Iterable[str]]) -> str | None:
    stem, unit, kind = split_unit(key.lower())
    # `travel_s` at the top of the file, or in [travel], means the plain units of [travel].
    places = [(table, stem)]
    if stem == table:
        places.append((table, ""))
    if not table and stem in tables:
        places.append((stem, ""))
    for place, name in places:
        meant = [k for k in tables[place] if split_unit(k)[1] and split_unit(k)[0] == name]
        meant = [k for k in meant if split_unit(k)[2] == kind] or meant
        if not meant:
            continue
        where = "" if place == table else f" in [{place}]"
        if len(meant) == 1:
            written = _converted(value, unit, meant[0])
            return f"the unit is in the key's name: write {meant[0]}{written}{where} ({unit_name(meant[0])})"
        names = " or ".join(f"{k} ({unit_name(k)})" for k in meant)
        return f"the unit is in the key's name: write {names}{where}"
    return None


def _converted(value: Any, unit: str, key: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    _, right, kind = split_unit(key)
    factors = _FACTORS[kind]
    if not unit:
        return f" = {value:.10g}"
    return f" = {value * factors[unit] / factors[right]:.10g}" if unit in factors else ""


def _other_table(key: str, tables: Mapping[str, Iterable[str]]) -> str | None:
    places = [table for table, keys in tables.items() if key in keys]
    if not places or len(places) > 3:
        return None
    named = " or ".join(f"[{p}]" if p != "output" else "[[output]]" for p in places if p)
    return f"belongs in {named}" if named else "belongs at the top of the file, before the first table"
