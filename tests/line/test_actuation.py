"""Pulse schedules in virtual time: whole histories, exact to the nanosecond; and real ones on a PTY."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad_runtime.actuation import Actuator, ActuatorStats, open_actuators
from edge_ad_runtime.clock import MonotonicClock, VirtualClock
from edge_ad_runtime.errors import OutputError
from edge_ad_runtime.outputs import parse_output
from edge_ad_runtime.outputs.base import Timing
from edge_ad_runtime.outputs.mock import MockConfig, MockDevice
from tests.line.relays import LCUS_OFF, LCUS_ON, Board, lcus_states

MS = 1_000_000
ON, OFF = True, False


@dataclass
class Bench:
    """An actuator on a mock device in virtual time; histories are in milliseconds."""

    clock: VirtualClock
    device: MockDevice
    actuator: Actuator

    def at(self, ms: float) -> None:
        """Let time pass until ``ms``."""
        self.clock.advance(round(ms * MS) - self.clock.now_ns())

    @property
    def history(self) -> list[tuple[float, bool]]:
        return [(t / MS, state) for t, state in self.device.history]

    @property
    def counts(self) -> tuple[int, int, int, int, int]:
        """pulses, late, missed, cancelled, errors"""
        s: ActuatorStats = self.actuator.stats
        return s.pulses, s.late, s.missed, s.cancelled, s.errors


class Factory:
    def __init__(self) -> None:
        self.benches: list[Bench] = []

    def __call__(
        self,
        *,
        pulse: float = 50,
        delay: float = 0,
        safe: str = "off",
        fail: str = "",
        absent: str = "",
        released: bool = True,
    ) -> Bench:
        clock = VirtualClock()
        parsed = parse_output(
            f"mock://x?pulse_ms={pulse}&delay_ms={delay}&safe={safe}&fail={fail}&absent={absent}"
        )
        assert isinstance(parsed, MockConfig)
        parsed.device.clock = clock
        bench = Bench(clock, parsed.device, Actuator(parsed, clock))
        if released:
            bench.actuator.release()
        bench.at(0)
        self.benches.append(bench)
        return bench


@pytest.fixture
def bench() -> Iterator[Factory]:
    factory = Factory()
    yield factory
    for made in factory.benches:
        made.actuator.close()


def test_a_pulse_begins_and_ends_by_the_time_of_its_frame(bench: Factory) -> None:
    b = bench(pulse=50, delay=300)
    b.at(130)
    b.actuator.eject(100 * MS)
    b.at(1000)
    assert b.history == [(0, OFF), (400, ON), (450, OFF)]
    b.actuator.close()
    assert b.history == [(0, OFF), (400, ON), (450, OFF), (1000, OFF)]
    assert b.counts == (1, 0, 0, 0, 0)


def test_several_parts_are_on_their_way_at_once(bench: Factory) -> None:
    b = bench(pulse=20, delay=500)
    for t in (0, 100, 200, 300):
        b.at(t + 30)
        b.actuator.eject(t * MS)
    b.at(2000)
    expected = [(0, OFF)]
    for t in (500, 600, 700, 800):
        expected += [(t, ON), (t + 20, OFF)]
    assert b.history == expected
    assert b.counts == (4, 0, 0, 0, 0)


def test_overlapping_and_touching_pulses_become_one(bench: Factory) -> None:
    b = bench(pulse=50, delay=100)
    for t in (0, 30, 80, 131):
        b.actuator.eject(t * MS)
    b.at(1000)
    assert b.history == [(0, OFF), (100, ON), (230, OFF), (231, ON), (281, OFF)]


def test_a_late_pulse_is_given_at_once_in_full_and_counted(bench: Factory) -> None:
    b = bench(pulse=50, delay=100)
    b.at(170)
    b.actuator.eject(0)
    b.at(1000)
    assert b.history == [(0, OFF), (170, ON), (220, OFF)]
    assert b.counts == (1, 1, 0, 0, 0)
    b.at(1100)
    b.actuator.eject(1000 * MS)
    b.at(2000)
    assert b.history[3:] == [(1100, ON), (1150, OFF)]
    assert b.counts == (2, 1, 0, 0, 0), "exactly in time is not late"


def test_without_a_delay_a_pulse_follows_the_verdict_and_is_not_late(bench: Factory) -> None:
    b = bench(pulse=50)
    b.at(30)
    b.actuator.eject(0)
    b.at(500)
    assert b.history == [(0, OFF), (30, ON), (80, OFF)]
    assert b.counts == (1, 0, 0, 0, 0)


def test_verdicts_out_of_order_keep_their_times(bench: Factory) -> None:
    b = bench(pulse=10, delay=100)
    for t in (40, 0, 20):
        b.actuator.eject(t * MS)
    b.at(500)
    assert b.history == [
        (0, OFF),
        *((100, ON), (110, OFF)),
        *((120, ON), (130, OFF)),
        *((140, ON), (150, OFF)),
    ]


def test_parts_of_a_millisecond_are_kept(bench: Factory) -> None:
    b = bench(pulse=0.25, delay=1.5)
    b.actuator.eject(123_456)
    b.at(10)
    assert b.device.history == [(0, OFF), (1_623_456, ON), (1_873_456, OFF)]


@pytest.mark.parametrize("safe", [OFF, ON])
def test_the_safe_state_is_kept_until_release_while_away_and_at_the_end(bench: Factory, safe: bool) -> None:
    b = bench(pulse=50, delay=100, safe="on" if safe else "off", released=False)
    b.at(10)
    assert b.history == [(0, safe)]
    b.actuator.release()
    b.at(20)
    b.actuator.eject(20 * MS)
    b.actuator.hold_safe()
    b.at(500)
    b.actuator.release()
    b.at(600)
    b.actuator.close()
    if safe:
        assert b.history == [(0, ON), (10, OFF), (20, ON), (500, OFF), (600, ON)]
    else:
        # A part that was judged before the camera went away is still rejected.
        assert b.history == [(0, OFF), (120, ON), (170, OFF), (600, OFF)]
    assert b.counts == (1, 0, 0, 0, 0)


def test_closing_in_a_pulse_ends_it_and_cancels_the_others(bench: Factory) -> None:
    b = bench(pulse=100, delay=100)
    b.actuator.eject(0)
    b.actuator.eject(900 * MS)
    b.at(150)
    assert b.actuator.busy
    b.actuator.close()
    assert not b.actuator.busy
    assert b.history == [(0, OFF), (100, ON), (150, OFF)]
    assert b.counts == (2, 0, 0, 1, 0)
    b.actuator.eject(150 * MS)
    b.actuator.close()
    assert b.history == [(0, OFF), (100, ON), (150, OFF)]


def test_a_failed_command_is_repeated_at_once_on_a_new_opening(bench: Factory) -> None:
    b = bench(pulse=50, delay=100, fail="1")  # command 0 is the OFF at the start, 1 the ON
    b.actuator.eject(0)
    b.at(1000)
    assert b.history == [(0, OFF), (100, ON), (150, OFF)]
    assert b.device.opened == 2
    assert b.counts == (1, 0, 0, 0, 1)


def test_an_output_that_is_away_is_retried_with_growing_pauses_and_misses_are_counted(bench: Factory) -> None:
    # The ON fails; then openings 1 to 4 fail: at once, and after 50, 100 and 200 ms; the next, after 400, works.
    b = bench(pulse=50, delay=100, fail="1", absent="1-4")
    b.actuator.eject(0)
    b.actuator.eject(300 * MS)
    b.at(2000)
    # Missed, not given to a later part; and the state that was unknown is commanded on return.
    assert b.history == [(0, OFF), (850, OFF)]
    assert b.counts == (2, 0, 2, 0, 5)


def test_a_pulse_is_shortened_by_an_outage_but_never_prolonged(bench: Factory) -> None:
    b = bench(pulse=100, delay=100, fail="1", absent="1")
    b.actuator.eject(0)
    b.at(2000)
    assert b.history == [(0, OFF), (150, ON), (200, OFF)]
    assert b.counts == (1, 0, 0, 0, 2)


def test_an_actuator_that_could_not_be_switched_off_is_until_it_is(bench: Factory) -> None:
    b = bench(pulse=50, delay=100, fail="2-4")
    b.actuator.eject(0)
    b.at(2000)
    assert b.history == [(0, OFF), (100, ON), (300, OFF)]
    assert b.counts == (1, 0, 0, 0, 3)


def test_an_output_that_cannot_be_made_safe_is_an_error(bench: Factory) -> None:
    b = bench(fail="1-99")
    with pytest.raises(OutputError, match="check it by hand"):
        b.actuator.close()
    bench.benches.clear()


@settings(max_examples=200, deadline=None)
@given(
    frames=st.lists(st.integers(0, 400), max_size=12, unique=True).map(sorted),
    # A verdict that comes at the very end of the pulse before it cannot be joined to that any more.
    latency=st.integers(0, 59),
    pulse=st.integers(1, 80),
    delay=st.integers(60, 200),
)
def test_any_schedule_equals_the_union_of_its_pulses(
    frames: list[int], latency: int, pulse: int, delay: int
) -> None:
    """Against a second, plain definition: the output is active exactly where a pulse covers the millisecond."""
    b = Factory()(pulse=pulse, delay=delay)
    for t in frames:
        b.at(max(t + latency, b.clock.now_ns() // MS))
        b.actuator.eject(t * MS)
    b.at(1000)
    b.actuator.close()
    active = {ms for t in frames for ms in range(t + delay, t + delay + pulse)}
    expected: list[tuple[float, bool]] = [(0, OFF)]
    expected += [(ms, ms in active) for ms in range(1000) if (ms in active) != (ms - 1 in active)]
    assert b.history == [*expected, (1000, OFF)]
    assert b.counts == (len(frames), 0, 0, 0, 0)


def test_open_actuators_opens_all_or_none() -> None:
    good, bad = parse_output("mock://good?safe=off"), parse_output("mock://bad?absent=0")
    assert isinstance(good, MockConfig)
    with pytest.raises(OutputError, match="mock://bad"):
        open_actuators([good, bad])
    assert [state for _, state in good.device.history][-1:] == [OFF]


def test_a_slow_output_delays_neither_the_caller_nor_its_neighbour() -> None:
    slow, quick = (
        parse_output("mock://slow?slow_ms=300"),
        parse_output("mock://quick?pulse_ms=20&delay_ms=30"),
    )
    assert isinstance(quick, MockConfig)
    assert isinstance(slow, MockConfig)
    actuators = open_actuators([slow, quick])
    for actuator in actuators:
        actuator.release()
    time.sleep(0.05)
    start = time.monotonic_ns()
    for actuator in actuators:
        actuator.eject(start)
    assert time.monotonic_ns() - start < 100 * MS
    while actuators[1].busy:
        time.sleep(0.005)
    (_, first), (on, second), (off, third) = quick.device.history
    assert [first, second, third] == [OFF, ON, OFF]
    assert 30 * MS <= on - start < 200 * MS
    assert 50 * MS <= off - start < 250 * MS
    while actuators[0].busy:
        time.sleep(0.005)
    for actuator in actuators:
        actuator.close()
    # Busy with its first command for the whole pulse, the slow one still gave it.
    assert [state for _, state in slow.device.history] == [OFF, ON, OFF, OFF]


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board()
    yield board
    board.close()


def test_pulses_on_a_real_serial_port(board: Board) -> None:
    actuator = Actuator(parse_output(f"serial://{board.port}?pulse_ms=20&delay_ms=40"))
    actuator.release()
    board.wait_for(4)
    start = time.monotonic_ns()
    actuator.eject(start)
    assert board.wait_for(8) == LCUS_OFF + LCUS_ON
    assert time.monotonic_ns() - start >= 40 * MS
    assert board.wait_for(12) == LCUS_OFF + LCUS_ON + LCUS_OFF
    assert time.monotonic_ns() - start >= 60 * MS
    actuator.close()
    assert board.wait_for(16) == LCUS_OFF + LCUS_ON + LCUS_OFF + LCUS_OFF


def test_a_board_that_comes_back_is_used_again(
    board: Board, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The port is a link, as udev makes them; the board behind it is exchanged."""
    link = tmp_path_factory.mktemp("dev") / "relay"
    link.symlink_to(board.port)
    actuator = Actuator(parse_output(f"serial://{link}?pulse_ms=20"))
    actuator.release()
    board.wait_for(4)
    board.hang_up()
    link.unlink()
    actuator.eject(time.monotonic_ns())
    while actuator.stats.errors < 2:
        time.sleep(0.005)
    new = Board()
    link.symlink_to(new.port)
    assert new.wait_for(4) == LCUS_OFF
    actuator.eject(time.monotonic_ns())
    assert new.wait_for(12) == LCUS_OFF + LCUS_ON + LCUS_OFF
    actuator.close()
    stats = actuator.stats
    assert (stats.pulses, stats.missed) == (2, 1)
    new.close()


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "1 / 0", "import signal; signal.raise_signal(2)"])
def test_every_end_of_the_interpreter_leaves_the_relay_off(board: Board, end: str) -> None:
    program = f"""
import time
from edge_ad_runtime.actuation import Actuator
from edge_ad_runtime.outputs import parse_output
actuator = Actuator(parse_output("serial://{board.port}?pulse_ms=60000"))
actuator.release()
actuator.eject(time.monotonic_ns())
while actuator._level is not True:
    time.sleep(0.01)
{end}
"""
    subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, timeout=60)
    assert lcus_states(board.read_available()) == [OFF, ON, OFF]


def test_the_real_clock_waits_until_the_deadline() -> None:
    import threading

    clock, condition = MonotonicClock(), threading.Condition()
    until = clock.now_ns() + 20 * MS
    with condition:
        clock.wait(condition, until)
        clock.wait(condition, until - 100 * MS)
    assert 0 <= clock.now_ns() - until < 200 * MS


def test_timing_defaults() -> None:
    assert Timing() == Timing(pulse_ms=50, delay_ms=0, safe="auto")
