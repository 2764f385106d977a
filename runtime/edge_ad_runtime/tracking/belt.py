"""Where the belt is: positions on one axis, from which every part's way to the ejector is measured."""

from __future__ import annotations

from collections import deque
from typing import Protocol

# Edges kept: the trigger's own time lies a little before its edge is handled, never this many edges (0.4 s at 10 kHz).
_KEPT = 4096
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
    """A belt with an encoder: its unit is one count, its origin where the encoder was opened.

    Between two edges the position is interpolated, after the last one extrapolated with the latest speed, but never
    past the next count, whose edge has not come. So a belt that stops is at most one count further on than thought.
    """

    def __init__(self) -> None:
        self._edges: deque[tuple[int, float]] = deque(maxlen=_KEPT)
        self._step = 1.0
        self._offset = 0.0
        self._resumed = False
        self._speed: float | None = 0.0

    def edge(self, t_ns: int, count: float) -> None:
        """The encoder reached ``count`` at ``t_ns``; a reading that does not advance is ignored."""
        count += self._offset
        if self._resumed:
            # The time since the edge before it says nothing of the speed.
            self._resumed = False
            last = self._edges[-1][1] if self._edges else 0.0
            self._edges.clear()
            self._edges.append((t_ns, max(count, last)))
            self._speed = 0.0
            return
        if self._edges:
            last_t, last = self._edges[-1]
            if count <= last or t_ns <= last_t:
                return
            self._step = count - last
            self._speed = None
        self._edges.append((t_ns, count))

    def resume(self) -> None:
        """The encoder was opened anew and counts from 0 again; that is where the last edge was."""
        self._offset = self._edges[-1][1] if self._edges else 0.0
        self._resumed = True

    def _current_speed(self) -> float:
        """Counts per nanosecond, over the latest edges at the latest speed: after a stop, or a change of speed to less
        than half or more than twice, the edges before it say nothing."""
        if self._speed is not None:
            return self._speed
        edges = self._edges
        newest_t, newest = edges[-1]
        t0, c0 = edges[-2]
        pace = (newest_t - t0) / (newest - c0)
        for index in range(len(edges) - 3, max(-1, len(edges) - 1 - _SPEED_EDGES), -1):
            t, count = edges[index]
            if not pace / 2 <= (t0 - t) / (c0 - count) <= 2 * pace:
                break
            t0, c0 = t, count
        self._speed = (newest - c0) / (newest_t - t0)
        return self._speed

    def position(self, t_ns: int) -> float:
        if not self._edges:
            return 0.0
        last_t, last = self._edges[-1]
        if t_ns >= last_t:
            return last + min((t_ns - last_t) * self._current_speed(), self._step)
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
        speed = self._current_speed()
        if speed <= 0:
            return None
        since = now_ns - last_t
        if since * speed > self._step:
            # The next edge is overdue, so the belt has become slower: at least by so much.
            speed = self._step / since
        return last_t + round((position - last) / speed)

    def _passed(self, position: float) -> int:
        after_t, after = self._edges[-1]
        for t, count in reversed(self._edges):
            if count <= position:
                if after == count:
                    return t
                return t + round((after_t - t) * (position - count) / (after - count))
            after_t, after = t, count
        return after_t
