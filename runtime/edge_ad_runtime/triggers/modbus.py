"""Coils, inputs and counters of a PLC, asked again and again: ``modbus-tcp://192.168.0.10/coil/3?poll_ms=10``.

``coil``, ``discrete`` (a discrete input), ``holding`` and ``input`` (registers) are followed by an address that counts
from 0, as on the wire. Every source has a connection of its own.
"""

from __future__ import annotations

import importlib
import logging
import os
from dataclasses import dataclass
from typing import Any, Generic, Literal
from urllib.parse import unquote

from edge_ad_runtime.errors import MissingExtra
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

Table = Literal["coil", "discrete", "holding", "input"]
BITS: tuple[Table, ...] = ("coil", "discrete")
REGISTERS: tuple[Table, ...] = ("holding", "input")
_METHODS: dict[Table, str] = {
    "coil": "read_coils",
    "discrete": "read_discrete_inputs",
    "holding": "read_holding_registers",
    "input": "read_input_registers",
}
_KEYS = ("poll_ms", "timeout_ms", "unit")
_SERIAL_KEYS = ("baud", "parity", "stopbits")
_REGISTER_KEYS = ("bits", "words")
# The most requests that fit into a second with room for others, on Ethernet and on a bus of 19200 baud.
_USUAL_POLL_MS = 10.0
_USUAL_SERIAL_POLL_MS = 50.0
# A PLC's cycle, a retransmission on a quiet network.
_USUAL_TIMEOUT_MS = 100.0


