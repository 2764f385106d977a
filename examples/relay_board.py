"""A relay board made of software: python examples/relay_board.py --log FILE

It opens a pseudo-terminal, which to any program is a serial port like /dev/ttyUSB0, and prints its path.
What is written to the port arrives here as real bytes; each is logged with its time, and the commands of
an LCUS-1 relay board (A0, relay number, 1 or 0, sum of the three) are decoded. It ends with SIGTERM.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click

START = 0xA0
LENGTH = 4


class Decoder:
    """Finds LCUS-1 commands in a stream of bytes, whatever pieces it arrives in."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> Iterator[tuple[bytes, str]]:
        """Yield each command's bytes and its meaning; bytes that are none come one by one as ``?``."""
        self._pending += data
        while self._pending:
            command = self._pending[:LENGTH]
            if command[0] != START:
                yield self._take(1), "?"
            elif len(command) < LENGTH:
                return
            elif sum(command[:3]) % 256 == command[3] and command[2] in (0, 1):
                yield self._take(LENGTH), f"relay {command[1]} {'on' if command[2] else 'off'}"
            else:
                yield self._take(1), "?"

    def _take(self, count: int) -> bytes:
        taken, self._pending = self._pending[:count], self._pending[count:]
        return taken


def listen(master: int, stop: int, log: IO[str]) -> None:
    """Log what arrives at the pseudo-terminal as JSON lines until ``stop`` becomes readable.

    Each line has ``t_monotonic_ns``, the ``bytes`` in hexadecimal and what they ``mean``.
    """
    decoder = Decoder()
    while True:
        ready, _, _ = select.select([master, stop], [], [])
        if master in ready:
            now = time.monotonic_ns()
            for command, meaning in decoder.feed(os.read(master, 4096)):
                record = {"t_monotonic_ns": now, "bytes": command.hex(" ").upper(), "means": meaning}
                log.write(json.dumps(record) + "\n")
                log.flush()
        elif stop in ready:
            return


@click.command()
@click.option("--log", "log_path", type=click.Path(path_type=Path), required=True, help="Where the bytes go.")
@click.option("--port", type=click.Path(path_type=Path), help="A link to make to the port.")
def main(log_path: Path, port: Path | None) -> None:
    """Play a relay board on a pseudo-terminal and log what it receives."""
    # The slave stays open here, so that a program which closes the port does not hang up the line.
    master, slave = os.openpty()
    tty.setraw(slave)
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    name = os.ttyname(slave)
    with log_path.open("w", encoding="utf-8") as log:
        if port is not None:
            port.unlink(missing_ok=True)
            port.symlink_to(name)
        click.echo(name)
        try:
            listen(master, readable, log)
        finally:
            if port is not None:
                port.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
