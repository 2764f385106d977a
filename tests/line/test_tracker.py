"""The tracker on a belt of constant speed and on one with an encoder, event by event."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.tracking.belt import EncodedBelt, TimedBelt
from edge_ad_runtime.tracking.tracker import (
    Action,
    Eject,
    HoldFrom,
    HoldUntil,
    Settled,
    Tracker,
    TrackSettings,
)
from edge_ad_runtime.verdict import Fault, Verdict

# Decided on 15 before it is there; out of reach at 1000 + 100 after its trigger.
SETTINGS = TrackSettings(
    travel=1000, min_gap=100, lead_ns=10, reach_ns=50, ahead_ns=5, debounce_ns=20, max_in_flight=5
)


class Line:
    """A tracker that is woken exactly when it asks to be."""

    def __init__(self, tracker: Tracker | None = None) -> None:
        self.tracker = tracker or Tracker(SETTINGS, TimedBelt())
        self.tracker.scorer(True)
        self.now = 0
        self.actions: list[tuple[int, Action]] = []

    def take(self, actions: Sequence[Action]) -> None:
        self.actions += [(self.now, action) for action in actions]

    def until(self, t: int) -> None:
        # As the guard does after whatever it was told.
        self.take(self.tracker.advance(self.now))
        for _ in range(10_000):
            due = self.tracker.next_time(self.now)
            if due is None or due > t:
                break
            assert due > self.now, "it would be woken again and again"
            self.now = due
            self.take(self.tracker.advance(self.now))
        else:
            raise AssertionError("no end of waking")
        self.now = t
        self.take(self.tracker.advance(t))

    def part(self, t: int, verdict: Verdict | None = Verdict.PASS, lost: int = 0) -> int | None:
        self.until(t)
        number, actions = self.tracker.trigger(t, t, lost)
        self.take(actions)
        if number is not None and verdict is not None:
            assert self.tracker.verdict(number, verdict)
        return number

    @property
    def pulses(self) -> list[int]:
        return [a.at_ns for _, a in self.actions if isinstance(a, Eject)]

    @property
    def holds(self) -> list[tuple[str, int]]:
        return [
            ("from" if isinstance(a, HoldFrom) else "until", a.at_ns)
            for _, a in self.actions
            if isinstance(a, HoldFrom | HoldUntil)
        ]

    @property
    def records(self) -> list[tuple[Verdict, Fault | None, bool]]:
        return [(a.verdict, a.fault, a.ejected) for _, a in self.actions if isinstance(a, Settled)]


PASSED = (Verdict.PASS, None, False)
REJECTED = (Verdict.REJECT, None, True)


def fault(kind: Fault, ejected: bool = True) -> tuple[Verdict, Fault | None, bool]:
    return Verdict.FAULT, kind, ejected


def test_only_a_pass_in_time_spares_a_part() -> None:
    line = Line()
    for t, verdict in ((0, Verdict.PASS), (200, Verdict.REJECT), (400, None)):
        line.part(t, verdict)
    line.until(3000)
    assert line.pulses == [1200, 1400]
    assert [t for t, a in line.actions if isinstance(a, Eject)] == [1185, 1385]
    assert line.records == [PASSED, REJECTED, fault(Fault.NO_VERDICT)]
    assert not line.tracker.busy
    assert line.tracker.next_time(3000) is None


def test_a_verdict_counts_until_the_part_is_decided_on() -> None:
    line = Line()
    first, second = line.part(0, None), line.part(300, None)
    assert first is not None
    assert second is not None
    line.until(984)
    assert line.tracker.verdict(first, Verdict.PASS)
    line.until(1285)
    assert not line.tracker.verdict(second, Verdict.PASS)
    assert not line.tracker.verdict(first, Verdict.REJECT)
    assert not line.tracker.verdict(99, Verdict.PASS)
    line.until(3000)
    assert line.records == [PASSED, fault(Fault.NO_VERDICT)]
    assert line.tracker.counts.late_verdicts == 2


def test_the_first_word_counts_and_numbers_stay_right_after_a_stop() -> None:
    line = Line()
    line.part(0, Verdict.REJECT)
    assert line.tracker.verdict(1, Verdict.PASS)
    line.take(line.tracker.belt_stopped(10))
    line.take(line.tracker.belt_started(20))
    assert not line.tracker.verdict(1, Verdict.PASS)
    third = line.part(3000, None)
    fourth = line.part(3300, None)
    assert (third, fourth) == (2, 3)
    assert line.tracker.verdict(3, Verdict.PASS)
    line.until(9000)
    assert line.records == [REJECTED, fault(Fault.NO_VERDICT), PASSED]


def test_policies_pass_what_is_missing_or_failed() -> None:
    settings = msgspec.structs.replace(SETTINGS, pass_missing=True, pass_faults=True)
    line = Line(Tracker(settings, TimedBelt()))
    line.part(0, None)
    number = line.part(300, None)
    assert number is not None
    line.tracker.verdict(number, Verdict.FAULT, Fault.ENGINE, "it failed")
    line.until(5000)
    assert line.pulses == []
    assert line.records == [fault(Fault.NO_VERDICT, False), fault(Fault.ENGINE, False)]


def test_neighbours_within_the_gap_are_told_and_those_beyond_are_not() -> None:
    line = Line()
    for t in (0, 99, 150, 200):
        line.part(t, Verdict.REJECT if t == 99 else Verdict.PASS)
    line.part(199 + 100)
    line.until(5000)
    assert line.pulses == [1099]
    assert line.records == [fault(Fault.TOO_CLOSE), REJECTED, fault(Fault.TOO_CLOSE), PASSED, PASSED]


def test_a_long_chain_does_not_spread_a_reject() -> None:
    # Every part is close to the next; the one that is bad lies behind parts that have gone by already.
    settings = msgspec.structs.replace(SETTINGS, max_in_flight=99)
    line = Line(Tracker(settings, TimedBelt()))
    for index in range(60):
        line.part(index * 50, Verdict.REJECT if index == 40 else Verdict.PASS)
    line.until(9000)
    assert line.pulses == [3000]
    struck = [i for i, record in enumerate(line.records) if record != PASSED]
    assert struck == [39, 40, 41]


def test_bounces_are_none_and_a_trigger_told_too_late_is_rejected_unseen() -> None:
    line = Line()
    assert line.part(0) == 1
    assert line.part(19) is None
    assert line.part(500) == 2
    number, actions = line.tracker.trigger(300, 510)
    line.take(actions)
    assert number is None
    line.until(5000)
    assert line.tracker.counts.bounces == 1
    assert line.tracker.counts.lost_triggers == 1
    assert line.holds == [("from", 1300), ("until", 1340)]
    assert line.records == [PASSED, PASSED]


def test_lost_triggers_are_rejected_with_their_neighbours() -> None:
    line = Line()
    for t, lost in ((0, 0), (300, 0), (600, 2), (700, 0), (801, 0)):
        line.part(t, lost=lost)
    line.until(5000)
    assert line.holds == [("from", 1300), ("until", 1640)]
    assert line.records == [PASSED, *[fault(Fault.LOST_TRIGGER)] * 2, PASSED, PASSED]
    line = Line()
    line.part(0, lost=1)
    line.until(20)
    assert line.holds == [("from", 0)]


def test_lost_triggers_known_after_a_neighbour_was_decided_on() -> None:
    line = Line()
    line.part(0)
    line.part(995, lost=1)
    line.until(5000)
    assert line.holds == [("from", 1000), ("until", 2035)]
    assert line.records == [fault(Fault.LOST_TRIGGER)] * 2


def test_a_blind_trigger_rejects_unseen_from_when_it_was_last_known_to_work() -> None:
    line = Line()
    line.part(0)
    line.until(400)
    line.tracker.blind(400, 300)
    line.tracker.blind(450)
    line.until(2000)
    assert line.holds == [("from", 1300)]
    line.tracker.sighted(2000)
    line.part(2050)
    line.part(2100)
    line.until(9000)
    assert line.holds == [("from", 1300), ("until", 3040)]
    assert line.records == [PASSED, fault(Fault.LOST_TRIGGER), PASSED]
    assert not line.tracker.busy


def test_what_is_on_the_belt_at_the_start_is_rejected() -> None:
    line = Line()
    line.tracker.begin(0)
    line.part(50)
    line.part(150)
    line.until(5000)
    assert line.holds == [("from", 0), ("until", 1040)]
    assert line.records == [fault(Fault.LOST_TRIGGER), PASSED]


def test_overrun() -> None:
    line = Line()
    for index in range(6):
        line.part(index * 150)
    line.until(5000)
    assert line.records == [*[PASSED] * 5, fault(Fault.OVERRUN)]
    assert line.tracker.counts.most_in_flight == 6


def test_a_stopped_belt_rejects_all_until_it_has_gone_the_whole_way() -> None:
    settings = msgspec.structs.replace(SETTINGS, steady_ns=40)
    line = Line(Tracker(settings, TimedBelt()))
    line.part(0)
    line.part(600)
    line.until(1020)
    line.take(line.tracker.belt_stopped(1020))
    line.take(line.tracker.belt_stopped(1030))
    assert line.part(1500) is None
    line.until(2000)
    line.take(line.tracker.belt_started(2000))
    line.take(line.tracker.belt_started(2001))
    # At its speed from 2040 on; the hold strikes what was triggered until 2140, and a gap behind it.
    assert line.part(2239) is None
    line.part(2340)
    line.until(9000)
    hold_until = 2140 + 1000 + 50 - 10
    assert line.holds == [("from", 1020 - 50), ("until", hold_until)]
    # The first was on its way out and may have been struck.
    assert line.records[:2] == [fault(Fault.BELT)] * 2
    assert line.records[2:] == [fault(Fault.BELT), fault(Fault.BELT), PASSED]


def test_a_part_that_had_left_before_the_stop_keeps_its_record() -> None:
    line = Line()
    line.part(0)
    line.until(1100)
    line.take(line.tracker.belt_stopped(1101))
    assert line.records == [PASSED]


class Belt:
    """An encoded belt: a count every 10 ns."""

    def __init__(self, **changes: object) -> None:
        self.belt = EncodedBelt()
        settings = msgspec.structs.replace(SETTINGS, travel=100.0, min_gap=10.0, min_advance=3.0, **changes)
        self.line = Line(Tracker(settings, self.belt))
        self.count = 0

    def run(self, until: int, period: int = 10) -> None:
        while self.line.now + period <= until:
            self.line.until(self.line.now + period)
            self.count += 1
            self.belt.edge(self.line.now, self.count)
            self.line.take(self.line.tracker.advance(self.line.now))
        self.line.until(until)


def test_with_an_encoder_a_belt_that_stands_waits() -> None:
    b = Belt()
    b.run(100)
    b.line.part(100, Verdict.REJECT)
    b.run(600)
    b.line.until(1_000_000)
    assert b.line.pulses == []
    b.run(1_000_700)
    assert len(b.line.pulses) == 1
    assert b.line.pulses[0] == pytest.approx(1_000_500, abs=25)


def test_an_encoder_that_stands_while_parts_go_by_is_dead() -> None:
    b = Belt()
    b.run(100)
    b.line.part(100)
    b.line.part(500)
    assert ("from", 450) in b.line.holds
    b.line.until(2000)
    assert b.line.holds == [("from", 450)]
    b.run(5000)
    assert len(b.line.holds) == 2
    # What was within the gap of it is told.
    assert b.line.records == [fault(Fault.ENCODER)] * 2


def test_an_encoder_out_of_order_holds_even_when_the_trigger_comes_back_meanwhile() -> None:
    b = Belt()
    b.run(500)
    tracker = b.line.tracker
    tracker.blind(500)
    b.line.take(tracker.encoder_lost(500))
    tracker.sighted(600)
    b.line.until(5000)
    assert "until" not in [what for what, _ in b.line.holds]
    b.belt.resume()
    tracker.encoder_found(5000)
    b.count = 0
    b.run(6200)
    assert sorted(what for what, _ in b.line.holds) == ["from", "from", "until", "until"]
    assert not tracker.busy


def test_a_part_that_was_not_brought_before_the_camera_in_time_is_a_fault() -> None:
    view = {"view_from_ns": 200, "view_until_ns": 300, "view_from": 15.0, "view_until": 35.0}
    b = Belt(**view)
    b.run(100)
    b.line.part(100)
    b.run(200)
    b.line.part(200)
    b.line.until(450)  # it stands from here on; the second part is not there
    b.run(3000)
    assert b.line.records == [fault(Fault.BELT), fault(Fault.BELT)]
    b = Belt(**view)
    b.run(100)
    b.line.part(100)
    b.run(3000)
    assert b.line.records == [PASSED]


def test_settings_that_cannot_be() -> None:
    for changes in ({"min_gap": 1000}, {"min_gap": 0}, {"travel": 50}):
        with pytest.raises(InputError, match="min_gap"):
            msgspec.structs.replace(SETTINGS, **changes)


@given(
    st.lists(
        st.tuples(st.integers(0, 400), st.sampled_from([*Verdict, None]), st.sampled_from([0, 0, 0, 0, 1])),
        max_size=30,
    ),
    st.lists(
        st.tuples(st.integers(0, 5000), st.sampled_from(["stop", "start", "blind", "sighted"])), max_size=6
    ),
)
def test_every_part_is_settled_once_and_pulses_reach_only_who_is_told(
    parts: list[tuple[int, Verdict | None, int]], troubles: list[tuple[int, str]]
) -> None:
    settings = msgspec.structs.replace(SETTINGS, max_in_flight=100, steady_ns=30)
    line = Line(Tracker(settings, TimedBelt()))
    t = 0
    happenings: list[tuple[int, int, tuple[Verdict | None, int] | str]] = []
    for gap, verdict, lost in parts:
        t += gap
        happenings.append((t, 0, (verdict, lost)))
    happenings += [(at, 1, trouble) for at, trouble in troubles]
    tracker = line.tracker
    for at, _, what in sorted(happenings, key=lambda h: h[:2]):
        line.until(at)
        if isinstance(what, tuple):
            line.part(at, what[0], what[1])
        elif what == "stop":
            line.take(tracker.belt_stopped(at))
        elif what == "start":
            line.take(tracker.belt_started(at))
        elif what == "blind":
            tracker.blind(at)
        else:
            tracker.sighted(at)
    tracker.sighted(line.now)
    line.take(tracker.belt_started(line.now))
    line.until(line.now + 20_000)
    assert not tracker.busy
    settled = [a for _, a in line.actions if isinstance(a, Settled)]
    assert sorted(s.part for s in settled) == list(range(1, tracker.counts.parts + 1))
    holds: dict[str, list[list[int]]] = {}
    for _, action in line.actions:
        if isinstance(action, HoldFrom):
            holds.setdefault(action.name, []).append([action.at_ns, 10**9])
        elif isinstance(action, HoldUntil):
            holds[action.name][-1][1] = action.at_ns
    reach = [(on, on + 50 - 10) for on in line.pulses]
    reach += [(on, off) for spans in holds.values() for on, off in spans]
    assert all(off < 10**9 for _, off in reach)
    for record in settled:
        passed = record.verdict is Verdict.PASS
        assert record.ejected is not passed
        # A pulse's length behind the place, the gap less that before it: nobody who goes on is there then.
        if passed:
            due = record.t_trigger_ns + 1000
            assert not any(on < due + 60 and off > due - 50 for on, off in reach)
        else:
            due = record.due_ns
            near = [on for on, off in reach if on < due + 100 and off > due - 100]
            assert near
