"""An opened device: it waits for frames, and decodes only those that are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from edge_ad_runtime.types import Image


@dataclass(frozen=True)
class Shot:
    """A frame as the device gave it: ``uint8 HxWx3`` in ``order``, and its timestamp, see :meth:`Capture.grab`."""

    pixels: Image
    order: Literal["BGR", "RGB"]
    t_ns: int
    source: str


class Capture(Protocol):
    """An opened device, used by one thread; its constructor opens it, or raises CameraError."""

    def grab(self) -> int | None:
        """Wait for the next frame, without decoding it where the device allows.

        Frames come in the order of their exposure, each once. A device that is silent may keep the caller waiting,
        but not for ever: the camera's thread is given up only when this returns.

        Returns:
            The frame's timestamp in nanoseconds of ``time.monotonic_ns``, later than the beginning of its exposure
            (each kind of device says what it marks); None at the end of the source.

        Raises:
            CameraError: the device is gone or silent.
        """
        ...

    def retrieve(self) -> Shot:
        """Decode the frame that was grabbed last; at most once for each, in pixels that later frames leave alone.

        Raises:
            ImageError: this one frame is damaged; the device goes on.
            CameraError: the device is gone.
        """
        ...

    def release(self) -> None:
        """Close the device."""
        ...
