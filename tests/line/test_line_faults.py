"""The whole line on its real processes while something breaks: which parts were ejected, by the output's own log."""

from __future__ import annotations

import bisect
import contextlib
import fcntl
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from edge_ad_runtime.guard.process import LOCK
from edge_ad_runtime.triggers.mock import Fed, feed
from tests.conftest import bad_part, good_part
from tests.line.faulty_inspector import BLUE, HANG_S, RED
from tests.line.guarded import MS, alive, read_lines, wait_until
from tests.line.streams import MjpegCamera
from tests.line.test_line import EDGE_AD

TRAVEL = 400 * MS
PULSE_MS = 40
# For a loaded machine without real-time priority.
ON_TIME = 60 * MS


class FaultyLine:
    """A line file, the devices that it names, and the processes that run it."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.bundle, self.folder = bundle, folder
        self.images = folder / "images"
        self.images.mkdir()
        self.triggers: list[int] = []
        self.processes: list[subprocess.Popen[str]] = []
        self.guards: set[int] = set()

    def film(self, kinds: str) -> None:
        """Images in order: ``g`` good, ``b`` bad, ``r`` one at which the engine raises, ``h`` hangs."""
        for i, kind in enumerate(kinds):
            image = bad_part(i) if kind == "b" else good_part(100 + i)
            if kind in "rh":
                image[0, 0] = RED if kind == "r" else BLUE
            path = self.images / f"{i:03}_{kind}.png"
            assert cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def write(self, camera: str | None = None, travel: str | None = None, more: str = "") -> None:
        travel = travel or f'mode = "time"\nms = {TRAVEL // MS}\nmin_gap_ms = 60'
        eye = f'[trigger]\nsource = "mock://eye?feed={self.folder}/eye"\n[travel]\n{travel}'
        self.write_free(camera or f'source = "{self.images}"', f"{eye}\n{more}")

    def write_free(self, camera: str, more: str) -> None:
        (self.folder / "line.toml").write_text(
            f"""
name = "faults"
[camera]
{camera}
{more}
[[output]]
url = "mock://ejector?log={self.folder}/ejector.jsonl"
pulse_ms = {PULSE_MS}
[heartbeat]
url = "mock://beat?log={self.folder}/beat.jsonl"
[failsafe]
unknown_at_start = "pass"
[records]
sinks = ["jsonl:{self.folder}/parts.jsonl"]
"""
        )

    def start(self, *module: str, pipe_bytes: int = 0) -> subprocess.Popen[str]:
        line, state = str(self.folder / "line.toml"), str(self.folder / "state")
        if module:
            command = [sys.executable, "-m", *module, str(self.bundle), line, state]
        else:
            command = [*EDGE_AD, "run", str(self.bundle), "--line", line, "--threads", "1", "--state", state]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if pipe_bytes and process.stderr is not None:
            fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, pipe_bytes)
        self.processes.append(process)
        return process

    def wait_for_scorer(self) -> None:
        """Until the loop goes round: its heartbeat beats."""
        self._wait(lambda: len(self.beats) >= 3)

    def _wait(self, condition: Callable[[], Any]) -> None:
        process = self.processes[0]
        wait_until(lambda: condition() or process.poll() is not None, 30)
        assert process.poll() is None, process.communicate()[1]

    def wait_for_guard(self, pipe: Path) -> None:
        """Until it has made the pipe of a source."""
        self._wait(pipe.exists)

    def trigger(self, count: int = 1, period_ms: float = 120) -> None:
        for _ in range(count):
            t = time.monotonic_ns()
            feed(self.folder / "eye", Fed(t_ns=t))
            self.triggers.append(t)
            time.sleep(period_ms / 1e3)

    def stop(self) -> str:
        """Ask the scorer to stop, as a service manager does; returns what it said."""
        process = self.processes[0]
        process.terminate()
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        return err

    @property
    def records(self) -> list[dict[str, Any]]:
        """Of all triggers, in order: none is lost, none is told twice."""
        return read_lines(self.folder / "parts.jsonl")

    def wait_for_records(self) -> list[dict[str, Any]]:
        wait_until(lambda: len(self.records) >= len(self.triggers))
        told = self.records
        assert [r["t_monotonic_ns"] for r in told] == self.triggers
        for record in told:
            kind = Path(record["source"]).stem[-1]
            assert record["verdict"] != "pass" or kind == "g", record
            assert record["verdict"] != "reject" or kind == "b", record
            assert record["ejected"] is (record["verdict"] != "pass"), record
        return told

    @property
    def commands(self) -> list[tuple[int, bool]]:
        return [(c["t_monotonic_ns"], c["active"]) for c in read_lines(self.folder / "ejector.jsonl")]

    @property
    def beats(self) -> list[int]:
        return [c["t_monotonic_ns"] for c in read_lines(self.folder / "beat.jsonl")]

    @property
    def pulses(self) -> list[int]:
        return [t for (_, was), (t, now) in itertools.pairwise(self.commands) if now and not was]

    def active(self, t_ns: int) -> bool:
        """The output's level then."""
        return ([False] + [level for t, level in self.commands if t <= t_ns])[-1]

    def assert_ejected(self, due: list[int]) -> None:
        """A pulse at each of these times and at no other."""
        pulses = self.pulses
        late = [round((p - t) / MS, 1) for p, t in zip(pulses, due, strict=False)]
        assert len(pulses) == len(due), (late, [r["verdict"] for r in self.records])
        assert all(-10 <= ms <= ON_TIME / MS for ms in late), late

    def assert_rejects_ejected(self) -> list[dict[str, Any]]:
        told = self.wait_for_records()
        self.assert_ejected([r["t_monotonic_ns"] + TRAVEL for r in told if r["verdict"] != "pass"])
        return told

    def guard(self) -> int:
        pid = int((self.folder / "state/lines/faults" / LOCK).read_text().split()[0])
        self.guards.add(pid)
        return pid

    def close(self) -> None:
        for process in self.processes:
            with contextlib.suppress(OSError):
                process.send_signal(signal.SIGCONT)
            process.kill()
            process.communicate()
        with contextlib.suppress(OSError, ValueError, IndexError):
            self.guard()
        for pid in self.guards:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(alive(pid) for pid in self.guards))


