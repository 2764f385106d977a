"""Outputs: one suite for every kind that can run here, exact bytes, and URLs."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest
import serial

from edge_ad_runtime.actuation import Actuator
from edge_ad_runtime.errors import InputError, MissingExtra, OutputError
from edge_ad_runtime.outputs import (
    Output,
    OutputConfig,
    Ports,
    open_output,
    parse_output,
    physical_key,
    refuse_shared_lines,
)
from edge_ad_runtime.outputs.gpio import GpioConfig, find_chip, line_settings
from edge_ad_runtime.outputs.mock import MockConfig, MockOutput
from edge_ad_runtime.outputs.serial_relay import SerialConfig
from tests.line.relays import Acknowledging, Board, Emulator, Kmtronic, Lcus, Numato

KINDS = (
    "mock",
    "lcus1",
    "kmtronic",
    "kmtronic8",
    "numato",
    "template",
    "tcp-coil",
    "tcp-register",
    "rtu-coil",
    "gpio",
)


class Device(Protocol):
    """What stands behind an output and can be pulled off."""

    def plug(self) -> None: ...

    def unplug(self) -> None: ...

    def close(self) -> None: ...


class Rig:
    """A kind of output: its URL, the states that its device has been told (once they are as many as given), and the
    device where it can be pulled off."""

    def __init__(self, url: str, states: Callable[[int], list[bool]], device: Device | None = None) -> None:
        self.url = url
        self.states = states
        self.device = device

    def config(self, **query: str) -> OutputConfig:
        url = self.url
        for key, value in query.items():
            url += f"{'&' if '?' in url else '?'}{key}={value}"
        config = parse_output(url)
        if isinstance(config, MockConfig):
            self.states = lambda _count: [state for _, state in config.device.history]
        return config


def gpio_chips() -> list[Path]:
    return sorted(Path("/dev").glob("gpiochip*"))


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board()
    yield board
    board.close()


def _template() -> str:
    board = Acknowledging
    keys = {"on": board.ON, "off": board.OFF, "status": board.ASK}
    keys |= {"on_reply": board.ON_REPLY, "off_reply": board.OFF_REPLY, "ack": board.ACK}
    return "protocol=template&" + "&".join(f"{key}={value.hex()}" for key, value in keys.items())


def serial_rig(kind: str, folder: Path) -> Rig:
    device: Emulator
    if kind == "lcus1":
        device, query, channel = Lcus(folder), "protocol=lcus1&channel=2", 2
    elif kind == "kmtronic":
        device, query, channel = Kmtronic(folder), "protocol=kmtronic&verify=1", 1
    elif kind == "kmtronic8":
        device, query, channel = Kmtronic(folder, 8), "protocol=kmtronic&channel=5&relays=8&verify=1", 5
    elif kind == "numato":
        device, query, channel = Numato(folder), "protocol=numato&verify=1", 0
    else:
        device, query, channel = Acknowledging(folder), f"{_template()}&verify=1", 0
    return Rig(f"serial://{device.port}?{query}", lambda n: device.states(n, channel), device)


def modbus_rig(kind: str, folder: Path, after: ExitStack) -> Rig:
    pytest.importorskip("pymodbus", reason="needs the extra 'modbus'")
    from tests.line.modbus_peers import Wire, rtu_peer, tcp_peer

    if kind == "rtu-coil":
        wire = Wire(folder)
        after.callback(wire.close)
        peer, url = rtu_peer(wire), f"modbus-rtu://{wire.port}/coil/3?unit=7"
    else:
        peer, port = tcp_peer()
        target = "coil/5?unit=1" if kind == "tcp-coil" else "register/12?unit=7&on=300&off=2"
        url = f"modbus-tcp://127.0.0.1:{port}/{target}"
    what = {"rtu-coil": (7, 5, 3), "tcp-coil": (1, 5, 5), "tcp-register": (7, 6, 12)}[kind]
    values = [2, 300] if kind == "tcp-register" else [0x0000, 0xFF00]

    def states(count: int) -> list[bool]:
        told = peer.writes(count)
        assert {write[:3] for write in told} <= {what}
        return [bool(values.index(write[3])) for write in told]

    return Rig(url, states, peer)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulators are threads, which a busy machine keeps waiting for longer than a board does."""
    monkeypatch.setattr("edge_ad_runtime.outputs.serial_relay.REPLY_TIMEOUT_S", 5.0)


