"""GPIO lines as inputs through libgpiod 2: ``gpio://gpiochip0/17?edge=rising&debounce_ms=2&bias=pull-up``.

The kernel stamps every edge with its monotonic time and numbers it, so neither is spoilt by a late reader, and an edge
that its queue had no room for is known to be lost. With ``debounce_ms`` an edge counts once the line has kept its level
for so long, and the kernel's time is that of the end of this period (debounce_work_func in drivers/gpio/gpiolib-cdev.c):
every trigger is later by the same time, which is part of the travel. A contact that bounces for longer than the period is
seen later still.
"""

from __future__ import annotations

import select
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal
from urllib.parse import unquote

from edge_ad_runtime.errors import OutputError
from edge_ad_runtime.outputs.gpio import CONSUMER, find_chip, line_key, load_gpiod
from edge_ad_runtime.outputs.query import Query
from edge_ad_runtime.triggers.base import Count, Edge, Running, TriggerError
from edge_ad_runtime.triggers.counting import Farthest, Quadrature
from edge_ad_runtime.triggers.urls import Address, max_back

# The kernel's largest: 16 events for each of 64 lines (GPIO_V2_LINES_MAX, include/uapi/linux/gpio.h).
_QUEUE = 1024
_SEQNO = 1 << 32
_PURPOSE = "a trigger, an encoder or a belt signal gpio://…"

Line = int | str
Slope = Literal["rising", "falling", "both"]
_BIAS = {"as-is": "AS_IS", "pull-up": "PULL_UP", "pull-down": "PULL_DOWN", "disabled": "DISABLED"}


@dataclass(frozen=True)
class GpioInput:
    """A line of a chip and how it is read. ``chip`` is a path, a name or a label, ``line`` a number or a name; ``slope``
    is what is an event after ``active_low``."""

    chip: str
    line: Line
    slope: Slope
    active_low: bool = False
    bias: str = "as-is"
    debounce_ms: float = 0.0

    @property
    def name(self) -> str:
        return f"gpio://{self.chip}/{self.line}"

    @property
    def key(self) -> str:
        """The same for the same line however it is called, as far as that can be found out here."""
        return line_key(self.chip, self.line)


def input_settings(line: GpioInput) -> Any:
    """The ``gpiod.LineSettings`` of an input whose edges the kernel stamps."""
    gpiod = load_gpiod(_PURPOSE)
    names = gpiod.line
    return gpiod.LineSettings(
        direction=names.Direction.INPUT,
        edge_detection=getattr(names.Edge, line.slope.upper()),
        bias=getattr(names.Bias, _BIAS[line.bias]),
        active_low=line.active_low,
        debounce_period=timedelta(milliseconds=line.debounce_ms),
        event_clock=names.Clock.MONOTONIC,
    )


@dataclass(frozen=True)
class _LineEvent:
    """An edge of a requested line: its place among the lines, its level after it, and how many edges before it were lost,
    of this line and of all."""

    t_ns: int
    line: int
    level: bool
    lost: int
    lost_of_all: int


