"""Reject outputs behind one narrow interface, each given as a URL.

=========================================================  ==================================================
``serial:///dev/ttyUSB0?protocol=lcus1&channel=1``         a relay board on a serial port; ``baud=``; the
                                                           protocols are ``lcus1``, ``kmtronic``, ``numato``
``gpio://gpiochip0/17?active_low=1``                       a GPIO line; the chip by path, name or label, the
                                                           line by number or name (extra ``gpio``)
``mock://name?fail=3&absent=1&slow_ms=20``                 records instead of acting, with faults, for tests
=========================================================  ==================================================

All take ``pulse_ms`` (50), ``delay_ms`` (0), ``lead_ms`` (0), ``min_off_ms`` (0), ``safe`` (``auto``) and ``energise``
(``reject``), see :class:`Timing`.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.outputs.base import Output, OutputConfig, Timing
from edge_ad_runtime.outputs.gpio import GpioConfig
from edge_ad_runtime.outputs.mock import MockConfig
from edge_ad_runtime.outputs.query import TIMING_KEYS, Query
from edge_ad_runtime.outputs.serial_relay import PROTOCOLS, SerialConfig

__all__ = ["SCHEMES", "Output", "OutputConfig", "Timing", "open_output", "parse_output"]

SCHEMES = ("serial", "gpio", "mock")


def open_output(url: str) -> Output:
    """Parse an output's URL and open it.

    Raises:
        InputError: the URL is not understood.
        OutputError, MissingExtra: see :meth:`OutputConfig.open`.
    """
    return parse_output(url).open()


def parse_output(url: str) -> OutputConfig:
    """Read an output's URL without touching the device.

    Raises:
        InputError: the scheme, a key or a value is unknown or out of range.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InputError(f"output '{url}': not a URL ({error})") from None
    if parts.fragment:
        raise InputError(f"output '{url}': write '%23' for '#'")
    if parts.scheme == "serial":
        return _serial(url, parts)
    if parts.scheme == "gpio":
        return _gpio(url, parts)
    if parts.scheme == "mock":
        return _mock(url, parts)
    raise InputError(
        f"output '{url}': must begin with one of {', '.join(f'{s}://' for s in SCHEMES)}, "
        "for example serial:///dev/ttyUSB0?protocol=lcus1"
    )


def _serial(url: str, parts: SplitResult) -> SerialConfig:
    where = f"output '{url}'"
    port = unquote(parts.path)
    if parts.netloc or len(port) < 2:
        raise InputError(f"{where}: the port's path follows three slashes, as in serial:///dev/ttyUSB0")
    query = Query(parts.query, where, ("protocol", "channel", "baud", *TIMING_KEYS))
    name = query.choice("protocol", PROTOCOLS, "lcus1")
    protocol = PROTOCOLS[name]
    return SerialConfig(
        port=port,
        protocol=name,
        channel=query.integer(
            "channel", protocol.first_channel, protocol.first_channel, protocol.last_channel
        ),
        baud=query.integer("baud", protocol.baud, 50, 4_000_000),
        timing=query.timing(),
    )


def _gpio(url: str, parts: SplitResult) -> GpioConfig:
    where = f"output '{url}'"
    query = Query(parts.query, where, ("active_low", *TIMING_KEYS))
    chip, _, line = f"{parts.netloc}{parts.path}".rpartition("/")
    chip, line = unquote(chip), unquote(line)
    if not chip or not line:
        raise InputError(f"{where}: give chip and line, as in gpio://gpiochip0/17")
    return GpioConfig(
        chip=chip,
        line=int(line) if line.isascii() and line.isdigit() else line,
        active_low=query.flag("active_low"),
        timing=query.timing(),
    )


def _mock(url: str, parts: SplitResult) -> MockConfig:
    where = f"output '{url}'"
    query = Query(parts.query, where, ("fail", "absent", "slow_ms", "log", *TIMING_KEYS))
    slow_ms = query.number("slow_ms", 0.0)
    if not 0 <= slow_ms <= 60_000:
        raise InputError(f"{where}: slow_ms={slow_ms:g} must be 0 to 60000")
    log = query.text("log", "")
    return MockConfig(
        label=unquote(f"{parts.netloc}{parts.path}") or "output",
        timing=query.timing(),
        fail=query.integers("fail"),
        absent=query.integers("absent"),
        slow_ms=slow_ms,
        log=Path(log) if log else None,
    )
