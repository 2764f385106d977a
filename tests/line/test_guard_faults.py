"""The real processes under attack: what is killed, stopped, unplugged, and what the guard makes of it.

How long until the guard does what it must, and until the next scorer is served (bounds of these tests; on an idle machine
with real-time priority pulses begin within a millisecond):

=============================  ============================================  ======================================
what happens                   parts on their way, and the output            operation goes on
=============================  ============================================  ======================================
scorer: SIGKILL                each rejected at its time (:data:`ON_TIME`)   with the next scorer, parts are kept
scorer: SIGSTOP                the same; known after ``silence_ns``          by itself after SIGCONT
scorer: SIGTERM, hang-up       drained for 2 s, then safe (:data:`SAFE`)     with the next scorer
engine: exception              that part is rejected at its time             at once
guard: SIGKILL                 output commanded anew within                  by itself; the scorer's parts have new
                               :data:`RENEWED`, all that is between          numbers
                               trigger and ejector is rejected from then on
guard: SIGSTOP, or it hangs    the same within :data:`HUNG`                  the same
guard: SIGTERM, with scorer    nothing changes until the scorer ends         at once
guard: SIGTERM, without        each rejected at its time, then safe and end  with the next scorer, by a new guard
serial port: hang-up           known at the next command; the others'        :data:`REOPENED` after it is back
                               pulses stay on time
serial port: takes no bytes    the same                                      the same
wall clock: stepped by hours   each rejected at its time                     at once
no trigger, scorer SIGKILL     the output rejects within :data:`SAFE`        with the next scorer, after the way from
                                                                             the camera to the ejector
no trigger, scorer SIGSTOP     the same after ``silence_ns``                 the same
=============================  ============================================  ======================================
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.line.guarded import MS, GuardedLine, alive, track, wait_until
from tests.line.relays import LCUS_ON, Board, lcus_states

ON, OFF = True, False
# Generous, for loaded machines without real-time priority; a pulse is 40 ms.
ON_TIME = 0.035
SAFE = 1.0
RENEWED = 3.0
HUNG = 8.0
REOPENED = 2.5
TRAVEL = 400 * MS
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


@pytest.fixture
def line(tmp_path: Path) -> Iterator[GuardedLine]:
    line = GuardedLine(tmp_path)
    yield line
    line.close()


def assert_pulses(line: GuardedLine, triggers: list[int]) -> None:
    """A pulse for each of these, at its time, and no other."""
    wait_until(lambda: line.pulses and line.pulses[-1] >= triggers[-1] + TRAVEL)
    late = [round((pulse - t - TRAVEL) / 1e6, 2) for pulse, t in zip(line.pulses, triggers, strict=True)]
    assert all(0 <= ms <= ON_TIME * 1e3 for ms in late), late


def assert_rejected(line: GuardedLine, triggers: list[int]) -> None:
    """The output is on for each of these, at its time; it may be on at other times, too, for parts that nobody saw."""
    for t in triggers:
        latest = t + TRAVEL + round(ON_TIME * 1e9)
        assert [on for at, on in line.commands if at <= latest][-1] is ON


def in_flight(line: GuardedLine, count: int) -> None:
    """Wait until so many parts have been triggered and their triggers are known to the guard."""
    wait_until(lambda: len(line.said("PartSeen")) >= count)


def test_a_scorer_that_is_killed_loses_no_part_and_the_next_one_takes_over(line: GuardedLine) -> None:
    config = line.config()
    first = line.scorer(config, parts=6, period_ms=100, verdict_ms=250)
    in_flight(line, 5)
    first.kill()
    first.wait()
    triggers, told = line.triggers, {v["part"] for v in line.said("verdict")}
    guard = line.guard()
    assert told and len(told) < len(triggers)
    second = line.scorer(config, parts=2, period_ms=100, verdict_ms=100, linger_ms=500)
    assert line.said("ready")[-1]["taken_over"] and line.guard() == guard
    second.wait(20)
    settled = line.settled
    rejected = [part for part in range(1, len(triggers) + 1) if settled[part]["verdict"] != "pass"]
    # It may have died between writing its last verdict down and sending it.
    untold = set(range(1, len(triggers) + 1)) - told
    assert untold <= set(rejected) <= untold | {max(told)}
    assert_pulses(line, [triggers[part - 1] for part in rejected])
    # The first scorer may have heard of some; nothing is told twice, nothing is missing.
    assert sorted(settled) == list(range(1, len(triggers) + 3))
    assert all(settled[part]["fault"] in ("scorer_lost", "no_verdict") for part in rejected)
    assert [settled[len(triggers) + i]["verdict"] for i in (1, 2)] == ["pass", "pass"]
    assert line.commands[-1][1] is OFF and not alive(guard)


def test_a_stopped_scorer_is_silent_and_goes_on_afterwards(line: GuardedLine) -> None:
    scorer = line.scorer(line.config(track=track(600)), parts=12, period_ms=100, verdict_ms=450)
    in_flight(line, 3)
    scorer.send_signal(signal.SIGSTOP)
    triggers = line.triggers
    wait_until(lambda: len(line.pulses) >= len(triggers))
    late = [(p - t) / MS - 600 for p, t in zip(line.pulses, triggers, strict=True)]
    assert all(0 <= ms <= ON_TIME * 1e3 for ms in late), late
    scorer.send_signal(signal.SIGCONT)
    wait_until(lambda: any(s["verdict"] == "pass" for s in line.settled.values()))
    assert {line.settled[i]["fault"] for i in range(1, len(triggers) + 1)} == {"scorer_lost"}
    texts = [n["message"]["text"] for n in line.said("Notice")]
    assert any("is silent" in t for t in texts) and any("is back" in t for t in texts)


def test_a_scorer_that_is_told_to_end_drains(line: GuardedLine) -> None:
    scorer = line.scorer(line.config(), parts=3, period_ms=100, verdict_ms=10_000)
    in_flight(line, 3)
    guard = line.guard()
    # A service manager tells both; the guard leaves it to the scorer.
    os.kill(guard, signal.SIGTERM)
    scorer.send_signal(signal.SIGTERM)
    scorer.wait(20)
    ended = time.monotonic_ns()
    assert_pulses(line, line.triggers)
    assert line.commands[-1][1] is OFF
    assert ended - line.commands[-1][0] < SAFE * 1e9 and not alive(guard)


def test_the_terminal_may_hang_up(line: GuardedLine) -> None:
    """Its guard is of another session, so only the scorer gets the signal; what it inherited of the terminal is closed."""
    main, side = os.openpty()
    scorer = line.scorer(line.config(), parts=3, period_ms=100, verdict_ms=10_000)
    guard = line.guard()
    assert os.getsid(guard) != os.getsid(scorer.pid)
    for number in (1, 2):
        assert "pts" not in str(Path(f"/proc/{guard}/fd/{number}").readlink())
    os.close(main)
    os.close(side)
    in_flight(line, 3)
    scorer.send_signal(signal.SIGHUP)
    scorer.wait(20)
    assert_pulses(line, line.triggers)


def test_an_engine_that_fails_rejects_that_part_only(line: GuardedLine) -> None:
    scorer = line.scorer(line.config(), parts=4, period_ms=120, verdict_ms=100, engine_fault=2, linger_ms=500)
    scorer.wait(20)
    assert_pulses(line, line.triggers[1:2])
    settled = line.settled
    assert [settled[i]["verdict"] for i in (1, 2, 3, 4)] == ["pass", "fault", "pass", "pass"]
    assert settled[2]["fault"] == "engine" and settled[2]["detail"].startswith("the engine failed: ?x")


def test_a_guard_that_is_killed_is_replaced_and_rejects_what_it_does_not_know(line: GuardedLine) -> None:
    config = line.config(reject_unknown=True, track=track(600))
    line.scorer(config, parts=60, period_ms=100, verdict_ms=300)
    # The way from trigger to ejector was rejected at the start; parts pass now.
    wait_until(lambda: sum(s["verdict"] == "pass" for s in line.settled.values()) >= 2)
    old, known = line.guard(), set(line.settled)
    killed = time.monotonic_ns()
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: line.guard() != old)
    # Commanded off, as at any start, then held.
    after = wait_until(lambda: c if len(c := [c for c in line.commands if c[0] > killed]) >= 3 else None)
    (first, _), (held, _), (freed, _) = after[:3]
    assert [level for _, level in after[:3]] == [OFF, ON, OFF]
    assert first - killed < RENEWED * 1e9 and held - first < ON_TIME * 1e9
    assert freed - held >= 600 * MS, "what was on the belt has not passed yet"
    wait_until(lambda: sum(s["verdict"] == "pass" for p, s in line.settled.items() if p not in known) >= 3)
    parts = [line_["message"]["part"] for line_ in line.said("PartSeen")]
    assert parts == sorted(set(parts)), "no number is given twice, so no verdict can meet another part"


def test_a_guard_that_hangs_is_replaced(line: GuardedLine) -> None:
    line.scorer(line.config(reject_unknown=True), parts=0)
    old = line.guard()
    stopped = time.monotonic()
    os.kill(old, signal.SIGSTOP)
    wait_until(lambda: line.guard() != old)
    assert time.monotonic() - stopped < HUNG
    assert not alive(old)


def test_a_guard_that_is_terminated_goes_on_for_its_scorer(line: GuardedLine) -> None:
    scorer = line.scorer(line.config(), parts=8, period_ms=100, verdict_ms=250, linger_ms=600)
    in_flight(line, 2)
    guard = line.guard()
    os.kill(guard, signal.SIGTERM)
    scorer.wait(20)
    assert not line.pulses and {s["verdict"] for s in line.settled.values()} == {"pass"}
    assert len(line.settled) == 8 and line.said("finished")[0]["restarts"] == 0


def test_a_guard_without_a_scorer_gives_what_is_due_and_ends(line: GuardedLine) -> None:
    scorer = line.scorer(line.config(), parts=3, period_ms=100, verdict_ms=10_000)
    in_flight(line, 3)
    scorer.kill()
    scorer.wait()
    guard = line.guard()
    os.kill(guard, signal.SIGTERM)
    wait_until(lambda: not alive(guard))
    ended = time.monotonic_ns()
    # The scorer triggers here: after its death parts may come unseen, and the output is held for them.
    assert_rejected(line, line.triggers)
    assert line.commands[-1][1] is OFF and ended - line.commands[-1][0] < SAFE * 1e9


def test_a_serial_port_that_hangs_up_is_used_again_when_it_is_back(line: GuardedLine) -> None:
    board = Board()
    link = line.folder / "relay"
    link.symlink_to(board.port)
    config = line.config(outputs=(f"serial://{link}?pulse_ms=40",))
    line.scorer(config, parts=100, period_ms=150, verdict_ms=10_000)
    board.wait_for(12)
    assert lcus_states(board.received[:12]) == [OFF, ON, OFF]
    board.hang_up()
    link.unlink()
    wait_until(lambda: any("nothing is rejected there" in n["message"]["text"] for n in line.said("Notice")))
    time.sleep(0.3)
    new = Board()
    back = time.monotonic()
    link.symlink_to(new.port)
    new.wait_for(12)
    assert time.monotonic() - back < REOPENED + 0.5
    wait_until(lambda: any("works again" in n["message"]["text"] for n in line.said("Notice")))
    assert_on_time(line)
    new.close()


def test_a_serial_port_that_takes_no_bytes_holds_nobody_up(line: GuardedLine) -> None:
    board = Board()
    # Nobody reads the master: the port's buffer is filled until it takes nothing.
    writer = os.open(board.port, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    line.scorer(
        line.config(outputs=(f"serial://{board.port}?pulse_ms=40",)),
        parts=100, period_ms=150, verdict_ms=10_000,
    )  # fmt: skip
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writer, b"\0")
    full = time.monotonic()
    wait_until(lambda: any("imeout" in n["message"]["text"] for n in line.said("Notice")))
    assert time.monotonic() - full < 2.0
    os.close(writer)
    free = time.monotonic()
    seen = len(board.read_available())
    wait_until(lambda: LCUS_ON in board.read_available()[seen:])
    assert time.monotonic() - free < REOPENED
    assert_on_time(line)
    board.close()


def assert_on_time(line: GuardedLine) -> None:
    """The mock output has given the first eight parts their pulses at their times."""
    wait_until(lambda: len(line.pulses) >= 8)
    pairs = list(zip(line.pulses, line.triggers, strict=False))
    late = [round((pulse - t - TRAVEL) / 1e6, 2) for pulse, t in pairs]
    assert all(0 <= ms <= ON_TIME * 1e3 for ms in late), late


@pytest.mark.skipif(not FAKETIME.exists(), reason="needs Debian's package libfaketime")
@pytest.mark.parametrize("step", ["-5h", "+5h"])
def test_the_wall_clock_may_be_stepped_by_hours(line: GuardedLine, step: str) -> None:
    """libfaketime gives the guard a wall clock of its own, which is stepped while parts are on their way."""
    clock = line.folder / "clock"
    clock.write_text("+0\n", encoding="ascii")
    env = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        # Seconds; without this, each look at a clock would read the file.
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    told = subprocess.run(["date", "+%s"], env={**os.environ, **env}, capture_output=True, check=True).stdout
    assert abs(int(told) - time.time()) < 60
    scorer = line.scorer(
        line.config(), parts=20, period_ms=100, verdict_ms=10_000, linger_ms=500, guard_env=env
    )
    in_flight(line, 4)
    clock.write_text(step + "\n", encoding="ascii")
    told = subprocess.run(["date", "+%s"], env={**os.environ, **env}, capture_output=True, check=True).stdout
    assert abs(int(told) - time.time()) > 4 * 3600
    scorer.wait(20)
    assert len(line.triggers) == 20
    assert_pulses(line, line.triggers)
    assert {s["fault"] for s in line.settled.values()} == {"no_verdict"}, "the scorer never seemed silent"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_without_a_trigger_the_output_rejects_while_nobody_watches(
    line: GuardedLine, number: signal.Signals
) -> None:
    travel = 300 * MS
    config = line.config(track=None, travel_ns=travel)
    scorer = line.scorer(config, parts=10_000, period_ms=20, verdict_ms=0)
    # Held from the start until what passed the camera before the scorer was there has passed the ejector.
    wait_until(lambda: len(line.commands) >= 2)
    assert [level for _, level in line.commands] == [ON, OFF]
    assert line.commands[1][0] - line.triggers[0] >= travel - 60 * MS
    gone = time.monotonic_ns()
    scorer.send_signal(number)
    wait_until(lambda: len(line.commands) >= 3)
    held, level = line.commands[2]
    silence = config.silence_ns if number == signal.SIGSTOP else 0
    assert level is ON and held - gone < silence + SAFE * 1e9
    frames = len(line.triggers)
    if number == signal.SIGSTOP:
        scorer.send_signal(signal.SIGCONT)
    else:
        line.scorer(config, parts=10_000, period_ms=20, verdict_ms=0)
    wait_until(lambda: len(line.commands) >= 4)
    freed, level = line.commands[3]
    assert level is OFF and freed - line.triggers[frames] >= travel - 60 * MS, (
        "unseen parts were not past the ejector"
    )
