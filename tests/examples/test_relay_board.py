"""The relay board on a pseudo-terminal, driven through a real serial port."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import serial
from examples.relay_board import Decoder

PROGRAM = Path(__file__).parents[2] / "examples" / "relay_board.py"
ON, OFF = bytes.fromhex("A00101A2"), bytes.fromhex("A00100A1")


@pytest.fixture
def board(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    log = tmp_path / "relay.jsonl"
    words = [sys.executable, str(PROGRAM), "--log", str(log), "--port", str(tmp_path / "port")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip(), log
        finally:
            process.kill()


def _records(log: Path, count: int) -> list[dict[str, str | int]]:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        lines = log.read_text().splitlines()
        if len(lines) >= count:
            return [json.loads(line) for line in lines]
        time.sleep(0.01)
    raise AssertionError(f"{log.read_text()!r} holds fewer than {count} lines")


def test_commands_are_logged_with_their_times(board: tuple[subprocess.Popen[str], str, Path]) -> None:
    process, name, log = board
    before = time.monotonic_ns()
    with serial.Serial(name, 9600) as port:
        port.write(ON)
        port.flush()
        time.sleep(0.05)
        port.write(OFF)
    on, off = _records(log, 2)
    assert (on["bytes"], on["means"]) == ("A0 01 01 A2", "relay 1 on")
    assert (off["bytes"], off["means"]) == ("A0 01 00 A1", "relay 1 off")
    assert isinstance(on["t_monotonic_ns"], int) and isinstance(off["t_monotonic_ns"], int)
    assert before < on["t_monotonic_ns"] < off["t_monotonic_ns"] < time.monotonic_ns()
    assert off["t_monotonic_ns"] - on["t_monotonic_ns"] > 40_000_000
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0


def test_the_port_can_be_opened_again(board: tuple[subprocess.Popen[str], str, Path]) -> None:
    _, _, log = board
    link = log.with_name("port")
    for _ in range(2):
        with serial.Serial(str(link), 9600) as port:
            port.write(ON + OFF)
    assert [r["means"] for r in _records(log, 4)] == ["relay 1 on", "relay 1 off"] * 2


def test_decoder_takes_pieces_and_finds_its_way_back() -> None:
    decoder = Decoder()
    assert list(decoder.feed(ON[:1])) == []
    assert list(decoder.feed(ON[1:] + b"\x00" + OFF[:3])) == [(ON, "relay 1 on"), (b"\x00", "?")]
    assert list(decoder.feed(OFF[3:])) == [(OFF, "relay 1 off")]
    wrong_sum = bytes.fromhex("A00101FF")
    assert [m for _, m in decoder.feed(wrong_sum + ON)] == ["?", "?", "?", "?", "relay 1 on"]
