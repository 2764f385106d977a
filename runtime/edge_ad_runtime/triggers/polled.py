"""Sources that have to be asked again and again, in a thread of their own.

An event is stamped when its answer has come. It happened after the request before that, so its time is late by at most
one period and the answers' time, and never by more than the timeout: a source that is not asked, or does not answer, for
that long has failed, since what happened meanwhile would be seen too late or not at all.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from edge_ad_runtime.triggers.base import Count, Edge, Event, Running, TriggerError
from edge_ad_runtime.triggers.counting import Farthest, RateLimit, Wrapping

Told_co = TypeVar("Told_co", Edge, Count, Running, covariant=True)

# A thread that hangs in its driver is noticed by the reader after this many timeouts.
_HUNG_TIMEOUTS = 3


class Device(Protocol):
    """What is asked."""

    def read(self) -> int:
        """The value now; waits at most about the timeout.

        Raises:
            TriggerError: no answer, or an error for one.
        """
        ...

    def close(self) -> None: ...


class Reading(Protocol[Told_co]):
    """What follows from one value after the other."""

    def take(self, value: int, t_ns: int) -> Told_co | None:
        """The event, if there is one.

        Raises:
            TriggerError: the value cannot be.
        """
        ...


class Meaning(Protocol[Told_co]):
    """What a value means; :meth:`begin` with the first one."""

    def begin(self, name: str, value: int, t_ns: int) -> tuple[Reading[Told_co], Told_co | None]: ...


class _BitEdges:
    def __init__(self, meaning: BitTrigger, value: int) -> None:
        self._active = meaning.active
        self._was = bool(value)

    def take(self, value: int, t_ns: int) -> Edge | None:
        was, self._was = self._was, bool(value)
        return Edge(t_ns) if self._was is self._active and was is not self._active else None


@dataclass(frozen=True)
class BitTrigger:
    """A bit that becomes ``active`` is a trigger. It has to keep each state for longer than the time between two
    requests."""

    active: bool = True

    def begin(self, name: str, value: int, t_ns: int) -> tuple[Reading[Edge], Edge | None]:
        return _BitEdges(self, value), None


class _CounterEdges:
    def __init__(self, name: str, bits: int, value: int) -> None:
        self._name = name
        self._counter = Wrapping(bits, value)

    def take(self, value: int, t_ns: int) -> Edge | None:
        step = self._counter.step(value)
        if step < 0:
            raise TriggerError(f"{self._name}: the counter ran backwards; it was reset")
        return Edge(t_ns, lost=step - 1) if step else None


@dataclass(frozen=True)
class CounterTrigger:
    """A counter of parts, of 16 or 32 bits: each step is a trigger. Of several steps at once only the last one's time is
    known; the others are lost."""

    bits: int

    def begin(self, name: str, value: int, t_ns: int) -> tuple[Reading[Edge], Edge | None]:
        return _CounterEdges(name, self.bits, value), None


class _CounterPosition:
    def __init__(self, name: str, meaning: CounterEncoder, value: int, t_ns: int) -> None:
        self._counter = Wrapping(meaning.bits, value)
        self._limit = RateLimit(name, meaning.max_rate, t_ns)
        self._farthest = Farthest(name, meaning.max_back)

    def take(self, value: int, t_ns: int) -> Count | None:
        step = self._counter.step(value)
        self._limit.check(step, t_ns)
        count = self._farthest.go(step) if step else None
        return None if count is None else Count(t_ns, count)


@dataclass(frozen=True)
class CounterEncoder:
    """A counter of encoder steps, of 16 or 32 bits. One that is faster than ``max_rate`` a second was reset."""

    bits: int
    max_rate: float
    max_back: int | None = None

    def begin(self, name: str, value: int, t_ns: int) -> tuple[Reading[Count], Count | None]:
        return _CounterPosition(name, self, value, t_ns), Count(t_ns, 0)


class _BitStates:
    def __init__(self, meaning: BitBelt, value: int) -> None:
        self._active = meaning.active
        self._was = bool(value)

    def take(self, value: int, t_ns: int) -> Running | None:
        was, self._was = self._was, bool(value)
        return None if self._was is was else Running(t_ns, self._was is self._active)


@dataclass(frozen=True)
class BitBelt:
    """The belt runs while the bit is ``active``."""

    active: bool = True

    def begin(self, name: str, value: int, t_ns: int) -> tuple[Reading[Running], Running | None]:
        return _BitStates(self, value), Running(t_ns, bool(value) is self.active)


class PolledSource(Generic[Event]):
    """Asks a device, and closes it. The first value is taken before the constructor returns."""

    def __init__(
        self, name: str, device: Device, meaning: Meaning[Event], period_ns: int, timeout_ns: int
    ) -> None:
        """
        Raises:
            TriggerError: the device does not answer.
        """
        self.name = name
        self._device = device
        self._period_ns = period_ns
        self._timeout_ns = timeout_ns
        self._asked_ns = time.monotonic_ns()
        try:
            first = device.read()
        except BaseException:
            device.close()
            raise
        answered = time.monotonic_ns()
        reading, event = meaning.begin(name, first, answered)
        self._reading: Reading[Event] = reading
        self._events: deque[Event] = deque()
        self._failure: TriggerError | None = None
        self._closed = self._hangs = False
        self._stop = threading.Event()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        if event is not None:
            self._put(event)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        return self._wake

    def read(self) -> list[Event]:
        if self._closed:
            raise TriggerError(f"{self.name}: is closed")
        # Looked at before the events are taken: those that came before the failure are told first.
        failure = self._failure
        if failure is None:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        events: list[Event] = []
        while self._events:
            events.append(self._events.popleft())
        if events:
            return events
        if failure is not None:
            raise failure
        silent = time.monotonic_ns() - self._asked_ns
        if silent > _HUNG_TIMEOUTS * self._timeout_ns:
            self._hangs = True
            raise TriggerError(f"{self.name}: its driver hangs for {silent / 1e6:.0f} ms", self._asked_ns)
        return []

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._stop.set()
        if not self._hangs:
            self._thread.join(2 * self._timeout_ns / 1e9)
        # A thread that hangs still wakes up with this number, so it is never given to another file.
        if not self._thread.is_alive():
            os.close(self._wake)

    def _put(self, event: Event) -> None:
        self._events.append(event)
        os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        try:
            due = self._asked_ns + self._period_ns
            while not self._stop.wait(max(0, due - time.monotonic_ns()) / 1e9):
                self._ask()
                # Not made up for: requests in a row would tell nothing more.
                due = max(due + self._period_ns, time.monotonic_ns())
        except TriggerError as error:
            self._failure = TriggerError(str(error), self._asked_ns)
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, the reader is told
            self._failure = TriggerError(f"{self.name}: {error or type(error).__name__}", self._asked_ns)
        finally:
            self._device.close()
            os.eventfd_write(self._wake, 1)

    def _ask(self) -> None:
        asked = time.monotonic_ns()
        value = self._device.read()
        answered = time.monotonic_ns()
        unseen = answered - self._asked_ns
        if unseen > self._timeout_ns:
            raise TriggerError(
                f"{self.name}: {unseen / 1e6:.0f} ms between two answers (timeout_ms={self._timeout_ns / 1e6:g})"
            )
        event = self._reading.take(value, answered)
        self._asked_ns = asked
        if event is not None:
            self._put(event)
