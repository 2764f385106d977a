"""How regularly frames come."""

from __future__ import annotations

import time
from collections import deque
from itertools import pairwise
from statistics import fmean, median, pstdev
from typing import TYPE_CHECKING

import msgspec

from edge_ad_runtime.tracking.picking import PickSettings

if TYPE_CHECKING:
    from edge_ad_runtime.cameras.base import CameraSource

_READ_S = 0.05


class FrameStats(msgspec.Struct, frozen=True, kw_only=True):
    """Of the last ``frames`` frames: ``fps``, from the first timestamp to the last; ``jitter_ms``, the standard
    deviation of the times between two frames; ``longest_gap_ms``, the longest of them; ``lost``, how many frames were
    left out if the camera's period is the median of them; ``delay_ms``, the mean time from the timestamp to the frame's
    arrival here (0 where the timestamp is the arrival itself)."""

    frames: int
    fps: float
    jitter_ms: float
    longest_gap_ms: float
    lost: int
    delay_ms: float


class FrameTimes:
    """The timestamps and arrivals of the last frames."""

    def __init__(self, size: int = 120) -> None:
        self._stamps: deque[int] = deque(maxlen=size)
        self._delays: deque[int] = deque(maxlen=size)

    def add(self, t_ns: int, now_ns: int) -> None:
        """A frame with the timestamp ``t_ns`` has arrived at ``now_ns``, both monotonic."""
        self._stamps.append(t_ns)
        self._delays.append(now_ns - t_ns)

    def statistics(self) -> FrameStats | None:
        """None before the third frame: one gap says nothing of jitter."""
        stamps = list(self._stamps)
        if len(stamps) < 3 or stamps[-1] <= stamps[0]:
            return None
        gaps = [(later - earlier) / 1e6 for earlier, later in pairwise(stamps)]
        period = median(gaps)
        return FrameStats(
            frames=len(stamps),
            fps=round(1e3 / fmean(gaps), 3),
            jitter_ms=round(pstdev(gaps), 3),
            longest_gap_ms=round(max(gaps), 3),
            lost=sum(max(round(gap / period) - 1, 0) for gap in gaps) if period > 0 else 0,
            delay_ms=round(fmean(self._delays) / 1e6, 3),
        )


def measure_frames(source: CameraSource, frames: int = 60, within_s: float = 5.0) -> FrameStats | None:
    """Open a camera and look at how its next ``frames`` frames come, without decoding any.

    Returns:
        What was seen after that many frames or ``within_s`` seconds (opening it not counted); None where fewer than
        three came, or the source has no pace of its own (files).

    Raises:
        CameraError: it cannot be opened, or is gone.
    """
    with source.open_triggered(PickSettings(delay_ns=0, within_ns=0, latency_ns=0, patience_ns=0)) as camera:
        until: float | None = None
        while camera.paced and camera.grabbed < frames and not camera.ended:
            camera.read(_READ_S)
            if until is None and camera.opened:
                until = time.monotonic() + within_s
            if until is not None and time.monotonic() > until:
                break
        return camera.statistics()
