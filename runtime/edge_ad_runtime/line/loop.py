"""The line: camera, inspector, verdict, outputs, record; part after part until the source ends or a stop."""

from __future__ import annotations

import datetime
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec
import numpy as np

from edge_ad_runtime.actuation import Actuator, ActuatorStats
from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.cameras.base import Camera, CameraSource, FrameError
from edge_ad_runtime.errors import CameraError, OutputError
from edge_ad_runtime.events import PartEvent
from edge_ad_runtime.inspector import Inspection
from edge_ad_runtime.sinks.base import Sink
from edge_ad_runtime.stopping import StopRequest
from edge_ad_runtime.types import Image
from edge_ad_runtime.verdict import Verdict

_log = logging.getLogger(__name__)

FIRST_REOPEN_S = 0.1
LAST_REOPEN_S = 5.0
# After a stop request, parts that were already judged are still rejected for this long.
STOP_DRAIN_S = 2.0
_DRAIN_POLL_S = 0.005


class PartInspector(Protocol):
    """What the line needs of :class:`edge_ad_runtime.inspector.Inspector`."""

    calibration: Calibration

    def inspect(self, image: Image) -> Inspection: ...


class LineSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a run of the line did.

    ``latency_ms_p50`` and ``latency_ms_p99`` run from the frame's time to the verdict handed to the outputs,
    over the last 65,536 parts; null without parts. ``ended`` says why it stopped.
    """

    parts: int
    passed: int
    rejected: int
    faults: int
    dropped_frames: int
    reconnects: int
    late_pulses: int
    missed_pulses: int
    lost_events: int
    latency_ms_p50: float | None
    latency_ms_p99: float | None
    seconds: float
    ended: Literal["source", "limit", "stop"]
    outputs: tuple[ActuatorStats, ...]


class _Latencies:
    """The latest latencies in a ring of fixed size."""

    def __init__(self, size: int = 65_536) -> None:
        self._ring = np.zeros(size, np.int64)
        self._count = 0

    def add(self, ns: int) -> None:
        self._ring[self._count % len(self._ring)] = ns
        self._count += 1

    def quantile_ms(self, q: float) -> float | None:
        if not self._count:
            return None
        return round(float(np.quantile(self._ring[: self._count], q)) / 1e6, 3)


def run_line(
    inspector: PartInspector,
    source: CameraSource,
    outputs: Sequence[Actuator],
    events: Sink | None,
    stop: StopRequest,
    *,
    limit: int | None = None,
    on_part: Callable[[PartEvent], None] | None = None,
) -> LineSummary:
    """Inspect every frame of a source.

    A frame that cannot be read, an error of the engine and a score that is not finite give the verdict
    ``fault``, which is rejected like a defect. While a live camera is away the outputs are in their safe
    state and it is reopened for ever. At the end of the source the pulses still due are given, after a stop
    request those of the next two seconds; then the outputs are brought into their safe state and closed,
    whatever happened, and so are the events.

    Args:
        inspector: scores an image.
        source: opens the camera.
        outputs: opened; they belong to the line from here on.
        events: opened; likewise.
        stop: ends the run between two parts when requested.
        limit: ends the run after this many parts.
        on_part: is told of every part after its verdict has gone to the outputs.

    Raises:
        CameraError: a source that is not live cannot be read.
        OutputError: an output could not be brought into its safe state.
    """
    line = _Line(inspector, source, outputs, events, stop, limit, on_part)
    started = time.monotonic()
    try:
        ended = line.run()
        _drain(outputs, stop)
    except BaseException:
        try:
            _close(outputs, events)
        except OutputError as error:
            _log.error("%s", error)
        raise
    _close(outputs, events)
    return line.summary(ended, time.monotonic() - started)


class _Line:
    def __init__(
        self,
        inspector: PartInspector,
        source: CameraSource,
        outputs: Sequence[Actuator],
        events: Sink | None,
        stop: StopRequest,
        limit: int | None,
        on_part: Callable[[PartEvent], None] | None,
    ) -> None:
        self._inspector = inspector
        self._threshold = inspector.calibration.threshold
        self._source = source
        self._outputs = outputs
        self._events = events
        self._stop = stop
        self._limit = limit
        self._on_part = on_part
        self._count = {Verdict.PASS: 0, Verdict.REJECT: 0, Verdict.FAULT: 0}
        self._parts = 0
        self._dropped = 0
        self._reconnects = 0
        self._latencies = _Latencies()
        self._away = True

    def run(self) -> Literal["source", "limit", "stop"]:
        backoff = FIRST_REOPEN_S
        while not self._stop.requested:
            seen = self._parts
            try:
                with self._source.open() as camera:
                    try:
                        return self._run_camera(camera)
                    finally:
                        self._dropped += camera.dropped
            except CameraError as error:
                if not self._source.live:
                    raise
                self._camera_lost(error, first=backoff == FIRST_REOPEN_S or self._parts > seen)
            if self._parts > seen:
                backoff = FIRST_REOPEN_S
            self._stop.wait(backoff)
            backoff = min(2 * backoff, LAST_REOPEN_S)
        return "stop"

    def _camera_lost(self, error: CameraError, first: bool) -> None:
        self._away = True
        for output in self._outputs:
            output.hold_safe()
        if first:
            _log.warning("%s (is reopened until it works)", error)

    def _camera_here(self) -> None:
        self._away = False
        for output in self._outputs:
            output.release()
        if self._parts:
            self._reconnects += 1
            _log.warning("%s: works again", self._source.name)

    def _run_camera(self, camera: Camera) -> Literal["source", "limit", "stop"]:
        while not self._stop.requested:
            if self._parts == self._limit:
                return "limit"
            try:
                frame = camera.read()
            except FrameError as error:
                if self._away:
                    self._camera_here()
                self._settle(Verdict.FAULT, None, str(error), error.t_ns, error.source)
                continue
            if frame is None:
                return "stop" if self._stop.requested else "source"
            if self._away:
                self._camera_here()
            self._inspect(frame.image, frame.t_ns, frame.source)
        return "stop"

    def _inspect(self, image: Image, t_ns: int, source: str) -> None:
        try:
            inspection = self._inspector.inspect(image)
        except Exception as error:  # noqa: BLE001 - engines raise what they like; the part still gets a verdict
            self._settle(Verdict.FAULT, None, f"{type(error).__name__}: {error}", t_ns, source)
            return
        score, verdict = inspection.score, inspection.verdict
        if not math.isfinite(score):
            self._settle(Verdict.FAULT, None, f"the score is {score}", t_ns, source)
        else:
            self._settle(verdict, score, None, t_ns, source)

    def _settle(
        self, verdict: Verdict, score: float | None, fault: str | None, t_ns: int, source: str
    ) -> None:
        """The verdict goes to the outputs before anything else is done with it."""
        if verdict is not Verdict.PASS:
            for output in self._outputs:
                output.eject(t_ns)
        latency_ns = time.monotonic_ns() - t_ns
        self._parts += 1
        self._count[verdict] += 1
        self._latencies.add(latency_ns)
        if self._events is None and self._on_part is None:
            return
        event = PartEvent(
            part=self._parts,
            source=source,
            score=score,
            threshold=self._threshold,
            verdict=verdict.value,
            latency_ms=round(latency_ns / 1e6, 3),
            t_monotonic_ns=t_ns,
            time=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds"),
            fault=fault,
        )
        if self._events is not None:
            self._events.write(event)
        if self._on_part is not None:
            self._on_part(event)

    def summary(self, ended: Literal["source", "limit", "stop"], seconds: float) -> LineSummary:
        stats = tuple(output.stats for output in self._outputs)
        return LineSummary(
            parts=self._parts,
            passed=self._count[Verdict.PASS],
            rejected=self._count[Verdict.REJECT],
            faults=self._count[Verdict.FAULT],
            dropped_frames=self._dropped,
            reconnects=self._reconnects,
            late_pulses=sum(s.late for s in stats),
            missed_pulses=sum(s.missed for s in stats),
            lost_events=self._events.lost if self._events is not None else 0,
            latency_ms_p50=self._latencies.quantile_ms(0.5),
            latency_ms_p99=self._latencies.quantile_ms(0.99),
            seconds=round(seconds, 3),
            ended=ended,
            outputs=stats,
        )


def _drain(outputs: Sequence[Actuator], stop: StopRequest) -> None:
    """Wait for the pulses still due; after a stop request only for :data:`STOP_DRAIN_S`."""
    stopped_at: float | None = None
    while any(output.busy for output in outputs):
        if stop.requested:
            stopped_at = time.monotonic() if stopped_at is None else stopped_at
            if time.monotonic() - stopped_at > STOP_DRAIN_S:
                return
        time.sleep(_DRAIN_POLL_S)


def _close(outputs: Sequence[Actuator], events: Sink | None) -> None:
    """Close everything; the first output that is not safe is raised after all have been closed."""
    failures = [failure for output in outputs if (failure := _close_output(output)) is not None]
    if events is not None:
        events.close()
    for failure in failures[1:]:
        _log.error("%s", failure)
    if failures:
        raise failures[0]


def _close_output(output: Actuator) -> OutputError | None:
    try:
        output.close()
    except OutputError as error:
        return error
    return None
