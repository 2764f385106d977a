"""Devices, network streams and video files through OpenCV."""

from __future__ import annotations

import time

import cv2
import numpy as np

from edge_ad_runtime.cameras.capture import Shot
from edge_ad_runtime.errors import CameraError, ImageError

NETWORK_TIMEOUT_MS = 5000
# Kernel timestamps older than this, or from the future, are on another clock.
_PLAUSIBLE_NS = 1_000_000_000


class OpenCvCapture:
    """One opened ``cv2.VideoCapture``; ``name`` goes into errors instead of the address, which may hold a
    password."""

    def __init__(self, address: str, backend: int, name: str, *, video: bool = False) -> None:
        """Open a device path or a URL; ``video`` says that the frames come from a file, which ends.

        Raises:
            CameraError: it cannot be opened.
        """
        self._name = name
        self._video = video
        self._kernel_time = backend == cv2.CAP_V4L2
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
        try:
            good = self._capture.grab()
        except cv2.error:
            good = False
        now = time.monotonic_ns()
        if not good:
            if self._video:
                return None
            raise CameraError(f"{self._name}: gives no frames any more")
        self._t_ns = now
        if self._kernel_time:
            self._t_ns = kernel_time_ns(self._capture.get(cv2.CAP_PROP_POS_MSEC), now)
        return self._t_ns

    def retrieve(self) -> Shot:
        try:
            good, pixels = self._capture.retrieve()
        except cv2.error:
            good, pixels = False, None
        if not good or pixels is None or not pixels.size:
            raise ImageError("a frame cannot be decoded")
        return Shot(np.asarray(pixels, np.uint8), "BGR", self._t_ns, self._name)

    def set(self, key: int, value: float) -> None:
        """Ask for a ``cv2.CAP_PROP_…``; :meth:`get` tells what came of it."""
        self._capture.set(key, value)

    def get(self, key: int) -> float:
        """A ``cv2.CAP_PROP_…``; 0 or below where the backend has none."""
        return self._capture.get(key)

    def release(self) -> None:
        self._capture.release()


def kernel_time_ns(milliseconds: float, now_ns: int) -> int:
    """A V4L2 buffer's timestamp in nanoseconds if it is on the monotonic clock, otherwise ``now_ns``."""
    stamp = int(milliseconds * 1e6)
    return stamp if 0 <= now_ns - stamp <= _PLAUSIBLE_NS else now_ns


def _hint(backend: int, video: bool) -> str:
    if video:
        return " as a video; it is damaged, empty, or of a kind that this OpenCV does not read"
    if backend == cv2.CAP_V4L2:
        return "; check the cable, that no other program uses it, and that the user may (group 'video')"
    return "; check the address, the user name and the password, and that the camera is on"
