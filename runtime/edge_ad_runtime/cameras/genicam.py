"""GigE Vision and USB3 Vision cameras by GenICam: ``genicam://0?cti=/opt/maker/lib/producer.cti``.

Through harvesters and the maker's GenTL producer (a ``.cti`` file). Features have the names of the GenICam Standard
Features Naming Convention (SFNC 2): ``ExposureTime`` in microseconds, ``Gain`` in decibels.
"""

from __future__ import annotations

import importlib.util
import os
import re
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_ad_runtime.camera_state import CameraState
from edge_ad_runtime.cameras.capture import Shot
from edge_ad_runtime.cameras.settings import SETTINGS_KEYS, CameraSettings, only
from edge_ad_runtime.errors import CameraError, ImageError, InputError, MissingExtra
from edge_ad_runtime.stopping import StopRequest
from edge_ad_runtime.types import Image

SILENCE_S = 5.0
_STEP_S = 0.5
# Cameras take exposures in rows and gains in steps; rates in whole microseconds.
_TOLERANCE = 0.02
_CLOCK_FRAMES = 64
GENTL_PATH = "GENICAM_GENTL64_PATH"
"""The GenTL standard's variable: folders with producers, joined by colons."""

KEYS = (*(key for key in SETTINGS_KEYS if key != "white_balance_k"), "cti", "trigger")

# OpenCV names Bayer patterns by the first two pixels of the second row; its RGGB aliases by the first, as GenICam.
_CONVERSIONS = {
    "Mono8": cv2.COLOR_GRAY2RGB,
    "BGR8": cv2.COLOR_BGR2RGB,
    "BayerRG8": cv2.COLOR_BayerRGGB2RGB,
    "BayerGB8": cv2.COLOR_BayerGBRG2RGB,
    "BayerGR8": cv2.COLOR_BayerGRBG2RGB,
    "BayerBG8": cv2.COLOR_BayerBGGR2RGB,
}


@dataclass(frozen=True)
class GenicamTarget:
    """Which camera: ``device`` is its place in the producers' list (up to three digits) or its serial number.
    ``trigger`` is the camera's own input, such as ``Line0``, that starts each exposure; None lets it run freely."""

    device: str
    producers: tuple[Path, ...]
    trigger: str | None = None


def make_harvester() -> Any:
    """A harvester of the package.

    Raises:
        MissingExtra: it is not installed.
    """
    if importlib.util.find_spec("harvesters") is None:
        raise MissingExtra("harvesters", "genicam", "a GenICam camera")
    from harvesters.core import Harvester

    return Harvester()


def find_producers(cti: str) -> tuple[Path, ...]:
    """The producer files: the given one, or all in the folders of ``GENICAM_GENTL64_PATH``.

    Raises:
        InputError: there is none.
    """
    if cti:
        if not Path(cti).is_file():
            raise InputError(f"cti={cti}: there is no such file; it comes with the camera maker's software")
        return (Path(cti),)
    folders = [Path(p) for p in os.environ.get(GENTL_PATH, "").split(":") if p]
    found = tuple(sorted(p for folder in folders if folder.is_dir() for p in folder.glob("*.cti")))
    if not found:
        raise InputError(
            f"a GenICam camera needs its maker's GenTL producer: give cti=/path/producer.cti, or set {GENTL_PATH}"
        )
    return found


class DeviceClock:
    """The time of arrival of frames that a camera has stamped by a clock of its own.

    The shortest delay of the last frames is how far that clock is from the monotonic one; a frame that came later than
    by that delay has waited, in the driver or because this process was stopped, and is given the time when it should
    have come. A frame that is given to the wrong part is worse than one that is not given. The number of frames bounds
    what two quartz clocks drift meanwhile: 50 millionths are 3 ms in a minute.
    """

    def __init__(self) -> None:
        self._delays: deque[int] = deque(maxlen=_CLOCK_FRAMES)
        self._stamp = 0

    def time_ns(self, stamp: int, now_ns: int) -> int:
        """A frame with the camera's ``stamp`` in nanoseconds was fetched at ``now_ns``."""
        if stamp <= self._stamp:  # it was reset, or does not run
            self._delays.clear()
        self._stamp = stamp
        self._delays.append(now_ns - stamp)
        return stamp + min(self._delays)


