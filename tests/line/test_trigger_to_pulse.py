"""From a trigger's own device to the pulse, through a guard in its own process."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_ad_runtime.guard.config import GuardConfig
from edge_ad_runtime.guard.link import ProcessGuard
from edge_ad_runtime.guard.messages import Alive, FromGuard, Notice, PartSeen, PartVerdict
from edge_ad_runtime.tracking.tracker import Settled, TrackSettings
from edge_ad_runtime.triggers.mock import Fed, feed
from edge_ad_runtime.verdict import Verdict

MS = 1_000_000
TRAVEL = 500 * MS
# A loaded machine without real-time priority.
LATE = 60 * MS
PATIENCE_S = 20.0


class Line:
    """A guard, a scorer that rejects the parts of these numbers, and the log of the output."""

    def __init__(self, folder: Path, trigger: str, **config: Any) -> None:
        self.bad: set[int] = set()
        self.seen: dict[int, int] = {}
        self.settled: dict[int, Settled] = {}
        self.notices: list[str] = []
        self._log = folder / "output.jsonl"
        settings = {
            "travel": TRAVEL, "min_gap": 30 * MS, "lead_ns": 0, "reach_ns": 30 * MS, "ahead_ns": 5 * MS,
            "debounce_ns": 5 * MS, "max_in_flight": 50,
        } | config.pop("track", {})  # fmt: skip
        self._link = ProcessGuard(
            GuardConfig(
                line="belt",
                outputs=(f"mock://ejector?pulse_ms=20&log={self._log}",),
                trigger=trigger,
                track=TrackSettings(**settings),
                silence_ns=5_000 * MS,
                reject_unknown=False,
                **config,
            ),
            folder / "state",
        )
        self._ended = threading.Event()
        self._link.listen(self._hear)
        self._alive = threading.Thread(target=self._live)
        self._alive.start()

    def _live(self) -> None:
        while not self._ended.wait(0.05):
            self._link.tell(Alive(0, True))

    def _hear(self, message: FromGuard) -> None:
        if isinstance(message, PartSeen):
            self.seen[message.part] = message.t_trigger_ns
            verdict = Verdict.REJECT if message.part in self.bad else Verdict.PASS
            self._link.tell(PartVerdict(message.part, message.t_trigger_ns, verdict))
        elif isinstance(message, Settled):
            self.settled[message.part] = message
        elif isinstance(message, Notice):
            self.notices.append(message.text)

    def wait_for(self, what: str) -> None:
        """Wait until the guard has said something with these words."""
        self.wait(lambda: any(what in text for text in self.notices))

    def wait(self, condition: Any) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, (self.notices, self.seen, self.settled)
            time.sleep(0.005)

    def active(self) -> list[tuple[int, int]]:
        """From when to when the output was active; it is awaited that it is not any more."""
        told: list[dict[str, Any]] = []

        def rests() -> bool:
            told[:] = [json.loads(line) for line in self._log.read_text(encoding="ascii").splitlines()]
            return not told[-1]["active"]

        self.wait(rests)
        spans: list[tuple[int, int]] = []
        since: int | None = None
        for command in told:
            if command["active"] and since is None:
                since = command["t_monotonic_ns"]
            elif not command["active"] and since is not None:
                spans.append((since, command["t_monotonic_ns"]))
                since = None
        return spans

    def close(self) -> None:
        self._ended.set()
        self._alive.join()
        self._link.finish(0.0)


@pytest.fixture
def made() -> Iterator[list[Line]]:
    """Lines to be closed."""
    lines: list[Line] = []
    yield lines
    for line in lines:
        line.close()


def hit(spans: list[tuple[int, int]], t_ns: int) -> bool:
    return any(begin <= t_ns <= end for begin, end in spans)


def send(path: Path, data: bytes = b"") -> int:
    """A datagram; returns when."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        t_ns = time.monotonic_ns()
        s.sendto(data, str(path))
    return t_ns


