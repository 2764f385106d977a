"""Coils, inputs and counters of a PLC, asked again and again: ``modbus-tcp://192.168.0.10/coil/3?poll_ms=10``.

``coil``, ``discrete`` (a discrete input), ``register`` (a holding register) and ``input`` (an input register) are followed
by a number that counts from 0, as on the wire. Every source has a connection of its own.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Generic, Literal
from urllib.parse import unquote

from edge_ad_runtime.errors import MissingExtra
from edge_ad_runtime.outputs.modbus import DEFAULT_PORT, RtuLink, TcpLink
from edge_ad_runtime.outputs.query import Query
from edge_ad_runtime.triggers.base import Count, Edge, Event, EventSource, Running, TriggerError
from edge_ad_runtime.triggers.polled import (
    BitBelt,
    BitTrigger,
    CounterEncoder,
    CounterTrigger,
    Meaning,
    PolledSource,
)
from edge_ad_runtime.triggers.urls import Address, max_back, max_rate

Table = Literal["coil", "discrete", "register", "input"]
BITS: tuple[Table, ...] = ("coil", "discrete")
REGISTERS: tuple[Table, ...] = ("register", "input")
_REGISTER_KEYS = ("bits", "words")
_PARITIES: dict[str, Literal["N", "E", "O"]] = {"none": "N", "even": "E", "odd": "O"}
# A request and its answer are 16 bytes or so: 17 ms at 9600 baud, and the device takes its time.
_USUAL_POLL_MS, _USUAL_SERIAL_POLL_MS = 10.0, 50.0
# A PLC's cycle or a short jam, but less than most ways from the trigger to the ejector.
_USUAL_TIMEOUT_MS = 100


@dataclass(frozen=True)
class Point:
    """What is read: ``number`` counts from 0; a counter of 32 bits is two registers, the first one with its upper half
    (``high_first``) or its lower."""

    link: TcpLink | RtuLink
    unit: int
    table: Table
    number: int
    bits: int = 16
    high_first: bool = True

    @property
    def name(self) -> str:
        return f"{self.link.key}/{self.table}/{self.number} (unit {self.unit})"

    @property
    def physical_key(self) -> str:
        return f"{self.link.physical_key} {self.unit} {self.table} {self.number}"


class ModbusDevice:
    """A point that is read over a connection of its own."""

    def __init__(self, point: Point) -> None:
        """
        Raises:
            TriggerError: there is no connection.
            MissingExtra: pymodbus is not installed.
        """
        self._point = point
        self._count = 2 if point.table in REGISTERS and point.bits == 32 else 1
        try:
            client = importlib.import_module("edge_ad_runtime.outputs.modbus_client")
        except ImportError as error:
            raise MissingExtra(
                "pymodbus", "modbus", "a trigger, an encoder or a belt signal modbus-…"
            ) from error
        try:
            self._connection: Any = client.connect(point.link)
        except Exception as error:  # pyserial and pymodbus let others than their own through
            raise TriggerError(
                f"{point.name}: cannot be connected to ({error}); check the address, the cable and that the device is on"
            ) from error

    def read(self) -> int:
        point = self._point
        try:
            values = self._connection.read(point.unit, point.table, point.number, self._count)
        except Exception as error:  # as above
            raise TriggerError(f"{point.name}: {str(error) or type(error).__name__}") from error
        if self._count == 1:
            return int(values[0])
        high, low = values if point.high_first else reversed(values)
        return int(high) << 16 | int(low)

    def close(self) -> None:
        self._connection.close()


@dataclass(frozen=True)
class ModbusConfig(Generic[Event]):
    """A point, how often it is asked, and what its value means; the link's timeout is how long it may be silent."""

    point: Point
    poll_ms: float
    meaning: Meaning[Event]

    @property
    def name(self) -> str:
        return self.point.name

    @property
    def physical_key(self) -> str:
        return self.point.physical_key

    def open(self) -> EventSource[Event]:
        period_ns, timeout_ns = round(self.poll_ms * 1e6), self.point.link.timeout_ms * 1_000_000
        return PolledSource(self.name, ModbusDevice(self.point), self.meaning, period_ns, timeout_ns)


