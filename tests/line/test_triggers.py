"""Triggers, encoders and belt signals: one suite for every kind, then each kind's own rules, and the guard at the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import select
import socket
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_ad_runtime.errors import InputError, MissingExtra
from edge_ad_runtime.triggers import (
    Count,
    Edge,
    Running,
    TriggerError,
    parse_belt,
    parse_encoder,
    parse_trigger,
    physical_keys,
)
from edge_ad_runtime.triggers.base import EventSource, SourceConfig
from edge_ad_runtime.triggers.counting import Farthest, Numbering, Quadrature, RateLimit, Wrapping
from edge_ad_runtime.triggers.mock import Fed, feed
from edge_ad_runtime.triggers.polled import BitTrigger, CounterEncoder, PolledSource

pytest.importorskip("gpiod", reason="needs the extra 'gpio'")
pytest.importorskip("pymodbus", reason="needs the extra 'modbus'")

from tests.line.gpio_kernel import CHIP, FakeKernel
from tests.line.modbus_peers import ModbusPeer, Wire, rtu_peer, tcp_peer

PATIENCE_S = 10.0
GPIO = f"gpio://{CHIP}"
# A loaded machine answers late.
SLOW = "timeout_ms=2000"


class Terminal:
    """A serial port: a PTY whose master is the device."""

    def __init__(self) -> None:
        self._master, slave = os.openpty()
        tty.setraw(slave)
        self.port = os.ttyname(slave)
        self._ends = [self._master, slave]

    def send(self, data: bytes) -> None:
        os.write(self._master, data)

    def hang_up(self) -> None:
        while self._ends:
            os.close(self._ends.pop())


def put(peer: ModbusPeer, function: int, address: int, *values: int) -> None:
    """Set what the device has, as its own program would."""
    loop, server = peer._loop, peer._server
    assert loop is not None
    change = server.context.async_setValues(1, function, address, list(values))
    asyncio.run_coroutine_threadsafe(change, loop).result(PATIENCE_S)


def gather(source: EventSource[Any], count: int) -> list[Any]:
    """Wait until so many events have come, as the guard does; reading itself must not wait."""
    events: list[Any] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(events) < count:
        assert time.monotonic() < deadline, f"got {events}, waited for {count}"
        ready = select.select([source], [], [], PATIENCE_S)[0]
        found = source.read()
        assert ready or not found, "events came without a word to who waits"
        events += found
    return events


def failure(source: EventSource[Any], readable: bool = True) -> TriggerError:
    """Wait until the source has failed, with its descriptor readable."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        ready = bool(select.select([source], [], [], 0.5)[0])
        try:
            source.read()
        except TriggerError as error:
            assert ready or not readable, "failed without a word to who waits"
            return error
    raise AssertionError("the source does not fail")


class Rig:
    """A source's configuration, and what makes things happen at its device.

    ``happen(number)`` is the trigger, count or change of that number (from 0). ``vanish`` takes the device away.
    """

    def __init__(
        self,
        config: SourceConfig[Any],
        happen: Callable[[int], None],
        vanish: Callable[[], None] | None,
        *,
        notices: bool = True,
        pause_s: float = 0.005,
    ) -> None:
        self.config = config
        self.happen = happen
        self.vanish = vanish
        self.notices = notices
        self.pause_s = pause_s


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    kernel = FakeKernel()
    monkeypatch.setattr("gpiod.request_lines", kernel.request_lines)
    return kernel


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.hang_up()


@pytest.fixture
def peer() -> Iterator[tuple[ModbusPeer, str]]:
    """A Modbus device on TCP and the beginning of its URL."""
    peer, port = tcp_peer()
    yield peer, f"modbus-tcp://127.0.0.1:{port}"
    peer.close()


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[tuple[ModbusPeer, str]]:
    """A Modbus device on a serial line and the beginning of its URL."""
    wire = Wire(tmp_path)
    peer = rtu_peer(wire)
    yield peer, f"modbus-rtu://{wire.port}"
    peer.close()
    wire.close()


def sender(family: int, address: Any) -> Callable[[bytes], None]:
    def send(data: bytes) -> None:
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.sendto(data, address)

    return send


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def pulse_coil(peer: ModbusPeer, function: int = 5) -> None:
    put(peer, function, 3, True)
    time.sleep(0.1)
    put(peer, function, 3, False)
    time.sleep(0.1)


TRIGGERS = (
    "mock", "gpio", "serial-byte", "serial-line", "modbus-coil", "modbus-discrete", "modbus-counter", "modbus-rtu",
    "socket", "udp",
)  # fmt: skip
ENCODERS = ("mock", "gpio", "quadrature", "serial", "modbus")
BELTS = ("mock", "gpio", "modbus")


@pytest.fixture
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    role, kind = request.param
    made: Rig = globals()[f"{role}_rig"](kind, request.getfixturevalue, tmp_path)
    return made


