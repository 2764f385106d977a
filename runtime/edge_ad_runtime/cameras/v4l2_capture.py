"""V4L2 cameras (USB, most capture cards): frames by OpenCV, controls by ioctl, everything read back."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import cv2

from edge_ad_runtime.camera_state import CameraState
from edge_ad_runtime.cameras import v4l2
from edge_ad_runtime.cameras.capture import Shot
from edge_ad_runtime.cameras.opencv import OpenCvCapture
from edge_ad_runtime.cameras.settings import CameraSettings
from edge_ad_runtime.errors import CameraError

# Cameras give a rate as a fraction: 30000/1001 for 30.
_RATE_TOLERANCE = 0.02


class V4l2Capture:
    """An opened ``/dev/videoN``.

    ``grab`` gives the kernel's timestamp of the buffer where it is monotonic: for USB cameras the time when the first
    packet of the frame arrived, after the exposure and some of the read-out; else the time of arrival.
    """

    def __init__(self, path: str, settings: CameraSettings) -> None:
        """Open the device and set it.

        Raises:
            CameraError: it is missing, in use or no camera, gives raw Bayer data only, or does not take a setting;
                the message names it.
        """
        self._path = path
        self._settings = settings
        self._device = Controls(path)
        self._kernel_time = False
        self._first = True
        self._device.check_node()
        self._inner = OpenCvCapture(path, cv2.CAP_V4L2, path)
        try:
            self._set_format()
            self._device.apply(settings)
        except BaseException:
            self._inner.release()
            raise

    @property
    def timestamps(self) -> str:
        return "kernel" if self._kernel_time else "arrival"

    def camera_state(self) -> CameraState:
        return self._device.state(*self._format())

    def grab(self) -> int | None:
        t_ns = self._inner.grab()
        self._kernel_time = int(self._inner.get(cv2.CAP_PROP_POS_MSEC) * 1e6) == t_ns
        if self._first:
            # Some drivers go back to their defaults when streaming begins.
            self._first = False
            self._device.verify(self._settings)
        return t_ns

    def retrieve(self) -> Shot:
        return self._inner.retrieve()

    def release(self) -> None:
        self._inner.release()

    def _set_format(self) -> None:
        s, inner = self._settings, self._inner
        if s.pixel_format is not None:
            if len(s.pixel_format) != 4:
                raise CameraError(f"{self._path}: pixel_format {s.pixel_format} must have four characters")
            inner.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*s.pixel_format))
        if s.width is not None and s.height is not None:
            # The first of the two is only remembered by OpenCV.
            inner.set(cv2.CAP_PROP_FRAME_WIDTH, s.width)
            inner.set(cv2.CAP_PROP_FRAME_HEIGHT, s.height)
        if s.fps is not None:
            inner.set(cv2.CAP_PROP_FPS, s.fps)
        width, height, pixel_format = self._format()
        if s.pixel_format not in (None, pixel_format):
            raise self._refused("pixel_format", s.pixel_format, pixel_format)
        if s.width is not None and (s.width, s.height) != (width, height):
            raise self._refused("width and height", f"{s.width}x{s.height}", f"{width}x{height}")
        if s.fps is not None and abs(inner.get(cv2.CAP_PROP_FPS) - s.fps) > _RATE_TOLERANCE * s.fps:
            raise self._refused("fps", f"{s.fps:g}", f"{inner.get(cv2.CAP_PROP_FPS):g}")

    def _format(self) -> tuple[int, int, str]:
        code = int(self._inner.get(cv2.CAP_PROP_FOURCC))
        width, height = self._inner.get(cv2.CAP_PROP_FRAME_WIDTH), self._inner.get(cv2.CAP_PROP_FRAME_HEIGHT)
        return int(width), int(height), code.to_bytes(4, "little").decode("latin-1").strip()

    def _refused(self, key: str, asked: object, got: object) -> CameraError:
        return CameraError(
            f"{self._path}: {key} {asked} is not taken, the camera gives {got}; "
            f"'edge-ad cameras' lists what it can do"
        )


class Controls:
    """Exposure, gain and white balance of one device, each set and read back."""

    def __init__(self, path: str) -> None:
        self._path = path

    def check_node(self) -> None:
        """Raises CameraError: images do not come from this node, or only raw ones."""
        try:
            with v4l2.opened(self._path) as device:
                capability, formats = device.capability(), device.formats()
        except OSError as error:
            if error.errno == errno.ENOTTY:
                raise CameraError(f"{self._path}: is no camera") from error
            return  # missing, forbidden or busy: OpenCV's opening says so with its remedy
        if not capability.capture:
            raise CameraError(
                f"{self._path}: gives no images (a metadata or output node of '{capability.card}'); "
                "'edge-ad cameras' lists those that do"
            )
        if formats and all(f.bayer for f in formats):
            raise CameraError(
                f"{self._path}: gives raw Bayer data only ({formats[0].fourcc}); this is the node of a CSI sensor. "
                "Use csi://0, which goes through the image processor"
            )

    def apply(self, settings: CameraSettings) -> None:
        """Set what is given, and turn the automatics off that it asks for.

        Raises:
            CameraError: the device does not take it.
        """
        with self._opened() as device:
            for automatic, off in _automatics(device, settings):
                self._set(device, "lock", automatic, off, off)
            for key, number, value in _values(device, settings):
                if number is None:
                    raise CameraError(
                        f"{self._path}: {key} cannot be set on this camera, it has no such control"
                    )
                self._set(device, key, number, value, getattr(settings, key))
        self.verify(settings)

    def verify(self, settings: CameraSettings) -> None:
        """Raises CameraError: a value does not read back as it was set."""
        with self._opened() as device:
            wanted: list[tuple[str, int | None, int]] = []
            wanted += [("lock", number, value) for number, value in _automatics(device, settings)]
            wanted += _values(device, settings)
            for key, number, value in wanted:
                if number is not None and (found := device.get(number)) != value:
                    raise self._refused(device, key, number, value, f"reads back as {found}")

    def state(self, width: int, height: int, pixel_format: str) -> CameraState:
        """How the device stands.

        Raises:
            CameraError: it is gone.
        """
        with self._opened() as device:
            exposure = device.get(v4l2.EXPOSURE_ABSOLUTE)
            mode, auto_gain = device.get(v4l2.EXPOSURE_AUTO), device.get(v4l2.AUTO_GAIN)
            automatic = [
                m
                for m in (None if mode is None else mode != v4l2.EXPOSURE_MANUAL, auto_gain)
                if m is not None
            ]
            white = device.get(v4l2.AUTO_WHITE_BALANCE)
            gain = None if (number := _gain(device)) is None else device.get(number)
            return CameraState(
                camera=device.capability().card,
                width=width,
                height=height,
                pixel_format=pixel_format,
                auto_exposure=any(automatic) if automatic else None,
                exposure_us=None if exposure is None else float(exposure * v4l2.EXPOSURE_UNIT_US),
                gain=None if gain is None else float(gain),
                auto_white_balance=None if white is None else bool(white),
                white_balance_k=device.get(v4l2.WHITE_BALANCE_K),
            )

    def _set(self, device: v4l2.V4l2Device, key: str, number: int, value: int, asked: object) -> None:
        try:
            device.set(number, value)
        except OSError as error:
            raise self._refused(device, key, number, asked, error.strerror or str(error)) from error

    def _refused(
        self, device: v4l2.V4l2Device, key: str, number: int, asked: object, why: str
    ) -> CameraError:
        control = device.control(number)
        unit = v4l2.EXPOSURE_UNIT_US if number == v4l2.EXPOSURE_ABSOLUTE else 1
        takes = (
            ""
            if control is None
            else f"; '{control.name}' takes {control.minimum * unit} to {control.maximum * unit} in steps of "
            f"{max(control.step, 1) * unit}"
        )
        return CameraError(f"{self._path}: {key} {asked} is not taken ({why}){takes}")

    @contextmanager
    def _opened(self) -> Iterator[v4l2.V4l2Device]:
        try:
            with v4l2.opened(self._path) as device:
                yield device
        except CameraError:
            raise
        except OSError as error:
            raise CameraError(f"{self._path}: cannot be asked ({error.strerror or error})") from error


def _automatics(device: v4l2.V4l2Device, settings: CameraSettings) -> list[tuple[int, int]]:
    """The automatics that the device has and the settings turn off, with the value that does."""
    wanted = []
    if settings.lock or settings.exposure_us is not None:
        wanted.append((v4l2.EXPOSURE_AUTO, v4l2.EXPOSURE_MANUAL))
    if settings.lock or settings.gain is not None:
        wanted.append((v4l2.AUTO_GAIN, 0))
    if settings.lock or settings.white_balance_k is not None:
        wanted.append((v4l2.AUTO_WHITE_BALANCE, 0))
    return [(number, value) for number, value in wanted if device.control(number) is not None]


def _values(device: v4l2.V4l2Device, settings: CameraSettings) -> list[tuple[str, int | None, int]]:
    """The values that are given, in the device's units; without a number where it has no such control."""
    found: list[tuple[str, int | None, int]] = []
    if settings.exposure_us is not None:
        value = max(1, round(settings.exposure_us / v4l2.EXPOSURE_UNIT_US))
        found.append(("exposure_us", _there(device, v4l2.EXPOSURE_ABSOLUTE), value))
    if settings.gain is not None:
        found.append(("gain", _gain(device), round(settings.gain)))
    if settings.white_balance_k is not None:
        found.append(("white_balance_k", _there(device, v4l2.WHITE_BALANCE_K), settings.white_balance_k))
    return found


def _gain(device: v4l2.V4l2Device) -> int | None:
    return _there(device, v4l2.GAIN) or _there(device, v4l2.ANALOGUE_GAIN)


def _there(device: v4l2.V4l2Device, number: int) -> int | None:
    return None if device.control(number) is None else number
