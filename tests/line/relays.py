"""A relay board's end of a serial line, on a real pseudo-terminal: bare, and boards that do what their bytes say."""

from __future__ import annotations

import os
import select
import threading
import time
import tty
from pathlib import Path

LCUS_ON = bytes.fromhex("A00101A2")
LCUS_OFF = bytes.fromhex("A00100A1")


class Board:
    """The master side of a PTY; programs open :attr:`port` as if it were a USB serial port."""

    def __init__(self) -> None:
        self._master, slave = os.openpty()
        tty.setraw(slave)
        self.port = os.ttyname(slave)
        # Kept open, so that the master does not report a hang-up between two users of the port.
        self._slave = slave
        self.received = b""

    def read_available(self) -> bytes:
        """All bytes received so far."""
        while select.select([self._master], [], [], 0)[0]:
            self.received += os.read(self._master, 4096)
        return self.received

    def wait_for(self, count: int, seconds: float = 10.0) -> bytes:
        """Wait until ``count`` bytes have come, then return all of them."""
        deadline = time.monotonic() + seconds
        while len(self.read_available()) < count:
            assert time.monotonic() < deadline, f"got {self.received.hex(' ')}, waited for {count} bytes"
            select.select([self._master], [], [], 0.05)
        return self.received

    def send(self, data: bytes) -> None:
        os.write(self._master, data)

    def waiting_for_user(self) -> int:
        """Bytes sent by the board that the program has not taken or thrown away."""
        found = b""
        while select.select([self._slave], [], [], 0)[0]:
            found += os.read(self._slave, 4096)
        return len(found)

    def hang_up(self) -> None:
        """Pull the plug: the port gives errors from now on."""
        for handle in (self._master, self._slave):
            os.close(handle)
        self._master = self._slave = -1

    def close(self) -> None:
        if self._master >= 0:
            self.hang_up()


def lcus_states(data: bytes, channel: int = 1) -> list[bool]:
    """Decode LCUS commands strictly: whole frames, the right channel, the right checksum."""
    assert len(data) % 4 == 0, data.hex(" ")
    states = []
    for i in range(0, len(data), 4):
        head, number, state, check = data[i : i + 4]
        assert head == 0xA0 and number == channel and state in (0, 1), data.hex(" ")
        assert check == (head + number + state) % 256, data.hex(" ")
        states.append(bool(state))
    return states


class Emulator:
    """A relay board behind a PTY that does what its bytes say, with faults.

    ``told`` are the commands that it took, as (channel, state). ``stuck``: it takes commands and its relays do not move.
    ``mute``: it does not answer. ``byte_delay_s`` passes before each byte of an answer. :attr:`port` is a link, as udev
    makes them, and outlives :meth:`unplug`.
    """

    def __init__(self, folder: Path) -> None:
        self.port = folder / f"relay-{type(self).__name__.lower()}"
        self.told: list[tuple[int, bool]] = []
        self.relays: dict[int, bool] = {}
        self.stuck = self.mute = False
        self.byte_delay_s = 0.0
        self._wires: tuple[int, int] | None = None
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self.plug()

    def plug(self) -> None:
        """Come back, under the same name, with all relays off."""
        master, slave = os.openpty()
        tty.setraw(slave)
        self._wires = master, slave
        self.relays = {}
        self._end.clear()
        self.port.unlink(missing_ok=True)
        self.port.symlink_to(os.ttyname(slave))
        self._thread = threading.Thread(target=self._serve, args=(master,), daemon=True)
        self._thread.start()

    def unplug(self) -> None:
        """Be gone."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._wires is not None:
            self.port.unlink()
            for wire in self._wires:
                os.close(wire)
            self._wires = None

    close = unplug

    def states(self, count: int, channel: int, seconds: float = 10.0) -> list[bool]:
        """What the channel was told, once there are ``count`` commands."""
        deadline = time.monotonic() + seconds
        while len(told := [state for number, state in self.told if number == channel]) < count:
            assert time.monotonic() < deadline, f"{self.told}: waited for {count}"
            time.sleep(0.002)
        return told

    def _serve(self, master: int) -> None:
        buffer = b""
        while not self._end.is_set():
            if not select.select([master], [], [], 0.01)[0]:
                continue
            buffer += os.read(master, 4096)
            buffer, answer = self._understand(buffer)
            if self.mute:
                continue
            for i in range(len(answer)):
                if self.byte_delay_s:
                    time.sleep(self.byte_delay_s)
                os.write(master, answer[i : i + 1])

    def _switch(self, channel: int, state: bool) -> None:
        if not self.stuck:
            self.relays[channel] = state
        self.told.append((channel, state))

    def _understand(self, buffer: bytes) -> tuple[bytes, bytes]:
        """Act on whole commands; what is left of the buffer, and the answer."""
        raise NotImplementedError


class Lcus(Emulator):
    """Four bytes with a checksum; a wrong one is ignored. It never answers."""

    def _understand(self, buffer: bytes) -> tuple[bytes, bytes]:
        while len(buffer) >= 4:
            head, channel, state, check = buffer[:4]
            buffer = buffer[4:]
            if head == 0xA0 and state in (0, 1) and check == (head + channel + state) % 256:
                self._switch(channel, bool(state))
        return buffer, b""


class Kmtronic(Emulator):
    """Three bytes. One and two relays answer FF ch 03, four and eight FF 09 00 with a byte for each."""

    def __init__(self, folder: Path, count: int = 2) -> None:
        self.count = count
        super().__init__(folder)

    def _understand(self, buffer: bytes) -> tuple[bytes, bytes]:
        answer = b""
        while len(buffer) >= 3:
            head, channel, state = buffer[:3]
            buffer = buffer[3:]
            if head != 0xFF:
                continue
            if 1 <= channel <= self.count and state in (0, 1):
                self._switch(channel, bool(state))
            elif self.count <= 2 and channel <= self.count and state == 3:
                answer += bytes((0xFF, channel, self.relays.get(channel, False)))
            elif self.count > 2 and (channel, state) == (9, 0):
                answer += bytes(self.relays.get(n + 1, False) for n in range(self.count))
        return buffer, answer


class Numato(Emulator):
    """Lines of text, echoed, with a prompt behind each answer."""

    def _understand(self, buffer: bytes) -> tuple[bytes, bytes]:
        *lines, rest = buffer.split(b"\r")
        answer = b""
        for line in lines:
            word, channel = line.decode("ascii").removeprefix("relay ").split()
            answer += line + b"\n\r"
            if word == "read":
                answer += (b"on" if self.relays.get(int(channel)) else b"off") + b"\n\r"
            else:
                self._switch(int(channel), word == "on")
            answer += b">"
        return rest, answer


class Acknowledging(Emulator):
    """A board of nobody's make, for templates: ``S1``, ``S0`` and ``Q``, each command acknowledged."""

    ON, OFF, ASK = b"S1", b"S0", b"Q?"
    ON_REPLY, OFF_REPLY, ACK = b"<1>", b"<0>", b"OK\r\n"

    def _understand(self, buffer: bytes) -> tuple[bytes, bytes]:
        answer = b""
        while len(buffer) >= 2:
            command, buffer = buffer[:2], buffer[2:]
            if command == self.ASK:
                answer += self.ON_REPLY if self.relays.get(0) else self.OFF_REPLY
            elif command in (self.ON, self.OFF):
                self._switch(0, command == self.ON)
                answer += self.ACK
        return buffer, answer
