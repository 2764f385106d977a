"""What tells the guard of the belt: a photo-eye, an encoder, a signal that the belt runs.

Each is a source of events with a file descriptor to wait on. It is read without waiting, in the guard's one loop, at
least every half second.

**An event's time is never before the event.** Where only an interval is known (a polled input, a byte whose time of
arrival the kernel does not keep), the time is its end. So a frame exposed after a trigger's time shows the part, and a
part is never further back than thought, only further on, by at most the source's delay. The earliest time would let a
frame pass for the part's that was exposed before it came.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import msgspec

from edge_ad_runtime.errors import EdgeAdError


class TriggerError(EdgeAdError, OSError):
    """A trigger, an encoder or a belt signal cannot be opened or read.

    ``since_ns``: what happened after that monotonic time may have gone unseen; None: after the last reading that worked.
    """

    def __init__(self, text: str, since_ns: int | None = None) -> None:
        super().__init__(text)
        self.since_ns = since_ns


class Edge(msgspec.Struct, frozen=True):
    """A part passed the trigger at ``t_ns``, monotonic; ``lost`` triggers between the one before and this one are known
    to be lost (the kernel's queue ran over, a counter jumped)."""

    t_ns: int
    lost: int = 0


class Count(msgspec.Struct, frozen=True):
    """The encoder stood at ``count`` at ``t_ns``, monotonic. It never runs backwards, and stood at 0 when the source was
    opened."""

    t_ns: int
    count: float


class Running(msgspec.Struct, frozen=True):
    """The belt began to run, or stopped, at ``t_ns``, monotonic. The first one tells the state at the opening."""

    t_ns: int
    running: bool


Event = TypeVar("Event", Edge, Count, Running)


class EventSource(Protocol[Event]):
    """An opened source."""

    name: str

    def fileno(self) -> int:
        """Readable while events wait, and when the source has failed."""
        ...

    def read(self) -> list[Event]:
        """The events that have come, in order; never waits.

        Raises:
            TriggerError: the source is gone; it has to be opened anew.
        """
        ...

    def close(self) -> None:
        """Release the device; may be called again."""
        ...


class SourceConfig(Protocol[Event]):
    """A parsed URL of a source: knows how to open it, as often as needed."""

    @property
    def name(self) -> str: ...

    def open(self) -> EventSource[Event]:
        """Open the source. It may wait for a device that does not answer.

        Raises:
            TriggerError: the device is missing, busy or not permitted.
            MissingExtra: its package is not installed.
        """
        ...
