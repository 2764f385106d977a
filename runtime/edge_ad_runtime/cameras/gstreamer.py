"""Any GStreamer pipeline as a camera: ``gst:v4l2src device=/dev/video2 ! image/jpeg ! jpegdec``.

Through PyGObject and an appsink, since OpenCV's wheels are built without GStreamer. PyGObject and GStreamer come from
the distribution, not from the package index.
"""

from __future__ import annotations

import re
import time
from typing import Any

import cv2
import numpy as np

from edge_ad_runtime.camera_state import CameraState
from edge_ad_runtime.cameras.capture import Shot
from edge_ad_runtime.cameras.opencv import KernelClock
from edge_ad_runtime.errors import CameraError, ImageError, MissingExtra

SILENCE_S = 5.0
_STEP_NS = 200_000_000
_SINK = "edge_ad_sink"
# Frames that may wait for the reader; beyond it the oldest goes.
_BUFFERS = 4
_CLOCK_TOLERANCE_NS = 50_000_000

REMEDY = (
    "sudo apt install python3-gi gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base "
    "gstreamer1.0-plugins-good, in a virtual environment made with --system-site-packages"
)

_SECRETS = (
    (re.compile(r"(://)[^\s\"']*@"), r"\1***@"),
    (re.compile(r"\b(user-id|user-pw|password|passwd|proxy-pw|proxy-id|extra-headers)\s*=\s*(\"[^\"]*\"|'[^']*'|\S+)"), r"\1=***"),
)  # fmt: skip


def load_gst(purpose: str) -> Any:
    """The ``Gst`` module of PyGObject, initialised.

    Raises:
        MissingExtra: PyGObject, or GStreamer's descriptions for it, are not installed.
    """
    try:
        import gi

        gi.require_version("Gst", "1.0")
        gi.require_version("GstApp", "1.0")
        # GstApp is imported for try_pull_sample, which it gives to the sink.
        from gi.repository import Gst, GstApp  # noqa: F401
    except (ImportError, ValueError) as error:  # ValueError: a description of GStreamer is missing
        raise MissingExtra("PyGObject (gi)", "gstreamer", purpose, REMEDY) from error
    Gst.init(None)
    return Gst


def redact_pipeline(description: str) -> str:
    """A pipeline without user names and passwords, in addresses and in properties."""
    for pattern, shown in _SECRETS:
        description = pattern.sub(shown, description)
    return description


class GstCapture:
    """A running pipeline.

    ``grab`` gives the buffer's time on the monotonic clock where the pipeline is live (cameras), which sources set when
    the frame was captured; else the time of arrival.
    """

    def __init__(self, description: str, name: str, *, convert: str = "videoconvert") -> None:
        """Start a pipeline; ``convert`` is the element that brings its images into RGBA in main memory.

        Raises:
            CameraError: an element is missing, a property is wrong, or it does not start.
            MissingExtra: GStreamer is not installed.
        """
        self._gst = gst = load_gst("a GStreamer camera")
        self._name = name
        text = (
            f"{description} ! {convert} ! video/x-raw,format=RGBA ! "
            f"appsink name={_SINK} sync=false drop=true max-buffers={_BUFFERS}"
        )
        from gi.repository import GLib

        try:
            self._pipeline = gst.parse_launch(text)
        except GLib.Error as error:
            raise CameraError(f"{name}: {redact_pipeline(_message(error))}") from None
        self._sink = self._pipeline.get_by_name(_SINK)
        # A sink that does not wait for its clock calls every pipeline not live; what is before it knows better.
        self._before = self._sink.get_static_pad("sink")
        self._bus = self._pipeline.get_bus()
        self._sample: Any = None
        self._t_ns = 0
        self._piped = False
        self._clock = KernelClock()
        if self._pipeline.set_state(gst.State.PLAYING) == gst.StateChangeReturn.FAILURE:
            why = self._complaint() or "does not start"
            self.release()
            raise CameraError(f"{name}: {why}")

    @property
    def timestamps(self) -> str:
        return "pipeline" if self._piped else "arrival"

    def element(self, name: str) -> Any:
        """An element of the pipeline."""
        return self._pipeline.get_by_name(name)

    def camera_state(self) -> CameraState:
        caps = self._before.get_current_caps()
        if caps is None:
            return CameraState()
        fields = caps.get_structure(0)
        return CameraState(width=fields.get_int("width")[1], height=fields.get_int("height")[1])

    def grab(self) -> int | None:
        until = time.monotonic() + SILENCE_S
        while True:
            # Lets other threads run meanwhile.
            sample = self._sink.try_pull_sample(_STEP_NS)
            now = time.monotonic_ns()
            if sample is not None:
                self._sample = sample
                self._t_ns = self._stamp(sample, now)
                return self._t_ns
            if complaint := self._complaint():
                raise CameraError(f"{self._name}: {complaint}")
            if self._sink.is_eos():
                return None
            if time.monotonic() > until:
                raise CameraError(f"{self._name}: no frame for {SILENCE_S:g} s")

    def retrieve(self) -> Shot:
        fields = self._sample.get_caps().get_structure(0)
        width, height = fields.get_int("width")[1], fields.get_int("height")[1]
        buffer = self._sample.get_buffer()
        good, mapped = buffer.map(self._gst.MapFlags.READ)
        if not good:
            raise ImageError("a frame cannot be read from the pipeline")
        try:
            flat = np.frombuffer(mapped.data, np.uint8)
            if flat.size < 4 * width * height or flat.size % height:
                raise ImageError(f"a frame of {flat.size} bytes is not {width}x{height} RGBA")
            rows = flat.reshape(height, -1)[:, : 4 * width].reshape(height, width, 4)
            pixels = np.asarray(cv2.cvtColor(rows, cv2.COLOR_RGBA2RGB), np.uint8)
        finally:
            buffer.unmap(mapped)
        return Shot(pixels, "RGB", self._t_ns, self._name)

    def release(self) -> None:
        self._sample = None
        self._pipeline.set_state(self._gst.State.NULL)

    def _stamp(self, sample: Any, now: int) -> int:
        """The buffer's running time plus the pipeline's base time, on GStreamer's clock, if that is the monotonic one
        and the pipeline is live; a file's buffers have times of their own."""
        self._piped = False
        gst, clock, pts = self._gst, self._pipeline.get_clock(), sample.get_buffer().pts
        query = gst.Query.new_latency()
        if clock is None or pts == gst.CLOCK_TIME_NONE or not self._before.peer_query(query):
            return now
        if not query.parse_latency()[0] or abs(clock.get_time() - time.monotonic_ns()) > _CLOCK_TOLERANCE_NS:
            return now
        running = sample.get_segment().to_running_time(gst.Format.TIME, pts)
        if running == gst.CLOCK_TIME_NONE:
            return now
        t_ns = self._clock.time_ns((self._pipeline.get_base_time() + running) / 1e6, now)
        self._piped = t_ns != now
        return t_ns

    def _complaint(self) -> str | None:
        message = self._bus.pop_filtered(self._gst.MessageType.ERROR)
        return None if message is None else redact_pipeline(_message(message.parse_error()[0]))


def _message(error: Any) -> str:
    """A GLib.Error says more of itself in ``message`` than in ``str``."""
    return str(getattr(error, "message", None) or error)
