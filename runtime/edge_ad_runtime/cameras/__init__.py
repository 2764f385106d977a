"""Image sources behind one narrow interface, each given as a short text.

=======================  ========================================================================
``0``, ``/dev/video0``   a V4L2 device; a bare number N means ``/dev/videoN``
``rtsp://…``, ``http…``  a network camera (RTSP, MJPEG)
``belt.mp4``             a video file
``part.png``, ``DIR``    an image file; all images in a folder, sorted by name
``'DIR/*.png'``          the images that match, sorted by name
``mock:DIR?fail=5``      a pretended device that plays a folder, with faults, see :class:`MockSource`
=======================  ========================================================================

Devices and network cameras are *live* and worth reopening. Without a trigger their newest frame wins, and files
give every frame and then end. On a line with a trigger, a part gets the first live frame that was exposed after it;
from files it takes the next image, whatever the time, to try a line without a camera. Passwords in an address are
used, and shown nowhere.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2

from edge_ad_runtime.cameras.base import Camera, CameraSource, Frame, FrameError
from edge_ad_runtime.cameras.files import ImageFilesCamera, Pace, VideoFileCamera
from edge_ad_runtime.cameras.live import LiveSource
from edge_ad_runtime.cameras.mock import MockSource
from edge_ad_runtime.cameras.opencv import OpenCvCapture
from edge_ad_runtime.cameras.triggered import BACKLOG, PartCamera, TriggeredFiles, Watch
from edge_ad_runtime.errors import CameraError, InputError
from edge_ad_runtime.images import is_image_path, list_images
from edge_ad_runtime.outputs.query import Query
from edge_ad_runtime.stopping import StopRequest
from edge_ad_runtime.tracking.picking import PickSettings

__all__ = [
    "Camera",
    "CameraSource",
    "Frame",
    "FrameError",
    "MockSource",
    "open_camera",
    "parse_camera",
    "redact",
]

_URL = re.compile(r"(rtsps?|https?)://", re.IGNORECASE)
_MOCK_KEYS = ("fps", "drop", "fail", "away", "stall", "stall_ms", "patience_ms", "loop")


@dataclass(frozen=True)
class _ImagesSource:
    name: str
    paths: Sequence[Path]
    fps: float | None
    stop: StopRequest | None = field(repr=False)

    @property
    def live(self) -> bool:
        return False

    def open(self) -> Camera:
        return ImageFilesCamera(self.name, self.paths, Pace(self.fps, self.stop))

    def open_triggered(
        self, settings: PickSettings, *, backlog: int = BACKLOG, watch: Watch | None = None
    ) -> PartCamera:
        return TriggeredFiles(ImageFilesCamera(self.name, self.paths, Pace(None, self.stop)), backlog=backlog)


@dataclass(frozen=True)
class _VideoSource:
    path: Path
    fps: float | None
    stop: StopRequest | None = field(repr=False)

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def live(self) -> bool:
        return False

    def open(self) -> Camera:
        return VideoFileCamera(self.path, Pace(self.fps, self.stop))

    def open_triggered(
        self, settings: PickSettings, *, backlog: int = BACKLOG, watch: Watch | None = None
    ) -> PartCamera:
        return TriggeredFiles(VideoFileCamera(self.path, Pace(None, self.stop)), backlog=backlog)


def open_camera(text: str, *, fps: float | None = None, stop: StopRequest | None = None) -> Camera:
    """Parse a camera text and open the camera; see :func:`parse_camera`.

    Raises:
        InputError: the text or the rate is unusable.
        CameraError: the source is missing or unusable. Of a live camera the first read may say so.
    """
    return parse_camera(text, fps=fps, stop=stop).open()


def parse_camera(text: str, *, fps: float | None = None, stop: StopRequest | None = None) -> CameraSource:
    """Read a camera text without opening a device.

    Args:
        text: see the module.
        fps: frames per second at which files are played; None is as fast as they are read.
        stop: a wait for a frame ends when this is requested.

    Raises:
        InputError: the text is not understood, or ``fps`` does not fit.
        CameraError: there is no such file or folder, or it holds no images.
    """
    if fps is not None and not 0 < fps <= 1000:
        raise InputError(f"fps {fps:g} must be above 0 and at most 1000")
    source = _parse_live(text, stop)
    if source is not None:
        if fps is not None:
            raise InputError(f"{source.name}: fps paces files only; this source has a pace of its own")
        return source
    return _parse_files(text, fps, stop)


def _parse_live(text: str, stop: StopRequest | None) -> CameraSource | None:
    if text.isascii() and text.isdigit():
        text = f"/dev/video{int(text)}"
    if text.startswith("/dev/"):
        return _opencv_source(text, text, cv2.CAP_V4L2, stop)
    if _URL.match(text):
        return _opencv_source(text, redact(text), cv2.CAP_FFMPEG, stop)
    if text.startswith("mock:"):
        return _parse_mock(text, stop)
    if "://" in text:
        raise InputError(f"camera '{redact(text)}': known addresses begin with rtsp://, http:// or https://")
    return None


def _opencv_source(address: str, name: str, backend: int, stop: StopRequest | None) -> CameraSource:
    return LiveSource(name, lambda: OpenCvCapture(address, backend, name), stop)


def _parse_files(text: str, fps: float | None, stop: StopRequest | None) -> CameraSource:
    if not text:
        raise InputError("camera '': give a device number, a path or an address")
    path = Path(text)
    if path.is_dir():
        if not (paths := list_images(path)):
            raise CameraError(f"{path}: holds no images (PNG, JPEG, BMP, TIFF or WebP)")
        return _ImagesSource(text, paths, fps, stop)
    if path.is_file():
        if is_image_path(path):
            return _ImagesSource(text, [path], fps, stop)
        return _VideoSource(path, fps, stop)
    if glob.has_magic(text):
        # pathlib's glob takes no absolute patterns.
        found = sorted(Path(p) for p in glob.glob(text, recursive=True))  # noqa: PTH207
        if not (paths := [p for p in found if p.is_file() and is_image_path(p)]):
            raise CameraError(f"{text}: matches no images (PNG, JPEG, BMP, TIFF or WebP)")
        return _ImagesSource(text, paths, fps, stop)
    raise CameraError(f"{text}: there is no such device, file or folder")


def _parse_mock(text: str, stop: StopRequest | None) -> MockSource:
    folder_text, _, query_text = text.removeprefix("mock:").partition("?")
    folder = Path(folder_text)
    where = f"camera '{text}'"
    query = Query(query_text, where, _MOCK_KEYS)
    fps = query.number("fps", 0.0)
    stall_ms, patience_ms = query.number("stall_ms", 1000.0), query.number("patience_ms", 5000.0)
    if not 0 <= fps <= 1000 or not 0 <= stall_ms <= 60_000 or not 0 < patience_ms <= 60_000:
        raise InputError(f"{where}: fps must be 0 to 1000, stall_ms and patience_ms at most 60000")
    paths = list_images(folder) if folder_text and folder.is_dir() else []
    if not paths:
        raise CameraError(f"{folder or '?'}: is not a folder with images")
    return MockSource(
        folder=folder,
        paths=tuple(paths),
        fps=fps or None,
        drop=query.integers("drop"),
        fail=query.integers("fail"),
        away=query.integer("away", 0, 0, 1000),
        stall=query.integers("stall"),
        stall_ms=stall_ms,
        stall_patience_s=patience_ms / 1e3,
        loop=query.flag("loop"),
        stop=stop,
    )


def redact(url: str) -> str:
    """An address without anything that may be a secret: no user, no password, no query.

    Everything up to the last ``@`` goes, since passwords with unescaped slashes are common.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    if "@" in rest:
        rest = "***@" + rest.rpartition("@")[2]
    for mark in "?#":
        head, found, _ = rest.partition(mark)
        rest = f"{head}{mark}***" if found else head
    return f"{scheme}://{rest}"
