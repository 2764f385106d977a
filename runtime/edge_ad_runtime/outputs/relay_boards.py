"""The bytes of relay boards: commands, and how a board says what its relay does."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from edge_ad_runtime.errors import InputError


@dataclass(frozen=True)
class Readback:
    """How a relay's state is asked for.

    ``decode`` gets all that has come since ``request`` was sent and returns the state, or None while the answer is not
    complete; it raises ValueError for what cannot become an answer. ``ack`` is what the board answers to every command
    before it can be asked; empty where it says nothing.
    """

    request: bytes
    decode: Callable[[bytes], bool | None]
    ack: bytes = b""


@dataclass(frozen=True)
class Commands:
    """What is sent to one relay. ``readback`` is None where the board cannot be asked."""

    off: bytes
    on: bytes
    readback: Readback | None = None


@dataclass(frozen=True)
class BoardKind:
    """A maker's protocol. Channels are counted as the maker counts them; ``commands`` takes the channel and how many
    relays the board has (0: not said)."""

    commands: Callable[[int, int], Commands]
    first_channel: int
    last_channel: int
    baud: int = 9600


def _lcus1(channel: int, _relays: int) -> Commands:
    """LCUS-1 and its larger kin: A0, channel, state, sum of the three modulo 256. Nothing is documented to ask it."""

    def command(state: int) -> bytes:
        body = bytes((0xA0, channel, state))
        return body + bytes((sum(body) % 256,))

    return Commands(command(0), command(1))


def _kmtronic(channel: int, relays: int) -> Commands:
    """FF, channel, state. Boards of one and two relays answer FF, channel, 03 by FF, channel, state; those of four
    and eight answer FF 09 00 by one byte for each relay."""
    off, on = bytes((0xFF, channel, 0)), bytes((0xFF, channel, 1))
    relays = relays or (2 if channel <= 2 else 0)
    if relays > 2:
        return Commands(off, on, Readback(b"\xff\x09\x00", lambda data: _state_in(data, relays, channel - 1)))
    if not relays:
        return Commands(off, on)

    def decode(data: bytes) -> bool | None:
        head = bytes((0xFF, channel))
        if data[:2] != head[: len(data)]:
            raise ValueError
        return _state_in(data[2:], 1, 0)

    return Commands(off, on, Readback(bytes((0xFF, channel, 3)), decode))


def _state_in(data: bytes, count: int, index: int) -> bool | None:
    """One of ``count`` bytes that are 00 or 01."""
    if len(data) > count or any(byte > 1 for byte in data):
        raise ValueError
    return bool(data[index]) if len(data) == count else None


# The echo of a command has 'on' and 'off' too, but a channel behind it and not the end of the line.
_NUMATO_STATE = re.compile(rb"\b(on|off) *[\r\n]")
_NUMATO_LONGEST = 256


def _numato(channel: int, _relays: int) -> Commands:
    """Words ended by a carriage return, which the board echoes; ``relay read N`` answers ``on`` or ``off``."""

    def decode(data: bytes) -> bool | None:
        if found := _NUMATO_STATE.search(data):
            return found[1] == b"on"
        if len(data) > _NUMATO_LONGEST:
            raise ValueError
        return None

    def word(text: str) -> bytes:
        return f"relay {text} {channel}\r".encode("ascii")

    return Commands(word("off"), word("on"), Readback(word("read"), decode))


BOARDS: dict[str, BoardKind] = {
    "lcus1": BoardKind(_lcus1, 1, 8),
    "kmtronic": BoardKind(_kmtronic, 1, 8),
    "numato": BoardKind(_numato, 0, 7),
}


def template(on: bytes, off: bytes, status: bytes, on_reply: bytes, off_reply: bytes, ack: bytes) -> Commands:
    """The commands of any other board. What it answers to ``status`` must be ``on_reply`` or ``off_reply`` from the first
    byte on; leave the three empty for a board that cannot be asked. ``ack`` is its answer to the commands, if any.

    Raises:
        InputError: bytes are missing, or cannot be told apart.
    """
    if not on or not off:
        raise InputError("protocol=template needs on= and off=, the bytes of the commands in hex")
    if on == off:
        raise InputError("on= and off= are the same bytes; a relay that toggles cannot be known to be off")
    if not any((status, on_reply, off_reply, ack)):
        return Commands(off, on)
    if not (status and on_reply and off_reply):
        raise InputError("status=, on_reply= and off_reply= are given together, and ack= only with them")
    if on_reply.startswith(off_reply) or off_reply.startswith(on_reply):
        raise InputError("on_reply= and off_reply= cannot be told apart: one begins with the other")

    def decode(data: bytes) -> bool | None:
        for reply, state in ((on_reply, True), (off_reply, False)):
            if data == reply:
                return state
        if not (on_reply.startswith(data) or off_reply.startswith(data)):
            raise ValueError
        return None

    return Commands(off, on, Readback(status, decode, ack))