@pytest.fixture(params=KINDS)
def rig(request: pytest.FixtureRequest, tmp_path: Path, patience: None) -> Iterator[Rig]:
    kind = request.param
    if kind == "gpio":
        pytest.skip(
            "driving a line needs a GPIO chip whose line 0 may be switched, with its level read back; "
            f"this machine has {', '.join(map(str, gpio_chips())) or 'no /dev/gpiochip*'}"
        )
    with ExitStack() as after:
        if kind == "mock":
            rig = Rig("mock://ejector", lambda _n: [])
        elif "-" in kind:
            rig = modbus_rig(kind, tmp_path, after)
        else:
            rig = serial_rig(kind, tmp_path)
        if rig.device is not None:
            after.callback(rig.device.close)
        yield rig


def test_opening_commands_nothing_and_every_set_is_one_command(rig: Rig) -> None:
    output = rig.config().open()
    assert rig.states(0) == []
    for state in (True, True, False, True, False):
        output.set(state)
    assert rig.states(5) == [True, True, False, True, False]
    output.close()
    assert rig.states(5) == [True, True, False, True, False]


def test_a_closed_output_refuses_and_closes_again(rig: Rig) -> None:
    output = rig.config().open()
    output.close()
    output.close()
    with pytest.raises(OutputError, match="is closed"):
        output.set(True)
    assert rig.states(0) == []


def test_an_output_can_be_opened_again(rig: Rig) -> None:
    config = rig.config()
    for state in (True, False):
        output = config.open()
        assert output.name == config.name
        output.set(state)
        output.close()
    assert rig.states(2) == [True, False]


@pytest.mark.parametrize("energise", ["reject", "accept"])
@pytest.mark.parametrize("safe", ["auto", "off", "on"])
def test_rest_pulse_and_end_are_driven_as_the_wiring_has_it(rig: Rig, energise: str, safe: str) -> None:
    """``safe=on`` rejects before and after, ``energise=accept`` turns every level round."""
    actuator = Actuator(rig.config(energise=energise, safe=safe, pulse_ms="50"))
    rig.states(1)
    wait_until(lambda: actuator._level is not None)
    actuator.release()
    wait_until(lambda: actuator._level is False)
    actuator.eject(time.monotonic_ns())
    wait_until(lambda: not actuator.busy)
    actuator.close()
    rejecting = [True] * (safe == "on") + [False, True, False] + [safe == "on"]
    assert rig.states(len(rejecting)) == [level == (energise == "reject") for level in rejecting]
    assert actuator.stats.errors == 0


def test_a_device_that_was_away_is_used_again(rig: Rig) -> None:
    if rig.device is None:
        pytest.skip("a mock cannot be pulled off; its faults have tests of their own")
    actuator = Actuator(rig.config(pulse_ms="50"))
    actuator.release()
    rig.states(1)
    wait_until(lambda: actuator._level is False)
    rig.device.unplug()
    actuator.eject(time.monotonic_ns())
    wait_until(lambda: actuator.stats.errors >= 2)
    rig.device.plug()
    wait_until(lambda: actuator._level is False)
    assert rig.states(2)[-1] is False, "its state is not known after that, so it is commanded"
    actuator.eject(time.monotonic_ns())
    wait_until(lambda: not actuator.busy)
    actuator.close()
    # The pulse that could not be given is not given to another part.
    assert rig.states(5) == [False, False, True, False, False]
    assert (actuator.stats.pulses, actuator.stats.missed) == (2, 1)


