"""What a preparation has to say besides its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

_SHOWN = 3


@dataclass
class Findings:
    """Collected on the way: what was done about odd cases, what may be wrong, how many images were left out."""

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    left_out: int = 0


def count(number: int, what: str) -> str:
    """``1 image``, ``2 images``, ``2 categories``."""
    plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{number} {what if number == 1 else plural}"


def some(names: Sequence[str]) -> str:
    """The first names in quotes, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + more
