"""The loop and ``edge-ad run``: verdicts, records, relays, reconnection, stopping."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

from edge_ad.cli.run import command
from edge_ad_runtime.bundle import open_bundle
from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.cameras import CameraSource, parse_camera
from edge_ad_runtime.errors import CameraError, InputError, OutputError
from edge_ad_runtime.events import PartEvent
from edge_ad_runtime.inspector import Inspection, Inspector, open_inspector
from edge_ad_runtime.line.assembly import Devices, Line
from edge_ad_runtime.line.config import from_options
from edge_ad_runtime.line.summary import LineSummary
from edge_ad_runtime.outputs import OutputConfig, parse_output
from edge_ad_runtime.outputs.mock import MockConfig
from edge_ad_runtime.sinks import parse_sink
from edge_ad_runtime.sinks.base import MAX_WAITING, Sink
from edge_ad_runtime.stopping import StopRequest
from edge_ad_runtime.verdict import Verdict
from tests.conftest import bad_part, good_part
from tests.line.relays import Board, lcus_states
from tests.line.streams import MjpegCamera

ON, OFF = True, False
EDGE_AD = [sys.executable, "-c", "from edge_ad.cli import main; main()"]


def save(path: Path, image: npt.NDArray[np.uint8]) -> None:
    assert cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten parts; 3 and 7 have a defect, 5 is a damaged file."""
    folder = tmp_path_factory.mktemp("parts")
    for i in range(10):
        save(folder / f"{i}.png", bad_part(i) if i in (3, 7) else good_part(100 + i))
    (folder / "5.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return folder


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board()
    yield board
    board.close()


@pytest.fixture
def inspector(tiny_bundle: Path) -> Inspector:
    return open_inspector(tiny_bundle, threads=1)


def mock(url: str) -> MockConfig:
    config = parse_output(url)
    assert isinstance(config, MockConfig)
    return config


def states(config: MockConfig) -> list[bool]:
    return [state for _, state in config.device.history]


@dataclass
class Scripted:
    """An inspector that says what the test wants, to reach what no real engine does on demand."""

    calibration: Calibration
    script: Sequence[float | Exception]
    seen: int = 0
    before: Callable[[], None] = field(default=lambda: None)

    def inspect(self, image: npt.NDArray[np.uint8]) -> Inspection:
        self.before()
        step = self.script[self.seen % len(self.script)]
        self.seen += 1
        if isinstance(step, Exception):
            raise step
        verdict = Verdict.PASS if step <= self.calibration.threshold else Verdict.REJECT
        return Inspection(step, self.calibration.threshold, verdict, np.zeros((1, 1), np.float32), 0, 0)


def run_free(
    inspector: Any,
    source: CameraSource,
    outputs: Sequence[OutputConfig] = (),
    *,
    sinks: Sequence[Sink] = (),
    stop: StopRequest | None = None,
    limit: int | None = None,
    on_part: Callable[[PartEvent], None] | None = None,
) -> LineSummary:
    """A line without a trigger whose guard is a thread, so that pretended outputs can be looked at."""
    devices = Devices(camera=source, outputs=outputs, sinks=sinks)
    line = Line(from_options("a test"), inspector, devices=devices, stop=stop, limit=limit, on_part=on_part)
    return line.run()


def run(
    inspector: Any,
    camera: str,
    configs: Sequence[MockConfig] = (),
    *,
    stop: StopRequest | None = None,
    fps: float | None = None,
    limit: int | None = None,
) -> tuple[LineSummary, list[PartEvent]]:
    stop = stop or StopRequest()
    events: list[PartEvent] = []
    source = parse_camera(camera, fps=fps, stop=stop)
    summary = run_free(inspector, source, configs, stop=stop, limit=limit, on_part=events.append)
    return summary, events


def test_every_part_gets_its_verdict_and_rejects_and_faults_a_pulse(
    inspector: Inspector, parts: Path
) -> None:
    output = mock("mock://x?pulse_ms=10&safe=off")
    summary, events = run(inspector, str(parts), [output], fps=30)
    assert [e.part for e in events] == list(range(1, 11))
    assert [e.source for e in events] == [str(parts / f"{i}.png") for i in range(10)]
    verdicts = ["reject" if i in (3, 7) else "fault" if i == 5 else "pass" for i in range(10)]
    assert [e.verdict for e in events] == verdicts
    assert [e.fault is not None for e in events] == [v == "fault" for v in verdicts]
    assert "5.png" in (events[5].fault or "")
    for event in events:
        assert event.threshold == inspector.calibration.threshold
        if event.verdict == "fault":
            assert event.score is None
        else:
            assert event.score is not None
            assert (event.score > event.threshold) is (event.verdict == "reject")
    assert states(output) == [OFF, *[ON, OFF] * 3, OFF]
    pulses = [t for t, state in output.device.history if state]
    for t, event in zip(pulses, (events[3], events[5], events[7]), strict=True):
        assert 0 <= t - event.t_monotonic_ns < 30_000_000
    assert (summary.parts, summary.passed, summary.rejected, summary.faults) == (10, 7, 2, 1)
    assert (summary.ended, summary.dropped_frames, summary.reconnects) == ("source", 0, 0)
    assert summary.latency_ms_p50 is not None
    assert summary.latency_ms_p99 is not None
    assert 0 < summary.latency_ms_p50 <= summary.latency_ms_p99


def test_the_pulse_of_a_part_is_timed_from_its_frame(inspector: Inspector, parts: Path) -> None:
    output = mock("mock://x?pulse_ms=20&delay_ms=150&safe=off")
    _, events = run(inspector, str(parts / "3.png"), [output])
    (_, _), (on, _), (off, _), (_, _) = output.device.history
    assert states(output) == [OFF, ON, OFF, OFF], "the end waits for the pulse"
    assert 0 <= on - (events[0].t_monotonic_ns + 150_000_000) < 50_000_000
    assert 0 <= off - (events[0].t_monotonic_ns + 170_000_000) < 50_000_000


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (RuntimeError("engine on fire"), "RuntimeError: engine on fire"),
        (InputError("region does not fit"), "region does not fit"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
    ],
)
def test_what_goes_wrong_with_a_part_is_a_fault_and_a_reject(
    tiny_bundle: Path, parts: Path, step: float | Exception, said: str
) -> None:
    calibration = open_bundle(tiny_bundle).calibration
    output = mock("mock://x?pulse_ms=1&safe=off")
    summary, events = run(Scripted(calibration, [0.0, step, 0.0]), f"{parts}/[0-2].png", [output], fps=50)
    assert [e.verdict for e in events] == ["pass", "fault", "pass"]
    assert said in (events[1].fault or "")
    assert events[1].score is None
    assert states(output) == [OFF, ON, OFF, OFF]
    assert (summary.passed, summary.rejected, summary.faults) == (2, 0, 1)


