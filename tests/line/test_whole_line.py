"""``edge-ad run --line`` as a user runs it: a trigger at a socket, a guard process, a relay board, real bytes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from edge_ad_runtime.inspector import open_inspector
from edge_ad_runtime.line.assembly import Line
from edge_ad_runtime.line.reading import read_line_file
from tests.conftest import bad_part, good_part
from tests.line.relays import Board, lcus_states
from tests.line.test_line import EDGE_AD

ON, OFF = True, False
TRAVEL_MS = 400
PULSE_MS = 40


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board()
    yield board
    board.close()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Eight parts; 2 and 5 have a defect, 6 is a damaged file."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(8):
        image = bad_part(i) if i in (2, 5) else good_part(100 + i)
        assert cv2.imwrite(str(folder / f"{i}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    (folder / "6.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return folder


class Run:
    """A running ``edge-ad run --line`` and the photo-eye's socket."""

    def __init__(
        self, bundle: Path, images: Path, board: Board, folder: Path, camera: str | None = None
    ) -> None:
        self.folder = folder
        self.eye = folder / "eye"
        self.line = folder / "line.toml"
        self.line.write_text(
            f"""
name = "whole-line"
[camera]
source = "{camera or images}"
[trigger]
source = "socket://{self.eye}"
[travel]
mode = "time"
ms = {TRAVEL_MS}
min_gap_ms = 60
[[output]]
url = "serial://{board.port}"
pulse_ms = {PULSE_MS}
[failsafe]
unknown_at_start = "pass"
[records]
sinks = ["jsonl:{folder}/parts.jsonl"]
"""
        )
        self.bundle = bundle
        self.processes: list[subprocess.Popen[str]] = []

    def start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [
                *(*EDGE_AD, "run", str(self.bundle), "--line", str(self.line), "--threads", "1"),
                *("--state", str(self.folder / "state"), "--json"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def wait_ready(self) -> None:
        """Until a scorer has connected; its camera needs a moment more."""
        until = time.monotonic() + 30
        while not (self.folder / "state/lines/whole-line/guard.sock").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(1.0)

    def trigger(self) -> int:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as eye:
            eye.sendto(b"", str(self.eye))
            return time.monotonic_ns()

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        # A guard whose scorer was killed waits for the next one; a scorer that is told to stop ends it.
        if (self.folder / "state/lines/whole-line/guard.sock").exists():
            last = self.start()
            time.sleep(2.0)
            last.terminate()
            last.communicate(timeout=30)


@pytest.fixture
def run(tiny_bundle: Path, images: Path, board: Board, tmp_path: Path) -> Iterator[Run]:
    run = Run(tiny_bundle, images, board, tmp_path)
    yield run
    run.end()


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "parts.jsonl").read_text().splitlines()]


def test_every_part_gets_its_verdict_and_only_bad_ones_a_pulse(run: Run, board: Board) -> None:
    process = run.start()
    run.wait_ready()
    triggers = []
    for _ in range(8):
        triggers.append(run.trigger())
        time.sleep(0.15)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    told = records(run.folder)
    assert [r["part"] for r in told] == list(range(1, 9))
    verdicts = ["reject" if i in (2, 5) else "fault" if i == 6 else "pass" for i in range(8)]
    assert [r["verdict"] for r in told] == verdicts, err
    assert [r["ejected"] for r in told] == [v != "pass" for v in verdicts]
    assert told[6]["fault_kind"] == "bad_frame"
    assert lcus_states(board.read_available()) == [OFF, *[ON, OFF] * 3, OFF]
    summary = json.loads(out)
    assert (summary["parts"], summary["triggers"], summary["late_pulses"]) == (8, 8, 0)
    for record, t in zip(told, triggers, strict=True):
        assert abs(record["t_monotonic_ns"] - t) < 50_000_000