def test_triggers_become_parts_and_bad_parts_pulses_at_their_time(tmp_path: Path, made: list[Line]) -> None:
    eye = tmp_path / "eye.sock"
    line = Line(tmp_path, f"socket://{eye}")
    made.append(line)
    line.bad = {2, 3, 6}
    times = []
    for number in range(7):
        # Every other one says when it was, a little earlier.
        t_ns = time.monotonic_ns()
        time.sleep(0.01)
        times.append(t_ns if number % 2 else send(eye))
        if number % 2:
            send(eye, b'{"t_ns": %d, "n": %d}' % (t_ns, number // 2))
        time.sleep(0.09)
    line.wait(lambda: len(line.settled) == 7)
    assert list(line.seen) == [1, 2, 3, 4, 5, 6, 7]
    for number, t_ns in enumerate(times):
        assert 0 <= line.seen[number + 1] - t_ns < 10 * MS
        if number % 2:
            assert line.seen[number + 1] == t_ns
    assert {p for p, s in line.settled.items() if s.verdict is Verdict.REJECT} == line.bad
    spans = line.active()
    due = [line.seen[part] + TRAVEL for part in sorted(line.bad)]
    assert [round((begin - d) / MS) for (begin, _), d in zip(spans, due, strict=True)] == [
        pytest.approx(0, abs=LATE / MS)
    ] * 3
    assert all(begin >= d for (begin, _), d in zip(spans, due, strict=True))


def test_a_number_that_is_missing_rejects_what_may_lie_between(tmp_path: Path, made: list[Line]) -> None:
    eye = tmp_path / "eye.sock"
    line = Line(tmp_path, f"socket://{eye}")
    made.append(line)
    times = []
    for number in (1, 2, 4, 5):
        times.append(send(eye, b'{"n": %d}' % number))
        time.sleep(0.15)
    line.wait(lambda: len(line.settled) == 4)
    assert [line.settled[p].verdict for p in (1, 2, 3, 4)] == [
        Verdict.PASS, Verdict.FAULT, Verdict.FAULT, Verdict.PASS,
    ]  # fmt: skip
    ((begin, end),) = line.active()
    assert begin <= times[1] + TRAVEL + LATE and end >= times[2] + TRAVEL
    assert begin > times[0] + TRAVEL and end < times[3] + TRAVEL


def test_a_trigger_that_dies_rejects_unseen_until_it_is_back(tmp_path: Path, made: list[Line]) -> None:
    """The mock fails, and cannot be opened for the first three times that the guard tries."""
    pipe = tmp_path / "eye.fifo"
    line = Line(tmp_path, f"mock://eye?feed={pipe}&absent=1-3")
    made.append(line)
    feed(pipe, Fed())
    line.wait(lambda: len(line.seen) == 1)
    first = line.seen[1]
    # Longer than the guard's longest time between two readings.
    time.sleep(0.8)
    died = time.monotonic_ns()
    feed(pipe, Fed(fail="the cable is cut"))
    line.wait_for("the cable is cut; what passes the trigger is rejected unseen until it works again")
    line.wait_for("mock://eye: works again")
    back = time.monotonic_ns()
    assert back - died > 600 * MS
    time.sleep(0.3)
    feed(pipe, Fed())
    line.wait(lambda: len(line.settled) == 2)
    spans = line.active()
    assert all(hit(spans, died + TRAVEL + i * (back - died) // 50) for i in range(50))
    for part, t_ns in ((1, first), (2, line.seen[2])):
        assert line.settled[part].verdict is Verdict.PASS
        assert not hit(spans, t_ns + TRAVEL)


def test_a_socket_that_is_removed_is_made_again_and_nothing_slips_past(
    tmp_path: Path, made: list[Line]
) -> None:
    eye = tmp_path / "eye.sock"
    line = Line(tmp_path, f"socket://{eye}")
    made.append(line)
    first = send(eye)
    time.sleep(0.8)
    died = time.monotonic_ns()
    eye.unlink()
    line.wait_for("removed or replaced")
    line.wait_for("works again")
    back = time.monotonic_ns()
    time.sleep(0.3)
    last = send(eye)
    line.wait(lambda: len(line.settled) == 2)
    spans = line.active()
    # Until it was noticed, nobody's trigger reached the guard.
    assert all(hit(spans, died + TRAVEL + i * (back - died) // 50) for i in range(50))
    assert not hit(spans, first + TRAVEL) and not hit(spans, last + TRAVEL)


def test_a_mocked_encoder_tells_the_way(tmp_path: Path, made: list[Line]) -> None:
    """A belt of 1000 counts a second that stops for a second with a bad part on it."""
    pipe, eye = tmp_path / "encoder.fifo", tmp_path / "eye.sock"
    line = Line(
        tmp_path, f"socket://{eye}", encoder=f"mock://encoder?feed={pipe}",
        track={"travel": 500.0, "min_gap": 30.0, "view_until": None},
    )  # fmt: skip
    made.append(line)
    line.bad = {1}
    count, reached = 0, 0

    def run(counts: int) -> None:
        nonlocal count, reached
        for _ in range(counts // 5):
            count += 5
            t_ns = time.monotonic_ns()
            feed(pipe, Fed(t_ns=t_ns, count=count))
            if count == 700:
                reached = t_ns
            time.sleep(max(0.0, 0.005 - (time.monotonic_ns() - t_ns) / 1e9))

    run(200)
    send(eye)
    run(250)
    time.sleep(1.0)
    stopped = time.monotonic_ns()
    run(600)
    line.wait(lambda: len(line.settled) == 1)
    assert line.settled[1].verdict is Verdict.REJECT
    ((begin, _),) = line.active()
    assert begin > stopped and abs(begin - reached) < LATE