def trigger_rig(kind: str, fixture: Callable[[str], Any], tmp_path: Path) -> Rig:
    if kind == "mock":
        pipe = tmp_path / "eye.fifo"
        config = parse_trigger(f"mock://eye?feed={pipe}")
        return Rig(config, lambda _n: feed(pipe, Fed()), lambda: feed(pipe, Fed(fail="gone")))
    if kind == "gpio":
        kernel = fixture("kernel")
        return Rig(parse_trigger(f"{GPIO}/17"), lambda _n: kernel.pulse(17), kernel.unplug)
    if kind.startswith("serial"):
        terminal = fixture("terminal")
        key, text = ("byte=0x54", "T") if kind == "serial-byte" else ("line=T", "T {}\r\n")
        config = parse_trigger(f"serial://{terminal.port}?{key}")
        return Rig(config, lambda n: terminal.send(text.format(n).encode()), terminal.hang_up, pause_s=0.05)
    if kind == "modbus-rtu":
        peer, url = fixture("bus")
        return Rig(parse_trigger(f"{url}/coil/3?poll_ms=20&{SLOW}"), lambda _n: pulse_coil(peer), peer.unplug)
    if kind.startswith("modbus"):
        peer, url = fixture("peer")
        if kind == "modbus-counter":
            config = parse_trigger(f"{url}/input/4?{SLOW}")
            return Rig(config, lambda n: put(peer, 4, 4, n + 1), peer.unplug, pause_s=0.05)
        function, table = (5, "coil") if kind == "modbus-coil" else (2, "discrete")
        return Rig(
            parse_trigger(f"{url}/{table}/3?{SLOW}"), lambda _n: pulse_coil(peer, function), peer.unplug
        )
    if kind == "socket":
        path = tmp_path / "eye.sock"
        send = sender(socket.AF_UNIX, str(path))
        return Rig(parse_trigger(f"socket://{path}"), lambda _n: send(b"T"), path.unlink, notices=False)
    port = free_port()
    send = sender(socket.AF_INET, ("127.0.0.1", port))
    return Rig(parse_trigger(f"udp://127.0.0.1:{port}"), lambda n: send(b'{"n": %d}' % n), None)


def encoder_rig(kind: str, fixture: Callable[[str], Any], tmp_path: Path) -> Rig:
    if kind == "mock":
        pipe = tmp_path / "encoder.fifo"
        config = parse_encoder(f"mock://encoder?feed={pipe}")
        return Rig(config, lambda n: feed(pipe, Fed(count=n + 1)), lambda: feed(pipe, Fed(fail="gone")))
    if kind == "serial":
        terminal = fixture("terminal")
        config = parse_encoder(f"serial://{terminal.port}?max_rate=1000")

        def send(n: int) -> None:
            # In a port just opened: a line that may be cut, the one that the counts begin with, and the next.
            terminal.send(b"%d\n%d\n%d\n" % (500 + n, 500 + n, 501 + n))

        return Rig(config, send, terminal.hang_up, pause_s=0.05)
    if kind == "modbus":
        peer, url = fixture("peer")
        put(peer, 3, 4, 0, 65_535)
        config = parse_encoder(f"{url}/register/4?bits=32&max_rate=1000&{SLOW}")
        return Rig(config, lambda n: put(peer, 3, 4, 1, n), peer.unplug, pause_s=0.05)
    kernel = fixture("kernel")
    if kind == "gpio":
        return Rig(parse_encoder(f"{GPIO}/27"), lambda _n: kernel.pulse(27), kernel.unplug)
    phases = ((27, True), (22, True), (27, False), (22, False))
    return Rig(parse_encoder(f"{GPIO}/27?b=22"), lambda n: kernel.drive(*phases[n % 4]), kernel.unplug)


def belt_rig(kind: str, fixture: Callable[[str], Any], tmp_path: Path) -> Rig:
    """Runs first; every other change starts it."""
    if kind == "mock":
        pipe = tmp_path / "belt.fifo"
        config = parse_belt(f"mock://belt?feed={pipe}")
        return Rig(
            config, lambda n: feed(pipe, Fed(running=n % 2 == 1)), lambda: feed(pipe, Fed(fail="gone"))
        )
    if kind == "gpio":
        kernel = fixture("kernel")
        config = parse_belt(f"{GPIO}/5?active_low=1")
        return Rig(config, lambda n: kernel.drive(5, n % 2 == 0), kernel.unplug)
    peer, url = fixture("peer")
    put(peer, 5, 3, True)
    return Rig(
        parse_belt(f"{url}/coil/3?{SLOW}"), lambda n: put(peer, 5, 3, n % 2 == 1), peer.unplug, pause_s=0.06
    )


EVERY = [
    *(("trigger", kind) for kind in TRIGGERS),
    *(("encoder", kind) for kind in ENCODERS),
    *(("belt", kind) for kind in BELTS),
]
every_kind = pytest.mark.parametrize("rig", EVERY, indirect=True, ids=lambda p: "-".join(p))


def shown(event: Edge | Count | Running) -> int | float | bool:
    """What an event says beside its time."""
    return (
        event.lost if isinstance(event, Edge) else event.count if isinstance(event, Count) else event.running
    )


@every_kind
def test_events_come_in_order_and_are_never_dated_before_they_happened(
    rig: Rig, request: pytest.FixtureRequest
) -> None:
    role = request.node.callspec.params["rig"][0]
    with contextlib.closing(rig.config.open()) as source:
        first = source.read()
        assert [shown(e) for e in first] == {"trigger": [], "encoder": [0], "belt": [True]}[role]
        times: list[int] = []
        events: list[Any] = []
        for number in range(4):
            times.append(time.monotonic_ns())
            rig.happen(number)
            events += gather(source, 1)
            time.sleep(rig.pause_s)
        assert source.read() == []
        now = time.monotonic_ns()
    expected = {"trigger": [0] * 4, "encoder": [1, 2, 3, 4], "belt": [False, True, False, True]}[role]
    assert [shown(e) for e in events] == expected
    for begun, event, following in zip(times, events, [*times[1:], now], strict=True):
        assert begun <= event.t_ns <= following


