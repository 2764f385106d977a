"""Looking at the guards of a machine, and ending one, without getting into the way of a scorer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_ad.cli.run import _report_part
from edge_ad_runtime.errors import OutputError
from edge_ad_runtime.events import PartEvent
from edge_ad_runtime.guard.directory import end_guard, find_guards
from edge_ad_runtime.guard.link import ProcessGuard, connect
from edge_ad_runtime.guard.messages import FromGuard, Notice, PartSeen, SoftTrigger
from edge_ad_runtime.tracking.tracker import Settled
from edge_ad_runtime.verdict import Fault
from tests.line.guarded import GuardedLine, track, wait_until
from tests.line.test_guard import abandoned


@pytest.fixture
def line(tmp_path: Path) -> Iterator[GuardedLine]:
    guarded = GuardedLine(tmp_path)
    yield guarded
    guarded.close()


def connected(line: GuardedLine) -> tuple[ProcessGuard, list[FromGuard]]:
    link = ProcessGuard(line.config(track=track(50)), line.state)
    line.links.append(link)
    line.guard()
    heard: list[FromGuard] = []
    link.listen(heard.append)
    return link, heard


def settled(heard: list[FromGuard]) -> list[Settled]:
    return [m for m in heard if isinstance(m, Settled)]


def test_a_look_takes_no_record_from_the_scorer_that_runs(line: GuardedLine) -> None:
    link, heard = connected(line)
    (guard,) = find_guards(line.state)
    assert guard.report is not None
    assert guard.report.scorer == os.getpid()
    assert guard.pid not in (0, os.getpid())
    link.tell(SoftTrigger(time.monotonic_ns()))
    wait_until(lambda: settled(heard))
    (guard,) = find_guards(line.state)
    assert guard.report is not None
    assert guard.report.parts == 1
    assert not [m for m in heard if isinstance(m, Notice)]
    with pytest.raises(OutputError, match=f"run by process {os.getpid()}; end that"):
        end_guard(line.state, "line", 0)
    link.finish(0)
    assert list(find_guards(line.state)) == []


def test_records_wait_for_the_next_scorer_in_spite_of_looks(line: GuardedLine) -> None:
    abandoned(line, track=track(50))
    wire = connect(line.state / "lines" / "line")
    assert wire is not None
    wire.greet()
    wire.send(SoftTrigger(time.monotonic_ns()))
    while not isinstance(wire.receive(5), PartSeen):
        pass
    wire.close()
    time.sleep(0.3)
    for _ in range(3):
        (guard,) = find_guards(line.state)
        assert guard.report is not None
        assert (guard.report.scorer, guard.report.faults) == (0, {Fault.SCORER: 1})
        assert guard.report.scorer_losses == 2
    second, heard = connected(line)
    wait_until(lambda: settled(heard))
    assert [s.fault for s in settled(heard)] == [Fault.SCORER]
    second.finish(0)


def test_a_reject_whose_score_only_the_scorer_before_knew_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    _report_part(
        PartEvent(
            part=3,
            source="0",
            score=None,
            threshold=0.5,
            verdict="reject",
            latency_ms=None,
            t_monotonic_ns=1,
            time="2026-01-02T03:04:05+00:00",
        )
    )
    assert "part 3: reject, by the verdict of the scorer before, 0" in capsys.readouterr().err


def test_a_camera_that_is_away_is_told_without_opencv() -> None:
    command = [sys.executable, "-c", "from edge_ad.cli import main; main()", "cameras", "/dev/video99"]
    env = {k: v for k, v in os.environ.items() if k != "OPENCV_LOG_LEVEL"}
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)
    assert shown.returncode == 1
    assert "WARN" not in shown.stderr
    assert shown.stderr.startswith("edge-ad: /dev/video99: ")
