"""Relay boards on a serial port: ``serial:///dev/ttyUSB0?protocol=lcus1&channel=1``.

Commands are sent and, with ``verify=1``, the relay's state is read back after each, where the board can say it. Without,
a lost byte is not noticed; an unplugged board is, at the next command.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote

import serial

from edge_ad_runtime.errors import InputError, OutputError
from edge_ad_runtime.outputs.base import Timing
from edge_ad_runtime.outputs.query import TIMING_KEYS, Query
from edge_ad_runtime.outputs.relay_boards import BOARDS, Commands, Readback, template
from edge_ad_runtime.outputs.sharing import Ports

# A command is a few bytes, 10 ms at 9600 baud; a port that takes longer is stuck.
WRITE_TIMEOUT_S = 0.5
# An answer is a few bytes too, and a USB adapter keeps it back for up to 16 ms.
REPLY_TIMEOUT_S = 0.1
# A state is read back within the pulse; the end of a shorter one would wait for it.
SHORTEST_VERIFIED_MS = 50.0

_TEMPLATE_KEYS = ("on", "off", "status", "on_reply", "off_reply", "ack")


@dataclass(frozen=True)
class SerialConfig:
    """A relay's port, protocol, channel (0 for a template), speed in baud and timing. ``verify``: its state is read back
    after each command."""

    port: str
    protocol: str
    channel: int
    baud: int
    timing: Timing
    commands: Commands
    verify: bool = False
    ports: Ports = field(default_factory=Ports, compare=False, repr=False)

    @property
    def name(self) -> str:
        which = f"on={self.commands.on.hex()}" if self.protocol == "template" else f"channel {self.channel}"
        return f"serial://{self.port} ({self.protocol}, {which})"

    @property
    def physical_key(self) -> str:
        """The port and the commands: however written, two outputs with the same are one relay."""
        commands = ",".join(sorted(c.hex() for c in (self.commands.on, self.commands.off)))
        return f"serial {os.path.realpath(self.port)} {commands}"

    def open(self) -> SerialRelay:
        return SerialRelay(self)


def parse_serial(where: str, parts: SplitResult, ports: Ports) -> SerialConfig:
    """The configuration that a ``serial:`` URL describes.

    Raises:
        InputError: a key or a value is unknown or out of range.
    """
    port = unquote(parts.path)
    if parts.netloc or len(port) < 2:
        raise InputError(f"{where}: the port's path follows three slashes, as in serial:///dev/ttyUSB0")
    keys = ("protocol", "channel", "baud", "verify", "relays", *_TEMPLATE_KEYS, *TIMING_KEYS)
    query = Query(parts.query, where, keys)
    name = query.choice("protocol", (*BOARDS, "template"), "lcus1")
    if name == "template":
        query.refuse(("channel", "relays"), "has no place in protocol=template; the bytes say the relay")
        channel, baud = 0, 9600
        try:
            commands = template(*(query.hex_bytes(key) for key in _TEMPLATE_KEYS))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    else:
        query.refuse(_TEMPLATE_KEYS, "belongs to protocol=template")
        if name != "kmtronic":
            query.refuse(("relays",), "belongs to protocol=kmtronic")
        board = BOARDS[name]
        baud = board.baud
        channel = query.integer("channel", board.first_channel, board.first_channel, board.last_channel)
        relays = int(query.choice("relays", ("0", "1", "2", "4", "8"), "0"))
        if relays and channel > relays:
            raise InputError(f"{where}: channel={channel} is not on a board with relays={relays}")
        commands = board.commands(channel, relays)
    timing, verify = query.timing(), query.flag("verify")
    if verify and commands.readback is None:
        remedy = {
            "kmtronic": "say how many relays the board has, relays=4 or relays=8",
            "template": "give status=, on_reply= and off_reply=",
        }.get(name, "leave it out")
        raise InputError(f"{where}: verify=1 needs a board that says its state; {remedy}")
    if verify and timing.pulse_ms < SHORTEST_VERIFIED_MS:
        raise InputError(
            f"{where}: verify=1 needs pulse_ms of at least {SHORTEST_VERIFIED_MS:g}; the state is read back "
            "before the pulse can end"
        )
    return SerialConfig(
        port=port,
        protocol=name,
        channel=channel,
        baud=query.integer("baud", baud, 50, 4_000_000),
        timing=timing,
        commands=commands,
        verify=verify,
        ports=ports,
    )


class SerialPort:
    """An opened port, for this process alone. Whatever the driver raises goes through: pyserial lets some of the
    system's errors pass, among them termios.error, which is no OSError."""

    def __init__(self, port: str, baud: int) -> None:
        self._serial = serial.Serial(port, baud, timeout=0, write_timeout=WRITE_TIMEOUT_S, exclusive=True)

    def send(self, data: bytes) -> None:
        """Throw away what came unasked, which would fill the input buffer and stop a board that echoes; then send.

        Raises:
            OutputError: not all was taken.
        """
        self._serial.reset_input_buffer()
        written = self._serial.write(data)
        if written != len(data):
            raise OutputError(f"took {written} of {len(data)} bytes")

    def receive(self, seconds: float) -> bytes:
        """What comes within ``seconds``, without waiting for more than the first; empty when nothing does."""
        if not select.select([self._serial.fileno()], [], [], max(seconds, 0))[0]:
            return b""
        received: bytes = self._serial.read(4096)
        return received

    def ask(self, readback: Readback) -> bool:
        """The relay's state.

        Raises:
            OutputError: there is no answer in time, or one that is not understood.
        """
        if readback.ack:
            self._await(lambda data: _matches(data, readback.ack), "acknowledge a command")
        self.send(readback.request)
        return self._await(readback.decode, "say its state")

    def _await(self, decode: Callable[[bytes], bool | None], what: str) -> bool:
        deadline = time.monotonic() + REPLY_TIMEOUT_S
        answer = b""
        while (left := deadline - time.monotonic()) > 0:
            answer += self.receive(left)
            try:
                state = decode(answer) if answer else None
            except ValueError:
                break
            if state is not None:
                return state
        if not answer:
            raise OutputError(f"does not {what}; check that the board is there and can")
        raise OutputError(f"answers {answer[:32].hex(' ')} when it is to {what}")

    def close(self) -> None:
        self._serial.close()

    def abandon(self) -> None:
        try:
            # A stuck adapter would keep close() waiting, and a command that comes late does harm.
            self._serial.reset_output_buffer()
        finally:
            self._serial.close()


