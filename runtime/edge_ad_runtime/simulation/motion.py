"""How far the belt has gone, and when it gets somewhere: exact, for a speed made of constant and ramped stretches."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stretch:
    """From ``t_ns`` and ``mm`` on: speed ``speed`` (mm/ns), changing by ``gain`` (mm/ns²)."""

    t_ns: float
    mm: float
    speed: float
    gain: float


class Motion:
    """Stretch after stretch, the last one without an end."""

    def __init__(self, mm_per_s: float) -> None:
        self._stretches = [Stretch(0.0, 0.0, mm_per_s / 1e9, 0.0)]
        self._times = [0.0]
        self._places = [0.0]

    def ramp(self, t_ns: float, mm_per_s: float, mm_per_s2: float) -> float:
        """From ``t_ns`` on change the speed evenly; returns when it is reached. Times must not run backwards."""
        if t_ns < self._times[-1]:
            raise ValueError(f"{t_ns} lies before the last change of speed")
        before, target = self.speed(t_ns), mm_per_s / 1e9
        gain = math.copysign(mm_per_s2 / 1e18, target - before)
        end = t_ns + abs(target - before) / (mm_per_s2 / 1e18)
        self._append(t_ns, before, gain)
        self._append(end, target, 0.0)
        return end

    def _append(self, t_ns: float, speed: float, gain: float) -> None:
        place = self.at(t_ns)
        self._stretches.append(Stretch(t_ns, place, speed, gain))
        self._times.append(t_ns)
        self._places.append(place)

    @classmethod
    def of(cls, stretches: Sequence[Stretch]) -> Motion:
        """As it was: see :attr:`stretches`."""
        motion = cls(0.0)
        motion._stretches = list(stretches)
        motion._times = [s.t_ns for s in stretches]
        motion._places = [s.mm for s in stretches]
        return motion

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """All of them, in order."""
        return tuple(self._stretches)

    @property
    def changes(self) -> tuple[float, ...]:
        """When the speed, or its change, becomes another."""
        return tuple(self._times[1:])

    def _stretch(self, t_ns: float) -> Stretch:
        return self._stretches[max(bisect_right(self._times, t_ns) - 1, 0)]

    def speed(self, t_ns: float) -> float:
        """In mm/ns."""
        s = self._stretch(t_ns)
        return s.speed + s.gain * (t_ns - s.t_ns)

    def at(self, t_ns: float) -> float:
        """How far the belt has gone, in mm; before the beginning it ran at its first speed."""
        s = self._stretch(t_ns)
        dt = t_ns - s.t_ns
        return s.mm + (s.speed + s.gain * dt / 2) * dt

    def time_at(self, mm: float) -> float:
        """When the belt has gone so far, in ns; infinite if it never does."""
        # A stretch of standing has the same place at both ends: the first time counts, so the stretch before it.
        index = max(bisect_right(self._places, mm) - 1, 0)
        while index > 0 and self._places[index] == mm:
            index -= 1
        s = self._stretches[index]
        way = mm - s.mm
        if s.gain == 0.0:
            return s.t_ns + way / s.speed if s.speed > 0.0 else math.inf
        root = s.speed * s.speed + 2 * s.gain * way
        return s.t_ns + 2 * way / (s.speed + math.sqrt(max(root, 0.0))) if way else s.t_ns

    def steady(self, begin_ns: float, end_ns: float) -> bool:
        """Whether the speed is the same all the time between."""
        first = bisect_right(self._times, begin_ns) - 1
        last = bisect_right(self._times, end_ns) - 1
        return first == last and self._stretches[max(first, 0)].gain == 0.0