def test_a_killed_scorer_lets_nothing_through_and_the_next_one_takes_over(run: Run, board: Board) -> None:
    first = run.start()
    run.wait_ready()
    run.trigger()
    time.sleep(TRAVEL_MS / 1e3 + 0.3)
    assert lcus_states(board.read_available()) == [OFF], "the first part is good"
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    run.trigger()
    time.sleep(TRAVEL_MS / 1e3 + 0.3)
    assert lcus_states(board.read_available()) == [OFF, ON, OFF], "nobody has judged the second one"
    second = run.start()
    time.sleep(0.1)
    until = time.monotonic() + 30
    while second.poll() is None and time.monotonic() < until:
        # Parts that come before the scorer is there are rejected, later ones are judged.
        run.trigger()
        time.sleep(0.3)
        if len(records(run.folder)) >= 2 and records(run.folder)[-1]["verdict"] == "pass":
            break
    told = records(run.folder)
    assert [r["part"] for r in told] == list(range(1, len(told) + 1)), "no part is lost, none is told twice"
    assert told[1]["fault_kind"] == "scorer_lost"
    assert told[1]["ejected"] is True
    assert told[-1]["verdict"] == "pass"


def test_a_stop_leaves_nothing_running(run: Run) -> None:
    process = run.start()
    run.wait_ready()
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert not (run.folder / "state/lines/whole-line/guard.sock").exists()


def line_command(run: Run, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*EDGE_AD, "line", *options, "--state", str(run.folder / "state")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_guard_without_a_scorer_is_shown_and_can_be_ended(run: Run, board: Board) -> None:
    assert line_command(run, "status").stdout == "no guard runs here\n"
    process = run.start()
    run.wait_ready()
    assert f"whole-line: run by process {process.pid}, guard " in line_command(run, "status").stdout
    refused = line_command(run, "stop", "whole-line")
    assert refused.returncode == 1
    assert f"'whole-line' is run by process {process.pid}; end that" in refused.stderr
    process.kill()
    process.communicate()
    run.trigger()
    time.sleep(0.1)
    shown = line_command(run, "status").stdout
    assert "without a scorer" in shown
    assert "1 parts: " in shown
    (guard,) = json.loads(line_command(run, "status", "--json").stdout)["guards"]
    assert (guard["line"], guard["report"]["parts"], guard["report"]["scorer"]) == ("whole-line", 1, 0)
    ended = line_command(run, "stop", "whole-line", "--drain", "2")
    assert (ended.returncode, ended.stdout) == (0, "whole-line: ended\n"), ended.stderr
    assert lcus_states(board.read_available()) == [OFF, ON, OFF, OFF], "the part on its way was rejected"
    assert line_command(run, "stop", "whole-line").returncode == 1


def test_a_line_file_that_cannot_work_is_refused_with_key_and_line(run: Run) -> None:
    run.line.write_text(run.line.read_text().replace(f"ms = {TRAVEL_MS}", "ms = 61"))
    process = run.start()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "line.toml:9: travel.ms" in err
    run.line.write_text(run.line.read_text().replace("ms = 61", "meters = 3"))
    process = run.start()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "meters" in err


def test_an_error_that_nobody_expected_leaves_the_guard_at_work(
    run: Run, board: Board, tiny_bundle: Path
) -> None:
    """As after a crash: the part on its way is rejected, and the next scorer finds the guard."""
    config = read_line_file(run.line).config
    line = Line(config, open_inspector(tiny_bundle, threads=1), state=run.folder / "state")
    errors: list[BaseException] = []

    def fail(*_: object) -> None:
        raise SystemError

    def run_line() -> None:
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("edge_ad_runtime.line.station.judge", fail)
                line.run()
        except SystemError as error:
            errors.append(error)

    runner = threading.Thread(target=run_line)
    runner.start()
    assert line.wait_ready(10)
    run.trigger()
    runner.join(10)
    assert errors
    assert "without a scorer" in line_command(run, "status").stdout
    time.sleep(TRAVEL_MS / 1e3)
    run.trigger()
    time.sleep(TRAVEL_MS / 1e3 + 0.2)
    assert lcus_states(board.read_available()) == [OFF, ON, OFF, ON, OFF]
    assert line_command(run, "stop", "whole-line").returncode == 0