class GenicamCapture:
    """An opened camera.

    ``grab`` gives the time of arrival, by the camera's own clock where it stamps its frames, see :class:`DeviceClock`.
    A camera with a trigger of its own
    may be silent for ever; meanwhile it is asked twice a second whether it is still there.
    """

    def __init__(
        self,
        target: GenicamTarget,
        name: str,
        settings: CameraSettings,
        stop: StopRequest | None = None,
        make: Callable[[], Any] = make_harvester,
    ) -> None:
        """Open the camera and set it.

        Raises:
            CameraError: it is missing or in use, or does not take a setting.
            MissingExtra: harvesters is not installed.
        """
        self._name, self._target, self._stop = name, target, stop
        self._silence_s = None if target.trigger else SILENCE_S
        self._buffer: Any = None
        self._acquirer: Any = None
        self._t_ns = 0
        self._clock = DeviceClock()
        self._harvester = make()
        try:
            for path in target.producers:
                self._harvester.add_file(str(path))
            self._harvester.update()
            self._acquirer = self._harvester.create(self._search_key())
            self._features = _Features(self._acquirer.remote_device.node_map, name)
            self._apply(settings)
            self._acquirer.start()
        except (CameraError, MissingExtra):
            self.release()
            raise
        except Exception as error:  # the producers' errors have no common root
            self.release()
            raise CameraError(f"{name}: cannot be opened ({_words(error)})") from error

    def _search_key(self) -> int | dict[str, str]:
        device = self._target.device
        if not re.fullmatch(r"\d{1,3}", device):
            return {"serial_number": device}
        count = len(self._harvester.device_info_list)
        if int(device) >= count:
            raise CameraError(
                f"{self._name}: the producers find {count} cameras; check cable, power and address"
            )
        return int(device)

    def _apply(self, s: CameraSettings) -> None:
        f = self._features
        if s.pixel_format is not None:
            f.set("pixel_format", "PixelFormat", s.pixel_format)
        if s.width is not None and s.height is not None:
            # Offsets of before may not leave room.
            f.set_if_there("OffsetX", 0)
            f.set_if_there("OffsetY", 0)
            f.set("width", "Width", s.width)
            f.set("height", "Height", s.height)
        if s.lock or s.exposure_us is not None:
            f.set_if_there("ExposureAuto", "Off")
        if s.lock or s.gain is not None:
            f.set_if_there("GainAuto", "Off")
        if s.lock:
            f.set_if_there("BalanceWhiteAuto", "Off")
        if s.exposure_us is not None:
            f.set("exposure_us", "ExposureTime", float(s.exposure_us))
        if s.gain is not None:
            f.set("gain", "Gain", float(s.gain))
        if s.fps is not None:
            f.set_if_there("AcquisitionFrameRateEnable", True)
            f.set("fps", "AcquisitionFrameRate", float(s.fps))
        f.set_if_there("TriggerSelector", "FrameStart")
        if self._target.trigger is None:
            f.set_if_there("TriggerMode", "Off")
        else:
            f.set("trigger", "TriggerSource", self._target.trigger)
            f.set("trigger", "TriggerMode", "On")

    @property
    def timestamps(self) -> str:
        return "arrival"

    def camera_state(self) -> CameraState:
        f = self._features
        names = [f.get(n) for n in ("DeviceVendorName", "DeviceModelName", "DeviceSerialNumber")]
        automatics = [a for a in (f.get("ExposureAuto"), f.get("GainAuto")) if a is not None]
        white = f.get("BalanceWhiteAuto")
        exposure, gain = f.get("ExposureTime"), f.get("Gain")
        return CameraState(
            camera=" ".join(str(n) for n in names if n) or None,
            width=f.get("Width"),
            height=f.get("Height"),
            pixel_format=f.get("PixelFormat"),
            auto_exposure=any(a != "Off" for a in automatics) if automatics else None,
            exposure_us=None if exposure is None else float(exposure),
            gain=None if gain is None else float(gain),
            auto_white_balance=None if white is None else white != "Off",
        )

    def grab(self) -> int | None:
        self._let_go()
        until = None if self._silence_s is None else time.monotonic() + self._silence_s
        try:
            while not (self._stop is not None and self._stop.requested):
                # harvesters measures this wait by the wall clock; the camera's own thread sees a longer silence.
                self._buffer = self._acquirer.try_fetch(timeout=_STEP_S)
                if self._buffer is not None:
                    now, stamp = time.monotonic_ns(), getattr(self._buffer, "timestamp_ns", None)
                    self._t_ns = self._clock.time_ns(stamp, now) if stamp else now
                    return self._t_ns
                if until is not None and time.monotonic() > until:
                    raise CameraError(f"{self._name}: no frame for {self._silence_s:g} s")
                # A fetch from a camera that was unplugged only times out; a feature cannot be read from it.
                self._features.read("Width")
        except CameraError:
            raise
        except Exception as error:
            raise CameraError(f"{self._name}: gives no frames any more ({_words(error)})") from error
        return None

    def retrieve(self) -> Shot:
        if self._buffer is None:
            raise ImageError("no frame was grabbed")
        try:
            components = self._buffer.payload.components
            if not components:
                raise ImageError("a frame came without an image")
            c = components[0]
            pixels = to_pixels(
                np.asarray(c.data), int(c.width), int(c.height), str(c.data_format), self._name
            )
        finally:
            self._let_go()
        return Shot(pixels, "RGB", self._t_ns, self._name)

    def release(self) -> None:
        self._let_go()
        # An unplugged camera refuses to be stopped; the rest is let go all the same.
        if self._acquirer is not None:
            with suppress(Exception):
                self._acquirer.stop()
            with suppress(Exception):
                self._acquirer.destroy()
            self._acquirer = None
        with suppress(Exception):
            self._harvester.reset()

    def _let_go(self) -> None:
        """The camera has few buffers; one that is kept is lost to it."""
        if self._buffer is not None:
            buffer, self._buffer = self._buffer, None
            buffer.queue()


