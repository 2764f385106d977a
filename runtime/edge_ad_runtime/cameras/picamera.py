"""CSI cameras of a Raspberry Pi through picamera2, which comes from the distribution."""

from __future__ import annotations

import concurrent.futures
import time
from typing import Any

import numpy as np

from edge_ad_runtime.camera_state import CameraState
from edge_ad_runtime.cameras.capture import Shot
from edge_ad_runtime.cameras.opencv import KernelClock
from edge_ad_runtime.cameras.settings import CameraSettings
from edge_ad_runtime.errors import CameraError, ImageError

SILENCE_S = 5.0
# Settings reach the images some frames later: the sensor and the pipeline are a few frames deep.
_SETTING_FRAMES = 30
# Exposures come in whole rows (20 to 60 µs), gains in the sensor's own steps.
_ROW_US = 60.0
_EXPOSURE_TOLERANCE, _GAIN_TOLERANCE = 0.02, 0.05


class PiCapture:
    """An opened camera.

    ``grab`` gives libcamera's ``SensorTimestamp``: when the first row was read out, so ``ExposureTime`` after the
    exposure of that row began. It counts on CLOCK_BOOTTIME, which is brought to the monotonic clock.
    """

    def __init__(self, number: int, name: str, settings: CameraSettings, settle_s: float) -> None:
        """Start camera ``number``, counted as ``rpicam-hello --list-cameras`` does.

        Raises:
            CameraError: it is missing or in use, or does not take a setting.
        """
        from picamera2 import Picamera2

        self._name, self._settings = name, settings
        self._request: Any = None
        self._metadata: dict[str, Any] = {}
        self._t_ns = 0
        self._clock = KernelClock()
        found = Picamera2.global_camera_info()
        if number >= len(found):
            raise CameraError(
                f"{name}: libcamera finds {len(found)} cameras; check the ribbon cable and 'rpicam-hello --list-cameras'"
            )
        self._model = str(found[number].get("Model", "")) or None
        try:
            self._camera = Picamera2(number)
        except (RuntimeError, IndexError) as error:
            raise CameraError(f"{name}: cannot be opened ({error}); does another program use it?") from error
        try:
            self._start()
            if settings.lock:
                self._lock(settle_s)
            self._await_settings()
        except BaseException as error:
            self.release()
            if isinstance(error, (RuntimeError, ValueError, KeyError)) and not isinstance(error, CameraError):
                raise CameraError(f"{name}: {error}") from error
            raise

    def _start(self) -> None:
        s, controls = self._settings, dict[str, Any]()
        if s.fps is not None:
            period_us = round(1e6 / s.fps)
            controls["FrameDurationLimits"] = (period_us, period_us)
        if s.exposure_us is not None:
            controls["ExposureTime"] = round(s.exposure_us)
        if s.gain is not None:
            controls["AnalogueGain"] = float(s.gain)
        if s.white_balance_k is not None:
            if "ColourTemperature" not in self._camera.camera_controls:
                raise CameraError(
                    f"{self._name}: white_balance_k cannot be set with this libcamera; use lock=1"
                )
            controls |= {"AwbEnable": False, "ColourTemperature": s.white_balance_k}
        # BGR888 names the order in a little-endian word: in memory it is red, green, blue.
        main: dict[str, Any] = {"format": "BGR888"}
        if s.width is not None:
            main["size"] = (s.width, s.height)
        self._camera.configure(self._camera.create_video_configuration(main=main, controls=controls))
        self._size = tuple(self._camera.camera_configuration()["main"]["size"])
        if s.width is not None and self._size != (s.width, s.height):
            raise CameraError(
                f"{self._name}: width and height {s.width}x{s.height} are not taken, the camera gives "
                f"{self._size[0]}x{self._size[1]}"
            )
        self._camera.start()

    def _lock(self, settle_s: float) -> None:
        until = time.monotonic() + settle_s
        self.grab()
        while time.monotonic() < until:
            self.grab()
        seen = self._metadata
        self._camera.set_controls(
            {
                "ExposureTime": int(seen["ExposureTime"]),
                "AnalogueGain": float(seen["AnalogueGain"]),
                "AwbEnable": False,
                "ColourGains": tuple(seen["ColourGains"]),
            }
        )

    def _await_settings(self) -> None:
        """Wait until the images themselves say that they were taken as asked."""
        problem = None
        for _ in range(_SETTING_FRAMES):
            self.grab()
            if (problem := self._unmet()) is None:
                return
        raise CameraError(f"{self._name}: {problem}")

    def _unmet(self) -> str | None:
        s, seen = self._settings, self._metadata
        exposure, gain = float(seen["ExposureTime"]), float(seen["AnalogueGain"])
        if s.exposure_us is not None and abs(exposure - s.exposure_us) > max(
            _ROW_US, _EXPOSURE_TOLERANCE * s.exposure_us
        ):
            return f"exposure_us {s.exposure_us:g} is not taken, the camera exposes for {exposure:g} µs"
        if s.gain is not None and abs(gain - s.gain) > _GAIN_TOLERANCE * s.gain:
            return f"gain {s.gain:g} is not taken, the camera has {gain:g}"
        return None

    @property
    def timestamps(self) -> str:
        return "sensor"

    def camera_state(self) -> CameraState:
        s, seen = self._settings, self._metadata
        gains = seen.get("ColourGains")
        return CameraState(
            camera=self._model,
            width=self._size[0],
            height=self._size[1],
            auto_exposure=not (s.lock or (s.exposure_us is not None and s.gain is not None)),
            exposure_us=float(seen["ExposureTime"]),
            gain=float(seen["AnalogueGain"]),
            auto_white_balance=not (s.lock or s.white_balance_k is not None),
            white_balance_k=s.white_balance_k,
            colour_gains=None if gains is None else (float(gains[0]), float(gains[1])),
        )

    def grab(self) -> int | None:
        self._let_go()
        try:
            self._request = self._camera.capture_request(wait=SILENCE_S)
        except (TimeoutError, concurrent.futures.TimeoutError) as error:  # two classes before Python 3.11
            # The call goes on in picamera2 and would keep a buffer: the camera is opened anew.
            raise CameraError(f"{self._name}: no frame for {SILENCE_S:g} s") from error
        except RuntimeError as error:
            raise CameraError(f"{self._name}: gives no frames any more ({error})") from error
        now = time.monotonic_ns()
        self._metadata = self._request.get_metadata()
        asleep = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
        stamp = int(self._metadata["SensorTimestamp"]) - asleep
        self._t_ns = self._clock.time_ns(stamp / 1e6, now)
        return self._t_ns

    def retrieve(self) -> Shot:
        if self._request is None:
            raise ImageError("no frame was grabbed")
        try:
            pixels = np.ascontiguousarray(self._request.make_array("main"), np.uint8)
        finally:
            self._let_go()
        return Shot(pixels, "RGB", self._t_ns, self._name)

    def release(self) -> None:
        self._let_go()
        self._camera.close()

    def _let_go(self) -> None:
        """A request holds one of the camera's few buffers."""
        if self._request is not None:
            self._request.release()
            self._request = None