@every_kind
def test_reading_does_not_wait_and_the_descriptor_rests_when_all_is_read(rig: Rig) -> None:
    with contextlib.closing(rig.config.open()) as source:
        source.read()
        source.read()
        assert not select.select([source], [], [], 0)[0]
        begun = time.perf_counter()
        for _ in range(100):
            assert source.read() == []
        assert time.perf_counter() - begun < 1.0
        rig.happen(0)
        gather(source, 1)
        time.sleep(rig.pause_s)
        source.read()
        assert not select.select([source], [], [], 0)[0]


@every_kind
def test_a_source_that_vanishes_says_so_and_since_when(rig: Rig) -> None:
    if rig.vanish is None:
        pytest.skip("a port of this machine does not vanish")
    source = rig.config.open()
    source.read()
    rig.happen(0)
    gather(source, 1)
    time.sleep(rig.pause_s)
    source.read()
    before = time.monotonic_ns()
    rig.vanish()
    error = failure(source, rig.notices)
    assert rig.config.name in str(error)
    assert error.since_ns is None or error.since_ns <= before + 100_000_000
    source.close()
    source.close()


@every_kind
def test_closed_twice_silent_and_open_again(rig: Rig) -> None:
    for attempt in range(2):
        source = rig.config.open()
        assert source.name == rig.config.name
        source.read()
        rig.happen(attempt)
        gather(source, 1)
        source.close()
        source.close()
        with pytest.raises(TriggerError, match="closed"):
            source.read()
        time.sleep(rig.pause_s)


@every_kind
def test_every_kind_has_an_identity(rig: Rig) -> None:
    keys = physical_keys(rig.config)
    assert keys and len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "url",
    [
        "gpio:///dev/gpiochipNOPE/1",
        "serial:///dev/ttyNOPE",
        "modbus-tcp://127.0.0.1:1/coil/0",
        "modbus-rtu:///dev/ttyNOPE/coil/0",
        "socket:///nowhere/x.sock",
        "mock://eye?feed=/nowhere/x.fifo",
        "mock://eye?feed=/dev/null",
        "mock://eye?feed=/tmp/never.fifo&absent=0",
    ],
)
def test_what_is_not_there_is_named(url: str) -> None:
    config = parse_trigger(url)
    begun = time.monotonic()
    with pytest.raises(TriggerError) as caught:
        config.open()
    assert config.name in str(caught.value) and isinstance(caught.value, OSError)
    assert time.monotonic() - begun < 5


# Arithmetic


def test_counters_wrap_around() -> None:
    counter = Wrapping(16, 65_530)
    assert [counter.step(v) for v in (65_535, 3, 3, 32_770, 2)] == [5, 4, 0, 32_767, -32_768]
    wide = Wrapping(32, 2**32 - 1)
    assert [wide.step(v) for v in (0, 10, 5)] == [1, 10, -5]


def test_any_walk_of_a_belt_counts_like_its_farthest_position() -> None:
    rng = random.Random(5)
    for bits in (16, 32):
        position = start = rng.randrange(1 << bits)
        counter, farthest, most = Wrapping(bits, start), Farthest("x"), 0
        last = 0
        for _ in range(2000):
            position += rng.randint(-300, 400)
            count = farthest.go(counter.step(position % (1 << bits)))
            most = max(most, position - start)
            if count is not None:
                assert count > last
                last = count
            assert last == most


def test_running_numbers() -> None:
    numbers = Numbering()
    assert [numbers.lost(n) for n in (7, 8, 11, 12, 12, 1, 2)] == [0, 0, 2, 0, 1, 1, 0]


def test_quadrature_goes_both_ways() -> None:
    state = Quadrature(False, False)
    there = [state.change(*c) for c in ((0, True), (1, True), (0, False), (1, False), (0, True))]
    back = [state.change(*c) for c in ((0, False), (1, True), (0, True), (1, False), (0, False))]
    assert there == [1] * 5
    assert back == [-1] * 5
    assert state.change(0, False) == 0


def test_a_rate_that_no_belt_has_is_refused() -> None:
    limit = RateLimit("x", 1000, 0)
    limit.check(1100, 1_000_000_000)
    limit.check(-100, 1_000_000_001)
    with pytest.raises(TriggerError, match="max_rate=1000"):
        limit.check(-300, 1_100_000_000)


def test_a_belt_that_runs_back_too_far() -> None:
    farthest = Farthest("x", max_back=3)
    assert [farthest.go(s) for s in (10, -3, 2, 1, 1)] == [10, None, None, None, 11]
    with pytest.raises(TriggerError, match="ran back by 4"):
        farthest.go(-4)


# GPIO


