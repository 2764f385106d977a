"""Several sinks as one."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from edge_ad_runtime.events import PartEvent
from edge_ad_runtime.sinks.base import Sink, SinkConfig


class SinkGroup:
    """Hands each record to every sink; closing takes as long as the slowest one."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = tuple(sinks)

    @property
    def name(self) -> str:
        return ", ".join(sink.name for sink in self._sinks)

    @property
    def lost(self) -> int:
        """The sum over all sinks."""
        return sum(sink.lost for sink in self._sinks)

    def write(self, event: PartEvent) -> None:
        for sink in self._sinks:
            sink.write(event)

    def close(self) -> None:
        closers = [threading.Thread(target=sink.close, daemon=True) for sink in self._sinks]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join()


def open_sinks(configs: Sequence[SinkConfig]) -> SinkGroup:
    """Open all sinks, or none.

    Raises:
        InputError, MissingExtra: see :meth:`SinkConfig.open`; those opened before are closed again.
    """
    opened: list[Sink] = []
    try:
        opened.extend(config.open() for config in configs)
    except BaseException:
        SinkGroup(opened).close()
        raise
    return SinkGroup(opened)
