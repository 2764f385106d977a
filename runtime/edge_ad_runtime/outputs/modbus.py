"""Coils and holding registers of Modbus devices.

``modbus-tcp://plc:502/coil/5?unit=1``, ``modbus-rtu:///dev/ttyUSB0/coil/0?unit=1&baud=9600``,
``modbus-tcp://plc/register/12?on=1&off=0``. Numbers are those on the wire, from 0: a manual's coil 00001 or register
40001 is number 0 here. Each command is answered by the device and the answer checked; the connection stays open.

``timer=waveshare``: the pulses of a coil are timed by the board (Waveshare's Modbus relays: "flash on", function 05 at
address 0200 hex plus the channel, the value in units of 100 ms), so they end even when this machine does not live to see
it.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import SplitResult, unquote

from edge_ad_runtime.errors import InputError, MissingExtra, OutputError
from edge_ad_runtime.outputs.base import Timing, refuse_timer_to_accept
from edge_ad_runtime.outputs.query import TIMING_KEYS, Query
from edge_ad_runtime.outputs.sharing import Lease, Ports

# The values that function 05 knows (Modbus Application Protocol V1.1b3, 6.5).
COIL_ON, COIL_OFF = 0xFF00, 0x0000
FLASH_ON, FLASH_UNIT_MS = 0x0200, 100
DEFAULT_PORT = 502
WRITE_COIL, WRITE_REGISTER = 5, 6

_PARITIES: dict[str, Literal["N", "E", "O"]] = {"none": "N", "even": "E", "odd": "O"}


@dataclass(frozen=True)
class TcpLink:
    """``timeout_ms`` is how long a connection, and then each answer, may take."""

    host: str
    port: int
    timeout_ms: int

    @property
    def key(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"modbus-tcp://{host}:{self.port}"

    @property
    def physical_key(self) -> str:
        return self.key

    @property
    def settings(self) -> str:
        return f"timeout_ms={self.timeout_ms}"


@dataclass(frozen=True)
class RtuLink:
    """8 data bits; ``baud``, ``parity`` and ``stop`` (bits) as the bus has them."""

    path: str
    baud: int
    parity: Literal["N", "E", "O"]
    stop: int
    timeout_ms: int

    @property
    def key(self) -> str:
        return f"modbus-rtu://{Path(self.path).absolute()}"

    @property
    def physical_key(self) -> str:
        return f"modbus-rtu://{os.path.realpath(self.path)}"

    @property
    def settings(self) -> str:
        return f"{self.baud} baud, 8{self.parity}{self.stop}, timeout_ms={self.timeout_ms}"


@dataclass(frozen=True)
class ModbusConfig:
    """``kind`` and ``number`` are the coil or register of the device ``unit``; ``on`` and ``off`` what is written to it.
    ``flash`` is what is written to the coil's timer for a pulse, None without one."""

    link: TcpLink | RtuLink
    unit: int
    kind: Literal["coil", "register"]
    number: int
    on: int
    off: int
    flash: int | None
    timing: Timing
    ports: Ports = field(default_factory=Ports, compare=False, repr=False)

    @property
    def name(self) -> str:
        return f"{self.link.key}/{self.kind}/{self.number} (unit {self.unit})"

    @property
    def physical_key(self) -> str:
        return f"{self.link.physical_key} {self.unit} {self.kind} {self.number}"

    def open(self) -> ModbusOutput:
        return TimedCoil(self, self.flash) if self.flash is not None else ModbusOutput(self)


def parse_modbus_tcp(where: str, parts: SplitResult, ports: Ports) -> ModbusConfig:
    """The configuration that a ``modbus-tcp:`` URL describes.

    Raises:
        InputError: a key or a value is unknown or out of range.
    """
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
    path, kind, number = _target(parts.path)
    if not host or path or port == 0:
        raise InputError(f"{where}: give host and coil or register, as in modbus-tcp://plc:502/coil/5")
    query = _query(where, parts, kind, ())
    link = TcpLink(unquote(host), DEFAULT_PORT if port is None else port, _timeout(query))
    # Devices of their own often ignore the unit; behind a gateway it is the one on its bus.
    return _config(where, query, link, query.integer("unit", 1, 0, 255), kind, number, ports)


def parse_modbus_rtu(where: str, parts: SplitResult, ports: Ports) -> ModbusConfig:
    """The configuration that a ``modbus-rtu:`` URL describes.

    Raises:
        InputError: a key or a value is unknown or out of range.
    """
    path, kind, number = _target(parts.path)
    if parts.netloc or len(path) < 2:
        raise InputError(
            f"{where}: the port's path follows three slashes, then coil or register, as in "
            "modbus-rtu:///dev/ttyUSB0/coil/0"
        )
    query = _query(where, parts, kind, ("baud", "parity", "stop"))
    link = RtuLink(
        path=unquote(path),
        baud=query.integer("baud", 9600, 1200, 4_000_000),
        parity=_PARITIES[query.choice("parity", _PARITIES, "none")],
        stop=query.integer("stop", 1, 1, 2),
        timeout_ms=_timeout(query),
    )
    # 0 is for all at once, and nobody answers (Modbus over Serial Line V1.02, 2.2).
    return _config(where, query, link, query.integer("unit", 1, 1, 247), kind, number, ports)