def test_the_threshold_itself_passes(tiny_bundle: Path, parts: Path) -> None:
    calibration = open_bundle(tiny_bundle).calibration
    above = math.nextafter(calibration.threshold, math.inf)
    _, events = run(Scripted(calibration, [calibration.threshold, above]), f"{parts}/[0-1].png")
    assert [e.verdict for e in events] == ["pass", "reject"]


def test_limit_and_stop(inspector: Inspector, parts: Path) -> None:
    summary, events = run(inspector, f"mock:{parts}?loop=1", limit=3)
    assert (summary.ended, summary.parts, len(events)) == ("limit", 3, 3)
    stop = StopRequest()
    stop.request()
    summary, events = run(inspector, str(parts), stop=stop)
    assert (summary.ended, summary.parts, summary.latency_ms_p50) == ("stop", 0, None)


@pytest.mark.parametrize("safe", [OFF, ON])
def test_while_the_camera_is_away_the_output_is_safe(
    tiny_bundle: Path, good_folder: Path, safe: bool
) -> None:
    calibration = open_bundle(tiny_bundle).calibration
    inspector = Scripted(calibration, [0.0], before=lambda: time.sleep(0.02))
    output = mock(f"mock://x?safe={'on' if safe else 'off'}")
    summary, events = run(inspector, f"mock:{good_folder}?fail=0,3&away=1", [output])
    assert [Path(e.source).name for e in events] == [f"{i}.png" for i in range(6)], "no part is skipped"
    assert (summary.parts, summary.passed, summary.reconnects) == (6, 6, 1)
    # Safe before the first frame and while away, at rest in between, safe at the end.
    assert states(output) == ([ON, OFF, ON, OFF, ON] if safe else [OFF, OFF])


