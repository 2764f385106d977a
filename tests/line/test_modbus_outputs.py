"""Modbus outputs against pymodbus' server, by TCP and over a wire; the suite of all kinds is in test_outputs."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_ad_runtime.actuation import Actuator
from edge_ad_runtime.errors import MissingExtra, OutputError
from edge_ad_runtime.outputs import Ports, PulsedOutput, open_output, parse_output
from edge_ad_runtime.outputs.modbus import ModbusConfig, RtuLink, TcpLink

pytest.importorskip("pymodbus", reason="needs the extra 'modbus'")

from pymodbus.framer.rtu import FramerRTU

from tests.line.modbus_peers import ModbusPeer, Wire, rtu_peer, tcp_peer

ON, OFF = 0xFF00, 0x0000


@pytest.fixture
def tcp() -> Iterator[tuple[ModbusPeer, str]]:
    peer, port = tcp_peer()
    yield peer, f"modbus-tcp://127.0.0.1:{port}"
    peer.close()


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    wire = Wire(tmp_path)
    yield wire
    wire.close()


@pytest.fixture
def rtu(wire: Wire) -> Iterator[tuple[ModbusPeer, str]]:
    peer = rtu_peer(wire)
    yield peer, f"modbus-rtu://{wire.port}"
    peer.close()


def wait_until(done: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_urls_give_their_settings() -> None:
    tcp = parse_output("modbus-tcp://PLC.local/register/12?on=300&off=2&unit=0&timeout_ms=80&pulse_ms=20")
    assert isinstance(tcp, ModbusConfig)
    assert tcp.link == TcpLink("plc.local", 502, 80)
    assert (tcp.unit, tcp.kind, tcp.number, tcp.on, tcp.off, tcp.flash) == (0, "register", 12, 300, 2, None)
    assert tcp.timing.pulse_ns == 20_000_000
    v6 = parse_output("modbus-tcp://[::1]:5020/coil/0")
    assert isinstance(v6, ModbusConfig)
    assert v6.name == "modbus-tcp://[::1]:5020/coil/0 (unit 1)"
    rtu = parse_output("modbus-rtu:///dev/serial/by-id/a%20b/coil/5?unit=247&baud=19200&parity=even&stop=2")
    assert isinstance(rtu, ModbusConfig)
    assert rtu.link == RtuLink("/dev/serial/by-id/a b", 19200, "E", 2, 300)
    assert (rtu.unit, rtu.kind, rtu.number, rtu.on, rtu.off) == (247, "coil", 5, ON, OFF)
    assert (
        parse_output("modbus-rtu:///dev/ttyUSB0/coil/1").name == "modbus-rtu:///dev/ttyUSB0/coil/1 (unit 1)"
    )


def test_the_bytes_on_the_wire(rtu: tuple[ModbusPeer, str], wire: Wire) -> None:
    _, url = rtu
    ports = Ports()
    coil = parse_output(f"{url}/coil/0?timer=waveshare&pulse_ms=700", ports).open()
    register = parse_output(f"{url}/register/1?on=3&off=4", ports).open()
    coil.set(True)
    coil.set(False)
    assert isinstance(coil, PulsedOutput)
    coil.pulse()
    register.set(True)
    expected = bytes.fromhex(
        "01 05 00 00 FF 00 8C 3A"
        "01 05 00 00 00 00 CD CA"
        "01 05 02 00 00 07 8D B0"  # 700 ms, as the maker writes it
        "01 06 00 01 00 03 98 0B"
    )
    assert wire.sent == wire.answered == expected
    coil.close()
    register.close()


@pytest.mark.parametrize(
    ("target", "said"),
    [("coil/100", "no such coil or register"), ("register/100", "no such coil or register")],
)
def test_what_the_device_refuses_is_an_output_error(
    tcp: tuple[ModbusPeer, str], target: str, said: str
) -> None:
    _, url = tcp
    output = open_output(f"{url}/{target}")
    with pytest.raises(OutputError, match=said):
        output.set(True)
    output.close()


def test_two_outputs_of_a_device_share_one_connection(tcp: tuple[ModbusPeer, str]) -> None:
    peer, url = tcp
    ports = Ports()
    outputs = [parse_output(f"{url}/{target}", ports).open() for target in ("coil/1", "coil/2", "register/3")]

    def drive(number: int) -> None:
        for i in range(30):
            outputs[number].set(i % 2 == 0)

    threads = [threading.Thread(target=drive, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = peer.writes(90)
    assert peer.connections == 1
    for kind, number, on in ((5, 1, ON), (5, 2, ON), (6, 3, 1)):
        assert [w[3] for w in told if w[1:3] == (kind, number)] == [on, 0] * 15
    for output in outputs:
        output.close()


def test_two_devices_on_a_bus_have_silence_between_their_frames(
    rtu: tuple[ModbusPeer, str], wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, url = rtu
    ports = Ports()
    one = parse_output(f"{url}/coil/1?unit=1&baud=9600", ports).open()
    two = parse_output(f"{url}/coil/1?unit=7&baud=9600", ports).open()
    pauses: list[float] = []
    with monkeypatch.context() as patch:
        patch.setattr("edge_ad_runtime.outputs.modbus_client.pause", pauses.append)
        for state in (True, False):
            one.set(state)
            two.set(state)
    assert [(w[0], w[3]) for w in peer.writes(4)] == [(1, ON), (7, ON), (1, OFF), (7, OFF)]
    # The first frame may follow at once; a busy machine may have made the pause itself.
    assert 1 <= len(pauses) <= 3
    assert max(pauses) <= 38.5 / 9600
    with pytest.raises(OutputError, match="9600 baud, 8N1"):
        parse_output(f"{url}/coil/2?baud=19200", ports).open()
    one.close()
    two.close()


def test_an_answer_may_come_byte_by_byte(rtu: tuple[ModbusPeer, str], wire: Wire) -> None:
    peer, url = rtu
    wire.byte_delay_s = 0.01
    output = open_output(f"{url}/coil/1?timeout_ms=1000")
    output.set(True)
    output.set(False)
    assert [w[3] for w in peer.writes(2)] == [ON, OFF]
    output.close()


def test_a_bus_that_is_silent_is_an_output_error_in_time_whatever_the_wall_clock_does(
    rtu: tuple[ModbusPeer, str], wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, url = rtu
    output = open_output(f"{url}/coil/1?timeout_ms=100")
    output.set(True)
    wire.cut = True
    # Each look at the wall clock finds it set back by another hour.
    wall = iter(range(2_000_000_000, 0, -3600))
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: float(next(wall)))
        begun = time.monotonic()
        with pytest.raises(OutputError, match="does not answer as it should within"):
            output.set(False)
        assert 0.09 < time.monotonic() - begun < 2
    wire.cut = False
    output.set(False)
    assert [w[3] for w in peer.writes(2)] == [ON, OFF]
    output.close()


def test_a_unit_that_is_not_there_is_an_output_error(rtu: tuple[ModbusPeer, str]) -> None:
    _, url = rtu
    output = open_output(f"{url}/coil/1?unit=9&timeout_ms=50")
    with pytest.raises(OutputError, match="does not answer as it should within"):
        output.set(True)
    output.close()


@pytest.mark.parametrize(
    "answer",
    [
        "01 05 00 01 00 00",  # off, when told on
        "01 05 00 02 FF 00",  # another coil
        "01 06 00 01 FF 00",  # another function
    ],
)
def test_an_answer_to_something_else_is_an_output_error(wire: Wire, answer: str) -> None:
    frame = bytes.fromhex(answer)
    frame += FramerRTU.compute_CRC(frame).to_bytes(2, "big")
    device = os.open(wire.server_port, os.O_RDWR | os.O_NOCTTY)

    def reply() -> None:
        os.read(device, 8)
        os.write(device, frame)

    thread = threading.Thread(target=reply)
    thread.start()
    output = open_output(f"modbus-rtu://{wire.port}/coil/1?timeout_ms=1000")
    with pytest.raises(OutputError, match="answers something else"):
        output.set(True)
    thread.join()
    output.close()
    os.close(device)


def test_a_device_that_accepts_and_never_answers_is_an_output_error_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        output = open_output(f"modbus-tcp://127.0.0.1:{listener.getsockname()[1]}/coil/1?timeout_ms=100")
        begun = time.monotonic()
        with pytest.raises(OutputError, match="does not answer as it should within"):
            output.set(True)
        assert time.monotonic() - begun < 2
        output.close()


def test_a_connection_that_the_device_closed_when_it_was_idle_costs_nothing(
    tcp: tuple[ModbusPeer, str],
) -> None:
    peer, url = tcp
    output = open_output(f"{url}/coil/1")
    output.set(True)
    peer.unplug()
    peer.plug()
    output.set(False)
    assert [w[3] for w in peer.writes(2)] == [ON, OFF]
    assert peer.connections == 2
    output.close()


def test_nobody_there_says_what_to_check() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(OutputError, match=r"cannot be opened .*check the cable, the address"):
        open_output(f"modbus-tcp://127.0.0.1:{port}/coil/1")
    with pytest.raises(OutputError, match=r"cannot be opened .*check the cable, the path"):
        open_output("modbus-rtu:///dev/ttyNOPE/coil/1")


def test_without_its_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [m for m in sys.modules if m == "pymodbus" or m.startswith("pymodbus.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "edge_ad_runtime.outputs.modbus_client", raising=False)
    monkeypatch.setitem(sys.modules, "pymodbus", None)
    with pytest.raises(MissingExtra, match=r"edge-ad\[modbus\]"):
        open_output("modbus-tcp://127.0.0.1:1/coil/1")


def test_pulses_are_timed_by_the_board(rtu: tuple[ModbusPeer, str]) -> None:
    peer, url = rtu
    actuator = Actuator(parse_output(f"{url}/coil/3?timer=waveshare&pulse_ms=100&delay_ms=30"))
    actuator.release()
    peer.writes(1)
    wait_until(lambda: actuator._level is False)
    # On a machine that is busy a pulse may begin too late for the timer, and is then given by on and off.
    for _ in range(10):
        first = len(peer.told)
        actuator.eject(time.monotonic_ns())
        wait_until(lambda: not actuator.busy)
        if peer.writes(first + 2)[first:] == [(1, 5, 0x0203, 1), (1, 5, 3, OFF)]:
            break
    else:
        pytest.fail(f"no pulse was timed by the board: {peer.told}")
    actuator.close()
    assert actuator.stats.errors == 0


def test_a_device_that_returns_is_used_again(tcp: tuple[ModbusPeer, str]) -> None:
    """Away longer than the first attempts: reopened until it works, and the pulse that was missed is counted."""
    peer, url = tcp
    actuator = Actuator(parse_output(f"{url}/coil/1?pulse_ms=50"))
    actuator.release()
    peer.writes(1)
    wait_until(lambda: actuator._level is False)
    peer.unplug()
    actuator.eject(time.monotonic_ns())
    wait_until(lambda: actuator.stats.errors >= 4)
    assert actuator.trouble is not None
    peer.plug()
    wait_until(lambda: actuator._level is False)
    assert actuator.trouble is None
    actuator.close()
    assert [w[3] for w in peer.writes(3)] == [OFF, OFF, OFF]
    assert actuator.stats.missed == 1
