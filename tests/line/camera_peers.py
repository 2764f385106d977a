"""Peers of the camera kinds: what is real where it runs here, and fakes of what cannot."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

SYSTEM_PYTHON = "/usr/bin/python3"
DIST_PACKAGES = Path("/usr/lib/python3/dist-packages")


def gst_or_skip(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Make the distribution's PyGObject importable here, and only that of its packages; skip where it is missing."""
    if "gi" not in sys.modules and (DIST_PACKAGES / "gi").is_dir():
        folder = tmp_path_factory.mktemp("gi")
        (folder / "gi").symlink_to(DIST_PACKAGES / "gi")
        sys.path.append(str(folder))
    try:
        import gi

        gi.require_version("Gst", "1.0")
        gi.require_version("GstApp", "1.0")
        from gi.repository import Gst
    except (ImportError, ValueError) as error:
        pytest.skip(f"PyGObject with GStreamer is not usable by this Python: {error}")
    Gst.init(None)
    if Gst.ElementFactory.find("videotestsrc") is None:
        pytest.skip("GStreamer's videotestsrc (gstreamer1.0-plugins-base) is not installed")


_RTSP = """
import sys
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    "( videotestsrc is-live=true pattern=red ! video/x-raw,format=I420,width=64,height=48,framerate=25/1 "
    "! jpegenc ! rtpjpegpay name=pay0 pt=26 )"
)
factory.set_shared(True)
server.get_mount_points().add_factory("/belt", factory)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""


@contextlib.contextmanager
def rtsp_server() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A real RTSP server (gst-rtsp-server, under the distribution's Python): its process and its port."""
    command = [SYSTEM_PYTHON, "-c", textwrap.dedent(_RTSP), "0"]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError as error:
        pytest.skip(f"no system Python: {error}")
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            pytest.skip(
                "gst-rtsp-server is not installed (gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-good)"
            )
        yield process, int(line)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def vivid_devices() -> list[str]:
    """Nodes of the kernel's virtual V4L2 camera that give images."""
    from edge_ad_runtime.cameras.listing import list_v4l2

    return [c.source for c in list_v4l2() if c.name.startswith("vivid") and c.formats]


class FakeNode:
    """A fake feature of a GenICam camera, with a range or choices."""

    def __init__(self, value: Any, low: float | None = None, high: float | None = None) -> None:
        self._value, self.min, self.max = value, low, high
        self.gone = False
        self.stuck = False

    @property
    def value(self) -> Any:
        if self.gone:
            raise RuntimeError("AccessException: the device was removed")
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        if self.min is not None and not self.min <= value <= (self.max or 0):
            raise ValueError("OutOfRangeException")
        if not self.stuck:
            self._value = value


