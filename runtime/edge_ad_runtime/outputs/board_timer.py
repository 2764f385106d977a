"""A device that ends a pulse by itself, and what has to be said to it when the pulse is to go on."""

from __future__ import annotations

# A device may be this late with the end of its pulse; waited for before it is told once more to stay on.
LATE_NS = 5_000_000


class BoardTimer:
    """When a device's timer may switch it off.

    Makers do not say whether a command ends a timer that runs. So a pulse that has to go on is commanded twice: at once,
    which is enough where the command ends the timer, and after the timer's end, where it does not: the device is
    then off in between, for some milliseconds.
    """

    def __init__(self) -> None:
        self._earliest = 0
        self._latest: int | None = None
        self._told = False

    def started(self, sent_ns: int, answered_ns: int, pulse_ns: int) -> None:
        """A pulse was commanded; the device began it between these two times."""
        self._earliest, self._latest = sent_ns + pulse_ns, answered_ns + pulse_ns + LATE_NS
        self._told = False

    def pending(self, now_ns: int) -> bool:
        """Whether a timer may still run. Another pulse must not be given to it then."""
        return self._latest is not None and now_ns < self._latest

    def must_tell(self, now_ns: int, until_ns: int | None) -> bool:
        """Whether a device that is to be on until ``until_ns`` (None: without an end) has to be told so now."""
        if self._latest is None:
            return False
        if until_ns is not None and until_ns <= self._earliest:
            return False
        return now_ns >= self._latest or not self._told

    def told(self, now_ns: int) -> None:
        """The device was told to stay on."""
        if self._latest is not None and now_ns >= self._latest:
            self._latest = None
        self._told = True

    def next_time(self, now_ns: int) -> int | None:
        """When to ask again."""
        return self._latest if self.pending(now_ns) else None