def test_a_device_that_is_away_at_the_end_is_an_error(rig: Rig) -> None:
    if rig.device is None:
        pytest.skip("a mock cannot be pulled off; its faults have tests of their own")
    actuator = Actuator(rig.config())
    rig.states(1)
    rig.device.unplug()
    with pytest.raises(OutputError, match="check it by hand"):
        actuator.close()


def wait_until(done: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("query", "on", "off"),
    [
        ("", "A0 01 01 A2", "A0 01 00 A1"),
        ("?protocol=lcus1&channel=8", "A0 08 01 A9", "A0 08 00 A8"),
        ("?protocol=kmtronic", "FF 01 01", "FF 01 00"),
        ("?protocol=kmtronic&channel=8", "FF 08 01", "FF 08 00"),
        ("?protocol=numato", b"relay on 0\r".hex(), b"relay off 0\r".hex()),
        ("?protocol=numato&channel=7", b"relay on 7\r".hex(), b"relay off 7\r".hex()),
    ],
)
def test_the_bytes_of_every_protocol(board: Board, query: str, on: str, off: str) -> None:
    expected = bytes.fromhex(on) + bytes.fromhex(off)
    output = open_output(f"serial://{board.port}{query}")
    output.set(True)
    output.set(False)
    assert board.wait_for(len(expected)) == expected
    output.close()
    assert board.read_available() == expected


def test_what_an_echoing_board_sends_does_not_pile_up(board: Board) -> None:
    output = open_output(f"serial://{board.port}?protocol=numato")
    board.send(b"relay on 0\r\n>" * 20)
    output.set(True)
    assert board.waiting_for_user() == 0
    output.close()


@pytest.mark.parametrize(
    ("query", "sent"),
    [
        ("protocol=kmtronic&channel=2", "FF0201 FF0203"),
        ("protocol=kmtronic&channel=2&relays=4", "FF0201 FF0900"),
        ("protocol=numato&channel=3", (b"relay on 3\r" + b"relay read 3\r").hex()),
        ("protocol=template&on=0A&off=0B&status=0c&on_reply=01&off_reply=00", "0A 0C"),
    ],
)
def test_the_bytes_that_ask_for_the_state(board: Board, query: str, sent: str) -> None:
    output = open_output(f"serial://{board.port}?{query}&verify=1")
    with pytest.raises(OutputError, match="does not say its state"):
        output.set(True)
    assert board.wait_for(len(bytes.fromhex(sent))) == bytes.fromhex(sent)
    output.close()


@pytest.mark.parametrize("answer", [b"", b"NO\r\n"])
def test_a_board_that_does_not_acknowledge_as_it_should_is_an_output_error(
    board: Board, answer: bytes
) -> None:
    output = open_output(
        f"serial://{board.port}?protocol=template&verify=1&on=01&off=02&status=03&on_reply=04&off_reply=05&ack=4F4B"
    )

    def reply() -> None:
        board.wait_for(1)
        board.send(answer)

    thread = threading.Thread(target=reply)
    thread.start()
    with pytest.raises(OutputError, match="acknowledge a command"):
        output.set(True)
    thread.join()
    assert board.read_available() == b"\x01", "what it did not take is not asked for"
    output.close()


def verifying(kind: str, folder: Path) -> tuple[Rig, Emulator]:
    rig = serial_rig(kind, folder)
    assert isinstance(rig.device, Emulator)
    return rig, rig.device


VERIFIED = ("kmtronic", "kmtronic8", "numato", "template")


@pytest.mark.parametrize("kind", VERIFIED)
@pytest.mark.usefixtures("patience")
def test_a_relay_that_does_not_move_is_an_output_error(kind: str, tmp_path: Path) -> None:
    rig, device = verifying(kind, tmp_path)
    output = rig.config().open()
    output.set(True)
    device.stuck = True
    with pytest.raises(OutputError, match="stays on when switched off"):
        output.set(False)
    device.stuck = False
    output.set(False)
    device.stuck = True
    with pytest.raises(OutputError, match="stays off when switched on"):
        output.set(True)
    output.close()
    device.close()