@pytest.fixture
def line(tiny_bundle: Path, tmp_path: Path) -> Iterator[FaultyLine]:
    line = FaultyLine(tiny_bundle, tmp_path)
    yield line
    line.close()


def verdicts(told: list[dict[str, Any]]) -> list[str]:
    return [r.get("fault_kind") or r["verdict"] for r in told]


def test_a_camera_that_goes_and_comes_back_costs_the_parts_meanwhile(line: FaultyLine) -> None:
    line.film("gggbgggbgg")
    line.write(f'source = "mock:{line.images}?fps=50&loop=1&fail=70&away=2"\nfps = 50')
    line.start()
    line.wait_for_scorer()
    second = line.start()
    line.trigger(26)
    told = line.assert_rejects_ejected()
    _, refused = second.communicate(timeout=30)
    assert second.returncode == 1 and "already run by process" in refused
    said = line.stop()
    assert "1 reconnects" in said
    away = [i for i, r in enumerate(told) if r.get("fault_kind") == "camera_lost"]
    assert away and away == list(range(away[0], away[-1] + 1)), verdicts(told)
    assert "pass" in verdicts(told[: away[0]]) and "pass" in verdicts(told[away[-1] :])


def test_an_engine_that_raises_or_hangs_costs_its_parts_and_the_heartbeat_stops_with_it(
    line: FaultyLine,
) -> None:
    line.film("grgbh" + "g" * 40)
    line.write()
    line.start("tests.line.faulty_inspector")
    line.wait_for_scorer()
    line.trigger(26, period_ms=130)
    told = line.assert_rejects_ejected()
    assert verdicts(told)[:4] == ["pass", "engine", "pass", "reject"]
    assert told[1]["fault"] == "RuntimeError: out of memory"
    lost = {"no_verdict", "scorer_lost", "overrun"}
    hung = line.triggers[4]
    during = [r for r in told[4:] if r["t_monotonic_ns"] < hung + HANG_S * 1e9 - TRAVEL]
    assert len(during) > 5 and set(verdicts(during)) <= lost
    assert verdicts(told)[-3:] == ["pass"] * 3, "the line has recovered"
    beats = line.beats
    assert not [t for t in beats if hung + 300 * MS < t < hung + HANG_S * 1e9]
    assert [t for t in beats if t < hung] and [t for t in beats if t > hung + HANG_S * 1e9]


