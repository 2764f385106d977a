"""Camera settings and state: read, applied, recorded with a calibration, compared at the start; ``edge-ad cameras``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result

from edge_ad.cli import cli
from edge_ad.cli.camera_check import check_camera
from edge_ad_calibration.history import History
from edge_ad_runtime.bundle import open_bundle
from edge_ad_runtime.calibration import Calibration, decode_calibration, encode_calibration
from edge_ad_runtime.camera_state import CameraState, automatic, compare
from edge_ad_runtime.cameras import CameraSettings, parse_camera, v4l2
from edge_ad_runtime.cameras.adjusted import CameraStateError, DeviceSource, check_state
from edge_ad_runtime.cameras.listing import list_v4l2
from edge_ad_runtime.cameras.mock import MockSource
from edge_ad_runtime.cameras.v4l2_capture import Controls
from edge_ad_runtime.errors import CameraError, EdgeAdError, InputError
from tests.conftest import good_part


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "parts"
    folder.mkdir()
    for i in range(30):
        assert cv2.imwrite(str(folder / f"{i:02d}.png"), good_part(i))
    return folder


# Settings.


def settings_of(text: str) -> CameraSettings:
    source = parse_camera(text)
    assert isinstance(source, (DeviceSource, MockSource))
    return source.settings


def test_settings_in_a_camera_text() -> None:
    text = "0?width=1280&height=720&fps=29.97&pixel_format=MJPG&rotate=90&flip=both&exposure_us=2000&gain=4&lock=1"
    assert settings_of(text) == CameraSettings(
        width=1280, height=720, fps=29.97, pixel_format="MJPG", rotate=90, flip="both", exposure_us=2000, gain=4,
        lock=True,
    )  # fmt: skip
    assert parse_camera(text).name == "/dev/video0"
    assert settings_of("/dev/video3") == CameraSettings()
    assert settings_of("/dev/video3?white_balance_k=5000") == CameraSettings(white_balance_k=5000)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0?width=1280", "width and height must be given together"),
        ("0?width=0&height=5", "width 0 must be 1 to 16384"),
        ("0?rotate=45", "rotate"),
        ("0?flip=left", "flip"),
        ("0?fps=0", "fps 0 must be above 0"),
        ("0?fps=nan", "fps"),
        ("0?exposure_us=-5", "exposure_us -5 must be 1"),
        ("0?exposure_us=soon", "exposure_us"),
        ("0?gain=inf", "gain"),
        ("0?white_balance_k=10", "white_balance_k 10 must be 1000 to 20000"),
        ("0?lock=yes", "lock=yes"),
        ("0?exposure=5", "'exposure' is unknown; accepted are width"),
        ("0?gain=1&gain=2", "given twice"),
        ("0?pixel_format=../x", "pixel_format"),
    ],
)
def test_settings_that_are_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_camera(text)


def test_settings_as_an_object(folder: Path) -> None:
    source = parse_camera("0?gain=4", settings=CameraSettings(exposure_us=500))
    assert isinstance(source, DeviceSource)
    assert source.settings == CameraSettings(gain=4, exposure_us=500)
    with pytest.raises(InputError, match="gain is set both"):
        parse_camera("0?gain=4", settings=CameraSettings(gain=5))
    for text in ("rtsp://host/x?width=4", f"{folder}"):
        with pytest.raises(InputError, match="exposure_us cannot be set here"):
            parse_camera(text, settings=CameraSettings(exposure_us=500))
    # What stands behind the question mark of an address belongs to the camera.
    assert parse_camera("http://host/x?rotate=90&exposure_us=1").name == "http://host/x?***"


def test_files_are_turned_and_paced(folder: Path) -> None:
    source = parse_camera(str(folder), settings=CameraSettings(rotate=90, fps=50))
    with source.open() as camera:
        frames = [camera.read() for _ in range(4)]
    assert frames[0] is not None
    assert frames[3] is not None
    assert frames[0].image.shape == (64, 48, 3)
    expected = cv2.rotate(cv2.cvtColor(good_part(0), cv2.COLOR_BGR2RGB), cv2.ROTATE_90_CLOCKWISE)
    np.testing.assert_array_equal(frames[0].image, expected)
    assert frames[3].t_ns - frames[0].t_ns >= 59_000_000


# State.

STATE = CameraState(
    camera="cam", width=640, height=480, pixel_format="MJPG", auto_exposure=False, exposure_us=2000.0, gain=4.0,
    auto_white_balance=False, white_balance_k=5000,
)  # fmt: skip


def changed(**values: object) -> CameraState:
    return msgspec.structs.replace(STATE, **values)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({}, []),
        ({"exposure_us": 2030.0, "gain": 4.05}, []),
        ({"exposure_us": 2100.0}, ["the exposure is 2100 µs, was 2000 µs at the calibration"]),
        ({"gain": 5.0}, ["the gain is 5, was 4 at the calibration"]),
        ({"gain": None}, ["the gain cannot be read now; it was 4 at the calibration"]),
        (
            {"auto_exposure": True, "exposure_us": 9.0},
            ["automatic exposure is on, was off at the calibration"],
        ),
        ({"auto_white_balance": True}, ["automatic white balance is on, was off at the calibration"]),
        ({"white_balance_k": 6500}, ["the white balance is 6500 K, was 5000 K at the calibration"]),
        ({"width": 1280, "height": 720}, ["the image size is 1280x720, was 640x480 at the calibration"]),
        ({"pixel_format": "YUYV"}, ["the pixel format is YUYV, was MJPG at the calibration"]),
        ({"rotate": 90}, ["the rotation is 90°, was 0° at the calibration"]),
        ({"flip": "both"}, ["the flip is both, was none at the calibration"]),
        ({"camera": "other"}, ["the camera is other, was cam at the calibration"]),
    ],
)
def test_differences_of_two_states(now: dict[str, object], said: list[str]) -> None:
    assert compare(STATE, changed(**now)) == said


def test_what_was_not_recorded_or_was_automatic_is_not_compared() -> None:
    assert compare(CameraState(), STATE) == []
    own = changed(auto_exposure=True, exposure_us=7.0)
    assert compare(own, changed(auto_exposure=True, exposure_us=900.0, gain=1.0)) == []
    assert automatic(own) == ["automatic exposure is on"]
    gains = CameraState(colour_gains=(1.5, 1.8))
    assert compare(gains, CameraState(colour_gains=(1.5, 2.0))) == [
        "the colour gains are 1.5 and 2, were 1.5 and 1.8 at the calibration"
    ]


def test_a_state_in_a_calibration_file(tiny_bundle: Path) -> None:
    plain = open_bundle(tiny_bundle).calibration
    for state in (STATE, CameraState(colour_gains=(1.5, 1.8)), None):
        calibration = msgspec.structs.replace(plain, camera=state)
        assert decode_calibration(encode_calibration(calibration), "x") == calibration
    fields = json.loads(encode_calibration(plain))
    del fields["camera"]
    fields["format_version"] = 2
    assert decode_calibration(json.dumps(fields).encode(), "x").camera is None


# V4L2's controls, against a fake of the ioctls; tests.line.test_camera_kinds has them on the kernel's own camera.


class FakeV4l2:
    """A FAKE of :class:`edge_ad_runtime.cameras.v4l2.V4l2Device`: a USB camera with exposure, gain and white balance."""

    def __init__(self) -> None:
        self.values = {
            v4l2.EXPOSURE_AUTO: 3, v4l2.EXPOSURE_ABSOLUTE: 156, v4l2.GAIN: 10, v4l2.AUTO_WHITE_BALANCE: 1,
            v4l2.WHITE_BALANCE_K: 4000,
        }  # fmt: skip
        self.ranges = {
            v4l2.EXPOSURE_ABSOLUTE: (3, 2047),
            v4l2.GAIN: (0, 100),
            v4l2.WHITE_BALANCE_K: (2800, 6500),
        }
        self.formats_found: tuple[v4l2.Format, ...] = ()
        self.captures = True

    def capability(self) -> v4l2.Capability:
        return v4l2.Capability("uvcvideo", "HD Camera", "usb-1", self.captures)

    def formats(self) -> tuple[v4l2.Format, ...]:
        return self.formats_found

    def control(self, number: int) -> v4l2.Control | None:
        low, high = self.ranges.get(number, (0, 3))
        return v4l2.Control("Name", low, high, 1) if number in self.values else None

    def get(self, number: int) -> int | None:
        return self.values.get(number)

    def set(self, number: int, value: int) -> None:
        # As uvcvideo does: a manual value is refused while the automatic is on, others are clamped.
        manual = {
            v4l2.EXPOSURE_ABSOLUTE: (v4l2.EXPOSURE_AUTO, v4l2.EXPOSURE_MANUAL),
            v4l2.WHITE_BALANCE_K: (v4l2.AUTO_WHITE_BALANCE, 0),
        }
        if number in manual and self.values[manual[number][0]] != manual[number][1]:
            raise OSError(13, "Permission denied")
        low, high = self.ranges.get(number, (0, 3))
        self.values[number] = min(max(value, low), high)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeV4l2:
    fake = FakeV4l2()

    @contextmanager
    def opened(_path: str) -> Iterator[FakeV4l2]:
        yield fake

    monkeypatch.setattr(v4l2, "opened", opened)
    return fake


def test_the_automatics_go_off_before_the_values_are_set(device: FakeV4l2) -> None:
    controls = Controls("/dev/video0")
    controls.apply(CameraSettings())
    assert controls.state(1, 1, "x").auto_exposure
    assert device.values[v4l2.EXPOSURE_AUTO] == 3, "nothing was asked for, nothing is touched"
    controls.apply(CameraSettings(exposure_us=2000, gain=7, white_balance_k=5000))
    state = controls.state(640, 480, "MJPG")
    assert state == CameraState(
        camera="HD Camera", width=640, height=480, pixel_format="MJPG", auto_exposure=False, exposure_us=2000.0,
        gain=7.0, auto_white_balance=False, white_balance_k=5000,
    )  # fmt: skip


def test_a_lock_alone_keeps_the_values(device: FakeV4l2) -> None:
    controls = Controls("/dev/video0")
    controls.apply(CameraSettings(lock=True))
    state = controls.state(1, 1, "x")
    assert (state.auto_exposure, state.auto_white_balance, state.exposure_us) == (False, False, 15_600)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (CameraSettings(exposure_us=500_000), "exposure_us .*'Name' takes 300 to 204700 in steps of 100"),
        (CameraSettings(gain=900), "gain .*takes 0 to 100"),
        (CameraSettings(white_balance_k=9000), "white_balance_k .*takes 2800 to 6500"),
    ],
)
def test_a_value_that_the_device_clamps_is_refused(
    device: FakeV4l2, settings: CameraSettings, said: str
) -> None:
    with pytest.raises(CameraError, match=said):
        Controls("/dev/video0").apply(settings)


def test_a_setting_that_is_lost_when_streaming_begins_is_noticed(device: FakeV4l2) -> None:
    settings = CameraSettings(exposure_us=2000)
    controls = Controls("/dev/video0")
    controls.apply(settings)
    controls.verify(settings)
    device.values[v4l2.EXPOSURE_AUTO] = 3
    with pytest.raises(CameraError, match=r"lock 1 is not taken \(reads back as 3\)"):
        controls.verify(settings)


def test_nodes_that_are_no_cameras(device: FakeV4l2) -> None:
    controls = Controls("/dev/video0")
    yuyv, raw = v4l2.Format("YUYV", "YUYV 4:2:2", ()), v4l2.Format("RG10", "10-bit Bayer RGRG/GBGB", ())
    for formats in ((), (yuyv,), (raw, yuyv)):
        device.formats_found = formats
        controls.check_node()
    device.formats_found = (raw,)
    with pytest.raises(CameraError, match=r"raw Bayer data only \(RG10\).*csi://0"):
        controls.check_node()
    device.captures = False
    with pytest.raises(CameraError, match="metadata or output node"):
        controls.check_node()


def test_a_file_that_is_no_v4l2_device() -> None:
    with pytest.raises(CameraError, match="is no camera"):
        Controls("/dev/null").check_node()


def test_listing_names_what_may_not_be_opened(tmp_path: Path) -> None:
    sysfs = tmp_path / "video4linux"
    for node, name in (("video10", "Second"), ("video2", "First"), ("v4l-subdev0", "none")):
        (sysfs / node).mkdir(parents=True)
        (sysfs / node / "name").write_text(f"{name}\n")
    found = list_v4l2(sysfs, tmp_path / "dev")
    assert [(c.name, c.source) for c in found] == [
        ("First", f"{tmp_path}/dev/video2"),
        ("Second", f"{tmp_path}/dev/video10"),
    ]
    assert "cannot be opened" in (found[0].note or "")
    assert list_v4l2(tmp_path / "none", tmp_path) == []


# From recalibration to run.


def recalibrated(bundle: Path, camera: str, state: Path) -> tuple[Result, Calibration | None]:
    result = CliRunner().invoke(
        cli, ["recalibrate", str(bundle), "--camera", camera, "--frames", "30", "--state", str(state)]
    )
    if result.exit_code:
        return result, None
    return result, History(state, open_bundle(bundle)).current()


def test_a_calibration_knows_its_camera_and_the_line_refuses_another(
    tiny_bundle: Path, folder: Path, tmp_path: Path
) -> None:
    locked = f"mock:{folder}?exposure_us=2000&gain=4&white_balance_k=5000"
    result, calibration = recalibrated(tiny_bundle, locked, tmp_path / "state")
    assert calibration is not None, result.output
    assert "automatic" not in result.output
    assert calibration.camera is not None
    assert (calibration.camera.exposure_us, calibration.camera.auto_exposure) == (2000, False)
    said: list[str] = []
    same = check_camera(parse_camera(locked), calibration, said.append)
    assert said == []
    with same.open() as camera:
        assert camera.read() is not None
    other = locked.replace("2000", "4000")
    with pytest.raises(CameraStateError, match=r"exposure is 4000 µs, was 2000 µs.*recalibrate"):
        check_camera(parse_camera(other), calibration, said.append)
    allowed = check_camera(parse_camera(other), calibration, said.append, allow_change=True)
    assert said == ["warning: the exposure is 4000 µs, was 2000 µs at the calibration"]
    with allowed.open() as camera:
        assert camera.read() is not None


@pytest.mark.parametrize("rate", ["", "&fps=50"])
def test_a_camera_that_comes_back_changed_gives_no_frames(folder: Path, rate: str) -> None:
    source = parse_camera(f"mock:{folder}?lock=1{rate}")
    assert isinstance(source, MockSource)
    expecting = source.expecting(CameraState(camera="mock", auto_exposure=True))
    with pytest.raises(EdgeAdError, match="automatic exposure is off, was on"), expecting.open() as camera:
        camera.read()


def test_a_camera_that_is_away_is_compared_when_it_comes(
    tiny_bundle: Path, folder: Path, tmp_path: Path
) -> None:
    calibration = msgspec.structs.replace(
        open_bundle(tiny_bundle).calibration, camera=CameraState(auto_exposure=False)
    )
    source = parse_camera(f"mock:{folder}?loop=1")
    assert isinstance(source, MockSource)
    source.state.away = 1
    said: list[str] = []
    watched = check_camera(source, calibration, said.append)
    assert "could not be compared" in said[0]
    with pytest.raises(CameraStateError), watched.open() as camera:
        camera.read()


def test_an_automatic_camera_is_warned_of_and_files_have_no_state(
    tiny_bundle: Path, folder: Path, tmp_path: Path
) -> None:
    result, calibration = recalibrated(tiny_bundle, f"mock:{folder}", tmp_path / "a")
    assert calibration is not None, result.output
    assert "automatic exposure is on and automatic white balance is on" in result.output
    result, calibration = recalibrated(tiny_bundle, str(folder), tmp_path / "b")
    assert calibration is not None, result.output
    assert calibration.camera is None
    source = parse_camera("/dev/video_none")
    assert check_camera(source, calibration, pytest.fail) is source, "nothing was recorded, nothing is opened"
    assert check_state(parse_camera(str(folder)), STATE) == []


# edge-ad cameras.


def test_cameras_lists_nothing_without_an_error() -> None:
    result = CliRunner().invoke(cli, ["cameras"])
    assert result.exit_code == 0, result.output
    listed = CliRunner().invoke(cli, ["cameras", "--json"])
    assert listed.exit_code == 0
    found = json.loads(listed.stdout)
    assert set(found) == {"cameras", "notes"}
    assert found["cameras"] or "no camera was found" in result.output


def test_cameras_shows_how_one_behaves(folder: Path, tmp_path: Path) -> None:
    text, picture = f"mock:{folder}?fps=50&loop=1&exposure_us=2000&rotate=90", tmp_path / "now.png"
    result = CliRunner().invoke(cli, ["cameras", text, "--seconds", "0.5", "--snapshot", str(picture)])
    assert result.exit_code == 0, result.output
    for part in (
        "image          48x64",
        "fps over",
        "jitter",
        "locked, 2000 µs",
        "automatic white balance is on",
    ):
        assert part in result.output, result.output
    written = cv2.imread(str(picture))
    assert written is not None
    assert written.shape == (64, 48, 3)
    result = CliRunner().invoke(cli, ["cameras", text, "--seconds", "0.2", "--json"])
    found = json.loads(result.stdout)
    assert found["state"]["exposure_us"] == 2000
    assert found["frames"]["fps"] > 5


def test_cameras_with_bad_arguments(folder: Path, tmp_path: Path) -> None:
    assert CliRunner().invoke(cli, ["cameras", "--snapshot", "x.png"]).exit_code == 2
    bad = CliRunner().invoke(cli, ["cameras", str(folder), "--snapshot", str(tmp_path / "x.doc")])
    assert isinstance(bad.exception, InputError)
    assert not (tmp_path / "x.doc").exists()