def to_pixels(data: np.ndarray[Any, Any], width: int, height: int, pixel_format: str, name: str) -> Image:
    """An image of a GenICam pixel format as RGB.

    Raises:
        ImageError: the data do not fill the image.
        CameraError: the format is not known here.
    """
    if pixel_format not in (*_CONVERSIONS, "RGB8"):
        known = ", ".join(sorted((*_CONVERSIONS, "RGB8")))
        raise CameraError(
            f"{name}: the pixel format {pixel_format} is not known here; set pixel_format to one of {known}"
        )
    channels = 3 if pixel_format in ("RGB8", "BGR8") else 1
    if data.dtype != np.uint8 or data.size != width * height * channels:
        raise ImageError(f"a frame of {data.size} values is not {width}x{height} {pixel_format}")
    shaped = data.reshape(height, width, channels) if channels == 3 else data.reshape(height, width)
    if pixel_format == "RGB8":
        return np.array(shaped, np.uint8)
    return np.asarray(cv2.cvtColor(shaped, _CONVERSIONS[pixel_format]), np.uint8)


class _Features:
    """The features of a camera by name; each is read back after it was set."""

    def __init__(self, nodes: Any, name: str) -> None:
        self._nodes, self._name = nodes, name

    def get(self, feature: str) -> Any:
        """A feature's value; None where the camera has none, or does not tell it now."""
        try:
            return self.read(feature)
        except Exception:  # noqa: BLE001 - GenApi raises many kinds of its own
            return None

    def read(self, feature: str) -> Any:
        """A feature's value, from the camera."""
        return getattr(self._nodes, feature).value

    def set_if_there(self, feature: str, value: Any) -> None:
        """Set a feature if the camera has it and it stands otherwise."""
        if (now := self.get(feature)) is not None and now != value:
            self.set(feature, feature, value)

    def set(self, key: str, feature: str, value: Any) -> None:
        """Raises CameraError: the camera does not take the value."""
        shown = f"{value:g}" if isinstance(value, float) else value
        try:
            getattr(self._nodes, feature).value = value
        except Exception as error:
            raise CameraError(
                f"{self._name}: {key} {shown} is not taken ({feature}: {_words(error)}){self._range(feature)}"
            ) from error
        found = self.get(feature)
        near = isinstance(value, float) and isinstance(found, (int, float))
        if not (abs(found - value) <= _TOLERANCE * abs(value) + 1e-3 if near else found == value):
            raise CameraError(f"{self._name}: {key} {shown} is not taken, {feature} reads back as {found}")

    def _range(self, feature: str) -> str:
        try:
            node = getattr(self._nodes, feature)
            return f"; it takes {node.min:g} to {node.max:g}"
        except Exception:  # noqa: BLE001 - choices have no range
            return ""


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def genicam_settings(settings: CameraSettings, where: str) -> CameraSettings:
    """The settings, if GenICam has them all.

    Raises:
        InputError: it does not.
    """
    return only(settings, KEYS, where, "GenICam has no colour temperature; lock=1 keeps the white balance")
