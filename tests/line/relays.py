"""A relay board's end of a serial line, on a real pseudo-terminal."""

from __future__ import annotations

import os
import select
import time
import tty

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
