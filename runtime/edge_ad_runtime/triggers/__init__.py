"""Triggers, encoders and belt signals behind one interface, each given as a URL.

=================================================  ==========================================================
**Triggers**
``gpio://gpiochip0/17?edge=falling``               a GPIO line; ``edge`` (``rising``), ``debounce_ms`` (0),
                                                   ``active_low``, ``bias`` (``as-is``, ``pull-up``,
                                                   ``pull-down``, ``disabled``); chip and line by number or
                                                   name (extra ``gpio``)
``serial:///dev/ttyUSB0?byte=0x54``                every such byte, with ``byte=any`` every byte, with
                                                   ``line=T`` every line ``T`` or ``T 17``, whose number
                                                   tells of lost ones; ``baud`` (9600)
``modbus-tcp://192.168.0.10:502/coil/3``           a ``coil`` or ``discrete`` input with its ``edge``, or a
``modbus-rtu:///dev/ttyUSB0/register/7?bits=32``   counter of parts in a holding ``register`` or an ``input``
                                                   register, ``bits`` 16 or 32, ``words`` (``high-first``,
                                                   ``low-first``); ``poll_ms``, ``timeout_ms``, ``unit`` (1);
                                                   ``baud`` (9600), ``parity`` (``none``), ``stop`` (1)
                                                   (extra ``modbus``)
``socket:///run/line1.sock?mode=660``              each datagram at a local socket
``udp://127.0.0.1:9000``                           each datagram at a port of this machine
**Encoders**
``gpio://gpiochip0/27``                            edges of a line (``edge``: ``rising``, ``falling``,
                                                   ``both``), or with ``b=22`` of two lines in quadrature,
                                                   with ``max_back`` counts backwards at most
``serial:///dev/ttyUSB0?max_rate=5000``            counts as lines of text; ``baud``, ``max_back``
``modbus-tcp://…/register/7?max_rate=5000``        a counter register, as above, with ``max_back``
**Belt signals** (active while the belt runs)
``gpio://…``, ``modbus-…/coil/3``                  with ``active_low``
**For tests**, all three
``mock://eye?feed=/tmp/eye.fifo``                  see :mod:`edge_ad_runtime.triggers.mock`
=================================================  ==========================================================

How late an event is known, at most: GPIO and datagrams at once; serial after its transmission and the adapter's delay;
Modbus after ``poll_ms`` and its answer, or it has failed after ``timeout_ms``.
"""

from __future__ import annotations

from edge_ad_runtime.triggers import datagram, gpio, mock, modbus, serial_port
from edge_ad_runtime.triggers.base import Count, Edge, EventSource, Running, SourceConfig, TriggerError
from edge_ad_runtime.triggers.urls import Address, address

__all__ = [
    "Count",
    "Edge",
    "EventSource",
    "Running",
    "SourceConfig",
    "TriggerError",
    "parse_belt",
    "parse_encoder",
    "parse_trigger",
    "physical_keys",
]


def parse_trigger(url: str) -> SourceConfig[Edge]:
    """Read a trigger's URL without touching the device.

    Raises:
        InputError: the scheme, a key or a value is unknown or out of range.
    """
    at = address("trigger", url)
    match at.scheme:
        case "gpio":
            return gpio.trigger(at)
        case "serial":
            return serial_port.trigger(at)
        case "modbus-tcp" | "modbus-rtu":
            return modbus.trigger(at)
        case "socket":
            return datagram.local(at)
        case "udp":
            return datagram.udp(at)
        case "mock":
            return mock.trigger(at)
    raise _unknown(at, ("gpio", "serial", "modbus-tcp", "modbus-rtu", "socket", "udp", "mock"))


def parse_encoder(url: str) -> SourceConfig[Count]:
    """As :func:`parse_trigger`, of an encoder."""
    at = address("encoder", url)
    match at.scheme:
        case "gpio":
            return gpio.encoder(at)
        case "serial":
            return serial_port.encoder(at)
        case "modbus-tcp" | "modbus-rtu":
            return modbus.encoder(at)
        case "mock":
            return mock.encoder(at)
    raise _unknown(at, ("gpio", "serial", "modbus-tcp", "modbus-rtu", "mock"))


def parse_belt(url: str) -> SourceConfig[Running]:
    """As :func:`parse_trigger`, of a signal that the belt runs."""
    at = address("belt signal", url)
    match at.scheme:
        case "gpio":
            return gpio.belt(at)
        case "modbus-tcp" | "modbus-rtu":
            return modbus.belt(at)
        case "mock":
            return mock.belt(at)
    raise _unknown(at, ("gpio", "modbus-tcp", "modbus-rtu", "mock"))


def physical_keys(
    config: SourceConfig[Edge] | SourceConfig[Count] | SourceConfig[Running],
) -> tuple[str, ...]:
    """What a source occupies: a GPIO line, a port, a coil; equal for two URLs that mean the same one, and for an output's
    ``physical_key``. Empty for objects that are not from here."""
    keys = (getattr(config, "physical_key", None), getattr(config, "second_key", None))
    return tuple(key for key in keys if isinstance(key, str))


def _unknown(at: Address, schemes: tuple[str, ...]) -> Exception:
    return at.wrong(f"must begin with one of {', '.join(f'{s}://' for s in schemes)}")