@pytest.fixture
def good_folder(tmp_path: Path) -> Path:
    for i in range(6):
        save(tmp_path / f"{i}.png", good_part(i))
    return tmp_path


def test_a_network_camera_that_comes_back_is_used_again(inspector: Inspector) -> None:
    camera = MjpegCamera(bad_part(1))
    stop = StopRequest()
    seen = 0

    def on_part(event: PartEvent) -> None:
        nonlocal seen
        seen += 1
        assert event.verdict == "reject"
        assert event.source == f"http://***@127.0.0.1:{camera.port}/x?***"
        if seen == 5:
            camera.stop()
            camera.start()
        if seen > 5 and camera.connections > 1:
            stop.request()

    address = f"http://admin:s3cret@127.0.0.1:{camera.port}/x?pwd=s3cret"
    output = mock("mock://x?safe=on&pulse_ms=1")
    try:
        source = parse_camera(address, stop=stop)
        summary = run_free(inspector, source, [output], stop=stop, on_part=on_part)
    finally:
        camera.stop()
    assert summary.reconnects >= 1
    assert summary.rejected == summary.parts == seen > 5
    assert states(output)[-1] is ON


def test_a_file_source_that_fails_is_an_error_and_leaves_the_output_safe(
    inspector: Inspector, tmp_path: Path
) -> None:
    video = tmp_path / "belt.mp4"
    video.write_bytes(b"no video")
    output = mock("mock://x?safe=off")
    with pytest.raises(CameraError, match=r"belt\.mp4"):
        run(inspector, str(video), [output])
    assert states(output) == [OFF, OFF]


def test_a_crash_of_the_loop_leaves_the_output_safe(inspector: Inspector, parts: Path, board: Board) -> None:
    def crash(event: PartEvent) -> None:
        if event.verdict == "reject":
            board.wait_for(8)
            raise ZeroDivisionError

    output = parse_output(f"serial://{board.port}?pulse_ms=60000&safe=off")
    with pytest.raises(ZeroDivisionError):
        run_free(inspector, parse_camera(str(parts)), [output], on_part=crash)
    assert lcus_states(board.read_available()) == [OFF, ON, OFF]


def test_an_output_that_is_not_safe_at_the_end_is_an_error(inspector: Inspector, good_folder: Path) -> None:
    first, second = mock("mock://first?fail=1-99&safe=off"), mock("mock://second?safe=off")
    with pytest.raises(OutputError, match=r"mock://first.*check it by hand"):
        run_free(inspector, parse_camera(str(good_folder)), [first, second])
    assert states(second) == [OFF, OFF], "the other output is closed all the same"


def test_a_slow_output_does_not_delay_verdicts(inspector: Inspector, parts: Path) -> None:
    slow, quick = mock("mock://slow?slow_ms=1000&safe=off"), mock("mock://quick?pulse_ms=5&safe=off")
    start = time.monotonic_ns()
    summary, events = run(inspector, f"{parts}/[3-7].png", [slow, quick], fps=50)
    assert summary.latency_ms_p99 is not None
    assert summary.latency_ms_p99 < 500
    assert events[-1].t_monotonic_ns - start < 900_000_000, "the slow output was not yet ready"
    assert states(quick) == [OFF, *[ON, OFF] * 3, OFF]
    assert ON in states(slow)


