"""What a run of the line did, counted."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from edge_ad_runtime.actuation import ActuatorStats
from edge_ad_runtime.verdict import Fault

Ended = Literal["source", "limit", "stop"]


class LineSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a run of the line did.

    ``faults_by_kind`` counts parts without a verdict of the model. With a trigger, ``triggers`` counts what the trigger
    said, ``bounces`` what of it was no new part, ``lost_triggers`` what is known to be lost; ``late_verdicts`` came after
    their part had been decided on. ``scorer_losses`` and ``guard_restarts``: how often the other process was found
    silent or dead. ``latency_ms_p50`` and ``latency_ms_p99`` run from the frame's time, or the trigger's, to the verdict
    handed to the guard, over the last 65,536 parts; null without parts. ``ended`` says why it stopped.
    """

    parts: int
    passed: int
    rejected: int
    faults: int
    faults_by_kind: dict[Fault, int]
    triggers: int
    bounces: int
    lost_triggers: int
    late_verdicts: int
    dropped_frames: int
    reconnects: int
    late_pulses: int
    missed_pulses: int
    scorer_losses: int
    guard_restarts: int
    lost_events: int
    latency_ms_p50: float | None
    latency_ms_p99: float | None
    seconds: float
    ended: Ended
    outputs: tuple[ActuatorStats, ...]


class Latencies:
    """The latest latencies in a ring of fixed size."""

    def __init__(self, size: int = 65_536) -> None:
        self._ring = np.zeros(size, np.int64)
        self._count = 0

    def add(self, ns: int) -> None:
        """One more, in nanoseconds."""
        self._ring[self._count % len(self._ring)] = ns
        self._count += 1

    def quantile_ms(self, q: float) -> float | None:
        """A quantile of those in the ring, in milliseconds; None without any."""
        if not self._count:
            return None
        return round(float(np.quantile(self._ring[: self._count], q)) / 1e6, 3)
