"""CSI cameras, ``csi://0``: NVIDIA's Argus on a Jetson, libcamera on a Raspberry Pi."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge_ad_runtime.camera_state import CameraState
from edge_ad_runtime.cameras.capture import Capture, Shot
from edge_ad_runtime.cameras.gstreamer import GstCapture, load_gst
from edge_ad_runtime.cameras.picamera import PiCapture
from edge_ad_runtime.cameras.settings import CameraSettings, only
from edge_ad_runtime.errors import CameraError, MissingExtra

SETTLE_S = 2.0
"""Automatic exposure and white balance may look at the scene for so long before a lock without values."""

_JETSON_KEYS = ("width", "height", "fps", "rotate", "flip", "exposure_us", "gain", "lock")
PI_KEYS = (*_JETSON_KEYS, "white_balance_k")

PICAMERA_REMEDY = (
    "sudo apt install python3-picamera2, in a virtual environment made with --system-site-packages"
)


def csi_opener(
    number: int, name: str, settings: CameraSettings, root: Path = Path("/")
) -> Callable[[], Capture]:
    """What opens CSI camera ``number`` on this machine; ``root`` is the root folder that says which machine it is.

    Raises:
        CameraError: this is neither a Jetson nor a Raspberry Pi.
        MissingExtra: the package that drives the camera is not installed.
        InputError: a setting is given that this machine's cameras do not have.
    """
    if is_jetson(root):
        why = "Argus takes no pixel format and no colour temperature; use lock=1"
        only(settings, _JETSON_KEYS, name, why)
        load_gst("a CSI camera on a Jetson")
        return lambda: ArgusCapture(number, name, settings)
    if is_raspberry_pi(root) or importlib.util.find_spec("picamera2") is not None:
        only(settings, PI_KEYS, name, "libcamera chooses the sensor's own format")
        if importlib.util.find_spec("picamera2") is None:
            raise MissingExtra("picamera2", "picamera", "a CSI camera on a Raspberry Pi", PICAMERA_REMEDY)
        return lambda: PiCapture(number, name, settings, SETTLE_S)
    raise CameraError(
        f"{name}: CSI cameras are known on a Jetson and a Raspberry Pi, and this machine is neither; for a USB camera "
        "use 0 or /dev/video0, for anything else gst:PIPELINE"
    )


def is_jetson(root: Path = Path("/")) -> bool:
    """Whether the device tree, or NVIDIA's release file, names a Tegra."""
    return (root / "etc/nv_tegra_release").exists() or b"nvidia,tegra" in _read(
        root / "proc/device-tree/compatible"
    )


def is_raspberry_pi(root: Path = Path("/")) -> bool:
    """Whether the device tree names a Raspberry Pi."""
    return _read(root / "proc/device-tree/model").startswith(b"Raspberry Pi")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def argus_pipeline(number: int, settings: CameraSettings) -> str:
    """The pipeline up to NVIDIA's memory.

    Properties of ``nvarguscamerasrc`` (L4T Multimedia, Accelerated GStreamer): ``exposuretimerange`` in nanoseconds,
    ``gainrange`` and ``ispdigitalgainrange`` as factors, each lowest and highest.
    """
    words = ["nvarguscamerasrc", "name=camera", f"sensor-id={number}"]
    if settings.exposure_us is not None:
        exposure_ns = round(settings.exposure_us * 1000)
        words.append(f'exposuretimerange="{exposure_ns} {exposure_ns}"')
    if settings.gain is not None:
        words.append(f'gainrange="{settings.gain:g} {settings.gain:g}" ispdigitalgainrange="1 1"')
    caps = ["video/x-raw(memory:NVMM)"]
    if settings.width is not None:
        caps += [f"width={settings.width}", f"height={settings.height}"]
    if settings.fps is not None:
        caps.append(f"framerate={round(settings.fps * 1000)}/1000")
    return f"{' '.join(words)} ! {','.join(caps)}"


class ArgusCapture:
    """A CSI camera of a Jetson. What the sensor does cannot be read back through GStreamer: the state is what the
    driver's properties say."""

    def __init__(self, number: int, name: str, settings: CameraSettings) -> None:
        """Start the camera.

        Raises:
            CameraError: there is no such camera, or it does not take a setting.
        """
        self._name, self._settings = name, settings
        self._inner = GstCapture(argus_pipeline(number, settings), name, convert="nvvidconv")
        try:
            self._camera = self._inner.element("camera")
            if settings.lock:
                self._lock()
        except BaseException:
            self._inner.release()
            raise
        self._checked = settings.width is None

    def _lock(self) -> None:
        until = time.monotonic() + SETTLE_S
        while time.monotonic() < until:
            if self._inner.grab() is None:
                raise CameraError(f"{self._name}: ended before it could be locked")
        for key in ("aelock", "awblock"):
            self._camera.set_property(key, True)
            if not self._camera.get_property(key):
                raise CameraError(f"{self._name}: lock is not taken ({key} stays off)")

    @property
    def timestamps(self) -> str:
        return self._inner.timestamps

    def camera_state(self) -> CameraState:
        locked = bool(self._camera.get_property("aelock"))
        exposure, gain = self._settings.exposure_us, self._settings.gain
        return msgspec.structs.replace(
            self._inner.camera_state(),
            camera=f"CSI sensor {self._camera.get_property('sensor-id')}",
            auto_exposure=not locked and (exposure is None or gain is None),
            exposure_us=exposure,
            gain=gain,
            auto_white_balance=not self._camera.get_property("awblock"),
        )

    def grab(self) -> int | None:
        t_ns = self._inner.grab()
        if t_ns is not None and not self._checked:
            self._checked = True
            state, asked = self._inner.camera_state(), (self._settings.width, self._settings.height)
            if (state.width, state.height) != asked:
                raise CameraError(
                    f"{self._name}: width and height {asked[0]}x{asked[1]} are not taken, the camera gives "
                    f"{state.width}x{state.height}"
                )
        return t_ns

    def retrieve(self) -> Shot:
        return self._inner.retrieve()

    def release(self) -> None:
        self._inner.release()
