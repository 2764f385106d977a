"""Image sources: real files, real video files, a real network stream, and the pretended device."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from edge_ad_runtime.cameras import FrameError, MockSource, open_camera, parse_camera, redact
from edge_ad_runtime.cameras.base import Camera, Frame
from edge_ad_runtime.cameras.live import LiveCamera
from edge_ad_runtime.cameras.mock import MockCapture
from edge_ad_runtime.cameras.opencv import ArrivalClock, KernelClock, OpenCvCapture
from edge_ad_runtime.errors import CameraError, EdgeAdError, ImageError, InputError
from edge_ad_runtime.stopping import StopRequest
from tests.line.streams import MjpegCamera

RED = (220, 30, 10)


def coloured(level: int = 0, height: int = 48, width: int = 64) -> npt.NDArray[np.uint8]:
    """A plain image, strongly red, whose green tells images apart."""
    image = np.empty((height, width, 3), np.uint8)
    image[:] = (RED[0], RED[1] + level, RED[2])
    return image


def save(path: Path, image: npt.NDArray[np.uint8]) -> None:
    assert cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images whose names are not in the order of their writing, and files that are no images."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for i in (3, 0, 4, 1, 2):
        save(folder / f"part_{i}.png", coloured(10 * i))
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real MJPEG AVI of 20 red frames that grow greener."""
    path = tmp_path_factory.mktemp("video") / "belt.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    assert writer.isOpened()
    for i in range(20):
        writer.write(cv2.cvtColor(coloured(8 * i), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


@pytest.fixture
def stream() -> Iterator[MjpegCamera]:
    camera = MjpegCamera(coloured())
    yield camera
    camera.stop()


def read_all(camera: Camera) -> list[Frame]:
    frames = []
    with camera:
        while (frame := camera.read()) is not None:
            frames.append(frame)
        assert camera.read() is None, "an ended source stays ended"
    return frames


def assert_red(frame: Frame | None, tolerance: int = 12) -> None:
    assert frame is not None
    assert frame.image.dtype == np.uint8
    assert frame.image.shape == (48, 64, 3)
    assert frame.image.flags.c_contiguous
    red, _, blue = frame.image.reshape(-1, 3).mean(axis=0)
    assert abs(red - RED[0]) < tolerance, "red and blue are exchanged"
    assert abs(blue - RED[2]) < tolerance, "red and blue are exchanged"


def test_a_folder_gives_its_images_in_order_once(folder: Path) -> None:
    before = time.monotonic_ns()
    frames = read_all(open_camera(str(folder)))
    assert [Path(f.source).name for f in frames] == [f"part_{i}.png" for i in range(5)]
    assert [f.index for f in frames] == list(range(5))
    times = [before, *(f.t_ns for f in frames), time.monotonic_ns()]
    assert times == sorted(times)
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, coloured(10 * i))


def test_a_glob_and_a_single_image(folder: Path) -> None:
    frames = read_all(open_camera(f"{folder}/part_[1-3].*"))
    assert [Path(f.source).name for f in frames] == ["part_1.png", "part_2.png", "part_3.png"]
    (single,) = read_all(open_camera(str(folder / "part_4.png")))
    np.testing.assert_array_equal(single.image, coloured(40))


def test_a_name_with_brackets_that_exists_is_a_name(tmp_path: Path) -> None:
    save(tmp_path / "part[1].png", coloured())
    assert len(read_all(open_camera(str(tmp_path / "part[1].png")))) == 1


def test_relative_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert len(read_all(open_camera("parts"))) == 5
    assert len(read_all(open_camera("*/part_*.png"))) == 5


def test_a_damaged_image_in_a_folder_is_told_and_passed(folder: Path) -> None:
    (folder / "part_1.png").write_bytes((folder / "part_0.png").read_bytes()[:60])
    (folder / "part_3.png").write_bytes(b"")
    indices = []
    with open_camera(str(folder)) as camera:
        for index in range(5):
            if index in (1, 3):
                with pytest.raises(FrameError, match=f"part_{index}.png") as caught:
                    camera.read()
                assert caught.value.index == index
                assert caught.value.source.endswith(f"part_{index}.png")
            else:
                frame = camera.read()
                assert frame is not None
                indices.append(frame.index)
        assert camera.read() is None
    assert indices == [0, 2, 4]


def test_a_video_gives_every_frame_in_rgb(video: Path) -> None:
    frames = read_all(open_camera(str(video)))
    assert [f.source for f in frames] == [f"{video}#{i}" for i in range(20)]
    assert [f.index for f in frames] == list(range(20))
    greens = [float(f.image[:, :, 1].mean()) for f in frames]
    np.testing.assert_allclose(greens, [RED[1] + 8 * i for i in range(20)], atol=10)
    for frame in frames:
        assert_red(frame)


def test_a_slow_reader_of_files_misses_nothing(video: Path) -> None:
    with open_camera(str(video), fps=200) as camera:
        indices = []
        while (frame := camera.read()) is not None:
            indices.append(frame.index)
            time.sleep(0.02 if frame.index % 5 == 0 else 0)
        assert camera.dropped == 0
    assert indices == list(range(20))


def test_fps_paces_files(folder: Path) -> None:
    times = [f.t_ns / 1e9 for f in read_all(open_camera(str(folder), fps=25))]
    gaps = np.diff(times)
    assert (gaps > 0.03).all(), gaps
    assert times[-1] - times[0] >= 0.159


def test_a_stop_ends_the_wait_of_a_paced_file(folder: Path) -> None:
    stop = StopRequest()
    with open_camera(str(folder), fps=0.1, stop=stop) as camera:
        assert camera.read() is not None
        threading.Timer(0.1, stop.request).start()
        start = time.monotonic()
        assert camera.read() is None
        assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("/no/such/folder", CameraError, "no such device, file or folder"),
        ("no-such.mp4", CameraError, "no-such.mp4"),
        ("/no/such/*.png", CameraError, "matches no images"),
        ("", InputError, "give a device number"),
        ("ftp://u:secret@host/x", InputError, "rtsp://"),
        ("mock:/no/such", CameraError, "not a folder with images"),
        ("-1", CameraError, "no such device"),
    ],
)
def test_what_is_not_there_is_named(text: str, kind: type[EdgeAdError], said: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        parse_camera(text)
    assert "secret" not in str(caught.value)


def test_an_empty_folder_and_broken_videos(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match="holds no images"):
        open_camera(str(tmp_path))
    for content in (b"", b"this is no video" * 100):
        path = tmp_path / "belt.mp4"
        path.write_bytes(content)
        with pytest.raises(CameraError, match=r"belt\.mp4.*as a video"):
            open_camera(str(path))


def test_mock_keys_are_checked(folder: Path) -> None:
    with pytest.raises(InputError, match="'fails' is unknown; accepted are fps, drop, fail"):
        parse_camera(f"mock:{folder}?fails=3")
    with pytest.raises(InputError, match="fps"):
        parse_camera(f"mock:{folder}?fps=-3")


def test_fps_does_not_fit_live_sources(folder: Path) -> None:
    for text in ("0", "http://h/x", f"mock:{folder}"):
        with pytest.raises(InputError, match="files only"):
            parse_camera(text, fps=5)
    for fps in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="fps"):
            parse_camera(str(folder), fps=fps)


