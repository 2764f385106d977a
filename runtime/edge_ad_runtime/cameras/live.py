"""Live sources: a thread takes frames as fast as they come and keeps only the newest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from edge_ad_runtime.cameras.base import Camera, Frame, FrameError
from edge_ad_runtime.cameras.capture import Capture, Shot, to_rgb
from edge_ad_runtime.errors import CameraError, ImageError
from edge_ad_runtime.stopping import StopRequest

OPEN_PATIENCE_S = 15.0
STALL_PATIENCE_S = 5.0
# The reader was elsewhere for so long that the part on the frame has probably passed the ejector. Longer
# than any engine takes for a part, so that slow engines and slow cameras do not lose parts by it.
MAX_AGE_S = 2.0
_STOP_POLL_S = 0.05


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
        stall_patience_s: float = STALL_PATIENCE_S,
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
        self._patience_s = open_patience_s
        self._thread = threading.Thread(target=self._run, name=f"camera {name}", daemon=True)
        self._thread.start()

    def read(self) -> Frame | None:
        with self._changed:
            while True:
                if self._stop is not None and self._stop.requested:
                    return None
                if self._newest is not None:
                    (index, shot), self._newest = self._newest, None
                    if time.monotonic_ns() - shot.t_ns <= self._max_age_ns:
                        break
                    self.dropped += 1
                    continue
                if self._error is not None:
                    raise self._error
                if self._ended:
                    return None
                if self._closed:
                    raise CameraError(f"{self.name}: is closed")
                if time.monotonic() - self._last_sign > self._patience_s:
                    raise CameraError(f"{self.name}: no frame for {self._patience_s:g} s")
                self._changed.wait(_STOP_POLL_S)
                if self.on_wait is not None:
                    self.on_wait()
        if isinstance(shot, FrameError):
            raise shot
        return Frame(to_rgb(shot), index, shot.t_ns, shot.source)

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