class FakeHarvester:
    """A FAKE of ``harvesters.core.Harvester`` 1.4 with one camera: the calls and attributes that edge-ad uses, no
    more. No GenTL producer and no camera were there to run against."""

    def __init__(
        self, image: npt.NDArray[np.uint8], pixel_format: str = "RGB8", serial: str = "SN42"
    ) -> None:
        height, width = image.shape[:2]
        self.image, self.files, self.events = image, list[str](), list[str]()
        self.device_info_list = [SimpleNamespace(vendor="Fake", model="Cam", serial_number=serial)]
        self.nodes = SimpleNamespace(
            Width=FakeNode(width, 1, 4096), Height=FakeNode(height, 1, 4096), PixelFormat=FakeNode(pixel_format),
            DeviceVendorName=FakeNode("Fake"), DeviceModelName=FakeNode("Cam"), DeviceSerialNumber=FakeNode(serial),
            ExposureAuto=FakeNode("Continuous"), ExposureTime=FakeNode(10_000.0, 20.0, 1e6),
            GainAuto=FakeNode("Continuous"), Gain=FakeNode(6.0, 0.0, 24.0), BalanceWhiteAuto=FakeNode("Continuous"),
            TriggerSelector=FakeNode("FrameStart"), TriggerMode=FakeNode("Off"), TriggerSource=FakeNode("Software"),
        )  # fmt: skip
        self.silent = False
        self.held = 0
        self.period_s = 0.02

    def add_file(self, path: str) -> None:
        self.files.append(path)

    def update(self) -> None:
        self.events.append("update")

    def create(self, key: int | dict[str, str]) -> FakeHarvester:
        if isinstance(key, dict) and key["serial_number"] != self.device_info_list[0].serial_number:
            raise ValueError("no device found: provide valid device information")
        return self

    @property
    def remote_device(self) -> Any:
        return SimpleNamespace(node_map=self.nodes)

    def start(self) -> None:
        self.events.append("start")

    def try_fetch(self, *, timeout: float) -> Any:
        if self.silent:
            time.sleep(min(timeout, 0.05))
            return None
        time.sleep(self.period_s)
        self.held += 1
        assert self.held <= 3, "buffers are not given back"
        component = SimpleNamespace(
            data=self.image.reshape(-1), width=self.image.shape[1], height=self.image.shape[0],
            data_format=self.nodes.PixelFormat._value,
        )  # fmt: skip
        payload = SimpleNamespace(components=[component])
        return SimpleNamespace(payload=payload, queue=self._queue, timestamp_ns=time.monotonic_ns() - 10**12)

    def _queue(self) -> None:
        self.held -= 1

    def stop(self) -> None:
        self.events.append("stop")

    def destroy(self) -> None:
        self.events.append("destroy")

    def reset(self) -> None:
        self.events.append("reset")


class FakePicamera2:
    """A FAKE of ``picamera2.Picamera2`` 0.3 with one camera: the calls that edge-ad uses, no more. No Raspberry Pi
    was there to run on. Settings reach the metadata two frames late, as they do there."""

    image: npt.NDArray[np.uint8]
    controls_there: frozenset[str] = frozenset({"ExposureTime", "AnalogueGain", "ColourTemperature"})
    silent = False
    longest_us = 60_000
    log: list[str]

    @staticmethod
    def global_camera_info() -> list[dict[str, Any]]:
        return [{"Model": "imx296", "Id": "/base/i2c/imx296@1a", "Num": 0}]

    def __init__(self, number: int) -> None:
        self.camera_controls = dict.fromkeys(self.controls_there, (0, 1, 0))
        self._values: dict[str, Any] = {"ExposureTime": 9000, "AnalogueGain": 2.0, "ColourGains": (1.5, 1.8)}
        self._pending: list[dict[str, Any]] = []
        self.open_requests = 0

    def create_video_configuration(self, main: dict[str, Any], controls: dict[str, Any]) -> dict[str, Any]:
        height, width = self.image.shape[:2]
        return {"main": {"size": (width, height), **main}, "controls": controls}

    def configure(self, config: dict[str, Any]) -> None:
        assert config["main"]["format"] == "BGR888", "the format that is red, green, blue in memory"
        height, width = self.image.shape[:2]
        config["main"]["size"] = (width, height)  # the fake sensor has one size
        self._config = config
        self.set_controls(config["controls"])

    def camera_configuration(self) -> dict[str, Any]:
        return self._config

    def set_controls(self, controls: dict[str, Any]) -> None:
        self._pending = [{}, {}, dict(controls)]

    def start(self) -> None:
        self.log.append("start")

    def capture_request(self, wait: float) -> Any:
        if self.silent:
            raise concurrent.futures.TimeoutError
        time.sleep(0.02)
        if self._pending:
            self._values |= self._pending.pop(0)
        self._values["ExposureTime"] = min(self._values["ExposureTime"], self.longest_us)
        self.open_requests += 1
        assert self.open_requests <= 1, "requests are not given back"
        stamp = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - 5_000_000
        return SimpleNamespace(
            get_metadata=lambda: {**self._values, "SensorTimestamp": stamp},
            make_array=lambda _name: self.image.copy(), release=self._release,
        )  # fmt: skip

    def _release(self) -> None:
        self.open_requests -= 1

    def close(self) -> None:
        self.log.append("close")


def stop_process(process: subprocess.Popen[str], number: int) -> None:
    """Send a signal to the server."""
    os.kill(process.pid, number)
