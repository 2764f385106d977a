"""Stopping a long job between two steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Set when the process was asked to stop; the job looks at it between its steps."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.signal: signal.Signals | None = None

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    def request(self) -> None:
        """Ask the job to stop."""
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Sleep, but wake at once when asked to stop; returns whether it was."""
        return self._event.wait(seconds)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a stop request for the length of the block.

    A second SIGINT interrupts at once, as usual. Outside the main thread no signal handler can be set;
    the request then comes only from :meth:`StopRequest.request`.
    """
    stop = StopRequest()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signal = signal.Signals(number)
        stop.request()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