def load_pymodbus() -> Any:
    """``pymodbus.client``.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        module = importlib.import_module("pymodbus.client")
    except ImportError as error:
        raise MissingExtra("pymodbus", "modbus", "a trigger, an encoder or a belt signal modbus-…") from error
    # It logs every attempt to connect, for ever; our own errors say the same once.
    logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)
    return module


@dataclass(frozen=True)
class TcpPeer:
    """A host and its port."""

    host: str
    port: int

    @property
    def name(self) -> str:
        return f"modbus-tcp://{self.host}:{self.port}"

    @property
    def key(self) -> str:
        return f"modbus-tcp {self.host.lower()}:{self.port}"

    def client(self, timeout_s: float) -> Any:
        return load_pymodbus().ModbusTcpClient(self.host, port=self.port, timeout=timeout_s, retries=0)


@dataclass(frozen=True)
class RtuPeer:
    """A serial port and its settings."""

    port: str
    baud: int
    parity: str
    stopbits: int

    @property
    def name(self) -> str:
        return f"modbus-rtu://{self.port}"

    @property
    def key(self) -> str:
        return f"modbus-rtu {os.path.realpath(self.port)}"

    def client(self, timeout_s: float) -> Any:
        return load_pymodbus().ModbusSerialClient(
            self.port,
            baudrate=self.baud,
            parity=self.parity,
            stopbits=self.stopbits,
            timeout=timeout_s,
            retries=0,
        )


@dataclass(frozen=True)
class Point:
    """What is read: ``address`` counts from 0; a register of 32 bits is two, the ``high_first`` of them with the upper
    half or the other."""

    peer: TcpPeer | RtuPeer
    unit: int
    table: Table
    address: int
    bits: int = 16
    high_first: bool = True

    @property
    def name(self) -> str:
        return f"{self.peer.name}/{self.table}/{self.address}"

    @property
    def key(self) -> str:
        return f"{self.peer.key} {self.unit} {self.table} {self.address}"


class ModbusDevice:
    """A point that is read over a connection of its own."""

    def __init__(self, point: Point, timeout_s: float) -> None:
        """
        Raises:
            TriggerError: there is no connection.
            MissingExtra: pymodbus is not installed.
        """
        self._point = point
        self._client = point.peer.client(timeout_s)
        self._method = getattr(self._client, _METHODS[point.table])
        self._count = 2 if point.table in REGISTERS and point.bits == 32 else 1
        if not self._client.connect():
            raise TriggerError(
                f"{point.name}: cannot be connected to; check the address, the cable and that the device is on"
            )

    def read(self) -> int:
        point = self._point
        try:
            answer = self._method(point.address, count=self._count, device_id=point.unit)
        except Exception as error:  # pymodbus lets others than its own through
            raise TriggerError(f"{point.name}: no answer ({error})") from error
        if answer.isError():
            raise TriggerError(f"{point.name}: refused ({answer}); check unit and address")
        values = answer.bits[:1] if point.table in BITS else answer.registers
        if len(values) != self._count:
            raise TriggerError(f"{point.name}: {len(values)} values instead of {self._count}")
        if self._count == 1:
            return int(values[0])
        high, low = values if point.high_first else reversed(values)
        return int(high) << 16 | int(low)

    def close(self) -> None:
        self._client.close()


@dataclass(frozen=True)
class ModbusConfig(Generic[Event]):
    """A point, how often it is asked and how long an answer may take, and what its value means."""

    point: Point
    poll_ms: float
    timeout_ms: float
    meaning: Meaning[Event]

    @property
    def name(self) -> str:
        return self.point.name

    @property
    def physical_key(self) -> str:
        return self.point.key

    def open(self) -> EventSource[Event]:
        return PolledSource(
            self.name,
            ModbusDevice(self.point, self.timeout_ms / 1e3),
            self.meaning,
            round(self.poll_ms * 1e6),
            round(self.timeout_ms * 1e6),
        )


def trigger(at: Address) -> ModbusConfig[Edge]:
    """A coil or discrete input that becomes active, or a counter of parts."""
    peer, unit, table, number, query = _point(at, (*BITS, *REGISTERS), ("edge", *_REGISTER_KEYS))
    if table in BITS:
        query.refuse(_REGISTER_KEYS, "belongs to a register")
        active = query.choice("edge", ("rising", "falling"), "rising") == "rising"
        return _config(at, query, Point(peer, unit, table, number), BitTrigger(active))
    query.refuse(("edge",), "belongs to a coil or a discrete input")
    point = _register(peer, unit, table, number, query)
    return _config(at, query, point, CounterTrigger(point.bits))


def encoder(at: Address) -> ModbusConfig[Count]:
    """A counter of encoder steps."""
    peer, unit, table, number, query = _point(at, REGISTERS, ("max_rate", "max_back", *_REGISTER_KEYS))
    point = _register(peer, unit, table, number, query)
    rate = max_rate(at, query)
    config = _config(at, query, point, CounterEncoder(point.bits, rate, max_back(query)))
    if rate * config.timeout_ms / 1e3 >= 1 << (point.bits - 2):
        raise at.wrong(
            f"at max_rate={rate:g} a counter of {point.bits} bits may wrap around within timeout_ms; "
            "use bits=32 or a shorter timeout_ms"
        )
    return config


def belt(at: Address) -> ModbusConfig[Running]:
    """A coil or discrete input that is active while the belt runs."""
    peer, unit, table, number, query = _point(at, BITS, ("active_low",))
    return _config(at, query, Point(peer, unit, table, number), BitBelt(not query.flag("active_low")))


def _point(
    at: Address, tables: tuple[Table, ...], keys: tuple[str, ...]
) -> tuple[TcpPeer | RtuPeer, int, Table, int, Query]:
    serial = at.scheme == "modbus-rtu"
    example = "modbus-rtu:///dev/ttyUSB0/" if serial else "modbus-tcp://192.168.0.10:502/"
    path, slash, last = unquote(at.parts.path).rpartition("/")
    head, slash_before, name = path.rpartition("/")
    table = next((t for t in tables if t == name), None)
    if not slash or not slash_before or table is None or (head and not serial):
        raise at.wrong(
            f"must end with one of {', '.join(tables)} and an address, as in {example}{tables[0]}/3"
        )
    if not (last.isascii() and last.isdigit() and int(last) <= 65_535):
        raise at.wrong(f"the address {last} must be a whole number from 0 to 65535")
    query = at.query(*_KEYS, *(_SERIAL_KEYS if serial else ()), *keys)
    peer: TcpPeer | RtuPeer
    if serial:
        if at.parts.netloc or len(head) < 2:
            raise at.wrong(f"the port's path follows three slashes, as in {example}{tables[0]}/3")
        peer = RtuPeer(
            head,
            query.integer("baud", 19_200, 50, 4_000_000),
            query.choice("parity", ("N", "E", "O"), "N"),
            query.integer("stopbits", 1, 1, 2),
        )
    else:
        peer = TcpPeer(*at.host(502, f"{example}{tables[0]}/3"))
    return peer, query.integer("unit", 1, 0, 255), table, int(last), query


def _register(peer: TcpPeer | RtuPeer, unit: int, table: Table, number: int, query: Query) -> Point:
    return Point(
        peer,
        unit,
        table,
        number,
        bits=int(query.choice("bits", ("16", "32"), "16")),
        high_first=query.choice("words", ("high-first", "low-first"), "high-first") == "high-first",
    )


def _config(at: Address, query: Query, point: Point, meaning: Meaning[Event]) -> ModbusConfig[Event]:
    usual = _USUAL_SERIAL_POLL_MS if isinstance(point.peer, RtuPeer) else _USUAL_POLL_MS
    poll_ms = at.bounded(query, "poll_ms", usual, 1, 10_000)
    timeout_ms = at.bounded(query, "timeout_ms", max(_USUAL_TIMEOUT_MS, 4 * poll_ms), 2, 60_000)
    if timeout_ms < 2 * poll_ms:
        raise at.wrong(f"timeout_ms={timeout_ms:g} must be at least twice poll_ms={poll_ms:g}")
    return ModbusConfig(point, poll_ms, timeout_ms, meaning)
