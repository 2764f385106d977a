"""Relay boards on a serial port: ``serial:///dev/ttyUSB0?protocol=lcus1&channel=1``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import serial

from edge_ad_runtime.errors import OutputError
from edge_ad_runtime.outputs.base import Timing

# A command is a few bytes, 10 ms at 9600 baud; a port that takes longer is stuck.
WRITE_TIMEOUT_S = 0.5


@dataclass(frozen=True)
class Protocol:
    """The command bytes of a kind of board. Channels are counted as the board's maker counts them."""

    encode: Callable[[int, bool], bytes]
    first_channel: int
    last_channel: int
    baud: int = 9600


def _lcus1(channel: int, active: bool) -> bytes:
    """LCUS-1 and its larger kin: A0, channel, state, sum of the three modulo 256."""
    body = bytes((0xA0, channel, int(active)))
    return body + bytes((sum(body) % 256,))


def _kmtronic(channel: int, active: bool) -> bytes:
    return bytes((0xFF, channel, int(active)))


def _numato(channel: int, active: bool) -> bytes:
    return f"relay {'on' if active else 'off'} {channel}\r".encode("ascii")


PROTOCOLS: dict[str, Protocol] = {
    "lcus1": Protocol(_lcus1, 1, 8),
    "kmtronic": Protocol(_kmtronic, 1, 8),
    "numato": Protocol(_numato, 0, 7),
}


@dataclass(frozen=True)
class SerialConfig:
    """A relay's port, protocol, channel, speed in baud and timing."""

    port: str
    protocol: str
    channel: int
    baud: int
    timing: Timing

    @property
    def name(self) -> str:
        return f"serial://{self.port} ({self.protocol}, channel {self.channel})"

    def open(self) -> SerialRelay:
        return SerialRelay(self)


class SerialRelay:
    """One relay of a board. The port is opened for this process alone.

    None of these boards confirms a command in a way that all of them share, so a lost byte is not noticed;
    an unplugged board is, at the next command.
    """

    def __init__(self, config: SerialConfig) -> None:
        self.name = config.name
        encode = PROTOCOLS[config.protocol].encode
        self._commands = (encode(config.channel, False), encode(config.channel, True))
        try:
            self._port = serial.Serial(
                config.port,
                config.baud,
                timeout=0,
                write_timeout=WRITE_TIMEOUT_S,
                exclusive=True,
            )
        # pyserial lets some of the system's errors through, among them termios.error, which is no OSError.
        except Exception as error:
            raise OutputError(
                f"{self.name}: cannot be opened ({error}); check the cable, the path, that no other program "
                "or output uses the port, and that the user may (group 'dialout')"
            ) from error

    def set(self, active: bool) -> None:
        command = self._commands[active]
        try:
            # Boards that echo would otherwise fill the input buffer and stop.
            self._port.reset_input_buffer()
            written = self._port.write(command)
        except Exception as error:  # as above
            raise OutputError(f"{self.name}: does not take commands ({error})") from error
        if written != len(command):
            raise OutputError(f"{self.name}: took {written} of {len(command)} bytes")

    def close(self) -> None:
        try:
            self._port.close()
        except Exception as error:  # as above
            raise OutputError(f"{self.name}: cannot be closed ({error})") from error
