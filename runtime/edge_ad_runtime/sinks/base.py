"""What a sink of part records is, and the queue and the thread that all sinks share."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from typing import Generic, Protocol, TypeVar

from edge_ad_runtime.events import PartEvent

_log = logging.getLogger(__name__)

# Records that may wait for a slow disk, reader or network; beyond that the oldest are lost.
MAX_WAITING = 10_000
CLOSE_PATIENCE_S = 5.0
# How long a thread that gave up has for hanging up, and its pauses between attempts while it is being closed.
_LAST_STEPS_S = 0.5
_CLOSING_PAUSE_S = 0.2
FIRST_RETRY_S = 0.1
LAST_RETRY_S = 10.0


class Sink(Protocol):
    """Takes the record of every part."""

    @property
    def name(self) -> str:
        """For people; without passwords."""
        ...

    @property
    def lost(self) -> int:
        """Records that did not arrive and never will; those that still wait are not counted."""
        ...

    def write(self, event: PartEvent) -> None:
        """Take one part's record; never waits and never raises."""
        ...

    def close(self) -> None:
        """Hand over what waits, within a few seconds, and release everything; may be called again."""
        ...


class SinkConfig(Protocol):
    """A parsed text: knows how to open its sink."""

    @property
    def name(self) -> str: ...

    def open(self) -> Sink:
        """Open the sink. A peer that is away is no error: it is tried until it is there.

        Raises:
            InputError: a file cannot be read or written.
            MissingExtra: its package is not installed.
        """
        ...


Item = TypeVar("Item")


class QueuedSink(ABC, Generic[Item]):
    """A bounded queue and the thread that empties it.

    Every item that was put is in the end either delivered or counted in :attr:`lost`. When the queue is full, the
    oldest item is lost. A subclass calls :meth:`_start` last in its ``__init__`` and does its work in :meth:`_run`.
    """

    def __init__(self, name: str, most_waiting: int | None = None) -> None:
        """``most_waiting`` items may wait, by default :data:`MAX_WAITING`."""
        self._name = name
        self._most_waiting = MAX_WAITING if most_waiting is None else most_waiting
        self._changed = threading.Condition()
        self._waiting: deque[Item] = deque()
        self._put_count = self._delivered = self._lost = 0
        self._closing = self._over = self._ended = False
        self._in_trouble = self._told_of_loss = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    @property
    def name(self) -> str:
        return self._name

    @property
    def lost(self) -> int:
        with self._changed:
            # At the end, whatever was not delivered is lost, wherever it got stuck.
            return self._put_count - self._delivered if self._over else self._lost

    def close(self) -> None:
        """Let the thread deliver what waits, for at most :data:`CLOSE_PATIENCE_S` seconds; the rest is lost."""
        with self._changed:
            if self._closing and not self._thread.is_alive():
                return
            self._closing = True
            self._changed.notify_all()
            self._wake()
        self._thread.join(CLOSE_PATIENCE_S)
        with self._changed:
            late = not self._over
            self._over = True
            left = self._put_count - self._delivered - self._lost
            self._changed.notify_all()
            self._wake()
        if late and left:
            _log.warning("%s: takes no more; the last %d are lost", self._name, left)
        self._thread.join(_LAST_STEPS_S)

    def _start(self) -> None:
        self._thread.start()

    def _put(self, item: Item) -> None:
        """Queue an item; never waits."""
        with self._changed:
            self._put_count += 1
            if self._closing:
                self._lost += 1
                return
            self._waiting.append(item)
            full = len(self._waiting) > self._most_waiting
            if full:
                self._waiting.popleft()
                self._lost += 1
            self._changed.notify_all()
            self._wake()
        if full:
            self._tell_of_loss("more waits than it takes")

    def _wake(self) -> None:
        """Interrupt a wait of the thread that is not on the condition; the lock is held."""

    # For the thread

    @abstractmethod
    def _run(self) -> None:
        """Take and deliver until :meth:`_take` gives nothing."""

    def _release(self) -> None:
        """Release what the thread needed; nothing calls :meth:`_wake` any more."""

    def _take(self, most: int = 1) -> list[Item]:
        """The next items; waits for the first. An empty list means that the sink is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            return self._pop(most)

    def _take_waiting(self, most: int) -> list[Item]:
        """The next items without waiting, perhaps none."""
        with self._changed:
            return self._pop(most)

    def _pop(self, most: int) -> list[Item]:
        if self._over:
            return []
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def _deliver(self, count: int = 1) -> None:
        """That many items have arrived."""
        with self._changed:
            if not self._over:
                self._delivered += count
        self._works()

    def _lose(self, count: int, why: str) -> None:
        """That many items will never arrive."""
        with self._changed:
            self._lost += count
        self._tell_of_loss(why)

    def _trouble(self, why: str) -> None:
        """An attempt failed and will be made again."""
        if not self._in_trouble:
            self._in_trouble = True
            _log.warning("%s: %s (is tried again until it works)", self._name, why)

    def _works(self) -> None:
        """An attempt has succeeded."""
        if self._in_trouble:
            self._in_trouble = False
            _log.warning("%s: works again", self._name)

    def _pause(self, seconds: float) -> None:
        """Rest before another attempt; a close shortens it."""
        with self._changed:
            if not self._closing:
                self._changed.wait_for(lambda: self._closing, seconds)
            else:
                self._changed.wait_for(lambda: self._over, min(seconds, _CLOSING_PAUSE_S))

    def _tell_of_loss(self, why: str) -> None:
        if not self._told_of_loss:
            self._told_of_loss = True
            _log.warning("%s: a record is lost (%s); the line goes on and counts them", self._name, why)

    def _work(self) -> None:
        try:
            self._run()
        except Exception as error:  # noqa: BLE001 - a mistake of ours must not go unseen, nor stop the line
            _log.error("%s: ends here: %s: %s", self._name, type(error).__name__, error)
        finally:
            with self._changed:
                self._closing = self._over = self._ended = True
            self._release()