@pytest.mark.parametrize("kind", VERIFIED)
def test_a_board_that_falls_silent_is_an_output_error_and_works_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, device = verifying(kind, tmp_path)
    output = rig.config().open()
    device.mute = True
    monkeypatch.setattr("edge_ad_runtime.outputs.serial_relay.REPLY_TIMEOUT_S", 0.1)
    begun = time.monotonic()
    with pytest.raises(OutputError, match=r"does not (say its state|acknowledge)"):
        output.set(True)
    assert time.monotonic() - begun < 1
    device.mute = False
    monkeypatch.setattr("edge_ad_runtime.outputs.serial_relay.REPLY_TIMEOUT_S", 5.0)
    output.set(True)
    output.close()
    device.close()


@pytest.mark.parametrize("kind", VERIFIED)
@pytest.mark.usefixtures("patience")
def test_an_answer_may_come_byte_by_byte(kind: str, tmp_path: Path) -> None:
    rig, device = verifying(kind, tmp_path)
    device.byte_delay_s = 0.004
    output = rig.config().open()
    for state in (True, False, True):
        output.set(state)
    assert rig.states(3) == [True, False, True]
    output.close()
    device.close()


@pytest.mark.usefixtures("patience")
def test_a_lost_command_is_given_again(tmp_path: Path) -> None:
    """A board that misses one command in a pulse: noticed by reading back, and commanded once more."""
    rig, device = verifying("kmtronic", tmp_path)
    actuator = Actuator(rig.config(pulse_ms="300"))
    actuator.release()
    rig.states(1)
    wait_until(lambda: actuator._level is False)
    device.stuck = True
    actuator.eject(time.monotonic_ns())
    rig.states(2)
    device.stuck = False
    wait_until(lambda: device.relays.get(1) is True)
    wait_until(lambda: device.relays.get(1) is False)
    actuator.close()
    stats = actuator.stats
    assert stats.errors >= 1
    assert stats.missed == 0
    device.close()


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("protocol=kmtronic", "FF 01 02"),
        ("protocol=kmtronic", "FF 02 01"),
        ("protocol=kmtronic", "FF 01 01 00"),
        ("protocol=kmtronic&relays=8", "01 00 00 00 02"),
        ("protocol=template&on=0A&off=0B&status=0c&on_reply=0d01&off_reply=0d00", "0d02"),
    ],
)
@pytest.mark.usefixtures("patience")
def test_an_answer_that_is_not_one_is_an_output_error(board: Board, query: str, answer: str) -> None:
    output = open_output(f"serial://{board.port}?{query}&verify=1")
    asked = 2 if "template" in query else 6

    def reply() -> None:
        board.wait_for(asked)
        board.send(bytes.fromhex(answer))

    reader = threading.Thread(target=reply)
    reader.start()
    with pytest.raises(OutputError, match=r"answers .* when it is to say its state"):
        output.set(True)
    reader.join()
    output.close()


def test_a_serial_port_belongs_to_one_process(board: Board) -> None:
    first = open_output(f"serial://{board.port}")
    # Not sharing ports is like being another process to pyserial; here is a true one too.
    with pytest.raises(OutputError, match="no other program or output uses the port"):
        open_output(f"serial://{board.port}?channel=2")
    program = f"from edge_ad_runtime.outputs import open_output; open_output('serial://{board.port}')"
    other = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, timeout=60)
    assert b"no other program or output uses the port" in other.stderr
    first.close()
    open_output(f"serial://{board.port}").close()