def test_what_each_text_means(folder: Path, video: Path) -> None:
    assert (parse_camera("0").name, parse_camera("0").live) == ("/dev/video0", True)
    assert parse_camera("12").name == "/dev/video12"
    assert parse_camera("/dev/v4l/by-id/cam").live
    assert parse_camera("rtsp://host/stream").live
    assert parse_camera(f"mock:{folder}").live
    assert not parse_camera(str(folder)).live
    assert not parse_camera(str(video)).live


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://admin:s3cret@10.0.0.5:554/h264", "rtsp://***@10.0.0.5:554/h264"),
        ("rtsp://admin:s3@cr/et@10.0.0.5/h264", "rtsp://***@10.0.0.5/h264"),
        ("http://10.0.0.5/mjpg?user=a&pwd=s3cret", "http://10.0.0.5/mjpg?***"),
        ("http://10.0.0.5/mjpg#s3cret", "http://10.0.0.5/mjpg#***"),
        ("rtsp://10.0.0.5/h264", "rtsp://10.0.0.5/h264"),
    ],
)
def test_secrets_are_cut_from_addresses(url: str, shown: str) -> None:
    assert redact(url) == shown
    source = parse_camera(url)
    assert source.name == shown
    for secret in ("s3cret", "s3@cr", "et@"):
        assert secret not in repr(source)


