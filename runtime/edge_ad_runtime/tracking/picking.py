"""Which frame belongs to which part: the first one exposed after the trigger and a set delay."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import msgspec

from edge_ad_runtime.verdict import Fault


class PickSettings(msgspec.Struct, frozen=True):
    """``delay_ns`` after the trigger the part stands before the camera. ``latency_ns`` is the longest time from the
    beginning of an exposure to the frame's own timestamp, so a frame was exposed at the earliest that long before its
    timestamp. This earliest time must not be before the part was there, nor more than ``within_ns`` after that; the part
    has to stay in view for ``within_ns + latency_ns``. A camera that is silent for ``patience_ns`` after the part was
    there gives no frame any more."""

    delay_ns: int
    within_ns: int
    latency_ns: int
    patience_ns: int


@dataclass(frozen=True)
class Miss:
    """A part that gets no frame."""

    part: int
    fault: Fault
    detail: str


class FramePicker:
    """Told of every part and of every frame, in the order in which they become known."""

    def __init__(self, settings: PickSettings) -> None:
        self._settings = settings
        self._waiting: deque[tuple[int, int]] = deque()
        self._seen: int | None = None

    def announce(self, part: int, t_trigger_ns: int) -> Miss | None:
        """A part was triggered; parts come in the order of their triggers.

        A part that is announced after its frame has gone by gets none: the next frame would show another place.
        """
        ready = t_trigger_ns + self._settings.delay_ns
        if self._seen is not None and self._seen >= ready:
            return Miss(part, Fault.NO_FRAME, "its frame had gone by when the trigger was known")
        self._waiting.append((part, ready))
        return None

    def frame(self, t_ns: int) -> tuple[int | None, list[Miss]]:
        """A frame with the timestamp ``t_ns`` is there: the part that it belongs to, if any, and the parts that
        get none."""
        exposed = t_ns - self._settings.latency_ns
        self._seen = exposed
        takers: list[int] = []
        misses: list[Miss] = []
        while self._waiting and self._waiting[0][1] <= exposed:
            part, ready = self._waiting.popleft()
            if exposed > ready + self._settings.within_ns:
                misses.append(Miss(part, Fault.NO_FRAME, "the first frame after the trigger came too late"))
            else:
                takers.append(part)
        if len(takers) == 1:
            return takers[0], misses
        misses += [Miss(part, Fault.SHARED_FRAME, f"one frame for {len(takers)} parts") for part in takers]
        return None, misses

    def expire(self, now_ns: int) -> list[Miss]:
        """The parts for which no frame can come in time any more, if the camera is silent."""
        misses: list[Miss] = []
        while self._waiting and now_ns > self._waiting[0][1] + self._settings.patience_ns:
            part, _ = self._waiting.popleft()
            misses.append(Miss(part, Fault.NO_FRAME, "no frame came in time"))
        return misses

    def flush(self, fault: Fault, detail: str) -> list[Miss]:
        """Give up all waiting parts, because the camera is away."""
        misses = [Miss(part, fault, detail) for part, _ in self._waiting]
        self._waiting.clear()
        return misses

    @property
    def expires_ns(self) -> int | None:
        """After this time :meth:`expire` gives up the part that waits longest; None when none waits."""
        return self._waiting[0][1] + self._settings.patience_ns if self._waiting else None

    @property
    def wanted(self) -> bool:
        """Whether a part waits for a frame."""
        return bool(self._waiting)
