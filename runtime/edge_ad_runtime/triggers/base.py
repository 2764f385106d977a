"""What tells the guard of the belt: a photo-eye, an encoder, a signal that the belt runs.

Each is a source of events with a file descriptor to wait on. It is read without waiting, in the guard's one loop.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import msgspec

from edge_ad_runtime.errors import EdgeAdError


class TriggerError(EdgeAdError, OSError):
    """A trigger, an encoder or a belt signal cannot be opened or read."""


class Edge(msgspec.Struct, frozen=True):
    """A part passed the trigger at ``t_ns``, monotonic; ``lost`` triggers between the one before and this one are known
    to be lost (the kernel's queue ran over, a counter jumped)."""

    t_ns: int
    lost: int = 0


class Count(msgspec.Struct, frozen=True):
    """The encoder stood at ``count`` at ``t_ns``, monotonic. It never runs backwards."""

    t_ns: int
    count: float


class Running(msgspec.Struct, frozen=True):
    """The belt began to run, or stopped, at ``t_ns``, monotonic."""

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
        """Open the source.

        Raises:
            TriggerError: the device is missing, busy or not permitted.
            MissingExtra: its package is not installed.
        """
        ...