def _target(path: str) -> tuple[str, str, str]:
    """What stands before ``/coil/5``, then ``coil`` and ``5``."""
    before, _, number = path.rpartition("/")
    before, _, kind = before.rpartition("/")
    return before, kind, number


def _query(where: str, parts: SplitResult, kind: str, link_keys: tuple[str, ...]) -> Query:
    if kind not in ("coil", "register"):
        raise InputError(f"{where}: what is driven must be coil/NUMBER or register/NUMBER")
    own = ("timer",) if kind == "coil" else ("on", "off")
    return Query(parts.query, where, ("unit", "timeout_ms", *link_keys, *own, *TIMING_KEYS))


def _timeout(query: Query) -> int:
    # At most a second, so that the safe state at the end does not wait for long.
    return query.integer("timeout_ms", 300, 20, 1000)


def _config(
    where: str, query: Query, link: TcpLink | RtuLink, unit: int, kind: str, number: str, ports: Ports
) -> ModbusConfig:
    if not (number.isascii() and number.isdigit() and len(number) <= 5 and int(number) <= 0xFFFF):
        raise InputError(f"{where}: {kind}/{number} must be a whole number from 0 to 65535")
    timing = query.timing()
    flash = None
    if kind == "coil":
        on, off = COIL_ON, COIL_OFF
        if query.choice("timer", ("none", "waveshare"), "none") == "waveshare":
            flash = _flash(where, int(number), timing)
    else:
        on, off = query.integer("on", 1, 0, 0xFFFF), query.integer("off", 0, 0, 0xFFFF)
        if on == off:
            raise InputError(f"{where}: on={on} and off={off} are the same value")
    return ModbusConfig(
        link=link,
        unit=unit,
        kind="coil" if kind == "coil" else "register",
        number=int(number),
        on=on,
        off=off,
        flash=flash,
        timing=timing,
        ports=ports,
    )


def _flash(where: str, channel: int, timing: Timing) -> int:
    """The length of a pulse in the board's units."""
    refuse_timer_to_accept(where, timing)
    if channel > 0xFF:
        raise InputError(f"{where}: coil/{channel} must be 0 to 255 with timer=waveshare")
    units = round(timing.pulse_ms / FLASH_UNIT_MS)
    if units < 1 or units * FLASH_UNIT_MS != timing.pulse_ms:
        raise InputError(
            f"{where}: pulse_ms={timing.pulse_ms:g} does not fit timer=waveshare, which counts units of "
            f"{FLASH_UNIT_MS} ms; choose a multiple, or leave timer= out"
        )
    return units


def load_client() -> Any:
    """:mod:`edge_ad_runtime.outputs.modbus_client`.

    Raises:
        MissingExtra: pymodbus is not installed.
    """
    try:
        return importlib.import_module("edge_ad_runtime.outputs.modbus_client")
    except ImportError as error:
        raise MissingExtra("pymodbus", "modbus", "an output modbus-tcp: or modbus-rtu:") from error


class ModbusOutput:
    """One coil or register."""

    def __init__(self, config: ModbusConfig) -> None:
        self.name = config.name
        self._config = config
        client = load_client()
        link = config.link
        try:
            self._lease: Lease[Any] = config.ports.attach(
                link.key, link.settings, lambda: client.connect(link)
            )
        except Exception as error:  # as SerialPort: drivers raise whatever they like
            remedy = (
                "check the cable, the address, and that the device takes one more connection"
                if isinstance(link, TcpLink)
                else "check the cable, the path (the same for all outputs on a bus), that no other program or output "
                "uses the port, and that the user may (group 'dialout')"
            )
            raise OutputError(f"{self.name}: cannot be opened ({error}); {remedy}") from error

    def set(self, active: bool) -> None:
        config = self._config
        function = WRITE_COIL if config.kind == "coil" else WRITE_REGISTER
        self._write(function, config.number, config.on if active else config.off)

    def _write(self, function: int, address: int, value: int) -> None:
        if self._lease.closed:
            raise OutputError(f"{self.name}: is closed")
        try:
            with self._lease.use() as connection:
                connection.write(self._config.unit, function, address, value)
        except Exception as error:  # as above
            raise OutputError(f"{self.name}: {error}") from error

    def close(self) -> None:
        try:
            self._lease.close()
        except Exception as error:  # as above
            raise OutputError(f"{self.name}: cannot be closed ({error})") from error


class TimedCoil(ModbusOutput):
    """A coil of a board that times pulses itself."""

    def __init__(self, config: ModbusConfig, units: int) -> None:
        super().__init__(config)
        self._units = units

    def pulse(self) -> None:
        self._write(WRITE_COIL, FLASH_ON + self._config.number, self._units)
