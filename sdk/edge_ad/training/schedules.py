"""Schedules of the hard-feature quantile and of the learning rate, as functions of the training's progress."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

from edge_ad_runtime.errors import InputError

RATE_DROP = 0.1


@dataclass(frozen=True)
class Schedule:
    """A quantile over the training: ``points`` are pairs of progress (0 to 1, rising) and value.

    ``linear`` and ``cosine`` go from the first value to the last; ``steps`` holds each value from its point
    on. A fixed quantile is ``steps`` with one point.
    """

    kind: Literal["linear", "cosine", "steps"]
    points: tuple[tuple[float, float], ...]

    def at(self, progress: float) -> float:
        """The quantile at a progress of 0 to 1."""
        first, last = self.points[0][1], self.points[-1][1]
        if self.kind == "linear":
            return first + (last - first) * progress
        if self.kind == "cosine":
            return last + (first - last) * 0.5 * (1 + math.cos(math.pi * progress))
        return [value for start, value in self.points if start <= progress][-1]


def parse_schedule(text: str) -> Schedule:
    """Read ``0.999``, ``linear:0.9:0.999``, ``cosine:0.9:0.999`` or ``steps:0.9@0,0.99@0.5,0.999@0.8``.

    Raises:
        InputError: the text is none of these, or a number is out of range.
    """
    kind, _, rest = text.partition(":")
    try:
        if kind in ("linear", "cosine"):
            first, last = map(float, rest.split(":"))
            schedule = Schedule(cast('Literal["linear", "cosine"]', kind), ((0.0, first), (1.0, last)))
        elif kind == "steps":
            pairs = [part.split("@") for part in rest.split(",")]
            schedule = Schedule("steps", tuple((float(start), float(value)) for value, start in pairs))
        else:
            schedule = Schedule("steps", ((0.0, float(text)),))
    except ValueError:
        raise InputError(
            f"the hard-feature quantile '{text}' is not known; use a number (0.999), linear:0.9:0.999, "
            "cosine:0.9:0.999 or steps:0.9@0,0.99@0.5,0.999@0.8"
        ) from None
    starts = [start for start, _ in schedule.points]
    if starts[0] != 0 or starts != sorted(set(starts)) or not starts[-1] <= 1:
        raise InputError(f"the hard-feature quantile '{text}': its points must rise from 0 to at most 1")
    if not all(0 < value < 1 for _, value in schedule.points):
        raise InputError(f"the hard-feature quantile '{text}': values must lie between 0 and 1")
    return schedule


def rate_factor(step: int, end: int, decay_at: float) -> float:
    """What the learning rate is multiplied by: 1, then a tenth from ``decay_at`` of the steps on."""
    return RATE_DROP if step >= decay_at * end else 1.0
