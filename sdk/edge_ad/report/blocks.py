"""The parts that a page consists of, whatever it is written in. All texts are plain and not yet escaped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Tone: TypeAlias = Literal["good", "bad", "note"]
ChartKind: TypeAlias = Literal["scatter", "histograms", "correlations", "sensitivity", "pareto"]


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Notice:
    """A box that must not be overlooked; ``items`` are a list in it."""

    tone: Tone
    title: str
    text: str = ""
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """``right`` are the numbers of the columns, from 0, that hold numbers."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[int, ...] = ()


@dataclass(frozen=True)
class Fold:
    """A table that is shown on demand."""

    summary: str
    table: Table


@dataclass(frozen=True)
class Chart:
    """A drawn figure; ``alternative`` is for readers who do not see it."""

    kind: ChartKind
    caption: str
    alternative: str


@dataclass(frozen=True)
class ColourScale:
    """The colours of the heat maps, with what they mean."""

    caption: str


@dataclass(frozen=True)
class Heats:
    """An image of the record by its name, with the heat maps of both models beside it; ``large`` for a single one."""

    image: str
    caption: str
    large: bool = False


Block: TypeAlias = Heading | Text | Notice | Table | Fold | Chart | ColourScale | Heats
