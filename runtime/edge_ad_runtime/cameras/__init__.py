"""Image sources behind one narrow interface, each given as a short text.

=======================  ========================================================================
``0``, ``/dev/video0``   a V4L2 device; a bare number N means ``/dev/videoN``
``csi://0``              a CSI camera of a Jetson or a Raspberry Pi
``genicam://0``          a GigE Vision or USB3 Vision camera, by number or serial number
``gst:PIPELINE``         a GStreamer pipeline
``rtsp://…``, ``http…``  a network camera (RTSP, MJPEG)
``belt.mp4``             a video file
``part.png``, ``DIR``    an image file; all images in a folder, sorted by name
``'DIR/*.png'``          the images that match, sorted by name
``mock:DIR?fail=5``      a pretended device that plays a folder, with faults, see :class:`MockSource`
=======================  ========================================================================

Settings follow a question mark where the camera has them (``0?width=1280&height=720&exposure_us=2000``: V4L2, CSI,
GenICam and ``mock:``), see :class:`edge_ad_runtime.cameras.settings.CameraSettings`; for the others, whose texts may
hold question marks of their own, they come as an object. All kinds can be rotated and flipped.

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

import msgspec

from edge_ad_runtime.cameras.adjusted import DeviceSource
from edge_ad_runtime.cameras.base import Camera, CameraSource, Frame, FrameError
from edge_ad_runtime.cameras.csi import PI_KEYS, csi_opener
from edge_ad_runtime.cameras.files import ImageFilesCamera, Pace, TurnedCamera, VideoFileCamera
from edge_ad_runtime.cameras.genicam import KEYS as GENICAM_KEYS
from edge_ad_runtime.cameras.genicam import (
    GenicamCapture,
    GenicamTarget,
    find_producers,
    genicam_settings,
    make_harvester,
)
from edge_ad_runtime.cameras.gstreamer import GstCapture, load_gst, redact_pipeline
from edge_ad_runtime.cameras.mock import MOCK_SETTINGS, MockSource
from edge_ad_runtime.cameras.network import NetworkCapture
from edge_ad_runtime.cameras.settings import (
    SETTINGS_KEYS,
    TURN_KEYS,
    CameraSettings,
    merge,
    only,
    settings_of_query,
)
from edge_ad_runtime.cameras.triggered import BACKLOG, STALL_PATIENCE_S, PartCamera, TriggeredFiles, Watch
from edge_ad_runtime.cameras.v4l2_capture import V4l2Capture
from edge_ad_runtime.errors import CameraError, InputError
from edge_ad_runtime.images import is_image_path, list_images
from edge_ad_runtime.outputs.query import Query
from edge_ad_runtime.stopping import StopRequest
from edge_ad_runtime.tracking.picking import PickSettings

__all__ = [
    "Camera",
    "CameraSettings",
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
    settings: CameraSettings
    stop: StopRequest | None = field(repr=False)

    @property
    def live(self) -> bool:
        return False

    def open(self) -> Camera:
        return self._camera(Pace(self.settings.fps, self.stop))

    def _camera(self, pace: Pace) -> Camera:
        return TurnedCamera.of(ImageFilesCamera(self.name, self.paths, pace), self.settings)

    def open_triggered(
        self, settings: PickSettings, *, backlog: int = BACKLOG, watch: Watch | None = None
    ) -> PartCamera:
        return TriggeredFiles(self._camera(Pace(None, self.stop)), backlog=backlog)


@dataclass(frozen=True)
class _VideoSource:
    path: Path
    settings: CameraSettings
    stop: StopRequest | None = field(repr=False)

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def live(self) -> bool:
        return False

    def open(self) -> Camera:
        return self._camera(Pace(self.settings.fps, self.stop))

    def _camera(self, pace: Pace) -> Camera:
        return TurnedCamera.of(VideoFileCamera(self.path, pace), self.settings)

    def open_triggered(
        self, settings: PickSettings, *, backlog: int = BACKLOG, watch: Watch | None = None
    ) -> PartCamera:
        return TriggeredFiles(self._camera(Pace(None, self.stop)), backlog=backlog)


def open_camera(
    text: str,
    *,
    fps: float | None = None,
    stop: StopRequest | None = None,
    settings: CameraSettings | None = None,
) -> Camera:
    """Parse a camera text and open the camera; see :func:`parse_camera`.

    Raises:
        InputError: the text, the rate or a setting is unusable.
        CameraError: the source is missing or unusable. Of a live camera the first read may say so.
        MissingExtra: the package that drives this kind of camera is not installed.
    """
    return parse_camera(text, fps=fps, stop=stop, settings=settings).open()


def parse_camera(
    text: str,
    *,
    fps: float | None = None,
    stop: StopRequest | None = None,
    settings: CameraSettings | None = None,
) -> CameraSource:
    """Read a camera text without opening a device.

    Args:
        text: see the module.
        fps: frames per second at which files are played; None is as fast as they are read.
        stop: a wait for a frame ends when this is requested.
        settings: in addition to those of the text. Files take ``rotate``, ``flip`` and, in place of ``fps``, their
            pace from it; network cameras and pipelines ``rotate`` and ``flip``.

    Raises:
        InputError: the text is not understood, or ``fps`` or a setting does not fit.
        CameraError: there is no such file or folder, it holds no images, or this machine has no such cameras.
        MissingExtra: the package that drives this kind of camera is not installed.
    """
    if fps is not None and not 0 < fps <= 1000:
        raise InputError(f"fps {fps:g} must be above 0 and at most 1000")
    source = _parse_live(text, stop, settings)
    if source is not None:
        if fps is not None:
            raise InputError(f"{source.name}: fps paces files only; this source has a pace of its own")
        return source
    pace = None if fps is None else CameraSettings(fps=fps)
    where = f"camera '{text}'"
    given = only(
        merge(pace or CameraSettings(), settings, where),
        (*TURN_KEYS, "fps"),
        where,
        "these are files, not a camera",
    )
    return _parse_files(text, given, stop)


def _parse_live(text: str, stop: StopRequest | None, given: CameraSettings | None) -> CameraSource | None:
    head, _, query = text.partition("?")
    if head.isascii() and head.isdigit():
        head = f"/dev/video{int(head)}"
    if head.startswith("/dev/"):
        return _parse_v4l2(head, query, stop, given)
    if _URL.match(text):
        return _parse_network(text, stop, given)
    if text.startswith("mock:"):
        return _parse_mock(text, stop, given)
    if text.startswith("gst:"):
        return _parse_gst(text, stop, given)
    if text.startswith("csi://"):
        return _parse_csi(head, query, stop, given)
    if text.startswith("genicam://"):
        return _parse_genicam(head, query, stop, given)
    if "://" in text:
        raise InputError(
            f"camera '{redact(text)}': known addresses begin with rtsp://, http://, https://, csi:// or genicam://"
        )
    return None


def _parse_v4l2(
    path: str, query: str, stop: StopRequest | None, given: CameraSettings | None
) -> CameraSource:
    where = f"camera '{path}'"
    settings = merge(settings_of_query(Query(query, where, SETTINGS_KEYS), where), given, where)
    return DeviceSource(path, lambda: V4l2Capture(path, settings), settings, stop)


def _parse_network(address: str, stop: StopRequest | None, given: CameraSettings | None) -> CameraSource:
    name = redact(address)
    why = "this is set in the network camera itself"
    settings = only(given or CameraSettings(), TURN_KEYS, f"camera '{name}'", why)
    return DeviceSource(name, lambda: NetworkCapture(address, name), settings, stop)


def _parse_gst(text: str, stop: StopRequest | None, given: CameraSettings | None) -> CameraSource:
    pipeline, name = text.removeprefix("gst:").strip(), redact_pipeline(text)
    if not pipeline:
        raise InputError(
            "camera 'gst:': give a pipeline without its sink, such as gst:v4l2src device=/dev/video2"
        )
    settings = only(
        given or CameraSettings(), TURN_KEYS, f"camera '{name}'", "it stands in the pipeline itself"
    )
    load_gst("a GStreamer camera")
    return DeviceSource(name, lambda: GstCapture(pipeline, name), settings, stop)


def _parse_csi(head: str, query: str, stop: StopRequest | None, given: CameraSettings | None) -> CameraSource:
    number, where = head.removeprefix("csi://"), f"camera '{head}'"
    if not (number.isascii() and number.isdigit() and len(number) <= 3):
        raise InputError(f"{where}: must be csi:// and the number of the sensor, such as csi://0")
    settings = merge(settings_of_query(Query(query, where, PI_KEYS), where, PI_KEYS), given, where)
    return DeviceSource(head, csi_opener(int(number), head, settings), settings, stop)


def _parse_genicam(
    head: str, query: str, stop: StopRequest | None, given: CameraSettings | None
) -> CameraSource:
    device, where = head.removeprefix("genicam://"), f"camera '{head}'"
    if not device:
        raise InputError(f"{where}: must be genicam:// and a number or a serial number, such as genicam://0")
    keys = Query(query, where, GENICAM_KEYS)
    found = settings_of_query(keys, where, [key for key in GENICAM_KEYS if key in SETTINGS_KEYS])
    settings = genicam_settings(merge(found, given, where), where)
    try:
        target = GenicamTarget(device, find_producers(keys.text("cti", "")), keys.text("trigger", "") or None)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    make_harvester().reset()  # only to learn whether it is installed
    return DeviceSource(
        head,
        lambda: GenicamCapture(target, head, settings, stop),
        settings,
        stop,
        stall_patience_s=None if target.trigger else STALL_PATIENCE_S,
    )


def _parse_files(text: str, settings: CameraSettings, stop: StopRequest | None) -> CameraSource:
    if not text:
        raise InputError("camera '': give a device number, a path or an address")
    path = Path(text)
    if path.is_dir():
        if not (paths := list_images(path)):
            raise CameraError(f"{path}: holds no images (PNG, JPEG, BMP, TIFF or WebP)")
        return _ImagesSource(text, paths, settings, stop)
    if path.is_file():
        if is_image_path(path):
            return _ImagesSource(text, [path], settings, stop)
        return _VideoSource(path, settings, stop)
    if glob.has_magic(text):
        # pathlib's glob takes no absolute patterns.
        found = sorted(Path(p) for p in glob.glob(text, recursive=True))  # noqa: PTH207
        if not (paths := [p for p in found if p.is_file() and is_image_path(p)]):
            raise CameraError(f"{text}: matches no images (PNG, JPEG, BMP, TIFF or WebP)")
        return _ImagesSource(text, paths, settings, stop)
    raise CameraError(f"{text}: there is no such device, file or folder")


def _parse_mock(text: str, stop: StopRequest | None, given: CameraSettings | None) -> MockSource:
    folder_text, _, query_text = text.removeprefix("mock:").partition("?")
    folder = Path(folder_text)
    where = f"camera '{text}'"
    query = Query(query_text, where, (*_MOCK_KEYS, *MOCK_SETTINGS))
    fps = query.number("fps", 0.0)
    if given is not None and given.fps is not None:
        fps, given = given.fps, msgspec.structs.replace(given, fps=None)
    settings = merge(settings_of_query(query, where, MOCK_SETTINGS), given, where)
    only(settings, MOCK_SETTINGS, where, "the pretended device has the size of its images")
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
        settings=settings,
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
