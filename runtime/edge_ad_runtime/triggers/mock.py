"""Pretended sources: ``mock://eye?feed=/tmp/eye.fifo&bounce=2&lose=3&fail=7``.

They are fed through a named pipe, which is made if it is not there, by lines of JSON: ``{}`` is a trigger, ``{"count":
12}`` a reading of the encoder, ``{"running": false}`` a belt that stops, ``{"fail": "unplugged"}`` a failure. ``t_ns`` is
the monotonic time (otherwise that of the reading), ``lost`` goes with a trigger. :func:`feed` writes such a line.
"""

from __future__ import annotations

import os
import select
import stat
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic
from urllib.parse import unquote

import msgspec

from edge_ad_runtime.triggers.base import Count, Edge, Event, Running, TriggerError
from edge_ad_runtime.triggers.urls import Address


class Fed(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One line of a feed."""

    t_ns: int | None = None
    lost: int = 0
    count: float | None = None
    running: bool | None = None
    fail: str | None = None


def feed(path: Path, said: Fed) -> None:
    """Write a line to the pipe of an open mock.

    Raises:
        OSError: nobody has it open.
    """
    pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        os.write(pipe, msgspec.json.encode(said) + b"\n")
    finally:
        os.close(pipe)


@dataclass
class MockFeed:
    """What stays when a mock is opened again: how often it was, how many events came, and lines not taken yet."""

    opened: int = 0
    events: int = 0
    waiting: deque[bytes] = field(default_factory=deque)
    begun: bytes = b""


@dataclass(frozen=True)
class MockConfig(Generic[Event]):
    """``lose`` are the numbers (from 0) of the triggers that are lost, which the next one tells; ``fail`` of the events
    instead of which reading fails; ``absent`` of the openings that fail. Each trigger is followed by ``bounce`` more,
    ``bounce_ms`` apart, which may lie ahead of the time."""

    label: str
    path: Path
    translate: Callable[[Fed, int], Event | None]
    begin: Callable[[int], Event | None]
    bounce: int = 0
    bounce_ms: float = 1.0
    lose: frozenset[int] = frozenset()
    fail: frozenset[int] = frozenset()
    absent: frozenset[int] = frozenset()
    device: MockFeed = field(default_factory=MockFeed, compare=False)

    @property
    def name(self) -> str:
        return f"mock://{self.label}"

    @property
    def physical_key(self) -> str:
        return f"mock {self.path.resolve()}"

    def open(self) -> MockSource[Event]:
        return MockSource(self)


class MockSource(Generic[Event]):
    """Keeps the same rules as a real source, and fails where its configuration or its feed says so."""

    def __init__(self, config: MockConfig[Event]) -> None:
        self.name = config.name
        self._config: MockConfig[Event] = config
        device = config.device
        device.opened += 1
        if device.opened - 1 in config.absent:
            raise TriggerError(f"{self.name}: cannot be opened (as asked)")
        try:
            if not config.path.exists():
                os.mkfifo(config.path, 0o600)
            # Opened for writing, too: else the pipe would end with every writer.
            self._pipe = os.open(config.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise TriggerError(f"{self.name}: {config.path} cannot be opened ({error.strerror})") from error
        if not stat.S_ISFIFO(os.fstat(self._pipe).st_mode):
            os.close(self._pipe)
            raise TriggerError(f"{self.name}: {config.path} is not a named pipe; remove it")
        self._closed = False
        self._lost = 0
        self._failure: str | None = None
        first = config.begin(time.monotonic_ns())
        self._events: list[Event] = [] if first is None else [first]

    def fileno(self) -> int:
        return self._pipe

    def read(self) -> list[Event]:
        if self._closed:
            raise TriggerError(f"{self.name}: is closed")
        events, self._events = self._events, []
        if self._failure is None:
            self._take_lines(events)
        if not events and self._failure is not None:
            raise TriggerError(f"{self.name}: {self._failure}")
        return events

    def _take_lines(self, events: list[Event]) -> None:
        device = self._config.device
        if select.select([self._pipe], [], [], 0)[0]:
            *ended, device.begun = (device.begun + os.read(self._pipe, 65_536)).split(b"\n")
            device.waiting.extend(ended)
        while device.waiting and self._failure is None:
            line = device.waiting.popleft()
            if line.strip():
                self._take(line, events)
        if self._failure is not None or device.waiting:
            # So that the descriptor stays readable until all is told.
            os.write(self._pipe, b"\n")

    def _take(self, line: bytes, events: list[Any]) -> None:
        config, device = self._config, self._config.device
        try:
            said = msgspec.json.decode(line, type=Fed)
        except msgspec.DecodeError as error:
            self._failure = f"{line!r} is not understood ({error})"
            return
        if said.fail is not None:
            self._failure = said.fail
            return
        number = device.events
        device.events += 1
        if number in config.fail:
            self._failure = "fails (as asked)"
            return
        now = time.monotonic_ns()
        event = config.translate(said, now if said.t_ns is None else said.t_ns)
        if event is None:
            self._failure = f"{line!r} is of another kind of source"
            return
        if not isinstance(event, Edge):
            events.append(event)
            return
        if number in config.lose:
            self._lost += 1
            return
        lost, self._lost = event.lost + self._lost, 0
        events.append(msgspec.structs.replace(event, lost=lost))
        for i in range(config.bounce):
            later = round((i + 1) * config.bounce_ms * 1e6)
            events.append(msgspec.structs.replace(event, t_ns=event.t_ns + later, lost=0))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            os.close(self._pipe)


def trigger(at: Address) -> MockConfig[Edge]:
    """A trigger."""

    def translate(said: Fed, t_ns: int) -> Edge | None:
        return Edge(t_ns, said.lost) if said.count is None and said.running is None else None

    query = at.query("feed", "bounce", "bounce_ms", "lose", "fail", "absent")
    return MockConfig(
        **_common(at, query),
        translate=translate,
        begin=lambda _t: None,
        bounce=query.integer("bounce", 0, 0, 100),
        bounce_ms=at.bounded(query, "bounce_ms", 1.0, 0.001, 1000),
        lose=query.integers("lose"),
    )


def encoder(at: Address) -> MockConfig[Count]:
    """An encoder; its counts are those since the opening."""
    query = at.query("feed", "fail", "absent")
    return MockConfig(
        **_common(at, query),
        translate=lambda said, t_ns: None if said.count is None else Count(t_ns, said.count),
        begin=lambda t_ns: Count(t_ns, 0),
    )


def belt(at: Address) -> MockConfig[Running]:
    """A belt signal, running at first."""
    query = at.query("feed", "fail", "absent")
    return MockConfig(
        **_common(at, query),
        translate=lambda said, t_ns: None if said.running is None else Running(t_ns, said.running),
        begin=lambda t_ns: Running(t_ns, True),
    )


def _common(at: Address, query: Any) -> dict[str, Any]:
    path = query.text("feed", "")
    if not path:
        raise at.wrong("needs feed=, the path of a named pipe, as in mock://eye?feed=/tmp/eye.fifo")
    return {
        "label": unquote(f"{at.parts.netloc}{at.parts.path}") or "source",
        "path": Path(path),
        "fail": query.integers("fail"),
        "absent": query.integers("absent"),
    }
