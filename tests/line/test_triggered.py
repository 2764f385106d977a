"""Frames for triggered parts: the right one for each, none for two, and no part is ever forgotten."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_ad_runtime.cameras import MockSource, parse_camera
from edge_ad_runtime.cameras.capture import Shot
from edge_ad_runtime.cameras.opencv import OpenCvCapture
from edge_ad_runtime.cameras.statistics import FrameTimes, measure_frames
from edge_ad_runtime.cameras.triggered import (
    PartCamera,
    PartFrame,
    TriggeredCamera,
    TriggeredFiles,
    TriggeredSource,
)
from edge_ad_runtime.errors import CameraError, ImageError
from edge_ad_runtime.tracking.picking import Miss, PickSettings
from edge_ad_runtime.verdict import Fault
from tests.line.streams import MjpegCamera

MS = 1_000_000
PATIENCE_S = 10.0


def settings(
    delay_ms: float = 0, within_ms: float = 60_000, latency_ms: float = 0, patience_ms: float = 1e12
) -> PickSettings:
    return PickSettings(
        delay_ns=round(delay_ms * MS),
        within_ns=round(within_ms * MS),
        latency_ns=round(latency_ms * MS),
        patience_ns=round(patience_ms * MS),
    )


class ScriptedCapture:
    """A device whose frames, faults and hang-ups the test gives one by one."""

    def __init__(self) -> None:
        self.frames: queue.Queue[int | Exception | None] = queue.Queue()
        self.decode: Callable[[], None] = lambda: None
        self.decoded: list[int] = []
        self.released = threading.Event()
        self._t_ns = 0

    def grab(self) -> int | None:
        frame = self.frames.get(timeout=60)
        if isinstance(frame, Exception):
            raise frame
        self._t_ns = frame or 0
        return frame

    def retrieve(self) -> Shot:
        self.decoded.append(self._t_ns)
        self.decode()
        return Shot(np.zeros((2, 2, 3), np.uint8), "BGR", self._t_ns, "script")

    def release(self) -> None:
        self.released.set()


def eventually(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.001)


class Rig:
    """A camera on a scripted device, fed in step."""

    def __init__(
        self, pick: PickSettings, *, backlog: int = 1000, stall_patience_s: float | None = 60
    ) -> None:
        self.capture = ScriptedCapture()
        self.camera = TriggeredCamera(
            "script", lambda: self.capture, pick, backlog=backlog, stall_patience_s=stall_patience_s
        )
        eventually(lambda: self.camera.opened)

    def frame(self, t_ns: int) -> None:
        """Give one frame and wait until it has been dealt with."""
        before = self.camera.grabbed
        self.capture.frames.put(t_ns)
        eventually(lambda: self.camera.grabbed > before and self.camera._decoding is None)

    def results(self) -> list[PartFrame | Miss]:
        found = []
        while (item := self.camera.read(0)) is not None:
            found.append(item)
        return found

    def close(self) -> None:
        self.capture.frames.put(None)
        self.camera.close()


@pytest.fixture
def rigs() -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(pick: PickSettings, *, backlog: int = 1000, stall_patience_s: float | None = 60) -> Rig:
        made.append(Rig(pick, backlog=backlog, stall_patience_s=stall_patience_s))
        return made[-1]

    yield make
    for rig in made:
        rig.close()
        assert rig.capture.released.wait(PATIENCE_S), "the device was not released"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "parts"
    folder.mkdir()
    for i in range(5):
        assert cv2.imwrite(str(folder / f"part_{i}.png"), np.full((48, 64, 3), 40 * i, np.uint8))
    return folder


def shown(item: PartFrame | Miss | None) -> tuple[int, int] | tuple[int, Fault]:
    assert item is not None
    if isinstance(item, Miss):
        return item.part, item.fault
    return item.part, item.frame.t_ns


def read_result(camera: PartCamera) -> PartFrame | Miss:
    item = camera.read(PATIENCE_S)
    assert item is not None, "waited in vain"
    return item


def test_a_part_gets_the_first_frame_exposed_after_its_time_and_no_other_is_decoded(
    rigs: Callable[..., Rig],
) -> None:
    rig = rigs(settings(delay_ms=5, within_ms=40, latency_ms=3))
    rig.frame(1_000 * MS)
    rig.camera.announce(7, 1_010 * MS)
    rig.frame(1_014 * MS)  # exposed before the trigger
    rig.frame(1_017 * MS)  # exposed after the trigger, before the delay was over
    assert rig.results() == []
    rig.frame(1_018 * MS)
    rig.frame(1_050 * MS)
    (item,) = rig.results()
    assert isinstance(item, PartFrame)
    assert (item.part, item.frame.t_ns, item.frame.index) == (7, 1_018 * MS, 3)
    assert rig.capture.decoded == [1_018 * MS]
    assert (rig.camera.grabbed, rig.camera.dropped) == (5, 0)


def test_one_frame_never_serves_two_parts(rigs: Callable[..., Rig]) -> None:
    rig = rigs(settings())
    rig.camera.announce(1, 10 * MS)
    rig.camera.announce(2, 12 * MS)
    rig.frame(20 * MS)
    rig.camera.announce(3, 21 * MS)
    rig.frame(30 * MS)
    assert [shown(item) for item in rig.results()] == [
        (1, Fault.SHARED_FRAME),
        (2, Fault.SHARED_FRAME),
        (3, 30 * MS),
    ]
    assert rig.capture.decoded == [30 * MS]


def test_a_frame_that_has_gone_by_is_not_replaced_by_a_later_one(rigs: Callable[..., Rig]) -> None:
    rig = rigs(settings(within_ms=30))
    rig.frame(50 * MS)
    rig.camera.announce(1, 40 * MS)  # told too late
    rig.camera.announce(2, 60 * MS)
    rig.frame(95 * MS)  # frames were lost in between
    assert [shown(item) for item in rig.results()] == [(1, Fault.NO_FRAME), (2, Fault.NO_FRAME)]
    assert rig.capture.decoded == []


@pytest.mark.parametrize("seed", range(4))
def test_random_traffic_against_the_rule_by_hand(rigs: Callable[..., Rig], seed: int) -> None:
    rng = random.Random(seed)
    delay, within, latency = rng.choice([0, 3]), rng.choice([15, 60]), rng.choice([0, 7])
    rig = rigs(settings(delay, within, latency))
    frames = [t for t in range(0, 3_000, 10) if rng.random() > 0.15]
    triggers = sorted(rng.sample(range(1, 2_900), 150))
    expected: dict[int, tuple[int, int] | tuple[int, Fault]] = {}
    firsts: dict[int, list[int]] = {}
    for part, trigger in enumerate(triggers):
        first = next((t for t in frames if t - latency >= trigger + delay), None)
        if first is None or first - latency > trigger + delay + within:
            expected[part] = (part, Fault.NO_FRAME)
        else:
            firsts.setdefault(first, []).append(part)
    for first, parts in firsts.items():
        for part in parts:
            expected[part] = (part, first * MS) if len(parts) == 1 else (part, Fault.SHARED_FRAME)
    moments = sorted([(t, 0, part) for part, t in enumerate(triggers)] + [(t, 1, -1) for t in frames])
    last = [part for part, t in enumerate(triggers) if t + delay > frames[-1] - latency]
    for t, is_frame, part in moments:
        if is_frame:
            rig.frame(t * MS)
        else:
            rig.camera.announce(part, t * MS)
    got = {item.part: shown(item) for item in rig.results()}
    assert got == {part: outcome for part, outcome in expected.items() if part not in last}
    assert len({t for _, t in got.values() if isinstance(t, int)}) == len(rig.capture.decoded)


def test_a_silent_camera_is_told_at_the_time_when_no_frame_can_come_any_more(
    rigs: Callable[..., Rig],
) -> None:
    rig = rigs(settings(delay_ms=50, patience_ms=150))
    announced = time.monotonic()
    rig.camera.announce(1, time.monotonic_ns())
    assert shown(read_result(rig.camera)) == (1, Fault.NO_FRAME)
    assert 0.2 <= time.monotonic() - announced < 1.5


def test_a_part_announced_while_the_reader_waits_wakes_it_in_time(rigs: Callable[..., Rig]) -> None:
    rig = rigs(settings(patience_ms=100))
    threading.Timer(0.1, lambda: rig.camera.announce(1, time.monotonic_ns())).start()
    started = time.monotonic()
    assert shown(read_result(rig.camera)) == (1, Fault.NO_FRAME)
    assert time.monotonic() - started < 2


def test_parts_that_wait_when_the_device_goes_are_missed_before_the_error(rigs: Callable[..., Rig]) -> None:
    rig = rigs(settings())
    rig.camera.announce(1, 10 * MS)
    rig.frame(15 * MS)
    rig.camera.announce(2, 20 * MS)
    rig.camera.announce(3, 25 * MS)
    assert rig.camera.alive
    rig.capture.frames.put(CameraError("script: unplugged"))
    eventually(lambda: not rig.camera.alive)
    rig.camera.announce(4, 30 * MS)
    items = [rig.camera.read(0) for _ in range(4)]
    assert [shown(item) for item in items] == [
        (1, 15 * MS),
        (2, Fault.CAMERA),
        (3, Fault.CAMERA),
        (4, Fault.CAMERA),
    ]
    with pytest.raises(CameraError, match="unplugged"):
        rig.camera.read(0)
    rig.camera.announce(5, 40 * MS)
    assert shown(rig.camera.read(0)) == (5, Fault.CAMERA)
    with pytest.raises(CameraError, match="unplugged"):
        rig.camera.read(0)


def test_parts_are_missed_at_once_while_the_device_is_being_opened() -> None:
    opens = threading.Event()
    capture = ScriptedCapture()

    def open_capture() -> ScriptedCapture:
        opens.wait(PATIENCE_S)
        return capture

    camera = TriggeredCamera("slow", open_capture, settings())
    assert not camera.alive
    camera.announce(1, time.monotonic_ns())
    assert shown(camera.read(0)) == (1, Fault.CAMERA)
    opens.set()
    eventually(lambda: camera.opened)
    assert not camera.alive, "no frame has come yet"
    capture.frames.put(time.monotonic_ns())
    eventually(lambda: camera.alive)
    capture.frames.put(None)
    camera.close()


def test_a_device_that_does_not_open_and_one_that_fails_to() -> None:
    hangs = threading.Event()

    def hang() -> ScriptedCapture:
        hangs.wait(PATIENCE_S)
        raise CameraError("too late")

    with (
        TriggeredCamera("deaf", hang, settings(), open_patience_s=0.1) as camera,
        pytest.raises(CameraError, match=r"cannot be opened: no answer for 0\.1 s"),
    ):
        camera.read(PATIENCE_S)
    hangs.set()

    def fail() -> ScriptedCapture:
        raise RuntimeError("https://user:secret@host")

    with (
        TriggeredCamera("odd", fail, settings()) as camera,
        pytest.raises(CameraError, match="RuntimeError") as caught,
    ):
        camera.read(PATIENCE_S)
    assert "secret" not in repr(caught.value)


def test_a_device_that_hangs_is_given_up_with_its_parts(rigs: Callable[..., Rig]) -> None:
    rig = rigs(settings(), stall_patience_s=0.2)
    rig.camera.announce(1, 10 * MS)
    assert shown(read_result(rig.camera)) == (1, Fault.CAMERA)
    with pytest.raises(CameraError, match=r"no frame for 0\.2 s"):
        rig.camera.read(0)
    rig.capture.frames.put(20 * MS)  # it comes back, too late
    assert rig.capture.released.wait(PATIENCE_S)
    assert rig.capture.decoded == []
    with pytest.raises(CameraError):
        rig.camera.read(0)


def test_a_part_whose_frame_hangs_in_the_decoder_is_missed_and_comes_once(rigs: Callable[..., Rig]) -> None:
    rig = rigs(settings(), stall_patience_s=0.2)
    goes_on = threading.Event()

    def hang() -> None:
        goes_on.wait(PATIENCE_S)

    rig.capture.decode = hang
    rig.camera.announce(1, 10 * MS)
    rig.capture.frames.put(20 * MS)
    eventually(lambda: rig.capture.decoded == [20 * MS])
    rig.camera.announce(2, 25 * MS)
    assert shown(read_result(rig.camera)) == (1, Fault.CAMERA)
    assert shown(read_result(rig.camera)) == (2, Fault.CAMERA)
    goes_on.set()
    rig.capture.frames.put(None)
    assert rig.capture.released.wait(PATIENCE_S)
    with pytest.raises(CameraError):
        rig.camera.read(0)


def test_a_camera_that_waits_for_the_trigger_itself_is_not_given_up(rigs: Callable[..., Rig]) -> None:
    rig = rigs(settings(), stall_patience_s=None)
    assert rig.camera.alive
    assert rig.camera.read(0.3) is None
    rig.camera.announce(1, 10 * MS)
    rig.frame(11 * MS)
    assert shown(rig.camera.read(0)) == (1, 11 * MS)


def test_a_damaged_frame_costs_its_part_and_an_odd_driver_the_camera(rigs: Callable[..., Rig]) -> None:
    rig = rigs(settings())

    def damaged() -> None:
        raise ImageError("cut off")

    def odd() -> None:
        raise ValueError("odd")

    rig.capture.decode = damaged
    rig.camera.announce(1, 10 * MS)
    rig.frame(11 * MS)
    assert shown(rig.camera.read(0)) == (1, Fault.FRAME)
    rig.capture.decode = odd
    rig.camera.announce(2, 20 * MS)
    rig.frame(21 * MS)
    assert shown(read_result(rig.camera)) == (2, Fault.CAMERA)
    with pytest.raises(CameraError, match="ValueError"):
        rig.camera.read(0)


def test_a_reader_that_is_too_slow_loses_the_newest_parts_as_overruns(rigs: Callable[..., Rig]) -> None:
    rig = rigs(settings(), backlog=3)
    for part in range(6):
        rig.camera.announce(part, (10 * part + 1) * MS)
        rig.frame((10 * part + 5) * MS)
    assert [shown(item) for item in rig.results()] == [
        *((part, (10 * part + 5) * MS) for part in range(3)),
        *((part, Fault.OVERRUN) for part in range(3, 6)),
    ]
    assert rig.camera.dropped == 3
    assert len(rig.capture.decoded) == 3, "a frame was decoded for nothing"
    rig.camera.announce(6, 61 * MS)
    rig.frame(65 * MS)
    assert shown(rig.camera.read(0)) == (6, 65 * MS)


def test_nobody_reads_and_memory_stays_bounded(
    rigs: Callable[..., Rig], caplog: pytest.LogCaptureFixture
) -> None:
    rig = rigs(settings())
    rig.capture.frames.put(CameraError("script: unplugged"))
    eventually(lambda: not rig.camera.opened)
    for part in range(10_005):
        rig.camera.announce(part, part)
    assert [r.levelname for r in caplog.records] == ["ERROR"]
    first = rig.camera.read(0)
    assert isinstance(first, Miss)
    assert first.part == 5


def test_the_end_of_a_source(rigs: Callable[..., Rig]) -> None:
    rig = rigs(settings())
    rig.camera.announce(1, 10 * MS)
    rig.capture.frames.put(None)
    assert shown(read_result(rig.camera)) == (1, Fault.CAMERA)
    eventually(lambda: rig.camera.ended)
    assert rig.camera.read(PATIENCE_S) is None
    assert not rig.camera.alive
    rig.camera.announce(2, 20 * MS)
    assert not rig.camera.ended, "a part waits to be read"
    assert shown(rig.camera.read(0)) == (2, Fault.CAMERA)


def test_closing_gives_up_what_waits_and_does_not_wait_for_the_device(rigs: Callable[..., Rig]) -> None:
    rig = rigs(settings())
    rig.camera.announce(1, 10 * MS)
    started = time.monotonic()
    rig.camera.close()
    assert time.monotonic() - started < 3
    assert shown(rig.camera.read(0)) == (1, Fault.CAMERA)
    with pytest.raises(CameraError, match="is closed"):
        rig.camera.read(0)


def test_a_watch_sees_every_frame() -> None:
    capture, seen = ScriptedCapture(), []
    with TriggeredCamera(
        "w", lambda: capture, settings(), watch=lambda shot: seen.append(shot.t_ns)
    ) as camera:
        for t in (10, 20, 30):
            capture.frames.put(t * MS)
        eventually(lambda: len(seen) == 3)
        assert seen == [10 * MS, 20 * MS, 30 * MS]
        capture.frames.put(None)
        assert camera.read(PATIENCE_S) is None


def test_real_time_on_the_pretended_camera_each_part_once(folder: Path) -> None:
    source = TriggeredSource(
        parse_camera(f"mock:{folder}?fps=100&loop=1&drop=60-66"), settings(4, 30, 2, 500)
    )
    triggers: dict[int, int] = {}
    rng = random.Random(5)
    with source.open() as camera:
        eventually(lambda: camera.alive)

        def announce() -> None:
            for part in range(60):
                time.sleep(rng.choice([0.004, 0.02, 0.05]))
                triggers[part] = time.monotonic_ns()
                camera.announce(part, triggers[part])

        thread = threading.Thread(target=announce)
        thread.start()
        items = [read_result(camera) for _ in range(60)]
        thread.join()
        assert camera.read(0.05) is None
        grabbed = camera.grabbed
    assert sorted(item.part for item in items) == list(range(60))
    frames = [item for item in items if isinstance(item, PartFrame)]
    assert len(frames) > 20
    assert len({item.frame.index for item in frames}) == len(frames), "a frame served two parts"
    assert max(item.frame.index for item in frames) < grabbed
    for item in frames:
        after_ms = (item.frame.t_ns - triggers[item.part]) / MS
        assert 6 <= after_ms <= 36, "not the first frame after the trigger"
    kinds = {item.fault for item in items if isinstance(item, Miss)}
    assert kinds <= {Fault.SHARED_FRAME, Fault.NO_FRAME}


@pytest.mark.parametrize("fault", ["fail=8", "stall=8&stall_ms=2000&patience_ms=200"])
def test_a_pretended_camera_that_fails_and_its_parts(folder: Path, fault: str) -> None:
    source = parse_camera(f"mock:{folder}?fps=100&loop=1&{fault}")
    assert isinstance(source, MockSource)
    triggered = TriggeredSource(source, settings(within_ms=500, patience_ms=60_000))
    assert triggered.live
    assert triggered.name == source.name
    with triggered.open() as camera:
        eventually(lambda: camera.grabbed >= 8)
        camera.announce(1, time.monotonic_ns() + 50 * MS)
        assert shown(read_result(camera)) == (1, Fault.CAMERA)
        with pytest.raises(CameraError, match="no frame"):
            camera.read(0)
    with triggered.open() as camera:
        eventually(lambda: camera.alive)
        camera.announce(2, time.monotonic_ns())
        assert isinstance(read_result(camera), PartFrame)


def test_a_network_stream_decodes_only_what_parts_want() -> None:
    decoded = []

    class Counting(OpenCvCapture):
        def retrieve(self) -> Shot:
            decoded.append(self)
            return super().retrieve()

    stream = MjpegCamera(np.full((48, 64, 3), (220, 30, 10), np.uint8))
    address = f"http://127.0.0.1:{stream.port}/video.mjpg"
    try:
        camera = TriggeredCamera(
            "stream",
            lambda: Counting(address, cv2.CAP_FFMPEG, "stream"),
            settings(within_ms=5000, patience_ms=5000),
        )
        with camera:
            eventually(lambda: camera.grabbed > 5)
            assert decoded == []
            camera.announce(1, time.monotonic_ns())
            item = read_result(camera)
            assert isinstance(item, PartFrame)
            red, _, blue = item.frame.image.reshape(-1, 3).mean(axis=0)
            assert red > 200 and blue < 50, "red and blue are exchanged"
            assert len(decoded) == 1
            stream.stop()
            camera.announce(2, time.monotonic_ns() + 3_000 * MS)
            assert shown(read_result(camera)) == (2, Fault.CAMERA)
            with pytest.raises(CameraError, match="gives no frames any more"):
                camera.read(PATIENCE_S)
    finally:
        stream.stop()


@pytest.mark.parametrize("kind", ["folder", "mock"])
def test_a_folder_as_camera_gives_each_part_the_next_image(folder: Path, kind: str) -> None:
    (folder / "part_2.png").write_bytes(b"damaged")
    source = TriggeredSource(parse_camera(f"mock:{folder}" if kind == "mock" else str(folder)), settings())
    with source.open() as camera:
        assert isinstance(camera, TriggeredFiles)
        assert camera.read(0) is None
        for part in range(10, 15):
            assert not camera.ended
            camera.announce(part, time.monotonic_ns())
            item = camera.read(0)
            if part == 12:
                assert shown(item) == (12, Fault.FRAME)
                continue
            assert isinstance(item, PartFrame)
            assert item.part == part
            assert Path(item.frame.source).name == f"part_{part - 10}.png"
        assert camera.ended
        assert camera.read(PATIENCE_S) is None
        camera.announce(15, 0)
        assert shown(camera.read(0)) == (15, Fault.CAMERA)
    assert measure_frames(source.source) is None


def test_a_trial_bounds_its_parts_and_wakes_its_reader(folder: Path) -> None:
    with TriggeredSource(parse_camera(str(folder)), settings(), backlog=2).open() as camera:
        for part in range(4):
            camera.announce(part, 0)
        assert {shown(read_result(camera))[0] for _ in range(4)} == set(range(4))
        assert camera.dropped == 2
        threading.Timer(0.05, lambda: camera.announce(4, 0)).start()
        assert read_result(camera).part == 4
    camera.announce(5, 0)
    assert shown(camera.read(0)) == (5, Fault.CAMERA)
    with pytest.raises(CameraError, match="is closed"):
        camera.read(0)


def test_a_trial_of_a_camera_that_goes_away(folder: Path) -> None:
    source = TriggeredSource(parse_camera(f"mock:{folder}?fail=1"), settings())
    with source.open() as camera:
        camera.announce(0, 0)
        camera.announce(1, 0)
        items = [read_result(camera) for _ in range(2)]
        assert sorted(shown(item)[0] for item in items) == [0, 1]
        assert sum(isinstance(item, PartFrame) for item in items) == 1
        with pytest.raises(CameraError, match="gives no frames"):
            camera.read(0)


def test_frame_times() -> None:
    times = FrameTimes(5)
    for t in (0, 10, 20):
        assert times.statistics() is None
        times.add(t * MS, (t + 4) * MS)
    seen = times.statistics()
    assert seen is not None
    assert (seen.frames, seen.fps, seen.jitter_ms, seen.longest_gap_ms, seen.lost) == (3, 100.0, 0.0, 10.0, 0)
    assert seen.delay_ms == 4.0
    for t in (30, 60, 70, 80):
        times.add(t * MS, t * MS)
    seen = times.statistics()
    assert seen is not None
    assert (seen.frames, seen.longest_gap_ms, seen.lost) == (5, 30.0, 2)
    assert seen.fps == pytest.approx(4 / 0.06, abs=0.001)
    assert seen.jitter_ms == pytest.approx(75**0.5, abs=0.001)


def test_a_camera_is_measured_without_decoding(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(b"cannot be decoded")
    seen = measure_frames(parse_camera(f"mock:{folder}?fps=50&loop=1"), frames=20)
    assert seen is not None
    assert seen.frames >= 20
    assert 25 < seen.fps <= 51
    started = time.monotonic()
    assert measure_frames(parse_camera(f"mock:{folder}?fps=1"), within_s=0.3) is None
    assert time.monotonic() - started < 3
    with pytest.raises(CameraError, match="cannot be opened"):
        measure_frames(parse_camera("/dev/video_none"))


def test_a_camera_without_parts_costs_next_to_nothing(folder: Path) -> None:
    with TriggeredSource(parse_camera(f"mock:{folder}?fps=30&loop=1"), settings()).open() as camera:
        eventually(lambda: camera.alive)
        started, cpu = time.monotonic(), time.process_time()
        while time.monotonic() - started < 2:
            assert camera.read(0.1) is None
        spent = (time.process_time() - cpu) / (time.monotonic() - started)
    print(f"30 fps without parts: {spent:.2%} of a core")
    assert spent < 0.02