def test_a_scorer_that_was_stopped_takes_no_frame_of_before_for_a_new_part(line: FaultyLine) -> None:
    """The stream goes on meanwhile, so the scorer finds a second and a half of good parts in its socket."""
    camera = MjpegCamera(good_part(1))
    bad = MjpegCamera(bad_part(2))
    try:
        line.write(f'source = "http://127.0.0.1:{camera.port}/g"\nlatency_ms = 40')
        scorer = line.start()
        line.wait_for_scorer()
        while not line.records or line.records[-1]["verdict"] != "pass":
            line.trigger(1, period_ms=600)
            assert len(line.triggers) < 20
        scorer.send_signal(signal.SIGSTOP)
        stopped = time.monotonic_ns()
        line.trigger(10, period_ms=150)
        # From now on all parts are bad.
        camera.jpeg = bad.jpeg
        changed = time.monotonic_ns()
        line.trigger(2, period_ms=150)
        scorer.send_signal(signal.SIGCONT)
        while line.records[-1]["verdict"] != "reject":
            line.trigger()
        told = wait_until(lambda: r if len(r := line.records) == len(line.triggers) else None)
        assert [r["t_monotonic_ns"] for r in told] == line.triggers
        assert "pass" not in verdicts([r for r in told if r["t_monotonic_ns"] >= changed])
        # For the first second the guard cannot know that the scorer is not only slow.
        during = [r for r in told if stopped < r["t_monotonic_ns"] < changed - TRAVEL]
        assert set(verdicts(during)) <= {"no_verdict", "scorer_lost"}
        line.assert_ejected([r["t_monotonic_ns"] + TRAVEL for r in told if r["verdict"] != "pass"])
    finally:
        camera.stop()
        bad.stop()


class Encoder:
    """Ten counts every ten milliseconds, unless the belt stands."""

    def __init__(self, path: Path) -> None:
        self.path, self.runs, self.over = path, True, False
        self.readings: list[tuple[int, float]] = []
        self._thread = threading.Thread(target=self._turn)

    def start(self) -> None:
        self._thread.start()

    def _turn(self) -> None:
        count = 0.0
        while not self.over:
            if self.runs:
                count += 10
                t = time.monotonic_ns()
                with contextlib.suppress(OSError):
                    feed(self.path, Fed(t_ns=t, count=count))
                    self.readings.append((t, count))
            time.sleep(0.01)

    def at(self, t_ns: int) -> float:
        (t0, c0), (t1, c1) = self._around(bisect.bisect([t for t, _ in self.readings], t_ns))
        return c0 + (c1 - c0) * (t_ns - t0) / (t1 - t0)

    def when(self, count: float) -> int:
        (t0, c0), (t1, c1) = self._around(bisect.bisect([c for _, c in self.readings], count))
        return round(t0 + (t1 - t0) * (count - c0) / (c1 - c0))

    def _around(self, index: int) -> tuple[tuple[int, float], tuple[int, float]]:
        return self.readings[index - 1], self.readings[index]

    def stop(self) -> None:
        self.over = True
        self._thread.join()


def test_with_an_encoder_a_belt_that_stands_keeps_its_parts(line: FaultyLine) -> None:
    line.film("ggbgbbgbg" + "g" * 9)
    encoder = Encoder(line.folder / "encoder")
    line.write(
        travel=f"""mode = "distance"
encoder = "mock://encoder?feed={encoder.path}"
counts = 500
min_gap_counts = 80
closest_counts = 50
belt_counts_per_s = 1200"""
    )
    line.start()
    line.wait_for_guard(encoder.path)
    encoder.start()
    try:
        line.wait_for_scorer()
        line.trigger(5, period_ms=150)
        # Parts 3 and 5 are bad and on their way.
        encoder.runs = False
        time.sleep(1.0)
        before = len(line.pulses)
        time.sleep(0.3)
        assert len(line.pulses) == before, "nothing is before the ejector while the belt stands"
        encoder.runs = True
        time.sleep(0.1)
        line.trigger(4, period_ms=150)
        told = line.wait_for_records()
    finally:
        encoder.stop()
    assert verdicts(told) == ["reject" if kind == "b" else "pass" for kind in "ggbgbbgbg"]
    due = [
        encoder.when(encoder.at(t) + 500)
        for t, kind in zip(line.triggers, "ggbgbbgbg", strict=True)
        if kind == "b"
    ]
    line.assert_ejected(due)