def test_what_the_kernel_is_asked_for(kernel: FakeKernel) -> None:
    from gpiod.line import Bias, Clock, Direction
    from gpiod.line import Edge as Slope

    url = f"{GPIO}/17?edge=falling&debounce_ms=2.5&active_low=1&bias=pull-up"
    with contextlib.closing(parse_trigger(url).open()):
        settings = kernel.requests[0].settings[17]
        assert settings.direction is Direction.INPUT
        assert settings.edge_detection is Slope.FALLING
        assert settings.bias is Bias.PULL_UP
        assert settings.active_low is True
        assert settings.debounce_period.total_seconds() == 0.0025
        assert settings.event_clock is Clock.MONOTONIC
    with contextlib.closing(parse_encoder(f"{GPIO}/27?b=22").open()):
        assert [s.edge_detection for s in kernel.requests[1].settings.values()] == [Slope.BOTH, Slope.BOTH]
    assert all(r.released for r in kernel.requests)


def test_a_gpio_edge_has_the_kernels_time(kernel: FakeKernel) -> None:
    with contextlib.closing(parse_trigger(f"{GPIO}/17").open()) as source:
        kernel.drive(17, True, 1_000)
        kernel.drive(17, False, 2_000)
        kernel.drive(17, True, 3_000)
        assert source.read() == [Edge(1_000), Edge(3_000)]


def test_edges_that_the_kernel_had_no_room_for_are_lost(kernel: FakeKernel) -> None:
    with contextlib.closing(parse_trigger(f"{GPIO}/17").open()) as source:
        for _ in range(1030):
            kernel.pulse(17)
        edges = source.read()
        assert (len(edges), edges[0].lost, sum(e.lost for e in edges)) == (1024, 6, 6)
    with contextlib.closing(parse_encoder(f"{GPIO}/27").open()) as encoder:
        assert [c.count for c in encoder.read()] == [0]
        for _ in range(1030):
            kernel.pulse(27)
        counts = encoder.read()
        assert (counts[0].count, counts[-1].count) == (7, 1030)
    with contextlib.closing(parse_encoder(f"{GPIO}/27?b=22").open()) as quadrature:
        for _ in range(300):
            for phase in ((27, True), (22, True), (27, False), (22, False)):
                kernel.drive(*phase)
        with pytest.raises(TriggerError, match="edges were lost"):
            quadrature.read()


def test_a_belt_that_goes_back_and_forth_counts_only_new_ground(kernel: FakeKernel) -> None:
    kernel.drive(27, True)
    forward = [(22, True), (27, False), (22, False), (27, True)]
    with contextlib.closing(parse_encoder(f"{GPIO}/27?b=22&max_back=6").open()) as source:
        assert [c.count for c in source.read()] == [0]
        for phase in [*forward, *forward]:
            kernel.drive(*phase)
        assert [c.count for c in source.read()] == list(range(1, 9))
        for line, level in reversed(forward):
            kernel.drive(line, not level)
        assert source.read() == []
        for phase in [*forward, forward[0]]:
            kernel.drive(*phase)
        assert [c.count for c in source.read()] == [9]
        for line, level in reversed([*forward, *forward, forward[0]]):
            kernel.drive(line, not level)
        with pytest.raises(TriggerError, match="ran back"):
            source.read()