@pytest.mark.usefixtures("patience")
def test_two_relays_of_a_board_share_its_port(tmp_path: Path) -> None:
    device, ports = Kmtronic(tmp_path, 8), Ports()
    url = f"serial://{device.port}?protocol=kmtronic&relays=8&verify=1"
    one, two = (parse_output(f"{url}&channel={n}", ports).open() for n in (1, 2))
    threads = [threading.Thread(target=drive, args=(output,)) for output in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert device.states(40, 1) == device.states(40, 2) == [True, False] * 20
    one.close()
    with pytest.raises(OutputError, match="no other program"):
        open_output(url)
    two.set(True)
    device.unplug()
    with pytest.raises(OutputError):
        two.set(False)
    device.plug()
    two.set(False)
    two.close()
    open_output(url).close()
    device.close()


def drive(output: Output) -> None:
    for i in range(40):
        output.set(i % 2 == 0)


def test_outputs_on_one_port_agree_on_its_settings(board: Board) -> None:
    ports = Ports()
    first = parse_output(f"serial://{board.port}", ports).open()
    with pytest.raises(OutputError, match="is used with 9600 baud and with 19200 baud"):
        parse_output(f"serial://{board.port}?channel=2&baud=19200", ports).open()
    first.close()
    parse_output(f"serial://{board.port}?channel=2&baud=19200", ports).open().close()


def test_one_line_has_one_key_however_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "by-id").symlink_to("/dev/null")

    def key(url: str) -> str | None:
        return physical_key(parse_output(url))

    same = [
        ("serial:///dev/null?channel=1", f"serial://{tmp_path}/by-id?protocol=lcus1&pulse_ms=10"),
        ("serial:///dev/null", "serial:///dev/null?protocol=template&on=A00101A2&off=A00100A1"),
        ("serial:///dev/null", "serial:///dev/null?protocol=template&off=A00101A2&on=A00100A1"),
        ("modbus-tcp://PLC/coil/5", "modbus-tcp://plc:502/coil/05?unit=1&timeout_ms=50"),
        ("modbus-rtu:///dev/null/coil/5", f"modbus-rtu://{tmp_path}/by-id/coil/5?baud=19200"),
        ("gpio://gpiochip0/17", "gpio:///dev/gpiochip0/17?active_low=1"),
        ("mock://a", "mock://a?fail=1"),
    ]
    for one, other in same:
        assert key(one) == key(other) is not None
        with pytest.raises(InputError, match="one line can have one output only"):
            refuse_shared_lines([parse_output(one), parse_output("mock://b"), parse_output(other)])
    different = [
        "serial:///dev/null?channel=1",
        "serial:///dev/null?channel=2",
        "serial:///dev/zero?channel=1",
        "serial:///dev/null?protocol=kmtronic",
        "modbus-tcp://plc/coil/5",
        "modbus-tcp://plc/coil/6",
        "modbus-tcp://plc/register/5",
        "modbus-tcp://plc/coil/5?unit=2",
        "modbus-tcp://plc:503/coil/5",
        "modbus-rtu:///dev/null/coil/5",
        "gpio://gpiochip0/17",
        "gpio://gpiochip0/18",
        "gpio://gpiochip1/17",
        "mock://a",
    ]
    assert len({key(url) for url in different}) == len(different)
    refuse_shared_lines([parse_output(url) for url in different])


def test_an_unplugged_board_is_an_output_error(board: Board) -> None:
    config = parse_output(f"serial://{board.port}")
    output = config.open()
    output.set(True)
    board.wait_for(4)
    board.hang_up()
    with pytest.raises(OutputError, match="does not take commands"):
        output.set(False)
    output.close()
    with pytest.raises(OutputError, match="cannot be opened"):
        config.open()


