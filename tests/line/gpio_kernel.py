"""The kernel's side of GPIO lines, in place of ``gpiod.request_lines``: settings, edges, sequence numbers, a queue that
runs over, a chip that is unplugged. Everything else of gpiod is the real package."""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import gpiod
from gpiod.line import Edge, Value

CHIP = "/dev/gpiochip9"


class FakeRequest:
    """As ``gpiod.LineRequest``."""

    def __init__(self, kernel: FakeKernel, config: dict[int, Any], size: int) -> None:
        self.kernel = kernel
        self.settings = config
        self.offsets = list(config)
        self._queue: deque[Any] = deque(maxlen=size)
        self._line_seqno = dict.fromkeys(config, 0)
        self._seqno = 0
        self.fd, self._end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.released = False

    def happen(self, line: int, high: bool, t_ns: int) -> None:
        settings = self.settings[line]
        rising = high is not settings.active_low
        if settings.edge_detection not in (Edge.BOTH, Edge.RISING if rising else Edge.FALLING):
            return
        self._line_seqno[line] += 1
        self._seqno += 1
        kind = gpiod.EdgeEvent.Type.RISING_EDGE if rising else gpiod.EdgeEvent.Type.FALLING_EDGE
        self._queue.append(gpiod.EdgeEvent(kind.value, t_ns, line, self._seqno, self._line_seqno[line]))
        os.write(self._end, b"e")

    def read_edge_events(self, max_events: int) -> list[Any]:
        assert self._queue or self.kernel.gone, "this would wait in the kernel"
        if self.kernel.gone:
            raise OSError(errno.ENODEV, "No such device")
        os.read(self.fd, 65_536)
        events = [self._queue.popleft() for _ in range(min(max_events, len(self._queue)))]
        if self._queue:
            os.write(self._end, b"e")
        return events

    def get_values(self, lines: Iterable[int]) -> list[Value]:
        if self.kernel.gone:
            raise OSError(errno.ENODEV, "No such device")
        levels = self.kernel.levels
        active = [levels.get(line, False) is not self.settings[line].active_low for line in lines]
        return [Value.ACTIVE if a else Value.INACTIVE for a in active]

    def hang_up(self) -> None:
        if self._end >= 0:
            os.close(self._end)
            self._end = -1

    def release(self) -> None:
        assert not self.released
        self.released = True
        self.hang_up()
        os.close(self.fd)


class FakeKernel:
    """One chip."""

    def __init__(self) -> None:
        self.levels: dict[int, bool] = {}
        self.requests: list[FakeRequest] = []
        self.gone = False

    def request_lines(
        self, path: str, config: dict[int, Any], consumer: str, event_buffer_size: int
    ) -> FakeRequest:
        if self.gone or path != CHIP:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        held = [line for r in self.requests if not r.released for line in r.offsets]
        if any(line in held for line in config):
            raise OSError(errno.EBUSY, "Device or resource busy")
        request = FakeRequest(self, config, event_buffer_size)
        self.requests.append(request)
        return request

    def drive(self, line: int, high: bool, t_ns: int | None = None) -> None:
        """Bring a line to a level; an edge happens if it was not there."""
        if self.levels.get(line, False) is high:
            return
        self.levels[line] = high
        for request in self.requests:
            if not request.released and line in request.offsets:
                request.happen(line, high, time.monotonic_ns() if t_ns is None else t_ns)

    def pulse(self, line: int) -> None:
        self.drive(line, True)
        self.drive(line, False)

    def unplug(self) -> None:
        self.gone = True
        for request in self.requests:
            if not request.released:
                request.hang_up()