def test_an_edge_during_the_opening_is_counted_once(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the queue and in the level already."""
    ask = kernel.request_lines

    def ask_late(*args: Any, **options: Any) -> Any:
        request = ask(*args, **options)
        kernel.drive(27, True)
        return request

    monkeypatch.setattr("gpiod.request_lines", ask_late)
    with contextlib.closing(parse_encoder(f"{GPIO}/27?b=22").open()) as source:
        assert [c.count for c in source.read()] == [0]
        kernel.drive(22, True)
        assert [c.count for c in source.read()] == [1]


def test_a_stop_that_was_lost_is_told(kernel: FakeKernel) -> None:
    """The queue runs over by one, so that the first edge it holds is a start."""
    kernel.drive(5, True)
    with contextlib.closing(parse_belt(f"{GPIO}/5").open()) as source:
        for number in range(1025):
            kernel.drive(5, number % 2 == 1)
        states = [e.running for e in source.read()]
        assert states == [True] + [False, True] * 512 + [False]


def test_a_held_gpio_line_is_refused(kernel: FakeKernel) -> None:
    with (
        contextlib.closing(parse_trigger(f"{GPIO}/17").open()),
        pytest.raises(TriggerError, match="no other program holds it"),
    ):
        parse_trigger(f"{GPIO}/17").open()


def test_a_real_gpio_line_can_be_watched() -> None:
    chips = sorted(Path("/dev").glob("gpiochip*"))
    if not chips:
        pytest.skip("this machine has no /dev/gpiochip*")
    with contextlib.closing(parse_belt(f"gpio://{chips[0].name}/0").open()) as source:
        assert len(source.read()) == 1
        assert source.read() == []


def test_gpio_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gpiod", None)
    with pytest.raises(MissingExtra, match=r"trigger.*edge-ad\[gpio\]"):
        parse_trigger(f"{GPIO}/1").open()


# Serial


def test_bytes_of_other_values_are_no_triggers(terminal: Terminal) -> None:
    with contextlib.closing(parse_trigger(f"serial://{terminal.port}?byte=84").open()) as source:
        terminal.send(b"abc\r\n")
        select.select([source], [], [], PATIENCE_S)
        assert source.read() == []
        terminal.send(b"\x54")
        assert [e.lost for e in gather(source, 1)] == [0]
    with contextlib.closing(parse_trigger(f"serial://{terminal.port}").open()) as source:
        terminal.send(b"\x00")
        assert [e.lost for e in gather(source, 1)] == [0]


def test_of_triggers_read_at_once_all_but_the_last_are_lost(terminal: Terminal) -> None:
    with contextlib.closing(parse_trigger(f"serial://{terminal.port}?byte=any").open()) as source:
        terminal.send(b"ABC")
        assert [e.lost for e in gather(source, 1)] == [2]


@pytest.mark.parametrize(
    ("sent", "lost"),
    [
        ([b"T 5\n", b"T 6\r\n", b"T 9\n"], [0, 0, 2]),
        ([b"T 5\n", b"T 1\n", b"T 2\n"], [0, 1, 0]),
        ([b"T\n", b"\r\n", b"T \n"], [0, 0]),
        ([b"T 5\n", b"T\xff6\n", b"T 7\n"], [0, 1, 1]),
        ([b"T 1\nT 2\n"], [1]),
        ([b"noise", b"x" * 100, b"\nT 1\n"], [1, 0]),
    ],
)
def test_lines_and_their_numbers(terminal: Terminal, sent: list[bytes], lost: list[int]) -> None:
    with contextlib.closing(parse_trigger(f"serial://{terminal.port}?line=T").open()) as source:
        found: list[Edge] = []
        for data in sent:
            terminal.send(data)
            assert select.select([source], [], [], PATIENCE_S)[0]
            time.sleep(0.01)
            found += source.read()
    assert [e.lost for e in found] == lost


def test_a_serial_line_in_pieces(terminal: Terminal) -> None:
    with contextlib.closing(parse_trigger(f"serial://{terminal.port}?line=eye:").open()) as source:
        for piece in (b"ey", b"e: ", b"12", b"\n"):
            terminal.send(piece)
            time.sleep(0.02)
            edges = source.read()
        assert [e.lost for e in edges] == [0]


def serial_counts(terminal: Terminal, query: str, *sent: bytes) -> list[float]:
    with contextlib.closing(parse_encoder(f"serial://{terminal.port}?{query}").open()) as source:
        counts = [c.count for c in source.read()]
        for data in sent:
            terminal.send(data)
            assert select.select([source], [], [], PATIENCE_S)[0]
            time.sleep(0.01)
            counts += [c.count for c in source.read()]
    return counts


def test_serial_counts(terminal: Terminal) -> None:
    """From the first whole line on; of those read at once only the farthest; a step back stands."""
    sent = (b"34\n", b"1000\n", b"1010\n1020\n1015\n", b"1018\n", b"1030\n")
    assert serial_counts(terminal, "max_rate=1000", *sent) == [0, 20, 30]


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ((b"1\n5000\n", b"0\n"), "max_rate=1000"),
        ((b"1\n5000\n", b"50005001\n"), "max_rate=1000"),
        ((b"1\n5000\n", b"\xf8\x00\xe0\n"), "check baud="),
        ((b"1\n5000\n", b"5" * 200), "check baud="),
    ],
)
def test_serial_counts_that_cannot_be(terminal: Terminal, sent: tuple[bytes, ...], said: str) -> None:
    with pytest.raises(TriggerError, match=said):
        serial_counts(terminal, "max_rate=1000", *sent)


def test_a_serial_port_belongs_to_one_source(terminal: Terminal) -> None:
    with (
        contextlib.closing(parse_trigger(f"serial://{terminal.port}").open()),
        pytest.raises(TriggerError, match="no other program uses the port"),
    ):
        parse_encoder(f"serial://{terminal.port}?max_rate=1").open()


# Modbus and what is polled


def test_steps_of_a_counter_that_were_not_seen_singly_are_lost(peer: tuple[ModbusPeer, str]) -> None:
    device, url = peer
    put(device, 3, 7, 65_534)
    with contextlib.closing(parse_trigger(f"{url}/register/7?{SLOW}").open()) as source:
        put(device, 3, 7, 65_535)
        assert [e.lost for e in gather(source, 1)] == [0]
        put(device, 3, 7, 2)
        assert [e.lost for e in gather(source, 1)] == [2]
        put(device, 3, 7, 0)
        assert "reset" in str(failure(source))


def test_a_falling_edge_and_low_words(peer: tuple[ModbusPeer, str]) -> None:
    device, url = peer
    put(device, 2, 3, True)
    with contextlib.closing(parse_trigger(f"{url}/discrete/3?edge=falling&{SLOW}").open()) as source:
        put(device, 2, 3, False)
        gather(source, 1)
    put(device, 4, 8, 65_535, 0)
    with contextlib.closing(parse_trigger(f"{url}/input/8?bits=32&words=low-first&{SLOW}").open()) as source:
        put(device, 4, 8, 0, 1)
        assert [e.lost for e in gather(source, 1)] == [0]


def test_an_encoder_that_was_reset_has_failed(peer: tuple[ModbusPeer, str]) -> None:
    device, url = peer
    put(device, 3, 7, 60_000)
    with contextlib.closing(parse_encoder(f"{url}/register/7?max_rate=1000&{SLOW}").open()) as source:
        put(device, 3, 7, 0)
        assert "max_rate=1000" in str(failure(source))


def test_an_address_that_the_device_does_not_have(peer: tuple[ModbusPeer, str]) -> None:
    with pytest.raises(TriggerError, match="no such coil"):
        parse_trigger(f"{peer[1]}/coil/999").open()


def test_a_device_that_stops_answering_has_failed_since_its_last_answer() -> None:
    """A server that takes connections and requests and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(TriggerError):
            parse_trigger(f"modbus-tcp://127.0.0.1:{port}/coil/0?timeout_ms=50").open()


class Script:
    """A device that answers as told, and how long that takes."""

    def __init__(self, *answers: tuple[int, float]) -> None:
        self.answers = list(answers)
        self.closed = 0

    def read(self) -> int:
        value, seconds = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        time.sleep(seconds)
        return value

    def close(self) -> None:
        self.closed += 1


def test_an_answer_that_comes_too_late_is_a_failure_and_no_event() -> None:
    """What happened meanwhile would have the wrong time."""
    device = Script((0, 0), (0, 0), (1, 0.2), (0, 0))
    source = PolledSource("p", device, BitTrigger(), 5_000_000, 100_000_000)
    before = time.monotonic_ns()
    error = failure(source)
    assert "between two answers" in str(error)
    assert error.since_ns is not None and error.since_ns < before + 50_000_000
    source.close()
    assert device.closed == 1


def test_events_before_a_failure_are_told_first() -> None:
    device = Script((0, 0), (10, 0), (20, 0), (5000, 0))
    source = PolledSource("p", device, CounterEncoder(16, 200), 1_000_000, 1_000_000_000)
    time.sleep(0.1)
    counts = [c.count for c in source.read()]
    assert counts == [0, 10, 20]
    assert select.select([source], [], [], 0)[0]
    with pytest.raises(TriggerError, match="jumped by 4980"):
        source.read()
    with pytest.raises(TriggerError):
        source.read()
    source.close()


def test_a_driver_that_hangs_is_noticed_and_not_waited_for() -> None:
    source = PolledSource("p", Script((0, 0), (0, 2)), BitTrigger(), 1_000_000, 20_000_000)
    asked = time.monotonic_ns()
    error = failure(source, readable=False)
    assert "hangs" in str(error) and error.since_ns is not None and error.since_ns <= asked + 50_000_000
    begun = time.monotonic()
    source.close()
    assert time.monotonic() - begun < 0.5


def test_modbus_without_its_package() -> None:
    code = (
        "import sys; sys.modules['pymodbus'] = sys.modules['pymodbus.client'] = None\n"
        "from edge_ad_runtime.triggers import parse_trigger\n"
        "from edge_ad_runtime.errors import MissingExtra\n"
        "try: parse_trigger('modbus-tcp://127.0.0.1/coil/0').open()\n"
        "except MissingExtra as e: assert e.extra == 'modbus', e\n"
        "else: raise SystemExit('opened')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# Datagrams


@pytest.fixture
def door(tmp_path: Path) -> Iterator[tuple[EventSource[Edge], Callable[[bytes], None]]]:
    """An open local socket and its sender."""
    path = tmp_path / "t.sock"
    source = parse_trigger(f"socket://{path}").open()
    yield source, sender(socket.AF_UNIX, str(path))
    source.close()


Door = tuple[EventSource[Edge], Callable[[bytes], None]]


def test_datagrams_may_say_when_and_which(door: Door) -> None:
    source, send = door
    t = time.monotonic_ns() + 2_000_000
    time.sleep(0.01)
    send(json.dumps({"t_ns": t, "n": 5}).encode())
    send(json.dumps({"t_ns": t + 1_000_000, "n": 8, "who": "plc"}).encode())
    assert source.read() == [Edge(t), Edge(t + 1_000_000, lost=2)]


def test_datagrams_read_late_have_the_time_they_came(door: Door) -> None:
    source, send = door
    times = []
    for _ in range(3):
        times.append(time.monotonic_ns())
        send(b"")
        times.append(time.monotonic_ns())
        time.sleep(0.03)
    edges = source.read()
    assert [e.lost for e in edges] == [0, 0, 0]
    for (before, after), edge in zip(zip(times[::2], times[1::2], strict=True), edges, strict=True):
        assert before - 1_000_000 <= edge.t_ns <= after + 20_000_000


def test_a_wall_clock_that_was_set_does_not_date_a_trigger(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, send = door
    real = time.time_ns
    for hours in (5, -5):
        send(b"")
        monkeypatch.setattr(time, "time_ns", lambda h=hours: real() + h * 3_600_000_000_000)
        before = time.monotonic_ns()
        (edge,) = source.read()
        assert before <= edge.t_ns <= time.monotonic_ns()


@pytest.mark.parametrize(
    "said",
    [
        b'{"t_ns": %d}' % (time.monotonic_ns() + 3_600_000_000_000),
        b'{"t_ns": -5}',
        b'{"t_ns": 12}',
    ],
)
def test_a_time_that_cannot_be_makes_a_lost_trigger(
    door: Door, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    source, send = door
    before = time.monotonic_ns()
    send(said)
    (edge,) = source.read()
    assert edge.lost == 1 and before <= edge.t_ns <= time.monotonic_ns()
    assert "not usable" in caplog.text


def test_times_that_run_backwards_make_a_lost_trigger(door: Door) -> None:
    source, send = door
    t = time.monotonic_ns()
    time.sleep(0.005)
    for t_ns in (t + 2_000_000, t + 1_000_000):
        send(b'{"t_ns": %d}' % t_ns)
    first, second = source.read()
    assert first == Edge(t + 2_000_000)
    assert second.lost == 1 and second.t_ns > first.t_ns


@pytest.mark.parametrize("said", [b"{", b'{"n": "x"}', b"\xff\x00", b"5", b'{"t_ns": null}', b"x" * 5000])
def test_any_datagram_is_a_trigger(door: Door, said: bytes) -> None:
    source, send = door
    send(said)
    assert [e.lost for e in source.read()] == [0]


def test_a_flood_is_taken_in_portions(door: Door) -> None:
    source, send = door
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            send(b"")

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        assert max(len(source.read()) for _ in range(20)) <= 256
    finally:
        stop.set()
        while thread.is_alive():
            source.read()
        thread.join()


def test_datagrams_that_the_kernel_dropped_are_lost() -> None:
    port = free_port()
    send = sender(socket.AF_INET, ("127.0.0.1", port))
    with contextlib.closing(parse_trigger(f"udp://127.0.0.1:{port}").open()) as source:
        for _ in range(2000):
            send(b"")
        found: list[Edge] = []
        while edges := source.read():
            found += edges
        assert len(found) < 2000, "the kernel had room for all"
        send(b"")
        found += gather(source, 1)
        assert len(found) + sum(e.lost for e in found) == 2001
        send(b"")
        assert [e.lost for e in gather(source, 1)] == [0]


def test_a_socket_left_by_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "t.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
        left.bind(str(path))
        with pytest.raises(TriggerError, match="another process takes triggers there"):
            parse_trigger(f"socket://{path}").open()
    with contextlib.closing(parse_trigger(f"socket://{path}?mode=660").open()):
        assert path.stat().st_mode & 0o777 == 0o660
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(TriggerError, match="no socket"):
        parse_trigger(f"socket://{path}").open()
    assert path.read_text() == "precious"


def test_a_socket_that_was_replaced_has_failed_and_leaves_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "t.sock"
    source = parse_trigger(f"socket://{path}").open()
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(TriggerError, match="removed or replaced"):
            source.read()
        source.close()
        assert path.exists()


def test_a_udp_port_belongs_to_one() -> None:
    port = free_port()
    with (
        contextlib.closing(parse_trigger(f"udp://localhost:{port}").open()),
        pytest.raises(TriggerError, match="another program has this port"),
    ):
        parse_trigger(f"udp://127.0.0.1:{port}").open()


# Mocks


def test_mock_bounces_loses_and_fails(tmp_path: Path) -> None:
    pipe = tmp_path / "eye.fifo"
    config = parse_trigger(f"mock://eye?feed={pipe}&bounce=2&bounce_ms=0.5&lose=1&fail=3&absent=1")
    source = config.open()
    for t in (1000, 2000, 3000, 4000, 5000):
        feed(pipe, Fed(t_ns=t))
    assert source.read() == [
        Edge(1000), Edge(501_000), Edge(1_001_000), Edge(3000, 1), Edge(503_000), Edge(1_003_000),
    ]  # fmt: skip
    assert "as asked" in str(failure(source))
    source.close()
    with pytest.raises(TriggerError, match="cannot be opened"):
        config.open()
    with contextlib.closing(config.open()) as again:
        assert again.read()[0] == Edge(5000)


def test_mock_lines_that_are_not_understood(tmp_path: Path) -> None:
    for said in (b"x\n", b'{"wrong": 1}\n', b'{"count": 3}\n'):
        pipe = tmp_path / "eye.fifo"
        source = parse_trigger(f"mock://eye?feed={pipe}").open()
        with pipe.open("wb") as writer:
            writer.write(said)
        with pytest.raises(TriggerError, match=r"not understood|another kind"):
            source.read()
        source.close()


# URLs


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("gpio://gpiochip0", "chip and line"),
        ("gpio:///17", "chip and line"),
        ("gpio://gpiochip0/17?edge=both", "accepted are rising, falling"),
        ("gpio://gpiochip0/17?debounce_ms=-1", "0 to 1000"),
        ("gpio://gpiochip0/17?debounce_ms=nan", "0 to 1000"),
        ("gpio://gpiochip0/17?bias=up", "accepted are as-is, pull-up, pull-down, disabled"),
        ("gpio://gpiochip0/17?b=18", "'b' is unknown; accepted are edge"),
        ("serial:///dev/ttyS0?byte=0x100", "0 to 255"),
        ("serial:///dev/ttyS0?byte=256", "0 to 255"),
        ("serial:///dev/ttyS0?byte=T", "0 to 255"),
        ("serial:///dev/ttyS0?byte=1&line=T", "not both"),
        ("serial:///dev/ttyS0?line=T1", "not a digit"),
        ("serial:///dev/ttyS0?line=a%20b", "without blanks"),
        ("serial://dev/ttyS0", "three slashes"),
        ("serial:///dev/ttyS0?baud=1.5", "whole number"),
        ("modbus-tcp://plc", "must end with one of coil, discrete, register, input"),
        ("modbus-tcp://plc/coil", "must end with one of"),
        ("modbus-tcp://plc/coils/1", "must end with one of"),
        ("modbus-tcp://plc/x/coil/1", "must be of the form"),
        ("modbus-tcp://plc/coil/65536", "0 to 65535"),
        ("modbus-tcp://plc/coil/-1", "0 to 65535"),
        ("modbus-tcp://plc:0x/coil/1", "ort"),
        ("modbus-tcp:///coil/1", "host and port"),
        ("modbus-tcp://plc/coil/1?bits=32", "belongs to a register"),
        ("modbus-tcp://plc/register/1?edge=falling", "belongs to a coil"),
        ("modbus-tcp://plc/register/1?bits=8", "accepted are 16, 32"),
        ("modbus-tcp://plc/coil/1?poll_ms=0", "1 to 1000"),
        ("modbus-tcp://plc/coil/1?poll_ms=20&timeout_ms=30", "at least twice"),
        ("modbus-tcp://plc/coil/1?baud=9600", "'baud' is unknown"),
        ("modbus-tcp://plc/coil/1?unit=256", "0 to 255"),
        ("modbus-rtu:///dev/ttyS0/coil/1?unit=0", "1 to 247"),
        ("modbus-rtu://dev/ttyS0/coil/1", "three slashes"),
        ("modbus-rtu:///coil/1", "three slashes"),
        ("socket://run/x.sock", "three slashes"),
        ("socket:///" + "x" * 120, "too long"),
        ("socket:///x.sock?mode=777", "accepted are 600, 660, 666"),
        ("udp://0.0.0.0:9000", "this machine alone"),
        ("udp://192.168.0.1:9000", "this machine alone"),
        ("udp://plc:9000", "this machine alone"),
        ("udp://127.0.0.1", "host and port"),
        ("udp://127.0.0.1:9000/x", "nothing follows"),
        ("udp://127.0.0.1:9000?x=1", "accepted are none"),
        ("mock://eye", "needs feed="),
        ("mock://eye?feed=/x&lose=a", "numbers or ranges"),
        ("gpio://a/1#2", "%23"),
        ("http://[", "not a URL"),
        (
            "17",
            "must begin with one of gpio://, serial://, modbus-tcp://, modbus-rtu://, socket://, udp://, mock://",
        ),
        ("", "must begin with one of"),
    ],
)
def test_wrong_triggers_say_what_is_wrong(url: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_trigger(url)
    assert said in str(caught.value)
    assert str(caught.value).startswith("trigger '")


@pytest.mark.parametrize(
    ("parse", "url", "said"),
    [
        (parse_encoder, "gpio://c/1?b=1", "is the line itself"),
        (parse_encoder, "gpio://c/1?b=2&edge=both", "has no place beside b="),
        (parse_encoder, "gpio://c/1?max_back=3", "needs b="),
        (parse_encoder, "serial:///dev/ttyS0", "needs max_rate="),
        (parse_encoder, "serial:///dev/ttyS0?max_rate=0", "needs max_rate="),
        (parse_encoder, "modbus-tcp://plc/register/1", "needs max_rate="),
        (parse_encoder, "modbus-tcp://plc/coil/1?max_rate=1", "must end with one of register, input"),
        (parse_encoder, "modbus-tcp://plc/register/1?max_rate=200000", "use bits=32"),
        (parse_encoder, "socket:///x.sock", "must begin with one of gpio://, serial://"),
        (parse_belt, "serial:///dev/ttyS0", "must begin with one of gpio://, modbus-tcp://"),
        (parse_belt, "gpio://c/1?edge=rising", "'edge' is unknown"),
        (parse_belt, "modbus-tcp://plc/register/1", "must end with one of coil, discrete"),
    ],
)
def test_wrong_encoders_and_belts_say_what_is_wrong(parse: Callable[[str], Any], url: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(url)
    assert said in str(caught.value)


def test_a_password_is_not_shown() -> None:
    with pytest.raises(InputError) as caught:
        parse_trigger("modbus-tcp://me:secret@plc/coil/1")
    assert "secret" not in str(caught.value) and "host and port" in str(caught.value)


def test_the_same_input_has_the_same_key_however_it_is_written(tmp_path: Path) -> None:
    port = tmp_path / "by-id"
    port.symlink_to("/dev/null")
    same = [
        ("gpio://gpiochip7/4", "gpio:///dev/gpiochip7/4?edge=falling"),
        (f"serial://{port}", "serial:///dev/null?baud=300"),
        ("modbus-tcp://10.0.0.1/coil/3", "modbus-tcp://10.0.0.1:502/coil/3?poll_ms=30"),
        (f"modbus-rtu://{port}/coil/3", "modbus-rtu:///dev/null/coil/3"),
        ("socket:///tmp/../tmp/x.sock", "socket:///tmp/x.sock?mode=666"),
        ("udp://localhost:9000", "udp://127.0.0.1:9000"),
    ]
    keys = [[physical_keys(parse_trigger(url)) for url in pair] for pair in same]
    assert all(first == second for first, second in keys)
    assert len({first for first, _ in keys}) == len(same)
    a, b = physical_keys(parse_encoder("gpio://gpiochip7/4?b=5"))
    assert (a,) == keys[0][0] and a != b


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, edge_ad_runtime.triggers as t\n"
        "t.parse_trigger('modbus-tcp://plc/coil/1'); t.parse_trigger('gpio://gpiochip0/1')\n"
        "heavy = {'numpy', 'cv2', 'pymodbus', 'gpiod', 'asyncio'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
