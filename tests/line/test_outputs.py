"""Outputs: one suite for every kind that can run here, exact bytes, and URLs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import serial

from edge_ad_runtime.errors import InputError, MissingExtra, OutputError
from edge_ad_runtime.outputs import OutputConfig, open_output, parse_output
from edge_ad_runtime.outputs.gpio import GpioConfig, find_chip, line_settings
from edge_ad_runtime.outputs.mock import MockConfig, MockOutput
from edge_ad_runtime.outputs.serial_relay import SerialConfig
from tests.line.relays import Board, lcus_states


class Rig:
    """An output's configuration, and the states that its device has been told."""

    def __init__(self, config: OutputConfig, states: Callable[[int], list[bool]]) -> None:
        self.config = config
        self.states = states


def gpio_chips() -> list[Path]:
    return sorted(Path("/dev").glob("gpiochip*"))


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board()
    yield board
    board.close()


@pytest.fixture(params=["mock", "serial", "gpio"])
def rig(request: pytest.FixtureRequest, board: Board) -> Rig:
    if request.param == "mock":
        config = parse_output("mock://ejector")
        assert isinstance(config, MockConfig)
        history = config.device.history
        return Rig(config, lambda _n: [state for _, state in history])
    if request.param == "serial":
        config = parse_output(f"serial://{board.port}?protocol=lcus1")
        return Rig(config, lambda n: lcus_states(board.wait_for(4 * n)))
    pytest.skip(
        "driving a line needs a GPIO chip whose line 0 may be switched, with its level read back; "
        f"this machine has {', '.join(map(str, gpio_chips())) or 'no /dev/gpiochip*'}"
    )


def test_opening_commands_nothing_and_every_set_is_one_command(rig: Rig) -> None:
    output = rig.config.open()
    assert rig.states(0) == []
    for state in (True, True, False, True, False):
        output.set(state)
    assert rig.states(5) == [True, True, False, True, False]
    output.close()
    assert rig.states(5) == [True, True, False, True, False]


def test_a_closed_output_refuses_and_closes_again(rig: Rig) -> None:
    output = rig.config.open()
    output.close()
    output.close()
    with pytest.raises(OutputError):
        output.set(True)
    assert rig.states(0) == []


def test_an_output_can_be_opened_again(rig: Rig) -> None:
    for state in (True, False):
        output = rig.config.open()
        assert output.name == rig.config.name
        output.set(state)
        output.close()
    assert rig.states(2) == [True, False]


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


def test_a_serial_port_belongs_to_one_output(board: Board) -> None:
    first = open_output(f"serial://{board.port}")
    with pytest.raises(OutputError, match="no other program or output uses the port"):
        open_output(f"serial://{board.port}?channel=2")
    first.close()


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
        ("serial:///dev/ttyUSB0?protocol=foo", "accepted are lcus1, kmtronic, numato"),
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
        ("/dev/ttyUSB0", "must begin with one of serial://, gpio://, mock://"),
        ("modbus://x", "must begin with one of"),
        ("", "must begin with one of"),
    ],
)
def test_wrong_urls_say_what_is_wrong(url: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_output(url)
    assert said in str(caught.value)


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
def test_gpio_requests_an_output_in_its_safe_state(active_low: bool, safe: str) -> None:
    gpiod = pytest.importorskip("gpiod", reason="needs the extra 'gpio'")
    config = parse_output(f"gpio://gpiochip0/17?active_low={int(active_low)}&safe={safe}")
    assert isinstance(config, GpioConfig)
    settings = line_settings(config)
    assert settings.direction is gpiod.line.Direction.OUTPUT
    assert settings.active_low is active_low
    assert settings.output_value is (gpiod.line.Value.ACTIVE if safe == "on" else gpiod.line.Value.INACTIVE)


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
