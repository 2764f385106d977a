"""Records handed to a Python function."""

from __future__ import annotations

from collections.abc import Callable

from edge_ad_runtime.events import PartEvent
from edge_ad_runtime.sinks.base import QueuedSink


class CallableSink(QueuedSink[PartEvent]):
    """Calls a function with each part's record, from a thread of its own, in order.

    What the function raises is told once and counted in :attr:`lost`; it never reaches the line. While it runs, the
    other threads wait for Python's interpreter lock as for any Python code, so it should not compute for long.
    """

    def __init__(self, function: Callable[[PartEvent], object], name: str | None = None) -> None:
        super().__init__(name or f"function {getattr(function, '__qualname__', type(function).__name__)}")
        self._function = function
        self._start()

    def write(self, event: PartEvent) -> None:
        self._put(event)

    def _run(self) -> None:
        while events := self._take():
            self._call(events[0])

    def _call(self, event: PartEvent) -> None:
        try:
            self._function(event)
        except BaseException as error:  # noqa: BLE001 - SystemExit, too, would end this thread unseen
            self._lose(1, f"{type(error).__name__}: {error}")
        else:
            self._deliver()
