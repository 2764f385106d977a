"""Devices, network streams and video files through OpenCV."""

from __future__ import annotations

import time

import cv2
import numpy as np

from edge_ad_runtime.cameras.capture import Shot
from edge_ad_runtime.errors import CameraError, ImageError
from edge_ad_runtime.images import decode_image

NETWORK_TIMEOUT_MS = 5000
# Kernel timestamps older than this, or from the future, are on another clock.
_PLAUSIBLE_NS = 1_000_000_000
# Frames by which a stream's period is known at first, and over which it is averaged.
_FIRST_FRAMES, _PERIOD_FRAMES = 10, 100
# Periods by which a frame may be later than the one before it: one that was in a queue, and one that was waited for.
_QUEUED, _AWAITED = 0.9, 2.0
_JPEGS = (cv2.VideoWriter.fourcc(*"MJPG"), cv2.VideoWriter.fourcc(*"JPEG"))


class OpenCvCapture:
    """One opened ``cv2.VideoCapture``; ``name`` goes into errors instead of the address, which may hold a
    password.

    A V4L2 device's timestamp is the kernel's, see :class:`KernelClock`; a stream's is the arrival of the frame, see
    :class:`ArrivalClock`. A stream is decompressed while it is grabbed, for its frames build on each other; of a device's frames only those
    that are retrieved are decoded.
    """

    def __init__(self, address: str, backend: int, name: str, *, video: bool = False) -> None:
        """Open a device path or a URL; ``video`` says that the frames come from a file, which ends.

        Raises:
            CameraError: it cannot be opened.
        """
        self._name = name
        self._video = video
        self._kernel_clock = KernelClock() if backend == cv2.CAP_V4L2 else None
        self._arrival_clock = ArrivalClock()
        self._raw_jpeg: bool | None = None if backend == cv2.CAP_V4L2 else False
        self._t_ns = 0
        parameters: list[int] = []
        if backend == cv2.CAP_FFMPEG and not video:
            parameters = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, NETWORK_TIMEOUT_MS]
            parameters += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, NETWORK_TIMEOUT_MS]
        try:
            self._capture = cv2.VideoCapture(address, backend, parameters)
            opened = self._capture.isOpened()
        except cv2.error:
            opened = False
        if not opened:
            raise CameraError(f"{name}: cannot be opened{_hint(backend, video)}")

    def grab(self) -> int | None:
        if self._raw_jpeg is None:
            # Settings have been made by now. OpenCV leaves the frame before in place of a damaged JPEG and says
            # nothing, so these are decoded here.
            fourcc = round(self._capture.get(cv2.CAP_PROP_FOURCC))
            self._raw_jpeg = fourcc in _JPEGS and self._capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
        try:
            good = self._capture.grab()
        except cv2.error:
            good = False
        now = time.monotonic_ns()
        if not good:
            if self._video:
                return None
            raise CameraError(f"{self._name}: gives no frames any more")
        if self._kernel_clock is None:
            self._t_ns = self._arrival_clock.time_ns(now)
        else:
            self._t_ns = self._kernel_clock.time_ns(self._capture.get(cv2.CAP_PROP_POS_MSEC), now)
        return self._t_ns

    def retrieve(self) -> Shot:
        try:
            good, pixels = self._capture.retrieve()
        except cv2.error:
            good, pixels = False, None
        if not good or pixels is None or not pixels.size:
            raise ImageError("a frame cannot be decoded")
        if self._raw_jpeg:
            return Shot(decode_image(pixels.tobytes()), "RGB", self._t_ns, self._name)
        return Shot(np.asarray(pixels, np.uint8), "BGR", self._t_ns, self._name)

    def set(self, key: int, value: float) -> None:
        """Ask for a ``cv2.CAP_PROP_…``; :meth:`get` tells what came of it."""
        self._capture.set(key, value)

    def get(self, key: int) -> float:
        """A ``cv2.CAP_PROP_…``; 0 or below where the backend has none."""
        return self._capture.get(key)

    def release(self) -> None:
        self._capture.release()


class KernelClock:
    """Timestamps of a device's V4L2 buffers. The kernel says which clock they are on, OpenCV does not tell."""

    def __init__(self) -> None:
        self._monotonic = False

    def time_ns(self, milliseconds: float, now_ns: int) -> int:
        """The buffer's timestamp in nanoseconds if the device stamps on the monotonic clock, otherwise ``now_ns``.

        Once a stamp was plausible all are believed: a process that was stopped finds frames in the driver's queue that
        are old, and must not take them for new ones.
        """
        stamp = int(milliseconds * 1e6)
        if 0 <= now_ns - stamp <= _PLAUSIBLE_NS:
            self._monotonic = True
            return stamp
        return stamp if self._monotonic and 0 < stamp <= now_ns else now_ns


class ArrivalClock:
    """When the frames of a stream were received, in nanoseconds of ``time.monotonic_ns``.

    What a process finds waiting when it was stopped or starved has been received before, and nothing says when. A
    frame is therefore never taken to be later than two periods after the one before it, the period being the mean of
    what was seen, and one that was there already when it was asked for not later than nine tenths of a period: else a
    queue of old frames would run ahead of the time at which they were received. After a pause of the process, or of the
    camera, timestamps are too old for a while: parts go without a frame, and none is shown an old one.
    """

    def __init__(self) -> None:
        self._frames = 0
        self._period_ns = 0.0
        self._taken_ns = 0
        self._last_ns = 0

    def time_ns(self, now_ns: int) -> int:
        """The next frame was taken from the stream's buffer at ``now_ns``."""
        gap = now_ns - self._taken_ns
        steady = self._frames >= _FIRST_FRAMES
        waited = steady and gap < self._period_ns / 2
        t_ns = now_ns
        if steady:
            t_ns = min(now_ns, round(self._last_ns + (_QUEUED if waited else _AWAITED) * self._period_ns))
        # Those of a queue say nothing of the period.
        if self._frames and not (waited and t_ns < now_ns):
            if steady:
                gap = min(gap, round(4 * self._period_ns))
            self._period_ns += (gap - self._period_ns) / min(self._frames, _PERIOD_FRAMES)
        self._frames += 1
        self._taken_ns, self._last_ns = now_ns, t_ns
        return t_ns


def _hint(backend: int, video: bool) -> str:
    if video:
        return " as a video; it is damaged, empty, or of a kind that this OpenCV does not read"
    if backend == cv2.CAP_V4L2:
        return "; check the cable, that no other program uses it, and that the user may (group 'video')"
    return "; check the address, the user name and the password, and that the camera is on"
