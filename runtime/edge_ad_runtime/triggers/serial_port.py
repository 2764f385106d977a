"""Triggers and encoder counts that come over a serial port: ``serial:///dev/ttyUSB0?baud=115200&line=T``.

8 data bits, no parity, 1 stop bit. The time is that of the reading: the transmission, and up to 16 ms that USB adapters
keep bytes back, come before it. The port says nothing of a sensor that is silent or of an open wire; only an unplugged
adapter is noticed. So numbers are worth sending.
"""

from __future__ import annotations

import os
import re
import select
import time
from dataclasses import dataclass

import serial

from edge_ad_runtime.triggers.base import Count, Edge, TriggerError
from edge_ad_runtime.triggers.counting import Farthest, Numbering, RateLimit
from edge_ad_runtime.triggers.urls import Address, max_back, max_rate

# The longest line that is waited for, and the most bytes that are taken at once.
_LONGEST_LINE = 64
_MOST_BYTES = 65_536


@dataclass(frozen=True)
class SerialInput:
    """A port and its speed in baud."""

    port: str
    baud: int

    @property
    def name(self) -> str:
        return f"serial://{self.port}"

    @property
    def physical_key(self) -> str:
        return f"serial {os.path.realpath(self.port)}"


class _Port:
    """Bytes as they come."""

    def __init__(self, settings: SerialInput) -> None:
        self.name = settings.name
        try:
            self._serial = serial.Serial(settings.port, settings.baud, timeout=0, exclusive=True)
        # pyserial lets some of the system's errors through, among them termios.error, which is no OSError.
        except Exception as error:
            raise TriggerError(
                f"{self.name}: cannot be opened ({error}); check the cable, the path, that no other program uses the "
                "port, and that the user may (group 'dialout')"
            ) from error
        self._number = int(self._serial.fileno())
        self._poll = select.poll()
        self._poll.register(self._number, select.POLLIN)
        self._closed = False

    def fileno(self) -> int:
        return self._number

    def read(self) -> bytes:
        """
        Raises:
            TriggerError: the port is gone.
        """
        if self._closed:
            raise TriggerError(f"{self.name}: is closed")
        if not self._poll.poll(0):
            return b""
        try:
            data = os.read(self._number, _MOST_BYTES)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise TriggerError(f"{self.name}: cannot be read ({error.strerror})") from error
        if not data:
            # Readable without a byte: the driver has hung up.
            raise TriggerError(f"{self.name}: the port is gone")
        return data

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            try:
                self._serial.close()
            except Exception as error:  # as above
                raise TriggerError(f"{self.name}: cannot be closed ({error})") from error


class _Lines:
    """Bytes cut into lines. Of a line that does not end, nothing is kept but that it was there."""

    def __init__(self) -> None:
        self._begun = b""

    def cut(self, data: bytes) -> list[bytes]:
        """The lines that have ended, without blanks at their ends; empty ones are left out."""
        *ended, self._begun = (self._begun + data).split(b"\n")
        if len(self._begun) > _LONGEST_LINE:
            ended.append(self._begun)
            self._begun = b""
        return [line.strip()[: _LONGEST_LINE + 1] for line in ended if line.strip()]


class SerialTrigger:
    """A byte or a line for every part.

    Of several that are read at once only the last one's time is known, so the others count as lost: a sender has to
    debounce its photo-eye itself.
    """

    def __init__(self, config: SerialTriggerConfig) -> None:
        self.name = config.name
        self._port = _Port(config.input)
        self._byte = config.byte
        self._line = None if config.line is None else config.line.encode()
        self._lines = _Lines()
        self._numbers = Numbering()

    def fileno(self) -> int:
        return self._port.fileno()

    def read(self) -> list[Edge]:
        data = self._port.read()
        now = time.monotonic_ns()
        triggers, lost = self._of_bytes(data) if self._line is None else self._of_lines(data, self._line)
        return [Edge(now, lost=lost + triggers - 1)] if triggers else []

    def _of_bytes(self, data: bytes) -> tuple[int, int]:
        return (len(data) if self._byte is None else data.count(self._byte)), 0

    def _of_lines(self, data: bytes, text: bytes) -> tuple[int, int]:
        lines = self._lines.cut(data)
        lost = 0
        for line in lines:
            found = re.fullmatch(re.escape(text) + rb"(?:[ \t]+([0-9]{1,18}))?", line)
            if found is None:
                # Damaged on the way: a trigger all the same, and its part is rejected.
                lost += 1
            elif found[1] is not None:
                lost += self._numbers.lost(int(found[1]))
        return len(lines), lost

    def close(self) -> None:
        self._port.close()


