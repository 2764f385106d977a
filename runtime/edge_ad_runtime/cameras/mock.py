"""A pretended camera that plays a folder, with faults: ``mock:FOLDER?fail=5&away=2&fps=25``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from edge_ad_runtime.camera_state import CameraState
from edge_ad_runtime.cameras.adjusted import AdjustedCapture, StateTap
from edge_ad_runtime.cameras.base import Camera, Frame, FrameError, pause
from edge_ad_runtime.cameras.capture import Capture, Shot
from edge_ad_runtime.cameras.live import LiveCamera
from edge_ad_runtime.cameras.settings import CameraSettings
from edge_ad_runtime.cameras.triggered import BACKLOG, PartCamera, TriggeredCamera, TriggeredFiles, Watch
from edge_ad_runtime.errors import CameraError, ImageError
from edge_ad_runtime.images import read_image
from edge_ad_runtime.stopping import StopRequest
from edge_ad_runtime.tracking.picking import PickSettings

MOCK_SETTINGS = ("rotate", "flip", "exposure_us", "gain", "white_balance_k", "lock")
"""What can be set of a pretended device; all but rotation and flip change what it says of itself, not its images."""


@dataclass
class MockState:
    """What stays when the camera is reopened: the next position in the film, and the openings still to fail."""

    position: int = 0
    openings: int = 0
    away: int = 0
    failed: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class MockSource:
    """Plays the images ``paths`` as a live device would.

    Frames are counted over all openings, from 0. ``drop``: these are lost in the device, unnoticed. ``fail``: in place
    of these, once, the device disappears, and the next ``away`` openings fail too. ``stall``: before these
    it is silent for ``stall_ms``. ``loop``: begin again after the last image. With ``fps`` the frames come
    at that rate, through the same code as for a real device (the newest wins, or each part gets the first after its
    trigger); without it each is given when asked for and none is dropped, and each triggered part takes the next.
    """

    folder: Path
    paths: tuple[Path, ...]
    fps: float | None = None
    drop: frozenset[int] = frozenset()
    fail: frozenset[int] = frozenset()
    away: int = 0
    stall: frozenset[int] = frozenset()
    stall_ms: float = 1000.0
    stall_patience_s: float = 5.0
    loop: bool = False
    stop: StopRequest | None = field(default=None, compare=False)
    state: MockState = field(default_factory=MockState, compare=False)
    settings: CameraSettings = field(default_factory=CameraSettings)
    expected: CameraState | None = None
    tap: StateTap = field(default_factory=StateTap, repr=False, compare=False)

    @property
    def name(self) -> str:
        return f"mock:{self.folder}"

    @property
    def live(self) -> bool:
        return True

    def open(self) -> Camera:
        if self.fps is None:
            return _DirectCamera(self)
        return LiveCamera(self.name, self.open_capture, self.stop, stall_patience_s=self.stall_patience_s)

    def open_capture(self) -> Capture:
        """The opened device. Raises CameraError where it was asked to fail."""
        return self.adjusted(MockCapture(self))

    def adjusted(self, device: MockCapture) -> Capture:
        """The device with its images turned and its state watched."""
        return AdjustedCapture(device, self.settings, self.tap, self.expected)

    def expecting(self, state: CameraState | None) -> MockSource:
        """The same source, each opening of which is compared with ``state``."""
        return replace(self, expected=state)

    def open_triggered(
        self, settings: PickSettings, *, backlog: int = BACKLOG, watch: Watch | None = None
    ) -> PartCamera:
        if self.fps is None:
            return TriggeredFiles(_DirectCamera(self), backlog=backlog)
        return TriggeredCamera(
            self.name,
            self.open_capture,
            settings,
            backlog=backlog,
            watch=watch,
            stall_patience_s=self.stall_patience_s,
        )


class MockCapture:
    """The pretended device. It reads an image's file only when the frame is wanted. ``on_wait``: see
    :class:`edge_ad_runtime.cameras.base.Camera`, for one that is read in the line's own thread."""

    on_wait: Callable[[], None] | None = None

    def __init__(self, source: MockSource) -> None:
        self._source = source
        self._next_at = time.monotonic()
        self._grabbed: tuple[Path, int] | None = None
        source.state.openings += 1
        if source.state.away:
            source.state.away -= 1
            raise CameraError(f"{source.name}: cannot be opened (as asked)")

    def grab(self) -> int | None:
        source, state = self._source, self._source.state
        while True:
            if source.stop is not None and source.stop.requested:
                return None
            if state.position >= len(source.paths) and not source.loop:
                return None
            position = state.position
            path = source.paths[position % len(source.paths)]
            if position in source.fail and position not in state.failed:
                state.failed.add(position)
                state.away = source.away
                raise CameraError(f"{source.name}: gives no frames any more (as asked)")
            state.position += 1
            if position in source.stall:
                self._sleep(source.stall_ms / 1e3)
            if source.fps is not None:
                self._sleep(self._next_at - time.monotonic())
                self._next_at = max(self._next_at, time.monotonic()) + 1 / source.fps
            if position in source.drop:
                continue
            t_ns = time.monotonic_ns()
            self._grabbed = path, t_ns
            return t_ns

    def retrieve(self) -> Shot:
        if self._grabbed is None:
            raise CameraError(f"{self._source.name}: no frame was grabbed")
        path, t_ns = self._grabbed
        return Shot(read_image(path), "RGB", t_ns, str(path))

    def _sleep(self, seconds: float) -> None:
        pause(time.monotonic() + seconds, self._source.stop or StopRequest(), self.on_wait)

    @property
    def timestamps(self) -> str:
        return "pretended"

    def camera_state(self) -> CameraState:
        s = self._source.settings
        return CameraState(
            camera="mock",
            auto_exposure=not s.lock and s.exposure_us is None,
            exposure_us=s.exposure_us,
            gain=s.gain,
            auto_white_balance=not s.lock and s.white_balance_k is None,
            white_balance_k=s.white_balance_k,
        )

    def release(self) -> None:
        pass


class _DirectCamera(Camera):
    """Gives each frame of the pretended device when it is asked for."""

    def __init__(self, source: MockSource) -> None:
        self._device = MockCapture(source)
        self._capture = source.adjusted(self._device)
        self.name = source.name
        self.dropped = 0
        self._index = 0

    def close(self) -> None:
        self._capture.release()

    def read(self) -> Frame | None:
        self._device.on_wait = self.on_wait
        t_ns = self._capture.grab()
        if t_ns is None:
            return None
        index = self._index
        self._index += 1
        try:
            shot = self._capture.retrieve()
        except ImageError as error:
            raise FrameError(str(error), index, t_ns, self.name) from error
        return Frame(shot.pixels, index, shot.t_ns, shot.source, shot.order)
