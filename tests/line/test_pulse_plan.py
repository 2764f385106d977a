"""When an output is active: pulses, holds and what becomes of late ones, against a plain model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_ad_runtime.tracking.pulses import Pulse, PulsePlan


def levels(plan: PulsePlan, until: int, step: int = 1) -> list[int]:
    """The times at which it is active."""
    return [t for t in range(0, until, step) if plan.level(t)]


def test_pulses_that_touch_or_nearly_touch_are_one() -> None:
    plan = PulsePlan(min_off_ns=3)
    for on, off in ((10, 20), (20, 25), (27, 30), (33, 35)):
        plan.add(Pulse(on, off))
    assert levels(plan, 50) == [*range(10, 30), *range(33, 35)]
    assert not plan.busy
    assert plan.next_edge(50) is None


def test_a_late_pulse_ends_on_time_or_is_given_whole() -> None:
    plan = PulsePlan()
    plan.add(Pulse(10, 20))
    plan.add(Pulse(10, 20, whole=True))
    assert plan.level(15)
    assert not plan.level(20)
    plan.add(Pulse(25, 30))
    plan.add(Pulse(30, 33, whole=True))
    assert plan.level(40)
    assert (plan.missed, plan.late) == (1, 1)
    assert not plan.level(61)


def test_a_hold_goes_on_until_its_end_is_named() -> None:
    plan = PulsePlan()
    plan.hold("a", 10)
    plan.end_hold("unknown", 3)
    assert plan.next_edge(0) == 10
    assert not plan.level(9)
    assert plan.level(1000)
    plan.end_hold("a", 1200)
    plan.hold("a", 1100)  # it goes on, without a gap
    assert plan.level(1300)
    plan.end_hold("a", 1400)
    assert plan.next_edge(1300) == 1400
    assert not plan.level(1400)


def test_clear_drops_what_has_not_begun() -> None:
    plan = PulsePlan()
    plan.add(Pulse(0, 10))
    plan.add(Pulse(20, 30))
    plan.hold("a", 5)
    assert plan.level(6)
    assert plan.clear() == 1
    assert not plan.level(25)
    assert not plan.busy


pulses = st.lists(st.tuples(st.integers(0, 200), st.integers(1, 30)), max_size=12)


@given(pulses, st.integers(0, 10), st.tuples(st.integers(0, 100), st.integers(1, 60)) | st.none())
def test_the_level_is_the_union_with_small_gaps_closed(
    lengths: list[tuple[int, int]], min_off: int, hold: tuple[int, int] | None
) -> None:
    plan = PulsePlan(min_off)
    spans = sorted((on, on + length) for on, length in lengths)
    for on, off in spans:
        plan.add(Pulse(on, off))
    merged: list[list[int]] = []
    for on, off in spans:
        if merged and on < merged[-1][1] + max(min_off, 1):
            merged[-1][1] = max(merged[-1][1], off)
        else:
            merged.append([on, off])
    expected = {t for on, off in merged for t in range(on, off)}
    if hold is not None:
        plan.hold("h", hold[0])
        plan.end_hold("h", hold[0] + hold[1])
        expected |= set(range(hold[0], sum(hold)))
    # Asked only when it says that something changes.
    active: set[int] = set()
    t = 0
    while t < 300:
        level = plan.level(t)
        following = plan.next_edge(t)
        until = 300 if following is None else following
        assert until > t
        if level:
            active.update(range(t, until))
        t = until
    assert active == expected
    assert plan.missed == 0
