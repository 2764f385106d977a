"""Every kind of camera held by one suite: what runs here for real does, the others against fakes named as such."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from edge_ad_runtime.camera_state import compare
from edge_ad_runtime.cameras import CameraSettings, parse_camera, v4l2
from edge_ad_runtime.cameras import opencv as opencv_module
from edge_ad_runtime.cameras.adjusted import DeviceSource, source_state
from edge_ad_runtime.cameras.base import CameraSource, Frame
from edge_ad_runtime.cameras.csi import argus_pipeline, csi_opener, is_jetson, is_raspberry_pi
from edge_ad_runtime.cameras.genicam import (
    DeviceClock,
    GenicamCapture,
    GenicamTarget,
    find_producers,
    to_pixels,
)
from edge_ad_runtime.cameras.gstreamer import GstCapture, redact_pipeline
from edge_ad_runtime.cameras.listing import list_genicam, list_v4l2, probe
from edge_ad_runtime.cameras.mock import MockSource
from edge_ad_runtime.cameras.picamera import PiCapture
from edge_ad_runtime.errors import CameraError, ImageError, InputError, MissingExtra
from edge_ad_runtime.stopping import StopRequest
from edge_ad_runtime.tracking.picking import PickSettings
from tests.line.camera_peers import (
    FakeHarvester,
    FakePicamera2,
    gst_or_skip,
    rtsp_server,
    stop_process,
    vivid_devices,
)
from tests.line.streams import MjpegCamera

# PyGObject's importer is of an older kind.
pytestmark = pytest.mark.filterwarnings("ignore::ImportWarning", "ignore::DeprecationWarning:gi.*")


def quadrants(height: int = 48, width: int = 64) -> npt.NDArray[np.uint8]:
    """Red, green over blue, grey: no rotation or exchange of colours leaves it as it is."""
    image = np.empty((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (220, 20, 20)
    image[: height // 2, width // 2 :] = (20, 220, 20)
    image[height // 2 :, : width // 2] = (20, 20, 220)
    image[height // 2 :, width // 2 :] = (128, 128, 128)
    return image


def corners(image: npt.NDArray[np.uint8]) -> str:
    """The colours of the four quadrants, row by row, as letters."""
    height, width = image.shape[:2]
    found = ""
    for y in (height // 4, 3 * height // 4):
        for x in (width // 4, 3 * width // 4):
            r, g, b = image[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).mean(axis=0)
            found += (
                "r"
                if r > 150 > max(g, b)
                else "g"
                if g > 150 > max(r, b)
                else "b"
                if b > 150 > max(r, g)
                else "n"
            )
    return found


@dataclass
class Peer:
    """A source of the given settings whose image is :func:`quadrants`."""

    kind: str
    folder: Path
    stream: MjpegCamera | None = None

    def source(self, settings: CameraSettings | None = None, stop: StopRequest | None = None) -> CameraSource:
        settings = settings or CameraSettings()
        image = quadrants()
        if self.kind == "mock":
            return parse_camera(f"mock:{self.folder}?fps=50&loop=1", settings=settings, stop=stop)
        if self.kind == "network":
            assert self.stream is not None
            return parse_camera(f"http://127.0.0.1:{self.stream.port}/x", settings=settings, stop=stop)
        if self.kind == "gst":
            path = self.folder / "part.png"
            pipeline = f"gst:filesrc location={path} ! pngdec ! imagefreeze is-live=true ! video/x-raw,framerate=50/1"
            return parse_camera(pipeline, settings=settings, stop=stop)
        if self.kind == "genicam (fake)":
            target = GenicamTarget("0", ())
            return DeviceSource(
                "genicam://0",
                lambda: GenicamCapture(target, "genicam://0", settings, stop, lambda: FakeHarvester(image)),
                settings,
                stop,
            )
        assert self.kind == "picamera (fake)"
        return DeviceSource("csi://0", lambda: PiCapture(0, "csi://0", settings, 0.1), settings, stop)


KINDS = ("mock", "network", "gst", "genicam (fake)", "picamera (fake)")


@pytest.fixture(params=KINDS)
def peer(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Peer]:
    kind: str = request.param
    assert cv2.imwrite(str(tmp_path / "part.png"), cv2.cvtColor(quadrants(), cv2.COLOR_RGB2BGR))
    if kind == "gst":
        gst_or_skip(tmp_path_factory)
    if kind == "picamera (fake)":
        fake_picamera(monkeypatch)
    stream = MjpegCamera(quadrants()) if kind == "network" else None
    yield Peer(kind, tmp_path, stream)
    if stream is not None:
        stream.stop()


def fake_picamera(monkeypatch: pytest.MonkeyPatch) -> None:
    FakePicamera2.image, FakePicamera2.log = quadrants(), []
    module = ModuleType("picamera2")
    module.__dict__["Picamera2"] = FakePicamera2
    monkeypatch.setitem(sys.modules, "picamera2", module)
    monkeypatch.setattr(FakePicamera2, "silent", False)


def test_frames_are_rgb_and_new_and_their_times_rise(peer: Peer) -> None:
    stamps = []
    with peer.source().open() as camera:
        for _ in range(5):
            frame = camera.read()
            assert frame is not None
            assert frame.image.dtype == np.uint8
            assert frame.image.flags.c_contiguous
            assert frame.image.shape == (48, 64, 3)
            assert corners(frame.image) == "rgbn"
            assert 0 <= time.monotonic_ns() - frame.t_ns < 1_000_000_000
            stamps.append(frame.t_ns)
    assert stamps == sorted(set(stamps))


@pytest.mark.parametrize(
    ("settings", "seen", "shape"),
    [
        (CameraSettings(rotate=90), "brng", (64, 48, 3)),
        (CameraSettings(rotate=180), "nbgr", (48, 64, 3)),
        (CameraSettings(rotate=270), "gnrb", (64, 48, 3)),
        (CameraSettings(flip="horizontal"), "grnb", (48, 64, 3)),
        (CameraSettings(flip="vertical", rotate=90), "ngbr", (64, 48, 3)),
    ],
)
def test_every_kind_is_turned(
    peer: Peer, settings: CameraSettings, seen: str, shape: tuple[int, int, int]
) -> None:
    with peer.source(settings).open() as camera:
        frame = camera.read()
    assert frame is not None
    assert (corners(frame.image), frame.image.shape) == (seen, shape)
    assert frame.image.flags.c_contiguous


def test_a_captures_frame_is_its_own(peer: Peer) -> None:
    source = peer.source()
    assert isinstance(source, (DeviceSource, MockSource))
    capture = source.open_capture()
    try:
        t_ns = capture.grab()
        shot = capture.retrieve()
        assert shot.t_ns == t_ns
        before = shot.pixels.copy()
        for _ in range(3):
            assert capture.grab() is not None
            capture.retrieve()
        np.testing.assert_array_equal(shot.pixels, before)
        assert corners(Frame(shot.pixels, 0, t_ns, "", shot.order).image) == "rgbn"
        # Frames that nobody decodes must not use up the device's buffers.
        for _ in range(8):
            assert capture.grab() is not None
    finally:
        capture.release()


def test_a_triggered_part_gets_a_frame(peer: Peer) -> None:
    settings = PickSettings(delay_ns=0, within_ns=3_000_000_000, latency_ns=0, patience_ns=5_000_000_000)
    with peer.source().open_triggered(settings) as camera:
        until = time.monotonic() + 10
        while not camera.alive and time.monotonic() < until:
            camera.read(0.02)
        trigger = time.monotonic_ns()
        camera.announce(7, trigger)
        got = None
        while got is None and time.monotonic() < until:
            got = camera.read(0.1)
    assert got is not None
    assert got.part == 7
    assert hasattr(got, "frame"), got
    assert corners(got.frame.image) == "rgbn"
    assert got.frame.t_ns >= trigger


def test_the_state_can_be_asked_while_it_runs_and_not_after(peer: Peer) -> None:
    source = peer.source(CameraSettings(rotate=90))
    with source.open() as camera:
        assert camera.read() is not None
        state = source_state(source)
        assert state is not None
        assert state.rotate == 90
        assert (state.width, state.height) in ((64, 48), (None, None))
    with pytest.raises(CameraError, match="no frame"):
        source_state(source, 0.05)


def test_a_stop_ends_the_wait(peer: Peer) -> None:
    stop = StopRequest()
    with peer.source(stop=stop).open() as camera:
        assert camera.read() is not None
        stop.request()
        assert camera.read() is None


def test_it_can_be_opened_again(peer: Peer) -> None:
    source = peer.source()
    for _ in range(2):
        with source.open() as camera:
            assert camera.read() is not None


def test_the_probe_measures(peer: Peer) -> None:
    found, image = probe(peer.source(), 0.5)
    assert (found.width, found.height) == (64, 48)
    assert corners(image) == "rgbn"
    assert found.frames is not None
    assert 5 < found.frames.fps < 80
    expected = {"mock": "pretended", "network": "arrival", "gst": "pipeline", "picamera (fake)": "sensor"}
    assert found.times == expected.get(peer.kind, "arrival")


# GStreamer, for real.


@pytest.fixture
def gst(tmp_path_factory: pytest.TempPathFactory) -> None:
    gst_or_skip(tmp_path_factory)


@pytest.mark.usefixtures("gst")
def test_a_live_pipeline_gives_the_time_of_capture() -> None:
    capture = GstCapture(
        "videotestsrc is-live=true ! video/x-raw,width=62,height=46,framerate=50/1", "gst:test"
    )
    try:
        stamps = []
        for _ in range(10):
            t_ns = capture.grab()
            assert t_ns is not None
            assert 0 <= time.monotonic_ns() - t_ns < 1_000_000_000
            stamps.append(t_ns)
        assert capture.timestamps == "pipeline"
        gaps = np.diff(stamps) / 1e6
        # Of the source's clock, not of this thread's luck: whole periods of 20 ms.
        np.testing.assert_allclose(gaps, 20 * np.maximum(np.round(gaps / 20), 1), atol=0.1)
        assert capture.retrieve().pixels.shape == (46, 62, 3)
    finally:
        capture.release()


@pytest.mark.usefixtures("gst")
def test_a_pipeline_that_is_no_camera_has_times_of_arrival_and_an_end() -> None:
    capture = GstCapture("videotestsrc num-buffers=3 ! video/x-raw,width=64,height=48", "gst:test")
    try:
        times = [capture.grab() for _ in range(3)]
        assert capture.timestamps == "arrival"
        assert None not in times
        assert capture.grab() is None
    finally:
        capture.release()


@pytest.mark.usefixtures("gst")
@pytest.mark.parametrize(
    ("pipeline", "said"),
    [
        ("nosuchsrc", "nosuchsrc"),
        ("videotestsrc nosuch=1", "nosuch"),
        ("v4l2src device=/dev/video_none", r"video_none|v4l2src"),
        ("filesrc location=/no/such ! pngdec", "such"),
    ],
)
def test_broken_pipelines_say_why(pipeline: str, said: str) -> None:
    with parse_camera(f"gst:{pipeline}").open() as camera, pytest.raises(CameraError, match=said):
        camera.read()


@pytest.mark.usefixtures("gst")
def test_a_silent_pipeline_is_an_error_and_others_run_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_ad_runtime.cameras.gstreamer.SILENCE_S", 0.5)
    ticks = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(0.02):
            ticks.append(1)

    thread = threading.Thread(target=tick)
    thread.start()
    capture = GstCapture("videotestsrc is-live=true ! valve drop=true", "gst:test")
    try:
        with pytest.raises(CameraError, match=r"no frame for 0\.5 s"):
            capture.grab()
    finally:
        capture.release()
        stop.set()
        thread.join()
    assert len(ticks) > 5, "waiting for a frame holds up every other thread"


def test_pipelines_are_shown_without_passwords() -> None:
    text = 'gst:rtspsrc location="rtsp://me:s3cret@10.0.0.5/x" user-id=me user-pw="s3 cret" ! rtpjpegdepay ! jpegdec'
    shown = redact_pipeline(text)
    assert "s3" not in shown
    assert "me" not in shown.replace("jpegdec", "").replace("rtpjpegdepay", "")
    assert "10.0.0.5/x" in shown


def test_without_pygobject_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gi", None)
    with pytest.raises(MissingExtra, match="sudo apt install python3-gi"):
        parse_camera("gst:videotestsrc")


# RTSP, for real.


def test_an_rtsp_server_that_stalls_is_noticed_and_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opencv_module, "NETWORK_TIMEOUT_MS", 3000)
    with rtsp_server() as (process, port):
        source = parse_camera(
            f"rtsp://admin:s3cret@127.0.0.1:{port}/belt", settings=CameraSettings(rotate=90)
        )
        with source.open() as camera:
            for _ in range(3):
                frame = camera.read()
                assert frame is not None
                assert frame.image.shape == (64, 48, 3)
                assert frame.image[:, :, 0].mean() > 180, "not red"
                assert frame.image[:, :, 2].mean() < 60, "not red"
            stop_process(process, signal.SIGSTOP)
            began = time.monotonic()
            with pytest.raises(CameraError, match=r"127\.0\.0\.1") as caught:
                while True:
                    camera.read()
            assert time.monotonic() - began < 9
        assert "s3cret" not in repr(caught.value)
        with source.open() as camera, pytest.raises(CameraError, match="cannot be opened"):
            camera.read()
        stop_process(process, signal.SIGCONT)
        until = time.monotonic() + 15
        while True:
            try:
                with source.open() as camera:
                    assert camera.read() is not None
                break
            except CameraError:
                assert time.monotonic() < until, "the server came back, the camera did not"


# CSI. No Jetson and no Raspberry Pi was there: the pipeline's text, the choice and the fake.


def test_which_machine_it_is(tmp_path: Path) -> None:
    assert not is_jetson(tmp_path)
    assert not is_raspberry_pi(tmp_path)
    tree = tmp_path / "proc/device-tree"
    tree.mkdir(parents=True)
    (tree / "compatible").write_bytes(b"nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0")
    assert is_jetson(tmp_path)
    (tree / "model").write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
    assert is_raspberry_pi(tmp_path)


def test_csi_on_a_machine_that_has_none() -> None:
    with pytest.raises(CameraError, match="neither; for a USB camera use 0"):
        parse_camera("csi://0")
    for text in ("csi://", "csi://one", "csi://0?colour=red"):
        with pytest.raises(InputError):
            parse_camera(text)


def test_csi_on_a_pi_without_picamera2(tmp_path: Path) -> None:
    tree = tmp_path / "proc/device-tree"
    tree.mkdir(parents=True)
    (tree / "model").write_bytes(b"Raspberry Pi 5\0")
    with pytest.raises(MissingExtra, match="sudo apt install python3-picamera2"):
        csi_opener(0, "csi://0", CameraSettings(), tmp_path)


def test_the_argus_pipeline() -> None:
    settings = CameraSettings(width=1920, height=1080, fps=29.97, exposure_us=2000, gain=4)
    assert argus_pipeline(1, settings) == (
        'nvarguscamerasrc name=camera sensor-id=1 exposuretimerange="2000000 2000000" gainrange="4 4" '
        'ispdigitalgainrange="1 1" ! video/x-raw(memory:NVMM),width=1920,height=1080,framerate=29970/1000'
    )


@pytest.mark.usefixtures("gst")
def test_the_argus_pipeline_is_one_that_gstreamer_reads() -> None:
    with pytest.raises(CameraError, match="nvarguscamerasrc"):
        GstCapture(argus_pipeline(0, CameraSettings(exposure_us=50)), "csi://0", convert="nvvidconv")


def test_argus_takes_no_colour_temperature(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36")
    with pytest.raises(InputError, match="white_balance_k cannot be set here"):
        csi_opener(0, "csi://0", CameraSettings(white_balance_k=5000), tmp_path)


def test_the_fake_pi_is_set_and_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_picamera(monkeypatch)
    capture = PiCapture(0, "csi://0", CameraSettings(exposure_us=2000, gain=3, lock=True), 0.1)
    state = capture.camera_state()
    assert (state.exposure_us, state.gain, state.colour_gains) == (2000, 3, (1.5, 1.8))
    assert (state.auto_exposure, state.auto_white_balance, state.camera) == (False, False, "imx296")
    capture.release()
    assert FakePicamera2.log == ["start", "close"]
    for settings, said in (
        (
            CameraSettings(exposure_us=500_000),
            "exposure_us 500000 is not taken, the camera exposes for 60000",
        ),
        (CameraSettings(width=640, height=480), "width and height 640x480 are not taken"),
    ):
        with pytest.raises(CameraError, match=said):
            PiCapture(0, "csi://0", settings, 0.1)
    with pytest.raises(CameraError, match="finds 1 cameras"):
        PiCapture(1, "csi://1", CameraSettings(), 0.1)
    monkeypatch.setattr(FakePicamera2, "silent", True)
    with pytest.raises(CameraError, match="no frame for 5 s"):
        PiCapture(0, "csi://0", CameraSettings(), 0.1)
    assert FakePicamera2.log[-1] == "close", "a camera that failed is not left open"


# GenICam. No producer and no camera was there: against the fake.


def genicam(
    fake: FakeHarvester, settings: CameraSettings | None = None, device: str = "0", trigger: str | None = None
) -> GenicamCapture:
    target = GenicamTarget(device, (Path("/opt/maker/producer.cti"),), trigger)
    return GenicamCapture(target, "genicam://0", settings or CameraSettings(), None, lambda: fake)


def test_the_fake_genicam_camera_is_set_and_read_back() -> None:
    fake = FakeHarvester(quadrants())
    capture = genicam(fake, CameraSettings(exposure_us=2000, gain=3.5, lock=True), "SN42", "Line0")
    assert fake.files == ["/opt/maker/producer.cti"]
    state = capture.camera_state()
    assert (state.exposure_us, state.gain, state.camera) == (2000, 3.5, "Fake Cam SN42")
    assert (state.auto_exposure, state.auto_white_balance) == (False, False)
    assert (fake.nodes.TriggerMode.value, fake.nodes.TriggerSource.value) == ("On", "Line0")
    capture.release()
    assert fake.events == ["update", "start", "stop", "destroy", "reset"]


def test_what_the_fake_genicam_camera_does_not_take_is_named() -> None:
    for settings, said in (
        (
            CameraSettings(exposure_us=5_000_000),
            "exposure_us 5e\\+06 is not taken .*; it takes 20 to 1e\\+06",
        ),
        (CameraSettings(fps=30), "fps 30 is not taken"),
    ):
        fake = FakeHarvester(quadrants())
        with pytest.raises(CameraError, match=said):
            genicam(fake, settings)
        assert fake.events[-1] == "reset", "a camera that failed is not left open"
    fake = FakeHarvester(quadrants())
    fake.nodes.Gain.stuck = True
    with pytest.raises(CameraError, match="gain 3 is not taken, Gain reads back as 6"):
        genicam(fake, CameraSettings(gain=3))
    for device, said in (("7", "find 1 cameras"), ("SN1", "no device found")):
        with pytest.raises(CameraError, match=said):
            genicam(FakeHarvester(quadrants()), device=device)


def test_a_silent_fake_genicam_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_ad_runtime.cameras.genicam.SILENCE_S", 0.2)
    fake = FakeHarvester(quadrants())
    fake.silent = True
    with pytest.raises(CameraError, match=r"no frame for 0\.2 s"):
        genicam(fake).grab()
    # One with a trigger may be silent, until it is unplugged.
    capture = genicam(fake, trigger="Line0")
    threading.Timer(0.6, lambda: setattr(fake.nodes.Width, "gone", True)).start()
    began = time.monotonic()
    with pytest.raises(CameraError, match=r"gives no frames any more .*removed"):
        capture.grab()
    assert time.monotonic() - began > 0.5


def test_frames_that_waited_for_a_stopped_process_keep_their_time() -> None:
    clock, start, device = DeviceClock(), 5_000_000_000, 77_000_000_000
    for i in range(5):
        assert clock.time_ns(device + i * 10**8, start + i * 10**8 + i % 2 * 10**6) == start + i * 10**8
    # Three frames were taken while the process stood still for two seconds.
    for i in range(5, 8):
        assert clock.time_ns(device + i * 10**8, start + 25 * 10**8) == start + i * 10**8
    # The camera was powered off and on: its clock begins anew.
    assert clock.time_ns(1000, start + 60 * 10**8) == start + 60 * 10**8


@pytest.mark.usefixtures("gst")
def test_buffers_that_waited_for_a_stopped_process_keep_their_time() -> None:
    capture = GstCapture(
        "videotestsrc is-live=true ! video/x-raw,width=64,height=48,framerate=2/1", "gst:test"
    )
    try:
        assert capture.grab() is not None
        time.sleep(2.6)
        old = capture.grab()
        assert old is not None
        assert time.monotonic_ns() - old > 1_000_000_000, "an old frame passes for a new one"
    finally:
        capture.release()


@pytest.mark.parametrize(
    ("pattern", "letters"),
    [("BayerRG8", "RGGB"), ("BayerGB8", "GBRG"), ("BayerGR8", "GRBG"), ("BayerBG8", "BGGR")],
)
def test_bayer_patterns_give_the_right_colours(pattern: str, letters: str) -> None:
    image = quadrants()
    mosaic = np.empty(image.shape[:2], np.uint8)
    for i, letter in enumerate(letters):
        mosaic[i // 2 :: 2, i % 2 :: 2] = image[i // 2 :: 2, i % 2 :: 2, "RGB".index(letter)]
    assert corners(to_pixels(mosaic.reshape(-1), 64, 48, pattern, "x")) == "rgbn"


def test_other_genicam_formats() -> None:
    image = quadrants()
    np.testing.assert_array_equal(to_pixels(image.reshape(-1), 64, 48, "RGB8", "x"), image)
    np.testing.assert_array_equal(to_pixels(image[..., ::-1].reshape(-1), 64, 48, "BGR8", "x"), image)
    grey = to_pixels(image[..., 0].reshape(-1), 64, 48, "Mono8", "x")
    np.testing.assert_array_equal(grey, np.repeat(image[..., :1], 3, axis=2))
    with pytest.raises(CameraError, match="Mono12 is not known here; set pixel_format"):
        to_pixels(image[..., 0].reshape(-1), 64, 48, "Mono12", "x")
    with pytest.raises(ImageError, match="not 64x48"):
        to_pixels(image.reshape(-1)[:99], 64, 48, "RGB8", "x")


def test_genicam_without_its_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GENICAM_GENTL64_PATH", raising=False)
    with pytest.raises(InputError, match="needs its maker's GenTL producer"):
        parse_camera("genicam://0")
    with pytest.raises(InputError, match="there is no such file"):
        parse_camera("genicam://0?cti=/no/such.cti")
    with pytest.raises(InputError, match="white_balance_k"):
        parse_camera("genicam://0?white_balance_k=5000")
    (tmp_path / "a.cti").touch()
    monkeypatch.setenv("GENICAM_GENTL64_PATH", str(tmp_path))
    assert find_producers("") == (tmp_path / "a.cti",)
    assert [c.source for c in list_genicam(lambda: FakeHarvester(quadrants()))] == ["genicam://SN42"]
    monkeypatch.setitem(sys.modules, "harvesters", None)
    with pytest.raises((MissingExtra, ValueError), match=r"edge-ad\[genicam\]|harvesters"):
        parse_camera("genicam://0")


# V4L2, for real where the kernel has its virtual camera (modprobe vivid).


@pytest.fixture
def vivid() -> str:
    found = vivid_devices()
    if not found:
        pytest.skip("no vivid camera: the kernel module is not loaded (modprobe vivid)")
    return found[0]


def test_a_real_v4l2_camera_is_set_and_read_back(vivid: str) -> None:
    source = parse_camera(f"{vivid}?width=320&height=180&fps=30&gain=7&rotate=90")
    with source.open() as camera:
        frame = camera.read()
        assert frame is not None
        assert frame.image.shape == (320, 180, 3)
        state = source_state(source)
    assert state is not None
    assert (state.width, state.height, state.gain, state.auto_exposure) == (320, 180, 7, False)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("gain=3000", "gain 3000 is not taken .*'Gain' takes 0 to 255"),
        ("width=333&height=222", "333x222 is not taken, the camera gives 320x180"),
        ("pixel_format=ABCD", "pixel_format ABCD is not taken"),
        ("fps=3", "fps 3 is not taken, the camera gives 4"),
        ("exposure_us=2000", "exposure_us cannot be set on this camera"),
        ("white_balance_k=5000", "white_balance_k cannot be set on this camera"),
    ],
)
def test_what_a_real_v4l2_camera_does_not_take_is_named(vivid: str, query: str, said: str) -> None:
    with parse_camera(f"{vivid}?{query}").open() as camera, pytest.raises(CameraError, match=said):
        camera.read()


def test_a_real_v4l2_camera_gives_the_kernels_time(vivid: str) -> None:
    # The virtual camera stamps the end of the exposure that it pretends, which is in the future, or its beginning.
    with v4l2.opened(vivid) as device:
        first = 0x00F0F000  # VIVID_CID_VIVID_BASE of vivid-ctrls.c
        numbers = {c.name: n for n in range(first, first + 120) if (c := device.control(n)) is not None}
        device.set(numbers["Timestamp Source"], 1)
    try:
        found, _ = probe(parse_camera(f"{vivid}?width=320&height=180&fps=25"), 2.0)
    finally:
        with v4l2.opened(vivid) as device:
            device.set(numbers["Timestamp Source"], 0)
    assert found.times == "kernel"
    assert found.frames is not None
    assert 0 < found.frames.delay_ms < 500


def test_a_lock_turns_the_automatic_of_a_real_v4l2_camera_off(vivid: str) -> None:
    with v4l2.opened(vivid) as device:
        device.set(v4l2.AUTO_GAIN, 1)
    states = []
    for text in (vivid, f"{vivid}?lock=1"):
        source = parse_camera(text)
        with source.open() as camera:
            assert camera.read() is not None
            state = source_state(source)
        assert state is not None
        states.append(state)
    assert [state.auto_exposure for state in states] == [True, False]
    assert compare(states[0], states[1]) == ["automatic exposure is off, was on at the calibration"]


def test_nodes_of_a_real_v4l2_device_that_give_no_images(vivid: str) -> None:
    others = sorted(set(Path("/dev").glob("video*")) - {Path(c.source) for c in list_v4l2()})
    if not others:
        pytest.skip("this vivid has only capture nodes")
    with parse_camera(str(others[0])).open() as camera, pytest.raises(CameraError, match="gives no images"):
        camera.read()


def test_a_real_v4l2_camera_is_listed(vivid: str) -> None:
    camera = next(c for c in list_v4l2() if c.source == vivid)
    formats = {f.pixel_format: f.sizes for f in camera.formats}
    assert 25.0 in formats["YUYV"]["640x480"]
    assert camera.note is None
