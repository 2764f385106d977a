"""Reject outputs behind one narrow interface, each given as a URL.

=========================================================  ==================================================
``serial:///dev/ttyUSB0?protocol=lcus1&channel=1``         a relay board on a serial port; ``baud=``; the protocols
                                                           are ``lcus1``, ``kmtronic`` (``relays=`` of the board),
                                                           ``numato``, and ``template`` for any other, with the
                                                           bytes in hex: ``on=A00101A2&off=A00100A1``; with
                                                           ``verify=1`` the state is read back (kmtronic, numato, and
                                                           template with ``status=``, ``on_reply=``, ``off_reply=``
                                                           and, where it answers commands, ``ack=``)
``modbus-tcp://plc:502/coil/5?unit=1``                     a coil, or a holding register as in
                                                           ``/register/12?on=1&off=0``; ``timeout_ms=``;
                                                           ``timer=waveshare`` (extra ``modbus``)
``modbus-rtu:///dev/ttyUSB0/coil/0?unit=1&baud=9600``      the same on a serial bus; ``parity=none|even|odd``,
                                                           ``stop=1|2``
``gpio://gpiochip0/17?active_low=1``                       a GPIO line; the chip by path, name or label, the
                                                           line by number or name (extra ``gpio``)
``mock://name?fail=3&absent=1&slow_ms=20&timer=1``         records instead of acting, with faults, for tests
=========================================================  ==================================================

All take ``pulse_ms`` (50), ``delay_ms`` (0), ``lead_ms`` (0), ``min_off_ms`` (0), ``safe`` (``auto``) and ``energise``
(``reject``), see :class:`Timing`.

A mechanical relay wears out: makers of small boards quote 100,000 operations, which is 12 days at a reject every ten
seconds. Beyond a trial use solid-state relays, opto-couplers or transistor outputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.outputs.base import Output, OutputConfig, PulsedOutput, Timing
from edge_ad_runtime.outputs.gpio import parse_gpio
from edge_ad_runtime.outputs.mock import parse_mock
from edge_ad_runtime.outputs.modbus import parse_modbus_rtu, parse_modbus_tcp
from edge_ad_runtime.outputs.serial_relay import parse_serial
from edge_ad_runtime.outputs.sharing import Ports

__all__ = [
    "SCHEMES",
    "Output",
    "OutputConfig",
    "Ports",
    "PulsedOutput",
    "Timing",
    "open_output",
    "parse_output",
    "physical_key",
    "refuse_shared_lines",
]

SCHEMES = ("serial", "modbus-tcp", "modbus-rtu", "gpio", "mock")


def open_output(url: str) -> Output:
    """Parse an output's URL and open it.

    Raises:
        InputError: the URL is not understood.
        OutputError, MissingExtra: see :meth:`OutputConfig.open`.
    """
    return parse_output(url).open()


def parse_output(url: str, ports: Ports | None = None) -> OutputConfig:
    """Read an output's URL without touching the device.

    Outputs that are given the same ``ports`` may be relays of one board or devices on one bus.

    Raises:
        InputError: the scheme, a key or a value is unknown or out of range.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InputError(f"output '{url}': not a URL ({error})") from None
    if "@" in parts.netloc:
        raise InputError(f"output {parts.scheme}://…: takes neither user nor password")
    where = f"output '{url}'"
    if parts.fragment:
        raise InputError(f"{where}: write '%23' for '#'")
    ports = ports or Ports()
    if parts.scheme == "serial":
        return parse_serial(where, parts, ports)
    if parts.scheme == "modbus-tcp":
        return parse_modbus_tcp(where, parts, ports)
    if parts.scheme == "modbus-rtu":
        return parse_modbus_rtu(where, parts, ports)
    if parts.scheme == "gpio":
        return parse_gpio(where, parts)
    if parts.scheme == "mock":
        return parse_mock(where, parts)
    raise InputError(
        f"{where}: must begin with one of {', '.join(f'{s}://' for s in SCHEMES)}, "
        "for example serial:///dev/ttyUSB0?protocol=lcus1"
    )


@runtime_checkable
class _Physical(Protocol):
    @property
    def physical_key(self) -> str: ...


def physical_key(config: OutputConfig) -> str | None:
    """One text for one relay, coil or line, however its URL is written; None for an output of another kind.

    Links to devices, and chips and lines by label or name, are looked up where they are there.
    """
    return config.physical_key if isinstance(config, _Physical) else None


def refuse_shared_lines(configs: Iterable[OutputConfig]) -> None:
    """Check that no two outputs drive the same relay, coil or line.

    Raises:
        InputError: two do.
    """
    seen: dict[str, str] = {}
    for config in configs:
        key = physical_key(config)
        if key is None:
            continue
        if key in seen:
            other = "" if seen[key] == config.name else f" and {seen[key]}"
            raise InputError(f"output {config.name}{other}: given twice; one line can have one output only")
        seen[key] = config.name
