"""Time on the line: the machine's monotonic clock, and a virtual one for exact tests of schedules."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from typing import Protocol

# FD_SETSIZE of man 2 select.
_SELECTABLE = 1024


class Clock(Protocol):
    """What a worker needs of time. Every wait and every wake-up goes through the clock."""

    def now_ns(self) -> int:
        """Monotonic time in nanoseconds."""
        ...

    def wait(self, condition: threading.Condition, until_ns: int | None) -> None:
        """Wait until woken or until the time has come (None: until woken).

        The caller holds the condition's lock. It may return early; the caller looks again.
        """
        ...

    def wake(self, condition: threading.Condition) -> None:
        """Wake the worker that waits with this condition; the caller holds its lock."""
        ...

    def leave(self, condition: threading.Condition) -> None:
        """The worker with this condition has ended."""
        ...


class MonotonicClock:
    """The real clock, ``time.monotonic_ns``.

    A timed wait is one of the kernel's, on the same clock. The timeouts of Python's own locks follow the wall clock
    before Python 3.11 and wherever it was built for a C library older than 2.30: a wall clock that is set back by an
    hour would make a pulse an hour late.
    """

    def __init__(self) -> None:
        # A file descriptor for each worker that has waited for a time; used and closed with the condition's lock held.
        self._bells: dict[threading.Condition, int] = {}

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def wait(self, condition: threading.Condition, until_ns: int | None) -> None:
        if until_ns is None:
            condition.wait()
            return
        left = until_ns - time.monotonic_ns()
        if left <= 0:
            return
        bell = self._bells.get(condition)
        if bell is None:
            bell = self._bells[condition] = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        condition.release()
        try:
            wait_readable(bell, left)
        finally:
            condition.acquire()
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(bell)

    def wake(self, condition: threading.Condition) -> None:
        condition.notify_all()
        bell = self._bells.get(condition)
        if bell is not None:
            os.eventfd_write(bell, 1)

    def leave(self, condition: threading.Condition) -> None:
        with condition:
            bell = self._bells.pop(condition, None)
            if bell is not None:
                os.close(bell)


def wait_readable(descriptor: int, ns: int) -> None:
    """Wait until the file descriptor is readable or the time has passed, to the microsecond."""
    if descriptor < _SELECTABLE:
        select.select([descriptor], [], [], ns / 1e9)
        return
    # To the millisecond only, but for any descriptor.
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(ns / 1e6)


class VirtualClock:
    """Time that passes only in :meth:`advance`, so that the times of a whole schedule are exact.

    The workers stay real threads. Each has a condition of its own and is either running or waiting in
    :meth:`wait`; time moves only while all are waiting, from one deadline to the next. A worker announces
    itself by a first :meth:`wake` before its thread starts, and leaves with :meth:`leave`.
    """

    def __init__(self, start_ns: int = 0) -> None:
        self._now = start_ns
        self._changed = threading.Condition()
        self._running: set[threading.Condition] = set()
        self._waiting: dict[threading.Condition, int | None] = {}

    def now_ns(self) -> int:
        with self._changed:
            return self._now

    def wait(self, condition: threading.Condition, until_ns: int | None) -> None:
        with self._changed:
            if until_ns is not None and until_ns <= self._now:
                return
            self._running.discard(condition)
            self._waiting[condition] = until_ns
            self._changed.notify_all()
        # The condition's lock is still held, so a wake-up cannot slip in before this wait has begun.
        condition.wait()

    def wake(self, condition: threading.Condition) -> None:
        with self._changed:
            self._waiting.pop(condition, None)
            self._running.add(condition)
        condition.notify_all()

    def leave(self, condition: threading.Condition) -> None:
        with self._changed:
            self._waiting.pop(condition, None)
            self._running.discard(condition)
            self._changed.notify_all()

    def advance(self, ns: int, patience_s: float = 10.0) -> None:
        """Let ``ns`` nanoseconds pass, stopping at every deadline on the way.

        Raises:
            TimeoutError: a worker kept running for ``patience_s`` seconds of real time.
        """
        with self._changed:
            target = self._now + ns
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: not self._running, patience_s):
                    raise TimeoutError("a worker does not come to rest, so virtual time cannot pass")
                due = [(t, c) for c, t in self._waiting.items() if t is not None and t <= target]
                if not due:
                    self._now = target
                    return
                self._now = min(t for t, _ in due)
                first = [c for t, c in due if t == self._now]
            for condition in first:
                with condition:
                    self.wake(condition)
