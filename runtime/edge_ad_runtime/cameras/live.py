"""Live sources: a thread takes frames as fast as they come and keeps only the newest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_ad_runtime.cameras.base import WAIT_STEP_S, Camera, Frame, FrameError
from edge_ad_runtime.cameras.capture import Capture, Shot
from edge_ad_runtime.cameras.triggered import (
    BACKLOG,
    OPEN_PATIENCE_S,
    STALL_PATIENCE_S,
    PartCamera,
    TriggeredCamera,
    Watch,
)
from edge_ad_runtime.errors import CameraError, ImageError
from edge_ad_runtime.stopping import StopRequest
from edge_ad_runtime.tracking.picking import PickSettings

# The reader was elsewhere for so long that the part on the frame has probably passed the ejector. Longer
# than any engine takes for a part, so that slow engines and slow cameras do not lose parts by it.
MAX_AGE_S = 2.0


class LiveCamera(Camera):
    """Newest frame wins. The device is opened, read and released in the camera's own thread, so that
    neither a slow connection nor a silent device holds up a stop."""

    def __init__(
        self,
        name: str,
        open_capture: Callable[[], Capture],
        stop: StopRequest | None = None,
        *,
        open_patience_s: float = OPEN_PATIENCE_S,
        stall_patience_s: float | None = STALL_PATIENCE_S,
        max_age_s: float = MAX_AGE_S,
    ) -> None:
        self.name = name
        self.dropped = 0
        self._open_capture = open_capture
        self._stop = stop
        self._stall_patience_s = stall_patience_s
        self._max_age_ns = round(max_age_s * 1e9)
        self._changed = threading.Condition()
        self._newest: tuple[int, Shot | FrameError] | None = None
        self._error: CameraError | None = None
        self._ended = False
        self._closed = False
        self._last_sign = time.monotonic()
        self._patience_s: float | None = open_patience_s
        self._thread = threading.Thread(target=self._run, name=f"camera {name}", daemon=True)
        self._thread.start()

    def read(self) -> Frame | None:
        while True:
            with self._changed:
                if self._stop is not None and self._stop.requested:
                    return None
                if (taken := self._take()) is not None:
                    break
                if self._ended:
                    return None
                self._changed.wait(WAIT_STEP_S)
            # Outside of the lock: it may take its time.
            if self.on_wait is not None:
                self.on_wait()
        index, shot = taken
        if isinstance(shot, FrameError):
            raise shot
        return Frame(shot.pixels, index, shot.t_ns, shot.source, shot.order)

    def _take(self) -> tuple[int, Shot | FrameError] | None:
        """The newest frame if there is one that is not too old."""
        taken, self._newest = self._newest, None
        if taken is not None:
            if time.monotonic_ns() - taken[1].t_ns <= self._max_age_ns:
                return taken
            self.dropped += 1
        if self._error is not None:
            raise self._error
        if self._ended:
            return None
        if self._closed:
            raise CameraError(f"{self.name}: is closed")
        if self._patience_s is not None and time.monotonic() - self._last_sign > self._patience_s:
            raise CameraError(f"{self.name}: no frame for {self._patience_s:g} s")
        return None

    def close(self) -> None:
        with self._changed:
            self._closed = True
        # A thread that is stuck in the driver releases the device when it comes back.
        self._thread.join(1.0)

    def _run(self) -> None:
        try:
            capture = self._open_capture()
            try:
                self._take_frames(capture)
            finally:
                capture.release()
        except CameraError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, the loop hears of it
            self._fail(CameraError(f"{self.name}: {type(error).__name__} in the driver"))

    def _take_frames(self, capture: Capture) -> None:
        index = 0
        while not self._closed:
            t_ns = capture.grab()
            shot = None if t_ns is None else self._retrieve(capture, index, t_ns)
            with self._changed:
                self._last_sign, self._patience_s = time.monotonic(), self._stall_patience_s
                if shot is None:
                    self._ended = True
                    self._changed.notify_all()
                    return
                if self._newest is not None:
                    self.dropped += 1
                self._newest = (index, shot)
                self._changed.notify_all()
            index += 1

    def _retrieve(self, capture: Capture, index: int, t_ns: int) -> Shot | FrameError:
        try:
            return capture.retrieve()
        except ImageError as error:
            return FrameError(f"{self.name}: {error}", index, t_ns, self.name)

    def _fail(self, error: CameraError) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()


@dataclass(frozen=True)
class LiveSource:
    """A device that gives frames at its own pace.

    ``open_capture`` opens it and may know a password, so it is not shown. A device without a frame for
    ``stall_patience_s`` is given up; None for one that gives frames only when a part triggers it.
    """

    name: str
    open_capture: Callable[[], Capture] = field(repr=False)
    stop: StopRequest | None = field(default=None, repr=False)
    stall_patience_s: float | None = STALL_PATIENCE_S

    @property
    def live(self) -> bool:
        return True

    def open(self) -> Camera:
        return LiveCamera(self.name, self.open_capture, self.stop, stall_patience_s=self.stall_patience_s)

    def open_triggered(
        self, settings: PickSettings, *, backlog: int = BACKLOG, watch: Watch | None = None
    ) -> PartCamera:
        return TriggeredCamera(
            self.name,
            self.open_capture,
            settings,
            backlog=backlog,
            watch=watch,
            stall_patience_s=self.stall_patience_s,
        )