def test_an_output_that_is_away_does_not_delay_verdicts(inspector: Inspector, parts: Path) -> None:
    broken = mock("mock://broken?fail=1-9999&absent=2-9999")
    with pytest.raises(OutputError, match="check it by hand"):
        run_free(inspector, parse_camera(str(parts), fps=100), [broken])
    assert broken.device.commands > 1


# Events


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def event(part: int = 1) -> PartEvent:
    return PartEvent(
        part=part,
        source="a.png",
        score=0.5,
        threshold=1.0,
        verdict="pass",
        latency_ms=1.0,
        t_monotonic_ns=1,
        time="2026-01-01T00:00:00.000+00:00",
    )


def test_a_full_disk_does_not_stop_the_line(inspector: Inspector, parts: Path) -> None:
    events = parse_sink("jsonl:/dev/full").open()
    summary = run_free(inspector, parse_camera(str(parts)), sinks=[events])
    assert (summary.parts, summary.lost_events) == (10, 10)


def test_a_reader_that_has_stopped_does_not_stop_the_line(
    inspector: Inspector, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_ad_runtime.sinks.base.CLOSE_PATIENCE_S", 0.1)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    events = parse_sink(f"jsonl:{pipe}").open()
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for i in range(MAX_WAITING):
        events.write(event(i))
    start = time.monotonic()
    summary = run_free(inspector, parse_camera(f"mock:{parts}?loop=1&drop=5"), sinks=[events], limit=4)
    assert time.monotonic() - start < 3
    assert summary.parts == 4
    assert summary.lost_events > 1000
    os.close(reader)


# The command


def start_run(bundle: Path, cwd: Path, *options: str) -> subprocess.Popen[str]:
    # Tests started by nohup ignore SIGHUP, and so would the child; env makes way for the command itself.
    return subprocess.Popen(
        [
            "env",
            "--default-signal=HUP",
            *EDGE_AD,
            "run",
            str(bundle),
            "--threads",
            "1",
            "--state",
            str(cwd / "state"),
            *options,
        ],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_sends_the_right_bytes_for_each_rejected_part(
    tiny_bundle: Path, parts: Path, board: Board, tmp_path: Path
) -> None:
    second = Board()
    process = start_run(
        tiny_bundle,
        tmp_path,
        *("--camera", str(parts), "--fps", "10", "--events", "jsonl:parts.jsonl", "--json"),
        *("--reject", f"serial://{board.port}?protocol=lcus1&pulse_ms=15&safe=off"),
        *("--reject", f"serial://{second.port}?protocol=kmtronic&channel=2&pulse_ms=15&safe=off"),
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    # Off at the start, a pulse for each of the parts 3, 5 (damaged) and 7, off at the end.
    on, off = "A0 01 01 A2 ", "A0 01 00 A1 "
    assert board.read_available() == bytes.fromhex(off + (on + off) * 3 + off)
    on, off = "FF 02 01 ", "FF 02 00 "
    assert second.read_available() == bytes.fromhex(off + (on + off) * 3 + off)
    second.close()
    records = lines(tmp_path / "parts.jsonl")
    assert [r["part"] for r in records] == list(range(1, 11))
    assert [r["part"] for r in records if r["verdict"] != "pass"] == [4, 6, 8]
    assert set(records[0]) == {
        *("part", "source", "score", "threshold", "verdict", "latency_ms", "t_monotonic_ns", "time")
    }
    assert records[5]["score"] is None
    assert "5.png" in records[5]["fault"]
    summary = json.loads(out)
    assert (summary["parts"], summary["rejected"], summary["faults"]) == (10, 2, 1)
    assert err.count("reject, score") == 2
    assert err.count("fault, ") == 1
    assert f"camera       {parts}" in err
    assert "10 parts: 7 passed, 2 rejected, 1 faults" in err


def test_events_on_standard_output(tiny_bundle: Path, parts: Path, tmp_path: Path) -> None:
    process = start_run(tiny_bundle, tmp_path, "--camera", str(parts), "--events", "jsonl:-")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert [json.loads(line)["part"] for line in out.splitlines()] == list(range(1, 11))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_run_and_leaves_the_relay_off(
    tiny_bundle: Path, parts: Path, board: Board, tmp_path: Path, number: signal.Signals
) -> None:
    """The relay is on when the signal comes: the pulse is longer than the test."""
    process = start_run(
        tiny_bundle,
        tmp_path,
        *("--camera", f"mock:{parts}?fps=50&loop=1&drop=5", "--events", "jsonl:parts.jsonl"),
        *("--reject", f"serial://{board.port}?pulse_ms=60000&safe=off"),
    )
    assert lcus_states(board.wait_for(8, 60)) == [OFF, ON]
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert lcus_states(board.read_available()) == [OFF, ON, OFF]
    assert lines(tmp_path / "parts.jsonl")[-1]["part"] >= 1


def test_a_stop_is_not_held_up_by_a_camera_that_is_away(
    tiny_bundle: Path, tmp_path: Path, board: Board
) -> None:
    process = start_run(
        tiny_bundle,
        tmp_path,
        *("--camera", "rtsp://admin:s3cret@127.0.0.1:9/x", "--reject", f"serial://{board.port}?safe=on"),
    )
    assert lcus_states(board.wait_for(4, 60)) == [ON]
    time.sleep(0.5)
    start = time.monotonic()
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert time.monotonic() - start < 5
    assert "rtsp://***@127.0.0.1:9/x: cannot be opened" in err
    assert err.count("cannot be opened") == 1, "told once, not at every attempt"
    assert "s3cret" not in out + err
    assert lcus_states(board.read_available()) == [ON, ON]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--camera", "PARTS", "--reject", "serial:///dev/ttyNOPE"], 1, "/dev/ttyNOPE"),
        (["--camera", "PARTS", "--events", "jsonl:/no/such/file"], 1, "/no/such/file"),
        (["--camera", "/no/such"], 1, "no such device, file or folder"),
        (["--camera", "PARTS", "--reject", "serial:///dev/ttyUSB0?pluse_ms=1"], 2, "pluse_ms"),
        (["--camera", "PARTS", "--events", "parts.csv"], 2, "jsonl:FILE"),
        (["--camera", "0", "--fps", "5"], 2, "files only"),
        (["--camera", "PARTS", "--limit", "0"], 2, "--limit"),
        ([], 2, "--camera"),
    ],
)
def test_errors_of_the_command(
    tiny_bundle: Path, parts: Path, tmp_path: Path, options: list[str], code: int, said: str
) -> None:
    options = [str(parts) if o == "PARTS" else o for o in options]
    result = CliRunner().invoke(command, [str(tiny_bundle), "--state", str(tmp_path / "state"), *options])
    text = result.output + str(result.exception)
    assert said in text
    assert "part 1" not in text
    if code == 2:
        assert result.exit_code == 2
    else:
        assert isinstance(result.exception, (OutputError, InputError, CameraError))


def test_the_command_uses_the_calibration_of_the_field(
    tiny_bundle: Path, parts: Path, tmp_path: Path
) -> None:
    import msgspec

    from edge_ad_calibration.history import History

    bundle = open_bundle(tiny_bundle)
    loose = msgspec.structs.replace(bundle.calibration, threshold=1e9, method="given", source="a test")
    History(tmp_path / "state", bundle).append(loose)
    process = start_run(tiny_bundle, tmp_path, "--camera", str(parts), "--json")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["rejected"] == 0
    assert "threshold 1e+09" in err
    assert "a test" in err


def test_the_command_imports_nothing_heavy(tiny_bundle: Path, parts: Path, tmp_path: Path) -> None:
    program = f"""
import sys
from edge_ad.cli import main
try:
    main(["run", {str(tiny_bundle)!r}, "--camera", {str(parts)!r}, "--state", {str(tmp_path)!r}])
finally:
    heavy = {{"torch", "onnx", "matplotlib", "sklearn", "tqdm", "gpiod", "safetensors"}} & set(sys.modules)
    assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "10 parts" in done.stderr
