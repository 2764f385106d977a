"""The belt's position: never backwards, never far off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad_runtime.tracking.belt import EncodedBelt, TimedBelt

MS = 1_000_000


def running(edges: int = 10, period_ns: int = MS) -> EncodedBelt:
    """One count per period, the last at ``(edges - 1) * period``."""
    belt = EncodedBelt()
    for count in range(edges):
        belt.edge(count * period_ns, count)
    return belt


def test_a_timed_belt_is_its_clock() -> None:
    belt = TimedBelt()
    assert belt.position(5) == 5
    assert belt.time_of(12.0, 3) == 12


def test_a_belt_that_never_moved_foretells_nothing() -> None:
    belt = EncodedBelt()
    assert belt.position(10**9) == 0.0
    assert belt.time_of(0.0, 0) is None
    belt.edge(0, 0)
    assert belt.position(10**9) == 0.0
    assert belt.time_of(0.0, 5) == 0
    assert belt.time_of(1.0, 5) is None


def test_between_edges_it_is_interpolated_and_after_the_last_it_waits_for_the_next() -> None:
    belt = running()
    assert belt.position(4 * MS + MS // 4) == pytest.approx(4.25)
    assert belt.position(9 * MS + MS // 2) == pytest.approx(9.5)
    assert belt.position(60 * MS) == 10.0
    assert belt.time_of(4.25, 9 * MS) == 4 * MS + MS // 4
    assert belt.time_of(20, 9 * MS) == 20 * MS


def test_an_overdue_edge_slows_the_belt_and_a_standing_one_never_arrives() -> None:
    belt = running()
    # Two periods after the last edge it has half of the speed at most.
    assert belt.time_of(20, 11 * MS) == 9 * MS + 11 * 2 * MS
    for waited in (10, 100, 1000, 10_000):
        now = 9 * MS + waited * MS
        due = belt.time_of(20, now)
        assert due is not None
        assert due - now == pytest.approx(10 * waited * MS)


def test_after_a_stop_the_speed_is_that_of_the_edges_since() -> None:
    belt = running()
    rest = 10_000 * MS
    belt.edge(rest, 10)
    belt.edge(rest + 2 * MS, 11)
    # Two milliseconds a count, not the ten seconds of the rest.
    assert belt.time_of(21, rest + 2 * MS) == rest + 22 * MS


def test_readings_that_do_not_advance_are_ignored() -> None:
    belt = running()
    belt.edge(9 * MS, 12)
    belt.edge(20 * MS, 9)
    belt.edge(20 * MS, 3)
    assert belt.position(9 * MS) == 9.0
    belt.edge(10 * MS, 10)
    assert belt.position(10 * MS) == 10.0


def test_an_encoder_opened_anew_counts_from_zero_and_goes_on_from_where_it_was() -> None:
    belt = running()
    belt.resume()
    assert belt.position(5_000 * MS) == 10.0
    belt.edge(5_001 * MS, 1)
    belt.edge(5_002 * MS, 2)
    assert belt.position(5_002 * MS) == 11.0
    assert belt.time_of(21, 5_002 * MS) == 5_012 * MS
    # What lies before it has passed.
    assert belt.time_of(3, 5_002 * MS) == 5_001 * MS


def test_an_encoder_that_was_opened_twice_before_it_moved() -> None:
    belt = EncodedBelt()
    belt.resume()
    belt.edge(MS, 1)
    belt.edge(2 * MS, 2)
    assert belt.position(2 * MS) == 2.0


def test_old_positions_are_known_for_fine_encoders() -> None:
    belt = running(edges=4000, period_ns=100_000)  # 10 kHz
    assert belt.position(50 * MS) == pytest.approx(500.0)


@given(st.lists(st.tuples(st.integers(1000, 10**9), st.integers(1, 50)), min_size=2, max_size=40), st.data())
def test_times_and_positions_agree(steps: list[tuple[int, int]], data: st.DataObject) -> None:
    belt = EncodedBelt()
    t, count = 0, 0
    for dt, dc in steps:
        t, count = t + dt, count + dc
        belt.edge(t, count)
    now = t + data.draw(st.integers(0, 10**10))
    a, b = sorted(data.draw(st.tuples(st.floats(steps[0][1], 3 * count), st.floats(steps[0][1], 3 * count))))
    ta, tb = belt.time_of(a, now), belt.time_of(b, now)
    assert ta is not None
    assert tb is not None
    assert ta <= tb
    if a <= count:
        assert belt.position(ta) == pytest.approx(a, abs=0.1)  # a nanosecond's way
    else:
        assert ta >= t
    earlier, later = sorted(data.draw(st.tuples(st.integers(0, now), st.integers(0, now))))
    assert belt.position(earlier) <= belt.position(later)
