"""What all live sources share: images turned as set, and the device's state for whoever asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import msgspec

from edge_ad_runtime.camera_state import CameraState, compare
from edge_ad_runtime.cameras.base import Camera
from edge_ad_runtime.cameras.capture import Capture, Shot
from edge_ad_runtime.cameras.live import LiveSource
from edge_ad_runtime.cameras.settings import CameraSettings, turn
from edge_ad_runtime.cameras.triggered import BACKLOG, STALL_PATIENCE_S, PartCamera, Watch
from edge_ad_runtime.errors import CameraError
from edge_ad_runtime.stopping import StopRequest
from edge_ad_runtime.tracking.picking import PickSettings

STATE_PATIENCE_S = 20.0
"""A camera has to open and to give its first frame in this time; a lock takes two seconds of it."""


@runtime_checkable
class StatefulCapture(Capture, Protocol):
    """A capture that knows its device."""

    @property
    def timestamps(self) -> str:
        """What the frames' times mark, for people: ``kernel``, ``sensor``, ``pipeline`` or ``arrival``."""
        ...

    def camera_state(self) -> CameraState:
        """How the device stands; may be called from any thread while the capture is open.

        Raises:
            CameraError: the device is gone.
        """
        ...


def read_state(capture: Capture) -> CameraState:
    """How the device of a capture stands; all unknown where it cannot be asked.

    Raises:
        CameraError: the device is gone.
    """
    return capture.camera_state() if isinstance(capture, StatefulCapture) else CameraState()


class StateTap:
    """Where the open device of a source can be asked, from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._capture: AdjustedCapture | None = None

    def attach(self, capture: AdjustedCapture) -> None:
        with self._changed:
            self._capture = capture
            self._changed.notify_all()

    def detach(self, capture: AdjustedCapture) -> None:
        """Afterwards nobody asks this capture any more."""
        with self._changed:
            if self._capture is capture:
                self._capture = None

    def ask(self, patience_s: float) -> tuple[CameraState, str] | None:
        """State, and what the times mark, of the device once it has given a frame; None if that does not happen."""
        with self._changed:
            self._changed.wait_for(lambda: self._capture is not None, patience_s)
            if self._capture is None:
                return None
            return self._capture.camera_state(), self._capture.timestamps


class AdjustedCapture:
    """A capture whose images are turned, and that is refused when its device does not stand as expected."""

    def __init__(
        self, inner: Capture, settings: CameraSettings, tap: StateTap, expected: CameraState | None = None
    ) -> None:
        self._inner = inner
        self._settings = settings
        self._tap = tap
        self._expected = expected
        self._started = False

    @property
    def timestamps(self) -> str:
        return self._inner.timestamps if isinstance(self._inner, StatefulCapture) else "arrival"

    def camera_state(self) -> CameraState:
        turned = self._settings.rotate, self._settings.flip
        return msgspec.structs.replace(read_state(self._inner), rotate=turned[0], flip=turned[1])

    def grab(self) -> int | None:
        t_ns = self._inner.grab()
        if t_ns is not None and not self._started:
            # With the first frame: some devices take settings only when they stream.
            self._started = True
            if self._expected is not None and (found := compare(self._expected, self.camera_state())):
                raise CameraStateError(found)
            self._tap.attach(self)
        return t_ns

    def retrieve(self) -> Shot:
        shot = self._inner.retrieve()
        if not self._settings.rotate and self._settings.flip == "none":
            return shot
        return replace(shot, pixels=turn(shot.pixels, self._settings))

    def release(self) -> None:
        self._tap.detach(self)
        self._inner.release()


class CameraStateError(CameraError):
    """The camera does not stand as it did at the calibration; ``differences`` says how, a sentence each."""

    def __init__(self, differences: list[str]) -> None:
        self.differences = tuple(differences)
        super().__init__(
            f"the camera is not as it was at the calibration: {'; '.join(differences)}. Set it as it was, or recalibrate"
        )


@dataclass(frozen=True)
class DeviceSource:
    """A parsed text of a device or a network camera.

    ``opener`` opens the device with all its settings but turning; it may know an address with a password, and is not
    shown. With ``expected`` every opening compares the device with that state, and one that differs is closed again
    with :class:`CameraStateError`. ``stall_patience_s``: see :class:`edge_ad_runtime.cameras.live.LiveSource`.
    """

    name: str
    opener: Callable[[], Capture] = field(repr=False, compare=False)
    settings: CameraSettings = field(default_factory=CameraSettings)
    stop: StopRequest | None = field(default=None, repr=False, compare=False)
    stall_patience_s: float | None = STALL_PATIENCE_S
    expected: CameraState | None = None
    tap: StateTap = field(default_factory=StateTap, repr=False, compare=False)

    @property
    def live(self) -> bool:
        return True

    def open_capture(self) -> Capture:
        """Open the device. Raises CameraError where that fails."""
        return AdjustedCapture(self.opener(), self.settings, self.tap, self.expected)

    def open(self) -> Camera:
        return self._source().open()

    def open_triggered(
        self, settings: PickSettings, *, backlog: int = BACKLOG, watch: Watch | None = None
    ) -> PartCamera:
        return self._source().open_triggered(settings, backlog=backlog, watch=watch)

    def expecting(self, state: CameraState | None) -> DeviceSource:
        """The same source, each opening of which is compared with ``state``."""
        return replace(self, expected=state)

    def _source(self) -> LiveSource:
        return LiveSource(self.name, self.open_capture, self.stop, self.stall_patience_s)


@runtime_checkable
class StatefulSource(Protocol):
    """A source whose device can be asked: what :func:`source_state` and :func:`check_state` need."""

    @property
    def name(self) -> str: ...

    @property
    def tap(self) -> StateTap: ...

    @property
    def live(self) -> bool: ...

    def open(self) -> Camera: ...

    def open_triggered(
        self, settings: PickSettings, *, backlog: int = ..., watch: Watch | None = None
    ) -> PartCamera: ...

    def expecting(self, state: CameraState | None) -> StatefulSource: ...


def source_state(source: object, patience_s: float = STATE_PATIENCE_S) -> CameraState | None:
    """How the device stands that the source has open at the moment; None for sources without a device (files).

    Raises:
        CameraError: it has given no frame within ``patience_s``, or it is gone.
    """
    if not isinstance(source, StatefulSource):
        return None
    answer = source.tap.ask(patience_s)
    if answer is None:
        raise CameraError(
            f"{source.name}: has given no frame, so its exposure and white balance are not known"
        )
    return answer[0]


def check_state(
    source: object, recorded: CameraState | None, patience_s: float = STATE_PATIENCE_S
) -> list[str]:
    """Open the camera for a moment and compare it with what was recorded; the differences, a sentence each.

    Nothing is opened where nothing was recorded, or the source has no device.

    Raises:
        CameraError: the camera cannot be opened, or gives no frame within ``patience_s``.
    """
    if recorded is None or not isinstance(source, StatefulSource):
        return []
    end = time.monotonic() + patience_s
    with source.open() as camera:
        if camera.read() is None:
            return []
        state = source_state(source, max(0.1, end - time.monotonic()))
    return [] if state is None else compare(recorded, state)
