"""Pulses that the device times itself: what is commanded, and what a device makes of it whatever its timer does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad_runtime.actuation import Actuator
from edge_ad_runtime.clock import VirtualClock
from edge_ad_runtime.outputs import PulsedOutput, parse_output
from edge_ad_runtime.outputs.board_timer import LATE_NS
from edge_ad_runtime.outputs.mock import MockConfig

MS = 1_000_000
PULSE = 100
LATE = LATE_NS // MS


class Bench:
    """An actuator on a mock device with a timer, in virtual time."""

    def __init__(self, query: str = "") -> None:
        config = parse_output(f"mock://board?timer=1&pulse_ms={PULSE}&delay_ms=100&safe=off{query}")
        assert isinstance(config, MockConfig)
        self.clock = VirtualClock()
        self.device = config.device
        self.device.clock = self.clock
        self.actuator = Actuator(config, self.clock)
        self.actuator.release()
        self.at(0)

    def at(self, ms: float) -> None:
        self.clock.advance(round(ms * MS) - self.clock.now_ns())

    @property
    def commands(self) -> list[tuple[float, str]]:
        history = self.device.history
        names = [
            "pulse" if i in self.device.pulses else "on" if on else "off" for i, (_, on) in enumerate(history)
        ]
        return [(t / MS, name) for (t, _), name in zip(history, names, strict=True)]

    def contact(self, ms: int, *, command_ends_timer: bool) -> list[bool]:
        """Whether the relay is closed, for each millisecond."""
        level, found = False, []
        ends: list[int] = []
        commands = self.commands
        for now in range(ms):
            if now in ends:
                level = False
            for name in (name for t, name in commands if t == now):
                level = name != "off"
                if command_ends_timer:
                    ends.clear()
                if name == "pulse":
                    ends.append(now + PULSE)
            found.append(level)
        return found


def test_a_pulse_alone_is_given_to_the_timer_and_ended_too() -> None:
    b = Bench()
    b.actuator.eject(0)
    b.actuator.eject(500 * MS)
    b.at(1000)
    b.actuator.close()
    assert b.commands == [
        (0, "off"),
        (100, "pulse"),
        (200, "off"),
        (600, "pulse"),
        (700, "off"),
        (1000, "off"),
    ]


def test_pulses_that_are_known_to_merge_are_not_given_to_the_timer() -> None:
    b = Bench()
    b.actuator.eject(0)
    b.actuator.eject(60 * MS)
    b.at(1000)
    b.actuator.close()
    assert b.commands == [(0, "off"), (100, "on"), (260, "off"), (1000, "off")]


def test_a_pulse_that_is_prolonged_is_told_at_once_and_after_the_timer() -> None:
    b = Bench()
    b.actuator.eject(0)
    b.at(130)
    b.actuator.eject(60 * MS)
    b.at(1000)
    b.actuator.close()
    assert b.commands == [
        (0, "off"),
        (100, "pulse"),
        (130, "on"),
        (200 + LATE, "on"),
        (260, "off"),
        (1000, "off"),
    ]


@pytest.mark.parametrize("whole", [True, False])
def test_a_late_pulse_ends_when_it_has_to(whole: bool) -> None:
    b = Bench()
    b.at(150)
    b.actuator.eject(0, whole=whole)
    b.at(1000)
    b.actuator.close()
    late = [(150, "pulse"), (250, "off")] if whole else [(150, "on"), (200, "off")]
    assert b.commands == [(0, "off"), *late, (1000, "off")]


def test_a_hold_is_not_given_to_the_timer_and_prolongs_a_pulse() -> None:
    b = Bench()
    b.actuator.hold_from("unknown", 0)
    b.at(150)
    b.actuator.hold_until("unknown", 300 * MS)
    b.at(450)
    b.actuator.eject(400 * MS)
    b.at(550)
    b.actuator.hold_from("unknown", 490 * MS)
    b.actuator.hold_until("unknown", 700 * MS)
    b.at(2000)
    b.actuator.close()
    assert b.commands == [
        *((0, "off"), (100, "on"), (400, "off")),
        *((500, "pulse"), (550, "on"), (600 + LATE, "on"), (800, "off")),
        (2000, "off"),
    ]


def test_a_pulse_whose_answer_was_lost_may_have_begun() -> None:
    b = Bench("&fail=1")
    b.actuator.eject(0)
    b.at(130)
    b.actuator.eject(60 * MS)
    b.at(1000)
    b.actuator.close()
    # The timer may run from 100 on, though the command failed: it is not used again, and its end is waited for.
    assert b.commands == [(0, "off"), (100, "on"), (200 + LATE, "on"), (260, "off"), (1000, "off")]


def test_a_device_without_a_timer_has_no_pulse() -> None:
    assert not isinstance(parse_output("mock://plain").open(), PulsedOutput)
    assert isinstance(parse_output("mock://board?timer=1").open(), PulsedOutput)


@settings(max_examples=150, deadline=None)
@given(
    ejects=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 100)), max_size=8).map(
        lambda pairs: sorted(pairs, key=lambda pair: pair[0] + pair[1])
    ),
    command_ends_timer=st.booleans(),
)
def test_any_schedule_is_given_whatever_the_timer_does(
    ejects: list[tuple[int, int]], command_ends_timer: bool
) -> None:
    """Against a plain definition. A timer that a command does not end may open the relay for a few milliseconds in a
    pulse that was prolonged, and never closes it where no pulse is."""
    b = Bench()
    for t, latency in ejects:
        b.at(t + latency)
        b.actuator.eject(t * MS)
    b.at(1500)
    b.actuator.close()
    due = {ms for t, _ in ejects for ms in range(t + 100, t + 100 + PULSE)}
    contact = b.contact(1500, command_ends_timer=command_ends_timer)
    assert {ms for ms, closed in enumerate(contact) if closed} <= due
    open_in = sorted(ms for ms in due if not contact[ms])
    if command_ends_timer:
        assert not open_in
    ends = {round(b.device.history[i][0] / MS) + PULSE for i in b.device.pulses}
    assert all(any(end <= ms < end + LATE for end in ends) for ms in open_in)
