"""The times of one part on a line, as late as they can be: what the plausibility checks and the drawing are made of."""

from __future__ import annotations

import msgspec

from edge_ad_runtime.line.config import AHEAD_MS, LineConfig, lead_ns, pick_settings
from edge_ad_runtime.outputs import Timing

MARGIN_MS = 10.0
"""For what is not measured: handing the frame over, a thread switch, two messages, on a loaded machine."""


class Measured(msgspec.Struct, frozen=True):
    """What only the device knows: how long an inspection takes (99th percentile) and how often a frame comes; None where
    it was not measured."""

    model_p99_ms: float | None = None
    frame_period_ms: float | None = None


class OutputTimes(msgspec.Struct, frozen=True):
    """One output: when its actuator is told to act and to rest, and from when to when it acts."""

    name: str
    told_ms: float
    rests_ms: float
    acts_ms: float
    ends_ms: float


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """All in milliseconds after the trigger, or after the frame's timestamp on a line without one; on a belt with an
    encoder at its highest speed.

    The exposure begins at ``in_view_ms`` at the earliest, its frame has a timestamp of at most ``frame_ms``, its verdict comes at ``scored_ms`` at the latest (without the model's time where that was not measured). The part is decided
    on at ``decided_ms`` and is at the ejector at ``ejector_ms``; the next one, at the minimum gap, at ``next_ms``.
    ``decided_ms`` is None where the verdict makes the pulse at once.
    """

    triggered: bool
    in_view_ms: float
    frame_ms: float
    scored_ms: float
    model_ms: float | None
    period_ms: float
    latency_ms: float
    decided_ms: float | None
    ejector_ms: float
    outputs: tuple[OutputTimes, ...]
    next_ms: float | None

    @property
    def spare_ms(self) -> float | None:
        """How much earlier than needed the verdict comes; below 0 it comes too late."""
        return None if self.decided_ms is None else self.decided_ms - self.scored_ms


def timeline(line: LineConfig, measured: Measured | None = None) -> Timeline:
    """The times of one part."""
    measured = measured or Measured()
    camera, travel, trigger = line.camera, line.travel, line.trigger
    period = camera.period_ms if measured.frame_period_ms is None else measured.frame_period_ms
    latency = pick_settings(line, period).latency_ns / 1e6
    model = measured.model_p99_ms or 0.0
    way = 0.0 if travel is None else travel.way / travel.units_per_ms
    lead = lead_ns(line) / 1e6
    if trigger is None:
        in_view, frame = -latency, 0.0
        # A frame waits for the one before it, unless a newer one replaces it.
        scored = min(period, model) + model + MARGIN_MS
        decided = way - lead if travel is not None and way > 0 else None
        after = scored if decided is None else way
    else:
        in_view = trigger.delay_ms
        frame = in_view + period + latency
        scored = frame + model + MARGIN_MS
        decided = way - lead - AHEAD_MS
        after = way
    gap = None if travel is None or travel.min_gap is None else travel.min_gap / travel.units_per_ms
    return Timeline(
        triggered=trigger is not None,
        in_view_ms=in_view,
        frame_ms=frame,
        scored_ms=scored,
        model_ms=measured.model_p99_ms,
        period_ms=period,
        latency_ms=latency,
        decided_ms=decided,
        ejector_ms=after,
        outputs=tuple(_output_times(output.name, output.timing, after) for output in line.outputs),
        next_ms=None if gap is None or trigger is None else way + gap,
    )


def _output_times(name: str, timing: Timing, at_ms: float) -> OutputTimes:
    told = at_ms + timing.delay_ms - timing.lead_ms
    acts = at_ms + timing.delay_ms
    return OutputTimes(name, told, told + timing.pulse_ms, acts, acts + timing.pulse_ms)