def test_a_missing_device_is_a_camera_error_without_secrets(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for text in (
        f"http://admin:s3cret@127.0.0.1:{port}/x?pwd=s3cret",
        f"rtsp://admin:s3cret@127.0.0.1:{port}/x",
    ):
        with open_camera(text) as camera, pytest.raises(CameraError, match="cannot be opened") as caught:
            camera.read()
        assert "s3cret" not in repr(caught.value)
    # OpenCV and FFmpeg write to standard error by themselves.
    assert "s3cret" not in "".join(capfd.readouterr())


def test_a_missing_v4l2_device() -> None:
    with (
        open_camera("/dev/video_none") as camera,
        pytest.raises(CameraError, match=r"/dev/video_none.*group 'video'"),
    ):
        camera.read()


def test_kernel_timestamps_are_used_where_plausible() -> None:
    now = 5_000_000_000
    other, clock = KernelClock(), KernelClock()
    for elsewhere in (0.0, -1.0, 1_700_000_000_000.0, 5_000.1, 2_000.0):
        assert other.time_ns(elsewhere, now) == now
    assert clock.time_ns(4_990.5, now) == 4_990_500_000
    # A frame that waited in the driver while the process was stopped is not a new one.
    assert clock.time_ns(2_000.0, now) == 2_000_000_000
    for elsewhere in (0.0, 1_700_000_000_000.0):
        assert clock.time_ns(elsewhere, now) == now


def test_arrival_times_of_a_steady_and_of_a_bursty_stream_are_what_they_were() -> None:
    ms = 1_000_000
    rng = np.random.default_rng(1)
    clock, now = ArrivalClock(), 0
    for i in range(500):
        now = max(now, 40 * i * ms + int(rng.integers(0, 30)) * ms)
        assert clock.time_ns(now) == now
    clock = ArrivalClock()
    late = 0
    for i in range(500):  # frames come in packets of three
        now = (i // 3) * 120 * ms
        late += now - clock.time_ns(now) > 5 * ms and i > 30
    assert late <= 170


def test_a_queue_of_old_frames_is_never_taken_to_be_younger_than_it_is() -> None:
    """A frame every 20 ms, in time but for a pause of two seconds, after which the queue is read within 100 ms."""
    ms = 1_000_000
    clock, taken = ArrivalClock(), 0
    for i in range(500):
        sent = 20 * i * ms
        taken = max(sent, taken + ms, 6000 * ms if 200 <= i < 300 else 0)
        assert clock.time_ns(taken) <= sent + 40 * ms
    assert taken - clock.time_ns(taken + 20 * ms) <= 0, "it has caught up"


def test_a_stream_read_again_after_a_pause_gives_no_old_frame_as_a_new_one(stream: MjpegCamera) -> None:
    capture = OpenCvCapture(f"http://127.0.0.1:{stream.port}/video.mjpg", cv2.CAP_FFMPEG, "stream")
    for _ in range(40):
        assert capture.grab() is not None
    paused = time.monotonic_ns()
    time.sleep(1.0)
    # The frames of this second wait in the socket.
    first = capture.grab()
    assert first is not None
    assert first - paused < 500_000_000
    lag_s = []
    for _ in range(200):
        t_ns = capture.grab()
        assert t_ns is not None
        lag_s.append((time.monotonic_ns() - t_ns) / 1e9)
    capture.release()
    assert max(lag_s[:10]) > 0.5
    assert max(lag_s[-5:]) < 0.2, "it never catches up"


class JpegDevice:
    """What ``cv2.VideoCapture`` is for a USB camera that sends JPEG: with its conversion on, a damaged frame is
    answered with the one before."""

    def __init__(self, *_: object) -> None:
        good, jpeg = cv2.imencode(".jpg", cv2.cvtColor(coloured(), cv2.COLOR_RGB2BGR))
        assert good
        whole = jpeg.reshape(1, -1)
        self.buffers = [whole, whole[:, : whole.size // 2], np.zeros((1, 0), np.uint8), whole]
        self.converts = True
        self.shown = np.zeros((48, 64, 3), np.uint8)

    def isOpened(self) -> bool:
        return True

    def get(self, key: int) -> float:
        return float(cv2.VideoWriter.fourcc(*"MJPG")) if key == cv2.CAP_PROP_FOURCC else 0.0

    def set(self, key: int, value: float) -> bool:
        assert key == cv2.CAP_PROP_CONVERT_RGB
        self.converts = bool(value)
        return True

    def grab(self) -> bool:
        self.buffer = self.buffers.pop(0)
        return True

    def retrieve(self) -> tuple[bool, npt.NDArray[np.uint8]]:
        return True, self.shown if self.converts else self.buffer

    def release(self) -> None:
        pass


def test_a_damaged_jpeg_of_a_device_is_never_the_frame_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", JpegDevice)
    capture = OpenCvCapture("/dev/video0", cv2.CAP_V4L2, "usb")
    for whole in (True, False, False, True):
        assert capture.grab() is not None
        if whole:
            shot = capture.retrieve()
            assert shot.order == "RGB"
            assert_red(Frame(shot.pixels, 0, shot.t_ns, "usb"))
        else:
            with pytest.raises(ImageError):
                capture.retrieve()


def test_a_damaged_frame_of_a_live_camera_is_told_and_passed(folder: Path) -> None:
    (folder / "part_1.png").write_bytes(b"damaged")
    seen: list[int] = []
    with open_camera(f"mock:{folder}?fps=20") as camera:
        while len(seen) < 5:
            if len(seen) == 1:
                with pytest.raises(FrameError) as caught:
                    camera.read()
                seen.append(caught.value.index)
                continue
            frame = camera.read()
            assert frame is not None
            seen.append(frame.index)
    assert seen == [0, 1, 2, 3, 4]


def test_a_reader_that_waits_is_called(folder: Path) -> None:
    for text, fps in (
        (f"mock:{folder}?fps=2", None),
        (str(folder), 2.0),
        (f"mock:{folder}?stall=1&stall_ms=500", None),
    ):
        calls: list[float] = []
        with open_camera(text, fps=fps) as camera:
            assert camera.read() is not None
            camera.on_wait = lambda calls=calls: calls.append(time.monotonic())
            assert camera.read() is not None
        assert len(calls) >= 4, text


def test_a_network_stream_is_rgb_and_comes_back(stream: MjpegCamera) -> None:
    address = f"http://127.0.0.1:{stream.port}/video.mjpg"
    with open_camera(address) as camera:
        for _ in range(5):
            assert_red(camera.read())
        stream.stop()
        with pytest.raises(CameraError, match="gives no frames any more"):
            while True:
                assert camera.read() is not None
    with open_camera(address) as camera, pytest.raises(CameraError, match="cannot be opened"):
        camera.read()
    stream.start()
    with open_camera(address) as camera:
        for _ in range(5):
            assert_red(camera.read())


def test_a_server_that_says_nothing_does_not_hold_up_a_stop() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        stop = StopRequest()
        camera = open_camera(f"rtsp://127.0.0.1:{silent.getsockname()[1]}/x", stop=stop)
        threading.Timer(0.2, stop.request).start()
        start = time.monotonic()
        with camera:
            assert camera.read() is None
            assert time.monotonic() - start < 1.5
            connection, _ = silent.accept()
            connection.close()


def test_the_newest_frame_wins_and_drops_are_counted(folder: Path) -> None:
    indices = []
    with open_camera(f"mock:{folder}?fps=200&loop=1") as camera:
        for _ in range(5):
            time.sleep(0.1)
            asked = time.monotonic_ns()
            frame = camera.read()
            assert frame is not None
            assert asked - frame.t_ns < 100_000_000, "an old frame was kept"
            indices.append(frame.index)
        dropped = camera.dropped
    assert indices == sorted(set(indices)), "a frame was given twice"
    # What came after the last reading and was overwritten is counted too.
    assert dropped >= indices[-1] + 1 - len(indices) > 20


def test_a_frame_that_has_grown_old_is_not_given(folder: Path) -> None:
    source = parse_camera(f"mock:{folder}?fps=500")
    assert isinstance(source, MockSource)
    for max_age_s, given in ((0.1, False), (30.0, True)):
        source.state.position = 0
        with LiveCamera("mock", lambda: MockCapture(source), max_age_s=max_age_s) as camera:
            time.sleep(0.3)
            assert (camera.read() is not None) is given
            assert camera.read() is None
            assert camera.dropped == 5 - given


def test_a_silent_device_is_an_error_in_time(folder: Path) -> None:
    with open_camera(f"mock:{folder}?fps=100&stall=2&stall_ms=1000&patience_ms=200") as camera:
        start = time.monotonic()
        with pytest.raises(CameraError, match=r"no frame for 0\.2 s"):
            while True:
                assert camera.read() is not None
        assert time.monotonic() - start < 0.9


@pytest.mark.parametrize("rate", ["", "&fps=20"])
def test_a_device_that_goes_away_is_there_again_after_some_openings(folder: Path, rate: str) -> None:
    source = parse_camera(f"mock:{folder}?fail=2&away=2{rate}")
    assert isinstance(source, MockSource)
    names: list[str] = []
    with source.open() as camera, pytest.raises(CameraError, match="gives no frames any more"):
        take_all(camera, names)
    for _ in range(2):
        with pytest.raises(CameraError, match="cannot be opened"), source.open() as camera:
            take_all(camera, names)
    with source.open() as camera:
        take_all(camera, names)
    assert source.state.openings == 4
    assert names == [f"part_{i}.png" for i in range(5)]


def take_all(camera: Camera, names: list[str]) -> None:
    while (frame := camera.read()) is not None:
        names.append(Path(frame.source).name)


def test_frames_that_the_device_loses(folder: Path) -> None:
    frames = read_all(open_camera(f"mock:{folder}?drop=0,3-4"))
    assert [Path(f.source).name for f in frames] == ["part_1.png", "part_2.png"]


def test_sources_leave_no_open_files(folder: Path, video: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - not a folder of files
    for text in (str(folder), str(video), f"mock:{folder}", f"mock:{folder}?fps=500"):
        for _ in range(3):
            read_all(open_camera(text))
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
