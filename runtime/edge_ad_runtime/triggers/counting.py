"""Counters that wrap around, jump or run backwards: plain arithmetic."""

from __future__ import annotations

from edge_ad_runtime.triggers.base import TriggerError

# Readings of one batch may carry nearly the same time, and a belt does not start or stop in less.
_RATE_WINDOW_NS = 100_000_000


class Wrapping:
    """A counter of so many bits, read now and then."""

    def __init__(self, bits: int, value: int) -> None:
        self._size = 1 << bits
        self._last = value % self._size

    def step(self, value: int) -> int:
        """How far it has gone since the last reading, from -half its range to half of it."""
        half = self._size // 2
        step = (value - self._last + half) % self._size - half
        self._last = value % self._size
        return step


class Numbering:
    """Running numbers of a sender, one for each of its triggers."""

    def __init__(self) -> None:
        self._last: int | None = None

    def lost(self, number: int) -> int:
        """How many numbers were left out before this one. A number that does not rise is that of a sender that was
        started anew: at least one is taken for lost."""
        last, self._last = self._last, number
        if last is None:
            return 0
        return number - last - 1 if number > last else 1


class Farthest:
    """An encoder's signed steps as counts that never run backwards.

    After a step back the count stands until the farthest position is reached again: what lies on the belt is then as far
    from the ejector as it was. A belt that goes back further than ``max_back`` counts is taken for moved by hand.
    """

    def __init__(self, name: str, max_back: int | None = None) -> None:
        self._name = name
        self._max_back = max_back
        self._position = 0
        self._farthest = 0

    def go(self, step: int) -> int | None:
        """The new count, None while it stands.

        Raises:
            TriggerError: the belt went back too far.
        """
        self._position += step
        if self._position > self._farthest:
            self._farthest = self._position
            return self._farthest
        back = self._farthest - self._position
        if self._max_back is not None and back > self._max_back:
            raise TriggerError(f"{self._name}: ran back by {back} counts (max_back={self._max_back})")
        return None


class RateLimit:
    """Refuses steps that no belt makes: a counter that was reset, a reading torn between two registers, noise."""

    def __init__(self, name: str, per_second: float, t_ns: int) -> None:
        self._name = name
        self._per_second = per_second
        self._last_ns = t_ns

    def check(self, step: int, t_ns: int) -> None:
        """
        Raises:
            TriggerError: the step since the last check is larger than the highest rate allows, in either direction.
        """
        most = self._per_second * (t_ns - self._last_ns + _RATE_WINDOW_NS) / 1e9
        if abs(step) > most:
            raise TriggerError(
                f"{self._name}: jumped by {step} counts, more than max_rate={self._per_second:g} allows"
            )
        self._last_ns = t_ns


class Quadrature:
    """Two lines in quadrature: four steps a period, forward when A leads B."""

    # (A, B) in the order in which a belt that goes forward shows them.
    _ORDER = ((False, False), (True, False), (True, True), (False, True))

    def __init__(self, a: bool, b: bool) -> None:
        self._levels = [a, b]

    def change(self, line: int, level: bool) -> int:
        """Line 0 (A) or 1 (B) has changed to ``level``: a step of 1, -1, or 0 when it stood there already."""
        if self._levels[line] is level:
            return 0
        before = self._place()
        self._levels[line] = level
        return 1 if (self._place() - before) % 4 == 1 else -1

    def _place(self) -> int:
        return self._ORDER.index((self._levels[0], self._levels[1]))