class _Request:
    """Requested lines of one chip."""

    def __init__(self, name: str, lines: tuple[GpioInput, ...]) -> None:
        gpiod = load_gpiod(_PURPOSE)
        self.name = name
        self._gpiod = gpiod
        self._lines = [line.line for line in lines]
        try:
            chip = find_chip(lines[0].chip)
        except OutputError as error:
            raise TriggerError(f"{name}: {error}") from error
        try:
            self._request: Any = gpiod.request_lines(
                str(chip),
                consumer=CONSUMER,
                config={line.line: input_settings(line) for line in lines},
                event_buffer_size=_QUEUE,
            )
        except (OSError, ValueError) as error:
            raise TriggerError(
                f"{name}: the line cannot be requested ({error}); check its number or name with 'gpioinfo', that no "
                "other program holds it, that it can detect edges, and that the user may (group 'gpio')"
            ) from error
        self._number = int(self._request.fd)
        self._offsets = list(self._request.offsets)
        self._line_seqno = [0] * len(lines)
        self._seqno = 0
        self._poll = select.poll()
        self._poll.register(self._number, select.POLLIN)

    def fileno(self) -> int:
        return self._number

    def levels(self) -> list[bool]:
        """The levels now, in the order of the lines."""
        self._check()
        try:
            values = self._request.get_values(self._lines)
        except (OSError, ValueError) as error:
            raise TriggerError(f"{self.name}: cannot be read ({error})") from error
        return [value == self._gpiod.line.Value.ACTIVE for value in values]

    def events(self) -> list[_LineEvent]:
        self._check()
        # gpiod would wait for the first event.
        if not self._poll.poll(0):
            return []
        try:
            return [self._translate(event) for event in self._request.read_edge_events(_QUEUE)]
        except (OSError, ValueError) as error:
            raise TriggerError(f"{self.name}: cannot be read ({error})") from error

    def _translate(self, event: Any) -> _LineEvent:
        line = self._offsets.index(event.line_offset)
        lost = (event.line_seqno - self._line_seqno[line] - 1) % _SEQNO
        lost_of_all = (event.global_seqno - self._seqno - 1) % _SEQNO
        self._line_seqno[line], self._seqno = event.line_seqno, event.global_seqno
        level = event.event_type == self._gpiod.EdgeEvent.Type.RISING_EDGE
        return _LineEvent(event.timestamp_ns, line, level, lost, lost_of_all)

    def _check(self) -> None:
        if self._request is None:
            raise TriggerError(f"{self.name}: is closed")

    def close(self) -> None:
        request, self._request = self._request, None
        if request is not None:
            request.release()


class _GpioSource:
    """What the three kinds share."""

    def __init__(self, name: str, lines: tuple[GpioInput, ...]) -> None:
        self.name = name
        self._request = _Request(name, lines)

    def fileno(self) -> int:
        return self._request.fileno()

    def close(self) -> None:
        self._request.close()


class GpioTrigger(_GpioSource):
    """Every edge is a part."""

    def read(self) -> list[Edge]:
        return [Edge(event.t_ns, event.lost) for event in self._request.events()]


@dataclass(frozen=True)
class GpioTriggerConfig:
    """A photo-eye."""

    line: GpioInput

    @property
    def name(self) -> str:
        return self.line.name

    @property
    def physical_key(self) -> str:
        return self.line.key

    def open(self) -> GpioTrigger:
        return GpioTrigger(self.name, (self.line,))


class GpioEncoder(_GpioSource):
    """Counts the edges of one line, those included that the kernel numbered but had no room for."""

    def __init__(self, name: str, line: GpioInput) -> None:
        super().__init__(name, (line,))
        self._count = 0
        self._first: Count | None = Count(time.monotonic_ns(), 0)

    def read(self) -> list[Count]:
        first, self._first = self._first, None
        counts = [] if first is None else [first]
        for event in self._request.events():
            self._count += 1 + event.lost
            counts.append(Count(event.t_ns, self._count))
        return counts


class GpioQuadrature(_GpioSource):
    """Counts the edges of two lines, with their direction: four a period."""

    def __init__(self, name: str, a: GpioInput, b: GpioInput, max_back: int | None) -> None:
        super().__init__(name, (a, b))
        self._farthest = Farthest(name, max_back)
        try:
            self._state = Quadrature(*self._request.levels())
        except BaseException:
            self.close()
            raise
        self._begin_ns = time.monotonic_ns()
        self._first: Count | None = Count(self._begin_ns, 0)

    def read(self) -> list[Count]:
        first, self._first = self._first, None
        counts = [] if first is None else [first]
        for event in self._request.events():
            step = self._state.change(event.line, event.level)
            # An edge between the request and the first look at the levels is in them already.
            if event.lost_of_all or (step == 0 and event.t_ns > self._begin_ns):
                raise TriggerError(f"{self.name}: edges were lost, and with them the position")
            count = self._farthest.go(step) if step else None
            if count is not None:
                counts.append(Count(event.t_ns, count))
        return counts


