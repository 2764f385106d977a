"""What a camera is: anything that yields images of parts, one after the other."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol

import cv2
import numpy as np

from edge_ad_runtime.errors import ImageError
from edge_ad_runtime.stopping import StopRequest
from edge_ad_runtime.tracking.picking import PickSettings
from edge_ad_runtime.types import Image

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing only from Python 3.11 on

    from edge_ad_runtime.cameras.triggered import PartCamera, Watch

WAIT_STEP_S = 0.05


@dataclass(frozen=True)
class Frame:
    """One image of a source.

    ``pixels`` are ``uint8 HxWx3`` with the colours in ``order``, as the device gave them; nobody writes into them any
    more. ``index`` counts the frames of this opening from 0, dropped ones
    included. ``source`` names the file, or the device without credentials. ``t_ns`` is monotonic time:

    ===============  ==============================================================================
    V4L2             the kernel's timestamp of the buffer. USB cameras (uvcvideo): when the first data
                     of the frame came, which is after the exposure and the camera's own work. Other
                     drivers: when the readout began or ended. Where the stamp is not on the monotonic
                     clock: when the frame was taken from the driver.
    streams          when the frame had been received: later than the exposure by the encoder's, the
                     network's and the buffers' delay, often 100 ms and more, and not constant
    files, ``mock``  when the frame was asked for, or pretended to be exposed
    ===============  ==============================================================================

    None of these is the beginning of the exposure. A triggered line is therefore told by ``latency_ms`` how much
    later than that the timestamp is at most, and subtracts it
    (:class:`edge_ad_runtime.tracking.picking.PickSettings`).
    """

    pixels: Image
    index: int
    t_ns: int
    source: str
    order: Literal["RGB", "BGR"] = "RGB"

    @property
    def image(self) -> Image:
        """The image, ``uint8 HxWx3`` RGB, contiguous; converted anew each time where the device gave BGR."""
        if self.order == "RGB":
            return self.pixels
        return np.asarray(cv2.cvtColor(self.pixels, cv2.COLOR_BGR2RGB), np.uint8)

    @property
    def view(self) -> Image:
        """The image, ``uint8 HxWx3`` RGB, without a copy: not contiguous where the device gave BGR.

        :func:`edge_ad_runtime.preprocess.preprocess` puts the colours of such an image in order when it is small.
        """
        return self.pixels if self.order == "RGB" else self.pixels[:, :, ::-1]


class FrameError(ImageError):
    """One frame of a source is unusable (a damaged file in a folder); the source goes on with the next."""

    def __init__(self, message: str, index: int, t_ns: int, source: str) -> None:
        self.index, self.t_ns, self.source = index, t_ns, source
        super().__init__(message)


class Camera(ABC):
    """An opened image source; use it as a context manager and from one thread."""

    name: str
    """For people and records; without credentials."""

    dropped: int = 0
    """Frames that were taken but never handed out, because newer ones had come or they were too old."""

    on_wait: Callable[[], None] | None = None
    """Called several times a second while :meth:`read` waits, so that the reader can say it lives."""

    @abstractmethod
    def read(self) -> Frame | None:
        """The next frame; None when the source has ended, or the stop that it was opened with is requested.

        A live source gives the newest frame, each at most once; files give every frame.

        Raises:
            CameraError: the device is missing, gone or silent; it has to be opened anew.
            FrameError: this one frame is unusable.
        """

    def close(self) -> None:
        """Release the device; may be called again. A source that holds nothing does nothing."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class CameraSource(Protocol):
    """A parsed camera text: knows how to open its camera, as often as needed."""

    @property
    def name(self) -> str:
        """For people and records; without credentials."""
        ...

    @property
    def live(self) -> bool:
        """Whether it can go away and come back, so that a failure is worth another opening."""
        ...

    def open(self) -> Camera:
        """Open the camera.

        Raises:
            CameraError: it is missing or unusable. A live camera may raise it only at the first read.
        """
        ...

    def open_triggered(
        self, settings: PickSettings, *, backlog: int = ..., watch: Watch | None = None
    ) -> PartCamera:
        """Open the camera for a line with a trigger: it gives one frame for each part.

        Sources without a time of their own (files) give each part the next image; they have nothing to watch.
        See :class:`edge_ad_runtime.cameras.triggered.TriggeredCamera` for the arguments.

        Raises:
            CameraError: as in :meth:`open`.
        """
        ...


def pause(until: float, stop: StopRequest, on_wait: Callable[[], None] | None) -> None:
    """Wait until ``time.monotonic()`` is ``until`` or a stop is requested, and let ``on_wait`` know meanwhile."""
    while (left := until - time.monotonic()) > 0:
        if stop.wait(left if on_wait is None else min(left, WAIT_STEP_S)):
            return
        if on_wait is not None:
            on_wait()