def trigger(at: Address) -> ModbusConfig[Edge]:
    """A coil or discrete input that becomes active, or a counter of parts."""
    table, query = _table(at, (*BITS, *REGISTERS), ("edge", *_REGISTER_KEYS))
    if table in BITS:
        query.refuse(_REGISTER_KEYS, "belongs to a register")
        active = query.choice("edge", ("rising", "falling"), "rising") == "rising"
        point, poll_ms = _point(at, query, table)
        return ModbusConfig(point, poll_ms, BitTrigger(active))
    query.refuse(("edge",), "belongs to a coil or a discrete input")
    point, poll_ms = _point(at, query, table)
    return ModbusConfig(point, poll_ms, CounterTrigger(point.bits))


def encoder(at: Address) -> ModbusConfig[Count]:
    """A counter of encoder steps."""
    table, query = _table(at, REGISTERS, ("max_rate", "max_back", *_REGISTER_KEYS))
    point, poll_ms = _point(at, query, table)
    rate = max_rate(at, query)
    # The rate's limit must tell a reset from a step, so a step is far from half of the counter's range.
    if rate * point.link.timeout_ms / 1e3 >= 1 << (point.bits - 2):
        raise at.wrong(
            f"at max_rate={rate:g} a counter of {point.bits} bits may wrap around within timeout_ms; use bits=32 or a "
            "shorter timeout_ms"
        )
    return ModbusConfig(point, poll_ms, CounterEncoder(point.bits, rate, max_back(query)))


def belt(at: Address) -> ModbusConfig[Running]:
    """A coil or discrete input that is active while the belt runs."""
    table, query = _table(at, BITS, ("active_low",))
    point, poll_ms = _point(at, query, table)
    return ModbusConfig(point, poll_ms, BitBelt(not query.flag("active_low")))


def _table(at: Address, tables: tuple[Table, ...], keys: tuple[str, ...]) -> tuple[Table, Query]:
    name = _target(at)[1]
    table = next((t for t in tables if t == name), None)
    if table is None:
        raise at.wrong(
            f"must end with one of {', '.join(tables)} and a number, as in {_example(at, tables[0])}"
        )
    serial = ("baud", "parity", "stop") if at.scheme == "modbus-rtu" else ()
    return table, at.query("poll_ms", "timeout_ms", "unit", *serial, *keys)


def _target(at: Address) -> tuple[str, str, str]:
    """What stands before ``/coil/5``, then ``coil`` and ``5``."""
    before, _, number = at.parts.path.rpartition("/")
    before, _, table = before.rpartition("/")
    return unquote(before), table, number


def _example(at: Address, table: Table) -> str:
    peer = "modbus-rtu:///dev/ttyUSB0" if at.scheme == "modbus-rtu" else "modbus-tcp://192.168.0.10:502"
    return f"{peer}/{table}/3"


def _point(at: Address, query: Query, table: Table) -> tuple[Point, float]:
    before, _, number = _target(at)
    if not (number.isascii() and number.isdigit() and len(number) <= 5 and int(number) <= 0xFFFF):
        raise at.wrong(f"{table}/{number} must be a whole number from 0 to 65535")
    serial = at.scheme == "modbus-rtu"
    poll_ms = at.bounded(query, "poll_ms", _USUAL_SERIAL_POLL_MS if serial else _USUAL_POLL_MS, 1, 1000)
    timeout_ms = query.integer("timeout_ms", max(_USUAL_TIMEOUT_MS, round(4 * poll_ms)), 10, 5000)
    if timeout_ms < 2 * poll_ms:
        raise at.wrong(f"timeout_ms={timeout_ms} must be at least twice poll_ms={poll_ms:g}")
    link: TcpLink | RtuLink
    if serial:
        if at.parts.netloc or len(before) < 2:
            raise at.wrong(f"the port's path follows three slashes, as in {_example(at, table)}")
        parity = _PARITIES[query.choice("parity", _PARITIES, "none")]
        link = RtuLink(
            before,
            query.integer("baud", 9600, 1200, 4_000_000),
            parity,
            query.integer("stop", 1, 1, 2),
            timeout_ms,
        )
    else:
        if before:
            raise at.wrong(f"must be of the form {_example(at, table)}")
        host, port = at.host(DEFAULT_PORT, _example(at, table))
        link = TcpLink(host, port, timeout_ms)
    bits = 32 if table in REGISTERS and query.choice("bits", ("16", "32"), "16") == "32" else 16
    high_first = query.choice("words", ("high-first", "low-first"), "high-first") == "high-first"
    unit = query.integer("unit", 1, 1 if serial else 0, 247 if serial else 255)
    return Point(link, unit, table, int(number), bits, high_first), poll_ms