def test_with_a_belt_signal_a_stop_rejects_what_is_on_the_belt(line: FaultyLine) -> None:
    line.film("gbgggbg" + "g" * 9)
    belt = line.folder / "belt"
    travel = f'mode = "time"\nms = {TRAVEL // MS}\nmin_gap_ms = 60\nbelt = "mock://belt?feed={belt}"'
    line.write(travel=travel)
    line.start()
    line.wait_for_scorer()
    line.trigger(2, period_ms=150)
    time.sleep(0.6)
    line.assert_ejected([line.triggers[1] + TRAVEL])
    line.trigger(2, period_ms=120)
    stopped = time.monotonic_ns()
    feed(belt, Fed(running=False))
    time.sleep(0.6)
    started = time.monotonic_ns()
    feed(belt, Fed(running=True))
    # What stood on the belt has passed, and what comes then is where its time says.
    time.sleep(1.0)
    line.trigger(3, period_ms=150)
    told = line.wait_for_records()
    assert verdicts(told) == ["pass", "reject", "belt_stopped", "belt_stopped", "pass", "reject", "pass"]
    held, freed = line.commands[3][0], line.commands[4][0]
    assert 0 <= held - stopped <= ON_TIME, "at once: nobody knows where the parts are"
    assert started + TRAVEL <= freed <= started + TRAVEL + 300 * MS
    line.assert_ejected([line.triggers[1] + TRAVEL, stopped, line.triggers[5] + TRAVEL])


def test_a_guard_that_dies_lets_no_known_reject_through(line: FaultyLine) -> None:
    """Although the line file says that what is on the belt at the start may pass: this is no start."""
    travel = 2500 * MS
    line.film("gbggb" + "g" * 9)
    line.write(travel=f'mode = "time"\nms = {travel // MS}\nmin_gap_ms = 60')
    line.start()
    line.wait_for_scorer()
    line.trigger(2)
    time.sleep(0.3)
    old = line.guard()
    os.kill(old, signal.SIGKILL)
    killed = time.monotonic_ns()
    wait_until(lambda: line.guard() != old and line.active(time.monotonic_ns()))
    due = line.triggers[1] + travel
    assert time.monotonic_ns() < due, "the machine is too slow for this test"
    wait_until(lambda: not line.active(time.monotonic_ns()))
    assert line.active(due + PULSE_MS * MS // 2)
    assert line.commands[-1][0] >= killed + travel
    line.trigger(2)
    wait_until(lambda: len(line.records) >= 2)
    assert verdicts(line.records[-2:]) == ["pass", "pass"]
    assert len(line.pulses) == 1
    # Nor does a stop.
    line.trigger(1, period_ms=200)
    line.stop()
    assert 0 <= line.pulses[-1] - line.triggers[-1] - travel <= ON_TIME


def test_without_a_trigger_a_silent_camera_holds_the_output_long_before_it_is_given_up(
    line: FaultyLine,
) -> None:
    line.film("g" * 10)
    stall = 1800 * MS
    line.write_free(
        f'source = "mock:{line.images}?fps=25&loop=1&stall=50&stall_ms={stall // MS}"',
        "[travel]\nmode='time'\nms = 200",
    )
    line.start()

    def silent() -> tuple[int, int] | None:
        times = [r["t_monotonic_ns"] for r in line.records]
        return next(((a, b) for a, b in itertools.pairwise(times) if b - a > stall * 0.9), None)

    last, back = wait_until(silent, 30)
    wait_until(lambda: line.commands[-1][0] > back)
    assert not line.active(last)
    assert line.active(last + 900 * MS), "nobody has seen what passed since"
    assert line.active(back + 150 * MS), "what the camera has seen since is not at the ejector yet"
    assert [level for _, level in line.commands[-4:]] == [True, False, True, False]
    assert line.commands[-1][0] - back < 200 * MS + ON_TIME + 100 * MS


def test_a_terminal_that_is_held_does_not_hold_the_line(line: FaultyLine) -> None:
    """Each reject is told on standard error, whose reader takes nothing any more."""
    line.film("b" * 150)
    line.write_free(f'source = "{line.images}"', '[travel]\nmode = "time"\nms = 100')
    process = line.start(pipe_bytes=4096)
    wait_until(lambda: len(line.records) == 150, 30)
    assert verdicts(line.records) == ["reject"] * 150
    assert line.active(line.records[-1]["t_monotonic_ns"] + 110 * MS)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0 and "150 rejected" in err