@dataclass(frozen=True)
class SerialTriggerConfig:
    """``line``: every line with this text is a trigger, with or without a running number behind it. Otherwise every
    byte of the value ``byte`` is, or every byte (None)."""

    input: SerialInput
    byte: int | None = None
    line: str | None = None

    @property
    def name(self) -> str:
        return self.input.name

    @property
    def physical_key(self) -> str:
        return self.input.physical_key

    def open(self) -> SerialTrigger:
        return SerialTrigger(self)


class SerialEncoder:
    """Counts as lines of decimal digits, with or without a sign."""

    def __init__(self, config: SerialEncoderConfig) -> None:
        self.name = config.name
        self._port = _Port(config.input)
        self._lines = _Lines()
        self._farthest = Farthest(self.name, config.max_back)
        now = time.monotonic_ns()
        self._limit = RateLimit(self.name, config.max_rate, now)
        self._events: list[Count] = [Count(now, 0)]
        self._value: int | None = None
        self._skipped = False

    def fileno(self) -> int:
        return self._port.fileno()

    def read(self) -> list[Count]:
        events, self._events = self._events, []
        now = time.monotonic_ns()
        highest: int | None = None
        for line in self._lines.cut(self._port.read()):
            # The first line may have begun before the port was opened.
            if not self._skipped:
                self._skipped = True
                continue
            if not re.fullmatch(rb"[+-]?[0-9]{1,18}", line):
                raise TriggerError(f"{self.name}: sends {line!r} instead of a count; check baud=")
            value = int(line)
            if self._value is not None:
                step = value - self._value
                self._limit.check(step, now)
                highest = self._farthest.go(step) or highest
            self._value = value
        if highest is not None:
            # Only the last one's time is known.
            events.append(Count(now, highest))
        return events

    def close(self) -> None:
        self._port.close()


@dataclass(frozen=True)
class SerialEncoderConfig:
    """``max_rate`` and ``max_back`` as :class:`edge_ad_runtime.triggers.polled.CounterEncoder`."""

    input: SerialInput
    max_rate: float
    max_back: int | None = None

    @property
    def name(self) -> str:
        return self.input.name

    @property
    def physical_key(self) -> str:
        return self.input.physical_key

    def open(self) -> SerialEncoder:
        return SerialEncoder(self)


def trigger(at: Address) -> SerialTriggerConfig:
    """``byte=0x54``, ``byte=any`` (without either) or ``line=T``."""
    port = at.path("serial:///dev/ttyUSB0")
    query = at.query("baud", "byte", "line")
    byte, line = query.text("byte", ""), query.text("line", "")
    if byte and line:
        raise at.wrong("give byte= or line=, not both")
    if line and not re.fullmatch(r"[!-~]{1,31}[!-/:-~]|[!-/:-~]", line):
        raise at.wrong(
            f"line={line} must be up to 32 printable characters without blanks, the last one not a digit"
        )
    return SerialTriggerConfig(
        SerialInput(port, query.integer("baud", 9600, 50, 4_000_000)), _byte(at, byte), line or None
    )


def _byte(at: Address, text: str) -> int | None:
    if text in ("", "any"):
        return None
    if re.fullmatch(r"0x[0-9a-fA-F]{1,2}", text):
        return int(text, 16)
    if re.fullmatch(r"[0-9]{1,3}", text) and int(text) <= 255:
        return int(text)
    raise at.wrong(f"byte={text} must be 0 to 255, 0x00 to 0xff, or any")


def encoder(at: Address) -> SerialEncoderConfig:
    """Counts as lines of text."""
    port = at.path("serial:///dev/ttyUSB0")
    query = at.query("baud", "max_rate", "max_back")
    baud = query.integer("baud", 9600, 50, 4_000_000)
    return SerialEncoderConfig(SerialInput(port, baud), max_rate(at, query), max_back(query))