@dataclass(frozen=True)
class GpioEncoderConfig:
    """An encoder on one line, or with ``b`` on two; ``max_back`` as :class:`Farthest`."""

    a: GpioInput
    b: GpioInput | None = None
    max_back: int | None = None

    @property
    def name(self) -> str:
        return self.a.name

    @property
    def physical_key(self) -> str:
        return self.a.key

    @property
    def second_key(self) -> str | None:
        """Of the second line."""
        return None if self.b is None else self.b.key

    def open(self) -> GpioEncoder | GpioQuadrature:
        if self.b is None:
            return GpioEncoder(self.name, self.a)
        return GpioQuadrature(self.name, self.a, self.b, self.max_back)


class GpioBelt(_GpioSource):
    """Active while the belt runs."""

    def __init__(self, name: str, line: GpioInput) -> None:
        super().__init__(name, (line,))
        try:
            self._running = self._request.levels()[0]
        except BaseException:
            self.close()
            raise
        self._last_ns = time.monotonic_ns()
        self._first: Running | None = Running(self._last_ns, self._running)

    def read(self) -> list[Running]:
        first, self._first = self._first, None
        changes = [] if first is None else [first]
        for event in self._request.events():
            self._last_ns = max(self._last_ns, event.t_ns)
            if event.lost and self._running and event.level:
                # It has stopped meanwhile.
                changes.append(Running(self._last_ns, False))
            if event.lost or event.level is not self._running:
                changes.append(Running(self._last_ns, event.level))
            self._running = event.level
        return changes


@dataclass(frozen=True)
class GpioBeltConfig:
    """A signal that is active while the belt runs."""

    line: GpioInput

    @property
    def name(self) -> str:
        return self.line.name

    @property
    def physical_key(self) -> str:
        return self.line.key

    def open(self) -> GpioBelt:
        return GpioBelt(self.name, self.line)


_KEYS = ("active_low", "bias", "debounce_ms")


def trigger(at: Address) -> GpioTriggerConfig:
    """One line, one slope."""
    chip, line = _chip_and_line(at)
    query = at.query("edge", *_KEYS)
    slope: Slope = (
        "rising" if query.choice("edge", ("rising", "falling"), "rising") == "rising" else "falling"
    )
    return GpioTriggerConfig(_input(at, query, chip, line, slope))


def encoder(at: Address) -> GpioEncoderConfig:
    """One line, or with ``b=`` two of the same chip."""
    chip, line = _chip_and_line(at)
    query = at.query("edge", "b", "max_back", *_KEYS)
    b = query.text("b", "")
    if b:
        query.refuse(("edge",), "has no place beside b=; all edges of both lines count")
        other = _number_or_name(b)
        if other == line:
            raise at.wrong(f"b={b} is the line itself")
        return GpioEncoderConfig(
            _input(at, query, chip, line, "both"), _input(at, query, chip, other, "both"), max_back(query)
        )
    query.refuse(("max_back",), "needs b=, the line that tells the direction")
    slopes: dict[str, Slope] = {"rising": "rising", "falling": "falling", "both": "both"}
    return GpioEncoderConfig(_input(at, query, chip, line, slopes[query.choice("edge", slopes, "rising")]))


def belt(at: Address) -> GpioBeltConfig:
    """One line, both slopes."""
    chip, line = _chip_and_line(at)
    return GpioBeltConfig(_input(at, at.query(*_KEYS), chip, line, "both"))


def _chip_and_line(at: Address) -> tuple[str, Line]:
    chip, _, line = f"{at.parts.netloc}{at.parts.path}".rpartition("/")
    chip, line = unquote(chip), unquote(line)
    if not chip or not line:
        raise at.wrong("give chip and line, as in gpio://gpiochip0/17")
    return chip, _number_or_name(line)


def _number_or_name(line: str) -> Line:
    return int(line) if line.isascii() and line.isdigit() else line


def _input(at: Address, query: Query, chip: str, line: Line, slope: Slope) -> GpioInput:
    return GpioInput(
        chip,
        line,
        slope,
        active_low=query.flag("active_low"),
        bias=query.choice("bias", _BIAS, "as-is"),
        debounce_ms=at.bounded(query, "debounce_ms", 0.0, 0, 1000),
    )
