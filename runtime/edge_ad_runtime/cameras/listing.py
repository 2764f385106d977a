"""Which cameras this machine has, and how one of them behaves."""

from __future__ import annotations

import importlib.util
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edge_ad_runtime.camera_state import CameraState
from edge_ad_runtime.cameras import v4l2
from edge_ad_runtime.cameras.adjusted import STATE_PATIENCE_S, StatefulSource
from edge_ad_runtime.cameras.base import CameraSource
from edge_ad_runtime.cameras.csi import is_jetson
from edge_ad_runtime.cameras.genicam import GENTL_PATH, find_producers, make_harvester
from edge_ad_runtime.cameras.gstreamer import load_gst
from edge_ad_runtime.cameras.statistics import FrameStats, FrameTimes
from edge_ad_runtime.errors import CameraError, InputError, MissingExtra
from edge_ad_runtime.types import Image

VIDEO4LINUX = Path("/sys/class/video4linux")
DEV = Path("/dev")


class FormatInfo(msgspec.Struct, frozen=True):
    """A pixel format with its sizes: ``sizes`` are ``WIDTHxHEIGHT`` with the rates in frames a second."""

    pixel_format: str
    description: str
    sizes: dict[str, tuple[float, ...]]


class CameraInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A camera that was found: ``source`` is the text that opens it, ``note`` what to know first."""

    source: str
    kind: str
    name: str
    formats: tuple[FormatInfo, ...] = ()
    note: str | None = None


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """``notes`` say which kinds could not be looked for."""

    cameras: tuple[CameraInfo, ...]
    notes: tuple[str, ...]


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What a camera did while it was watched.

    ``times`` says what its frames' timestamps mark, ``width`` and ``height`` are those of the image as it is inspected.
    """

    source: str
    width: int
    height: int
    frames: FrameStats | None
    times: str | None
    state: CameraState | None


def list_cameras(sysfs: Path = VIDEO4LINUX, dev: Path = DEV) -> Listing:
    """All V4L2 cameras, and the CSI and GenICam ones where the packages for them are installed. Nothing is started."""
    cameras, notes = list_v4l2(sysfs, dev), list[str]()
    for what, look in (("CSI", list_csi), ("GenICam", list_genicam)):
        found, note = _looked(what, look)
        cameras += found
        notes += note
    return Listing(cameras=tuple(cameras), notes=tuple(notes))


def _looked(what: str, look: Callable[[], list[CameraInfo]]) -> tuple[list[CameraInfo], list[str]]:
    try:
        return look(), []
    except (MissingExtra, InputError, CameraError) as error:
        return [], [f"{what} cameras were not looked for: {error}"]
    except Exception as error:  # noqa: BLE001 - producers and drivers raise many kinds
        return [], [f"{what} cameras cannot be listed: {type(error).__name__} {error}"]


def list_v4l2(sysfs: Path = VIDEO4LINUX, dev: Path = DEV) -> list[CameraInfo]:
    """The nodes that give images, by number; those that may not be opened are named with the reason."""
    nodes = [p.name for p in sysfs.iterdir() if re.fullmatch(r"video\d+", p.name)] if sysfs.is_dir() else []
    found = (_describe(name, sysfs, dev) for name in sorted(nodes, key=lambda name: int(name[5:])))
    return [info for info in found if info is not None]


def _describe(node: str, sysfs: Path, dev: Path) -> CameraInfo | None:
    source = str(dev / node)
    try:
        name = (sysfs / node / "name").read_text().strip()
    except OSError:
        name = node
    try:
        with v4l2.opened(source) as device:
            if not device.capability().capture:
                return None
            formats = device.formats()
    except OSError as error:
        why = f"cannot be opened ({error.strerror or error}); the user must be in the group 'video'"
        return CameraInfo(source=source, kind="v4l2", name=name, note=why)
    raw = bool(formats) and all(f.bayer for f in formats)
    note = "raw Bayer data of a CSI sensor: use csi://0 in its place" if raw else None
    shown = tuple(
        FormatInfo(f.fourcc, f.description, {f"{s.width}x{s.height}": s.rates for s in f.sizes})
        for f in formats
    )
    return CameraInfo(source=source, kind="v4l2", name=name, formats=shown, note=note)


def list_csi() -> list[CameraInfo]:
    """The CSI cameras that libcamera knows; a Jetson's driver cannot be asked for them without starting one.

    Raises:
        MissingExtra: on a Jetson, GStreamer is not installed.
    """
    if is_jetson():
        load_gst("a CSI camera on a Jetson")
        note = "Argus cannot be asked which sensors there are; try csi://0, csi://1"
        return [CameraInfo(source="csi://0", kind="csi", name="Jetson CSI", note=note)]
    if importlib.util.find_spec("picamera2") is None:
        return []
    from picamera2 import Picamera2

    return [
        CameraInfo(source=f"csi://{i}", kind="csi", name=str(c.get("Model", c.get("Id", ""))))
        for i, c in enumerate(Picamera2.global_camera_info())
        if "/usb" not in str(c.get("Id", ""))
    ]


def list_genicam(make: Callable[[], Any] = make_harvester) -> list[CameraInfo]:
    """The cameras of the producers in ``GENICAM_GENTL64_PATH``; none where the variable is not set.

    Raises:
        MissingExtra: harvesters is not installed.
        InputError: the variable names no producer.
    """
    if not os.environ.get(GENTL_PATH):
        return []
    producers = find_producers("")
    harvester = make()
    try:
        for path in producers:
            harvester.add_file(str(path))
        harvester.update()
        return [
            CameraInfo(
                source=f"genicam://{info.serial_number}" if info.serial_number else f"genicam://{i}",
                kind="genicam",
                name=" ".join(str(x) for x in (info.vendor, info.model, info.serial_number) if x),
            )
            for i, info in enumerate(harvester.device_info_list)
        ]
    finally:
        harvester.reset()


def probe(source: CameraSource, seconds: float = 2.0) -> tuple[Probe, Image]:
    """Open a camera and take frames for some seconds: what it is like, and its last image.

    Raises:
        CameraError: it cannot be opened, gives no frame, or is gone.
        FrameError: a frame of a file is damaged.
    """
    times, frame, until = FrameTimes(10_000), None, 0.0
    state: tuple[CameraState, str] | None = None
    with source.open() as camera:
        while frame is None or time.monotonic() < until:
            now = camera.read()
            if now is None:
                break
            if frame is None:
                until = time.monotonic() + seconds
            frame = now
            times.add(frame.t_ns, time.monotonic_ns())
        if frame is None:
            raise CameraError(f"{source.name}: gave no frame")
        if isinstance(source, StatefulSource):
            state = source.tap.ask(STATE_PATIENCE_S)
    height, width = frame.image.shape[:2]
    return Probe(
        source=source.name,
        width=width,
        height=height,
        frames=times.statistics() if source.live else None,
        times=None if state is None else state[1],
        state=None if state is None else state[0],
    ), frame.image