def _matches(data: bytes, expected: bytes) -> bool | None:
    if data[: len(expected)] != expected[: len(data)]:
        raise ValueError
    return True if len(data) >= len(expected) else None


class SerialRelay:
    """One relay of a board."""

    def __init__(self, config: SerialConfig) -> None:
        self.name = config.name
        self._commands = (config.commands.off, config.commands.on)
        self._readback = config.commands.readback if config.verify else None
        port, baud = config.port, config.baud
        try:
            # As it is written: behind a link there may be another device after the board was plugged in again.
            key = str(Path(port).absolute())
            self._lease = config.ports.attach(key, f"{baud} baud", lambda: SerialPort(port, baud))
        except Exception as error:  # as SerialPort
            raise OutputError(
                f"{self.name}: cannot be opened ({error}); check the cable, the path (the same for all outputs of a "
                "board), that no other program or output uses the port, and that the user may (group 'dialout')"
            ) from error

    def set(self, active: bool) -> None:
        if self._lease.closed:
            raise OutputError(f"{self.name}: is closed")
        try:
            with self._lease.use() as port:
                port.send(self._commands[active])
                if self._readback is not None and port.ask(self._readback) != active:
                    on, off = ("on", "off") if active else ("off", "on")
                    raise OutputError(f"stays {off} when switched {on}")
        except OutputError as error:
            raise OutputError(f"{self.name}: {error}") from error
        except Exception as error:  # as SerialPort
            raise OutputError(f"{self.name}: does not take commands ({error})") from error

    def close(self) -> None:
        try:
            self._lease.close()
        except Exception as error:  # as SerialPort
            raise OutputError(f"{self.name}: cannot be closed ({error})") from error
