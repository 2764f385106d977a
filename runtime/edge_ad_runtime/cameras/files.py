"""Image files, folders of them, and video files: every frame is given, none is dropped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2

from edge_ad_runtime.cameras.base import Camera, Frame, FrameError, pause
from edge_ad_runtime.cameras.opencv import OpenCvCapture
from edge_ad_runtime.cameras.settings import TURN_KEYS, CameraSettings, turn
from edge_ad_runtime.errors import CameraError, ImageError
from edge_ad_runtime.images import read_image
from edge_ad_runtime.stopping import StopRequest


class Pace:
    """Lets frames through at a given rate by absolute times, or at once without one."""

    def __init__(self, fps: float | None, stop: StopRequest | None) -> None:
        self._period_ns = None if fps is None else round(1e9 / fps)
        self._stop = stop or StopRequest()
        self._next: int | None = None

    def wait(self, on_wait: Callable[[], None] | None = None) -> bool:
        """Wait for the next frame's time; returns whether to go on."""
        if self._period_ns is not None:
            now = time.monotonic_ns()
            if self._next is not None and self._next > now:
                pause(self._next / 1e9, self._stop, on_wait)
            # Late frames do not bring the following ones forward.
            self._next = max(self._next or now, now) + self._period_ns
        return not self._stop.requested


class ImageFilesCamera(Camera):
    """Image files in the given order."""

    def __init__(self, name: str, paths: Sequence[Path], pace: Pace) -> None:
        self.name = name
        self._pace = pace
        self._paths: Iterator[tuple[int, Path]] = iter(enumerate(paths))

    def read(self) -> Frame | None:
        if not self._pace.wait(self.on_wait) or (item := next(self._paths, None)) is None:
            return None
        index, path = item
        t_ns = time.monotonic_ns()
        try:
            return Frame(read_image(path), index, t_ns, str(path))
        except ImageError as error:
            raise FrameError(str(error), index, t_ns, str(path)) from error


class VideoFileCamera(Camera):
    """All frames of a video file."""

    def __init__(self, path: Path, pace: Pace) -> None:
        """Open the video.

        Raises:
            CameraError: it is not a video that OpenCV reads.
        """
        self.name = str(path)
        self._pace = pace
        self._capture: OpenCvCapture | None = OpenCvCapture(str(path), cv2.CAP_FFMPEG, str(path), video=True)
        self._index = 0

    def read(self) -> Frame | None:
        if not self._pace.wait(self.on_wait) or self._capture is None:
            return None
        t_ns = time.monotonic_ns()
        grabbed = self._capture.grab()
        if grabbed is None and self._index == 0:
            raise CameraError(f"{self.name}: holds no frame that can be decoded")
        if grabbed is None:
            return None
        index = self._index
        self._index += 1
        source = f"{self.name}#{index}"
        try:
            shot = self._capture.retrieve()
        except ImageError as error:
            raise FrameError(f"{source}: {error}", index, t_ns, source) from error
        return Frame(shot.pixels, index, t_ns, source, shot.order)

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None


class TurnedCamera(Camera):
    """Files whose images are rotated and flipped."""

    @staticmethod
    def of(camera: Camera, settings: CameraSettings) -> Camera:
        """The camera itself where nothing is to be turned."""
        return TurnedCamera(camera, settings) if settings.given() & set(TURN_KEYS) else camera

    def __init__(self, camera: Camera, settings: CameraSettings) -> None:
        self.name = camera.name
        self._camera = camera
        self._settings = settings

    def read(self) -> Frame | None:
        self._camera.on_wait = self.on_wait
        frame = self._camera.read()
        return None if frame is None else replace(frame, pixels=turn(frame.pixels, self._settings))

    def close(self) -> None:
        self._camera.close()