def test_a_port_that_takes_nothing_times_out(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads the master, so the PTY's buffer fills up like that of a stuck adapter."""
    monkeypatch.setattr("edge_ad_runtime.outputs.serial_relay.WRITE_TIMEOUT_S", 0.05)
    output = open_output(f"serial://{board.port}")
    with pytest.raises(OutputError, match="timeout"):
        for _ in range(100_000):
            output.set(True)
    output.close()


def test_a_short_write_is_an_error(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    output = open_output(f"serial://{board.port}")
    monkeypatch.setattr(serial.Serial, "write", lambda _self, data: len(data) - 1)
    with pytest.raises(OutputError, match="took 3 of 4 bytes"):
        output.set(True)
    output.close()


def test_missing_port_names_it() -> None:
    with pytest.raises(OutputError, match="/dev/ttyNOPE") as caught:
        open_output("serial:///dev/ttyNOPE")
    assert isinstance(caught.value, OSError)


def test_urls_give_their_settings() -> None:
    config = parse_output(
        "serial:///dev/serial/by-id/a%20b?protocol=kmtronic&pulse_ms=12.5&delay_ms=300&channel=3&baud=19200&safe=on"
    )
    assert isinstance(config, SerialConfig)
    assert (config.port, config.protocol) == ("/dev/serial/by-id/a b", "kmtronic")
    assert (config.channel, config.baud) == (3, 19200)
    assert (config.timing.pulse_ns, config.timing.delay_ns) == (12_500_000, 300_000_000)
    assert config.timing.final_level is True
    defaults = parse_output("serial:///dev/ttyUSB0")
    assert isinstance(defaults, SerialConfig)
    assert (defaults.protocol, defaults.channel, defaults.baud) == ("lcus1", 1, 9600)
    assert (defaults.timing.pulse_ms, defaults.timing.delay_ms, defaults.timing.safe) == (50, 0, "auto")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("serial:///dev/ttyUSB0?protcol=lcus1", "'protcol' is unknown; accepted are protocol, channel, baud"),
        ("serial:///dev/ttyUSB0?protocol=foo", "accepted are lcus1, kmtronic, numato, template"),
        ("serial:///dev/ttyUSB0?verify=1", "verify=1 needs a board that says its state; leave it out"),
        ("serial:///dev/ttyUSB0?protocol=kmtronic&channel=3&verify=1", "relays=4 or relays=8"),
        ("serial:///dev/ttyUSB0?protocol=kmtronic&verify=1&pulse_ms=40", "pulse_ms of at least 50"),
        (
            "serial:///dev/ttyUSB0?protocol=kmtronic&channel=5&relays=4",
            "channel=5 is not on a board with relays=4",
        ),
        ("serial:///dev/ttyUSB0?protocol=kmtronic&relays=3", "relays=3 is unknown"),
        ("serial:///dev/ttyUSB0?relays=4", "relays= belongs to protocol=kmtronic"),
        ("serial:///dev/ttyUSB0?on=01", "on= belongs to protocol=template"),
        ("serial:///dev/ttyUSB0?protocol=template", "needs on= and off="),
        ("serial:///dev/ttyUSB0?protocol=template&on=01", "needs on= and off="),
        ("serial:///dev/ttyUSB0?protocol=template&on=01&off=01", "same bytes"),
        ("serial:///dev/ttyUSB0?protocol=template&on=01&off=0", "off=0 must be bytes in hex"),
        ("serial:///dev/ttyUSB0?protocol=template&on=01&off=0g", "off=0g must be bytes in hex"),
        ("serial:///dev/ttyUSB0?protocol=template&on=01&off=02&channel=1", "channel= has no place"),
        ("serial:///dev/ttyUSB0?protocol=template&on=01&off=02&verify=1", "give status=, on_reply="),
        ("serial:///dev/ttyUSB0?protocol=template&on=01&off=02&status=03", "are given together"),
        ("serial:///dev/ttyUSB0?protocol=template&on=01&off=02&ack=03", "ack= only with them"),
        (
            "serial:///dev/ttyUSB0?protocol=template&on=01&off=02&status=03&on_reply=0401&off_reply=04",
            "cannot be told apart",
        ),
        ("serial:///dev/ttyUSB0?channel=0", "channel=0 must be a whole number from 1 to 8"),
        ("serial:///dev/ttyUSB0?channel=9", "from 1 to 8"),
        ("serial:///dev/ttyUSB0?protocol=numato&channel=8", "from 0 to 7"),
        ("serial:///dev/ttyUSB0?baud=9600.5", "baud=9600.5 must be a whole number"),
        ("serial:///dev/ttyUSB0?pulse_ms=0", "pulse_ms=0: must be above 0"),
        ("serial:///dev/ttyUSB0?pulse_ms=nan", "pulse_ms=nan"),
        ("serial:///dev/ttyUSB0?pulse_ms=inf", "pulse_ms=inf"),
        ("serial:///dev/ttyUSB0?pulse_ms=fast", "pulse_ms=fast is not a number"),
        ("serial:///dev/ttyUSB0?delay_ms=-1", "delay_ms=-1"),
        ("serial:///dev/ttyUSB0?safe=reject", "safe=reject is unknown; accepted are auto, off, on"),
        ("serial:///dev/ttyUSB0?safe=on&safe=off", "'safe' is given twice"),
        ("serial:///dev/ttyUSB0?pulse_ms", "key=value"),
        ("serial:///dev/ttyUSB0#1", "%23"),
        ("serial://dev/ttyUSB0", "three slashes"),
        ("serial:///", "three slashes"),
        ("gpio://gpiochip0", "chip and line"),
        ("gpio:///17", "chip and line"),
        ("gpio://gpiochip0/17?active_low=yes", "active_low=yes is unknown; accepted are 0, 1"),
        ("gpio://gpiochip0/17?channel=1", "'channel' is unknown; accepted are active_low, pulse_ms"),
        ("mock://x?fail=a", "numbers or ranges"),
        ("mock://x?timer=1&energise=accept", "timer= needs energise=reject"),
        ("/dev/ttyUSB0", "must begin with one of serial://, modbus-tcp://, modbus-rtu://, gpio://, mock://"),
        ("modbus://x", "must begin with one of"),
        ("modbus-tcp://plc", "must be coil/NUMBER or register/NUMBER"),
        ("modbus-tcp:///coil/5", "give host and coil or register"),
        ("modbus-tcp://plc/x/coil/5", "give host and coil or register"),
        ("modbus-tcp://plc:99999/coil/5", "Port out of range"),
        ("modbus-tcp://plc/input/5", "must be coil/NUMBER or register/NUMBER"),
        ("modbus-tcp://plc/coil/65536", "from 0 to 65535"),
        ("modbus-tcp://plc/coil/-1", "from 0 to 65535"),
        ("modbus-tcp://plc/coil/5?on=1", "'on' is unknown"),
        ("modbus-tcp://plc/coil/5?baud=9600", "'baud' is unknown"),
        ("modbus-tcp://plc/coil/5?unit=256", "unit=256 must be a whole number from 0 to 255"),
        ("modbus-tcp://plc/coil/5?timeout_ms=5000", "from 20 to 1000"),
        ("modbus-tcp://plc/register/5?timer=waveshare", "'timer' is unknown"),
        ("modbus-tcp://plc/register/5?on=65536", "on=65536"),
        ("modbus-tcp://plc/register/5?on=3&off=3", "the same value"),
        ("modbus-rtu:///dev/ttyUSB0", "coil or register"),
        ("modbus-rtu://dev/ttyUSB0/coil/1", "three slashes"),
        ("modbus-rtu:///coil/1", "three slashes"),
        ("modbus-rtu:///dev/ttyUSB0/coil/1?unit=0", "unit=0 must be a whole number from 1 to 247"),
        ("modbus-rtu:///dev/ttyUSB0/coil/1?parity=mark", "accepted are none, even, odd"),
        ("modbus-rtu:///dev/ttyUSB0/coil/1?timer=waveshare", "pulse_ms=50 does not fit timer=waveshare"),
        ("modbus-rtu:///dev/ttyUSB0/coil/1?timer=waveshare&pulse_ms=150", "choose a multiple"),
        ("modbus-rtu:///dev/ttyUSB0/coil/256?timer=waveshare&pulse_ms=100", "must be 0 to 255"),
        (
            "modbus-rtu:///dev/ttyUSB0/coil/1?timer=waveshare&pulse_ms=100&energise=accept",
            "timer= needs energise=reject",
        ),
        ("", "must begin with one of"),
    ],
)
def test_wrong_urls_say_what_is_wrong(url: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_output(url)
    assert said in str(caught.value)


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(InputError) as caught:
        parse_output("modbus-tcp://me:secret@plc/coil/5")
    assert "neither user nor password" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_gpio_urls() -> None:
    by_number = parse_output("gpio://gpiochip0/17?active_low=1&pulse_ms=20&safe=on")
    by_path = parse_output("gpio:///dev/gpiochip1/4")
    by_label = parse_output("gpio://pinctrl-RP1/GPIO%2017")
    assert isinstance(by_number, GpioConfig)
    assert isinstance(by_path, GpioConfig)
    assert isinstance(by_label, GpioConfig)
    assert (by_number.chip, by_number.line, by_number.active_low) == ("gpiochip0", 17, True)
    assert by_number.timing.pulse_ns == 20_000_000
    assert (by_path.chip, by_path.line, by_path.active_low) == ("/dev/gpiochip1", 4, False)
    assert (by_label.chip, by_label.line) == ("pinctrl-RP1", "GPIO 17")


@pytest.mark.parametrize("active_low", [False, True])
@pytest.mark.parametrize("safe", ["off", "on"])
@pytest.mark.parametrize("energise", ["reject", "accept"])
def test_gpio_requests_an_output_in_its_safe_state(active_low: bool, safe: str, energise: str) -> None:
    gpiod = pytest.importorskip("gpiod", reason="needs the extra 'gpio'")
    config = parse_output(f"gpio://gpiochip0/17?active_low={int(active_low)}&safe={safe}&energise={energise}")
    assert isinstance(config, GpioConfig)
    settings = line_settings(config)
    assert settings.direction is gpiod.line.Direction.OUTPUT
    assert settings.active_low is active_low
    driven = (safe == "on") == (energise == "reject")
    assert settings.output_value is (gpiod.line.Value.ACTIVE if driven else gpiod.line.Value.INACTIVE)


def test_gpio_chip_by_path_or_name(tmp_path: Path) -> None:
    pytest.importorskip("gpiod", reason="needs the extra 'gpio'")
    (tmp_path / "gpiochip0").touch()
    (tmp_path / "gpiochip1").touch()
    assert find_chip("/dev/gpiochip7", tmp_path) == Path("/dev/gpiochip7")
    assert find_chip("gpiochip1", tmp_path) == tmp_path / "gpiochip1"
    with pytest.raises(OutputError, match=r"not found; here are gpiochip0 \(\?\), gpiochip1"):
        find_chip("pinctrl-rp1", tmp_path)


def test_gpio_without_a_chip_is_an_output_error() -> None:
    pytest.importorskip("gpiod", reason="needs the extra 'gpio'")
    with pytest.raises(OutputError, match="not found"):
        open_output("gpio://no-such-chip/17")
    with pytest.raises(OutputError, match="cannot be requested"):
        open_output("gpio:///dev/null/17")


def test_gpio_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gpiod", None)
    with pytest.raises(MissingExtra, match=r"edge-ad\[gpio\]"):
        open_output("gpio://gpiochip0/17")


def test_mock_faults_are_where_they_were_asked_for() -> None:
    config = parse_output("mock://x?fail=1,3-4&absent=1")
    assert isinstance(config, MockConfig)
    output = config.open()
    for number in range(6):
        with pytest.raises(OutputError) if number in (1, 3, 4) else contextlib.nullcontext():
            output.set(number % 2 == 0)
    assert [state for _, state in config.device.history] == [True, True, False]
    with pytest.raises(OutputError):
        config.open()
    assert isinstance(config.open(), MockOutput)
