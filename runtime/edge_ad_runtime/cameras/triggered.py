"""Frames for triggered parts: one frame for each part, or the reason why it gets none."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from edge_ad_runtime.cameras.base import Camera, CameraSource, Frame, FrameError
from edge_ad_runtime.cameras.capture import Capture, Shot
from edge_ad_runtime.cameras.statistics import FrameStats, FrameTimes
from edge_ad_runtime.errors import CameraError, ImageError
from edge_ad_runtime.tracking.picking import FramePicker, Miss, PickSettings
from edge_ad_runtime.verdict import Fault

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing only from Python 3.11 on

_log = logging.getLogger(__name__)

BACKLOG = 8
OPEN_PATIENCE_S = 15.0
STALL_PATIENCE_S = 5.0
# What waits for a reader that has stopped reading; the guard has decided on older parts long ago.
_MAX_KNOWN = 10_000

Watch = Callable[[Shot], None]


@dataclass(frozen=True)
class PartFrame:
    """The frame that shows a part."""

    part: int
    frame: Frame


class PartCamera(ABC):
    """An opened camera of a triggered line; use it as a context manager. Parts are announced from any thread, frames
    are read from one. It does not reopen its device: after CameraError it is closed and a new one is opened; the parts
    announced to the old one meanwhile are missed at once, and :meth:`read` still hands them out."""

    name: str
    """For people and records; without credentials."""

    grabbed: int = 0
    """Frames that have come."""

    paced: bool = True
    """Whether frames come at the camera's own pace, and not when they are asked for."""

    dropped: int = 0
    """Parts that had a frame but lost it, because the backlog was full."""

    @abstractmethod
    def announce(self, part: int, t_trigger_ns: int) -> None:
        """A part was triggered at ``t_trigger_ns``, monotonic; parts come in the order of their triggers. Never waits."""

    @abstractmethod
    def read(self, timeout_s: float) -> PartFrame | Miss | None:
        """What has become of a part, in the order in which it became known; each part that was announced comes once.

        Returns:
            None when nothing became known in ``timeout_s`` seconds, or the source has ended.

        Raises:
            CameraError: the device is missing, gone or silent, and all misses have been handed out.
        """

    @property
    @abstractmethod
    def opened(self) -> bool:
        """Whether the device is open."""

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether the device is open and gives frames (one that waits for a trigger itself: is open)."""

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether the source has no more frames, and all that became known has been read."""

    def statistics(self) -> FrameStats | None:
        """How the last frames came; None while too few have, or where the source has no pace."""
        return None

    def close(self) -> None:
        """Release the device; may be called again."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PartCameraSource(Protocol):
    """Knows how to open the camera of a triggered line, as often as needed."""

    @property
    def name(self) -> str:
        """For people and records; without credentials."""
        ...

    @property
    def live(self) -> bool:
        """Whether it can go away and come back, so that a failure is worth another opening."""
        ...

    def open(self) -> PartCamera:
        """Open the camera.

        Raises:
            CameraError: it is missing or unusable. A live camera may raise it only at the first read.
        """
        ...


@dataclass(frozen=True)
class TriggeredSource:
    """A camera source with what a triggered line asks of it; see :class:`TriggeredCamera`."""

    source: CameraSource
    settings: PickSettings
    backlog: int = BACKLOG
    watch: Watch | None = None

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def live(self) -> bool:
        return self.source.live

    def open(self) -> PartCamera:
        return self.source.open_triggered(self.settings, backlog=self.backlog, watch=self.watch)


@dataclass(frozen=True)
class _Picked:
    part: int
    index: int
    shot: Shot


class TriggeredCamera(PartCamera):
    """A device whose frames are all grabbed, in the camera's own thread, and of which only those are decoded that a part
    wants (:class:`edge_ad_runtime.tracking.picking.FramePicker` says which)."""

    def __init__(
        self,
        name: str,
        open_capture: Callable[[], Capture],
        settings: PickSettings,
        *,
        backlog: int = BACKLOG,
        watch: Watch | None = None,
        open_patience_s: float = OPEN_PATIENCE_S,
        stall_patience_s: float | None = STALL_PATIENCE_S,
    ) -> None:
        """Start to open the device.

        Args:
            name: for people and records; without credentials.
            open_capture: opens the device; called in the camera's thread.
            settings: which frame belongs to a part.
            backlog: decoded frames that may wait to be read; beyond it a part is missed as an overrun.
            watch: is given every frame, which is therefore decoded, in the camera's thread before the next is grabbed:
                for a trigger that looks for parts in the image.
            open_patience_s: a device that takes longer to open is given up.
            stall_patience_s: a device without a frame for longer is given up; None for a device that gives frames only
                when a part triggers it.
        """
        self.name = name
        self.grabbed = 0
        self.dropped = 0
        self._open_capture = open_capture
        self._picker = FramePicker(settings)
        self._backlog = backlog
        self._watch = watch
        self._stall_patience_s = stall_patience_s
        self._changed = threading.Condition()
        self._known: deque[_Picked | Miss] = deque()
        self._undelivered = 0
        self._decoding: int | None = None
        self._times = FrameTimes()
        self._opened = False
        self._ended = False
        self._closed = False
        self._error: CameraError | None = None
        self._forgot = False
        self._last_sign = time.monotonic()
        self._patience_s: float | None = open_patience_s
        self._thread = threading.Thread(target=self._run, name=f"camera {name}", daemon=True)
        self._thread.start()

    def announce(self, part: int, t_trigger_ns: int) -> None:
        with self._changed:
            if self._over:
                why = "the source has ended" if self._ended else str(self._error or f"{self.name}: is closed")
                misses = [Miss(part, Fault.CAMERA, why)]
            elif not self._opened:
                misses = [Miss(part, Fault.CAMERA, f"{self.name}: is being opened")]
            else:
                misses = self._picker.expire(time.monotonic_ns())
                miss = self._picker.announce(part, t_trigger_ns)
                misses += [] if miss is None else [miss]
            self._tell(misses)
            # The reader has to learn of the new part's time limit.
            self._changed.notify_all()

    def read(self, timeout_s: float) -> PartFrame | Miss | None:
        until = time.monotonic() + timeout_s
        with self._changed:
            while not self._known:
                self._look_at_the_clock()
                if self._known:
                    break
                if self._error is not None:
                    raise self._error
                if self._closed:
                    raise CameraError(f"{self.name}: is closed")
                left = until - time.monotonic()
                if self._ended or left <= 0:
                    return None
                self._changed.wait(self._pause_s(left))
            item = self._known.popleft()
            if isinstance(item, Miss):
                return item
            self._undelivered -= 1
        shot = item.shot
        return PartFrame(item.part, Frame(shot.pixels, item.index, shot.t_ns, shot.source, shot.order))

    @property
    def opened(self) -> bool:
        with self._changed:
            return self._opened and not self._over

    @property
    def alive(self) -> bool:
        with self._changed:
            if not self._opened or self._over:
                return False
            if self._stall_patience_s is None:
                return True
            return self.grabbed > 0 and time.monotonic() - self._last_sign <= self._stall_patience_s

    @property
    def ended(self) -> bool:
        with self._changed:
            return self._ended and not self._known

    def statistics(self) -> FrameStats | None:
        with self._changed:
            return self._times.statistics()

    def close(self) -> None:
        with self._changed:
            if not self._closed:
                self._closed = True
                self._give_up(f"{self.name}: is closed")
        # A thread that is stuck in the driver releases the device when it comes back.
        self._thread.join(1.0)

    @property
    def _over(self) -> bool:
        return self._closed or self._ended or self._error is not None

    def _look_at_the_clock(self) -> None:
        if self._over:
            return
        self._tell(self._picker.expire(time.monotonic_ns()))
        if self._patience_s is not None and time.monotonic() - self._last_sign > self._patience_s:
            what = "no frame" if self._opened else "cannot be opened: no answer"
            self._fail(CameraError(f"{self.name}: {what} for {self._patience_s:g} s"))

    def _pause_s(self, left: float) -> float:
        """How long to wait before the clock has to be looked at."""
        expires_ns = self._picker.expires_ns
        if expires_ns is not None:
            left = min(left, (expires_ns - time.monotonic_ns()) / 1e9)
        if self._patience_s is not None:
            left = min(left, self._last_sign + self._patience_s - time.monotonic())
        # Both limits are passed only a moment after their time.
        return max(left, 0.0) + 0.001

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
            self._fail(CameraError(f"{self.name}: {type(error).__name__} in the camera's thread"))

    def _take_frames(self, capture: Capture) -> None:
        with self._changed:
            self._opened = True
            self._last_sign, self._patience_s = time.monotonic(), self._stall_patience_s
        while True:
            t_ns = capture.grab()
            with self._changed:
                if self._over:
                    return
                if t_ns is None:
                    self._give_up("the source has ended")
                    self._ended = True
                    self._changed.notify_all()
                    return
                part = self._grab(t_ns)
            if part is not None or self._watch is not None:
                self._retrieve(capture, part)

    def _grab(self, t_ns: int) -> int | None:
        """A frame has come: the part that it has to be decoded for."""
        self._last_sign = time.monotonic()
        self._times.add(t_ns, time.monotonic_ns())
        self.grabbed += 1
        part, misses = self._picker.frame(t_ns)
        if part is not None and self._undelivered >= self._backlog:
            misses.append(Miss(part, Fault.OVERRUN, f"{self._undelivered} frames waited to be scored"))
            self.dropped += 1
            part = None
        self._tell(misses)
        self._decoding = part
        return part

    def _retrieve(self, capture: Capture, part: int | None) -> None:
        shot: Shot | None = None
        damage = ""
        try:
            shot = capture.retrieve()
        except ImageError as error:
            damage = str(error)
        with self._changed:
            if self._over:
                return  # the part has been given up meanwhile
            self._decoding = None
            if part is not None and shot is not None:
                self._undelivered += 1
                self._remember([_Picked(part, self.grabbed - 1, shot)])
            elif part is not None:
                self._remember([Miss(part, Fault.FRAME, damage)])
        if self._watch is not None and shot is not None:
            self._watch(shot)

    def _fail(self, error: CameraError) -> None:
        with self._changed:
            if self._over:
                return
            self._give_up(str(error))
            self._error = error
            self._changed.notify_all()

    def _give_up(self, why: str) -> None:
        """All parts that still wait, the one whose frame is being decoded first."""
        misses = [] if self._decoding is None else [Miss(self._decoding, Fault.CAMERA, why)]
        self._decoding = None
        self._tell(misses + self._picker.flush(Fault.CAMERA, why))

    def _tell(self, misses: list[Miss]) -> None:
        if misses:
            self._remember(misses)

    def _remember(self, items: list[Miss] | list[_Picked]) -> None:
        self._known.extend(items)
        while len(self._known) > _MAX_KNOWN:
            if isinstance(self._known.popleft(), _Picked):
                self._undelivered -= 1
            if not self._forgot:
                self._forgot = True
                _log.error("%s: nobody reads what became of its parts; the oldest are forgotten", self.name)
        self._changed.notify_all()


class TriggeredFiles(PartCamera):
    """A trial of a triggered line without a camera: each part that is announced takes the next image, whatever the
    times. The end of the images is the end of the source."""

    def __init__(self, camera: Camera, *, backlog: int = BACKLOG) -> None:
        """Take over an opened camera.

        Args:
            camera: gives its next image whenever it is asked.
            backlog: parts that may wait for their image; beyond it a part is missed as an overrun.
        """
        self.name = camera.name
        self.paced = False
        self.grabbed = 0
        self.dropped = 0
        self._camera = camera
        self._backlog = backlog
        self._changed = threading.Condition()
        self._waiting: deque[int] = deque()
        self._known: deque[Miss] = deque()
        # Fetched before a part wants it, so that the end is known with the last image.
        self._next: Frame | FrameError | None = None
        self._over: str | None = None
        self._error: CameraError | None = None

    def announce(self, part: int, t_trigger_ns: int) -> None:
        with self._changed:
            if self._over is not None:
                self._known.append(Miss(part, Fault.CAMERA, self._over))
            elif len(self._waiting) >= self._backlog:
                self.dropped += 1
                self._known.append(
                    Miss(part, Fault.OVERRUN, f"{len(self._waiting)} parts waited for an image")
                )
            else:
                self._waiting.append(part)
            while len(self._known) > _MAX_KNOWN:
                self._known.popleft()
            self._changed.notify_all()

    def read(self, timeout_s: float) -> PartFrame | Miss | None:
        if self._next is None and self._over is None:
            self._fetch()
        with self._changed:
            self._changed.wait_for(
                lambda: bool(self._known or self._waiting) or self._over is not None, timeout_s
            )
            if self._known:
                return self._known.popleft()
            if self._error is not None:
                raise self._error
            if not self._waiting or self._next is None:
                return None
            part, image, self._next = self._waiting.popleft(), self._next, None
        self._fetch()
        if isinstance(image, FrameError):
            return Miss(part, Fault.FRAME, str(image))
        return PartFrame(part, image)

    @property
    def opened(self) -> bool:
        return self._over is None

    @property
    def alive(self) -> bool:
        return self._error is None

    @property
    def ended(self) -> bool:
        with self._changed:
            return self._over is not None and self._error is None and not self._known

    def close(self) -> None:
        with self._changed:
            self._give_up(f"{self.name}: is closed")
            self._error = self._error or CameraError(f"{self.name}: is closed")
        self._camera.close()

    def _fetch(self) -> None:
        try:
            self._next = self._camera.read()
        except FrameError as error:
            self._next = error
        except CameraError as error:
            with self._changed:
                self._give_up(str(error))
                self._error = error
            return
        if self._next is None:
            with self._changed:
                self._give_up("the images have ended")
        else:
            self.grabbed += 1

    def _give_up(self, why: str) -> None:
        if self._over is None:
            self._over = why
        self._known.extend(Miss(part, Fault.CAMERA, why) for part in self._waiting)
        self._waiting.clear()
        self._changed.notify_all()
