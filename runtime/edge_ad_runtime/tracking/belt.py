"""Where the belt is: positions on one axis, from which every part's way to the ejector is measured."""

from __future__ import annotations

from collections import deque
from typing import Protocol

# Edges kept: the trigger's own time lies a little before its edge is handled, never this many edges.
_KEPT = 64
# Edges over which the speed is taken: few, so that a change of speed is followed at once.
_SPEED_EDGES = 4


class Belt(Protocol):
    """A position that never runs backwards."""

    def position(self, t_ns: int) -> float:
        """The position at a time not in the future, in the belt's unit."""
        ...

    def time_of(self, position: float, now_ns: int) -> int | None:
        """When the position is, or was, reached; None when that cannot be foretold (the belt stands)."""
        ...


class TimedBelt:
    """A belt of constant speed without an encoder: its unit is the nanosecond."""

    def position(self, t_ns: int) -> float:
        return t_ns

    def time_of(self, position: float, now_ns: int) -> int | None:
        return int(position)


class EncodedBelt:
    """A belt with an encoder: its unit is one count.

    Between two edges the position is interpolated, after the last one extrapolated with the latest speed, but never
    past the next count, whose edge has not come. So a belt that stops is at most one count further on than thought.
    """

    def __init__(self) -> None:
        self._edges: deque[tuple[int, float]] = deque(maxlen=_KEPT)
        self._step = 1.0

    def edge(self, t_ns: int, count: float) -> None:
        """The encoder reached ``count`` at ``t_ns``; a reading that does not advance is ignored."""
        if self._edges:
            last_t, last = self._edges[-1]
            if count <= last or t_ns <= last_t:
                return
            self._step = count - last
        self._edges.append((t_ns, count))

    @property
    def _speed(self) -> float:
        """Counts per nanosecond."""
        if len(self._edges) < 2:
            return 0.0
        t1, c1 = self._edges[-1]
        t0, c0 = self._edges[max(0, len(self._edges) - _SPEED_EDGES)]
        return (c1 - c0) / (t1 - t0)

    def position(self, t_ns: int) -> float:
        if not self._edges:
            return 0.0
        last_t, last = self._edges[-1]
        if t_ns >= last_t:
            return last + min((t_ns - last_t) * self._speed, self._step)
        after_t, after = last_t, last
        for t, count in reversed(self._edges):
            if t <= t_ns:
                return count + (after - count) * (t_ns - t) / (after_t - t)
            after_t, after = t, count
        return after

    def time_of(self, position: float, now_ns: int) -> int | None:
        if not self._edges:
            return None
        last_t, last = self._edges[-1]
        if position <= last:
            return self._passed(position)
        speed = self._speed
        if speed <= 0:
            return None
        t = last_t + round((position - last) / speed)
        # The edge before the position is overdue: the belt is slower than it was, by how much is not known yet.
        return None if t < now_ns and position > last + self._step else t

    def _passed(self, position: float) -> int:
        after_t, after = self._edges[-1]
        for t, count in reversed(self._edges):
            if count <= position:
                if after == count:
                    return t
                return t + round((after_t - t) * (position - count) / (after - count))
            after_t, after = t, count
        return after_t
