"""Network cameras (RTSP, MJPEG over HTTP): frames as they come; their exposure is set in their own web page."""

from __future__ import annotations

import cv2

from edge_ad_runtime.camera_state import CameraState
from edge_ad_runtime.cameras.capture import Shot
from edge_ad_runtime.cameras.opencv import OpenCvCapture


class NetworkCapture:
    """An opened stream; of its state only the image size is known. ``grab`` gives the time of arrival."""

    def __init__(self, address: str, name: str) -> None:
        """Connect.

        Raises:
            CameraError: it cannot be reached.
        """
        self._inner = OpenCvCapture(address, cv2.CAP_FFMPEG, name)

    @property
    def timestamps(self) -> str:
        return "arrival"

    def camera_state(self) -> CameraState:
        width = int(self._inner.get(cv2.CAP_PROP_FRAME_WIDTH))
        height = int(self._inner.get(cv2.CAP_PROP_FRAME_HEIGHT))
        return CameraState(width=width or None, height=height or None)

    def grab(self) -> int | None:
        return self._inner.grab()

    def retrieve(self) -> Shot:
        return self._inner.retrieve()

    def release(self) -> None:
        self._inner.release()
