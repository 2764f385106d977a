"""Virtual time: what happens next, in order."""

from __future__ import annotations

import heapq
from collections.abc import Callable

Happening = Callable[[int], None]


class Agenda:
    """Happenings by time; those of one time in the order in which they were planned."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Happening]] = []
        self._planned = 0

    def at(self, t_ns: float, happening: Happening) -> None:
        """Call it with the time when it has come."""
        self._planned += 1
        heapq.heappush(self._heap, (round(t_ns), self._planned, happening))

    def run(self, until: Callable[[], bool]) -> int:
        """Let time pass until ``until`` says so or nothing is planned; returns the time."""
        now = 0
        heap = self._heap
        while heap and not until():
            t, _, happening = heapq.heappop(heap)
            now = max(now, t)
            happening(now)
        return now

    def play(self, wait: Callable[[int], int | None]) -> None:
        """Let real time pass until nothing is planned. ``wait`` waits for the next happening's time and returns the time
        that it has become, or None: nothing more happens."""
        heap = self._heap
        while heap:
            now = wait(heap[0][0])
            if now is None:
                return
            heapq.heappop(heap)[2](now)
