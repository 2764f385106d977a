"""Which frame belongs to which part."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_ad_runtime.tracking.picking import FramePicker, PickSettings
from edge_ad_runtime.verdict import Fault

# Exposed at the earliest 20 before its timestamp; between 10 and 40 after the trigger.
SETTINGS = PickSettings(delay_ns=10, within_ns=30, latency_ns=20, patience_ns=100)


def test_the_first_frame_that_cannot_have_been_exposed_too_early() -> None:
    picker = FramePicker(SETTINGS)
    assert picker.announce(1, 100) is None
    assert picker.frame(129) == (None, [])
    assert picker.frame(130) == (1, [])
    assert not picker.wanted


def test_a_frame_at_the_limit_and_one_beyond_it() -> None:
    picker = FramePicker(SETTINGS)
    picker.announce(1, 100)
    assert picker.frame(160)[0] == 1
    picker.announce(2, 200)
    part, misses = picker.frame(261)
    assert part is None
    assert [(m.part, m.fault) for m in misses] == [(2, Fault.NO_FRAME)]


def test_one_frame_for_two_parts_is_for_none() -> None:
    picker = FramePicker(SETTINGS)
    picker.announce(1, 100)
    picker.announce(2, 105)
    part, misses = picker.frame(140)
    assert part is None
    assert [(m.part, m.fault) for m in misses] == [(1, Fault.SHARED_FRAME), (2, Fault.SHARED_FRAME)]


def test_a_part_that_is_told_after_its_frame_gets_none() -> None:
    picker = FramePicker(SETTINGS)
    picker.frame(130)
    miss = picker.announce(1, 100)
    assert miss is not None
    assert miss.fault is Fault.NO_FRAME
    assert picker.announce(2, 101) is None


def test_waiting_ends() -> None:
    picker = FramePicker(SETTINGS)
    assert picker.expires_ns is None
    picker.announce(1, 100)
    assert picker.expires_ns == 210
    assert picker.expire(210) == []
    assert [m.part for m in picker.expire(211)] == [1]
    picker.announce(2, 300)
    assert [(m.part, m.fault) for m in picker.flush(Fault.CAMERA, "away")] == [(2, Fault.CAMERA)]
    assert not picker.wanted


@given(
    st.lists(st.integers(0, 3000), min_size=1, max_size=20, unique=True),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 20)), max_size=40),
    st.integers(0, 60),
)
def test_every_part_gets_one_answer_and_never_a_frame_from_before_or_of_another_place(
    triggers: list[int], exposures: list[tuple[int, int]], told_after: int
) -> None:
    picker = FramePicker(SETTINGS)
    parts = dict(enumerate(sorted(triggers), 1))
    came: list[tuple[int, int]] = []
    for exposed, latency in sorted(exposures):
        came.append((max(exposed + latency, came[-1][0] if came else 0), exposed))
    happenings = [(t + told_after, 1, part, 0) for part, t in parts.items()]
    happenings += [(t, 0, t, exposed) for t, exposed in came if t - exposed <= SETTINGS.latency_ns]
    answered: list[int] = []
    for now, is_part, number, exposed in sorted(happenings):
        answered += [m.part for m in picker.expire(now)]
        if is_part:
            miss = picker.announce(number, parts[number])
            answered += [] if miss is None else [miss.part]
            continue
        part, misses = picker.frame(number)
        answered += [m.part for m in misses]
        if part is not None:
            answered.append(part)
            ready = parts[part] + SETTINGS.delay_ns
            assert ready <= exposed <= ready + SETTINGS.within_ns + SETTINGS.latency_ns
    answered += [m.part for m in picker.flush(Fault.CAMERA, "end")]
    assert sorted(answered) == sorted(parts)
