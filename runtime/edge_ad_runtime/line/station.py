"""The scoring loop: from the camera to a verdict for the guard, part after part, until a source ends or a stop.

The loop itself, and nothing else, tells the guard that it lives. What happens to a part is the guard's to decide; what is
written here is only told.
"""

from __future__ import annotations

import datetime
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from edge_ad_runtime.cameras.base import Camera, Frame, FrameError
from edge_ad_runtime.cameras.triggered import PartCamera, PartCameraSource, PartFrame
from edge_ad_runtime.errors import CameraError, EdgeAdError
from edge_ad_runtime.events import PartEvent
from edge_ad_runtime.guard.link import GuardLink
from edge_ad_runtime.guard.messages import (
    Alive,
    FrameVerdict,
    FromGuard,
    Notice,
    PartSeen,
    PartVerdict,
    Report,
    SoftTrigger,
)
from edge_ad_runtime.line.judge import Judgement, PartInspector, judge
from edge_ad_runtime.line.summary import Ended, Latencies, LineSummary
from edge_ad_runtime.sinks import SinkGroup
from edge_ad_runtime.sinks.base import Sink
from edge_ad_runtime.sinks.pictures import PictureStore
from edge_ad_runtime.stopping import StopRequest
from edge_ad_runtime.tracking.picking import Miss
from edge_ad_runtime.tracking.tracker import Settled
from edge_ad_runtime.verdict import Fault, Verdict

_log = logging.getLogger(__name__)

FIRST_REOPEN_S = 0.1
LAST_REOPEN_S = 5.0
# After the end of a source, pulses and parts that are still due are waited for this long; after a stop request shorter:
# as long as the belt takes to the ejector, and at least so long.
DRAIN_S = 600.0
STOP_DRAIN_S = 2.0
# How often an idle loop goes round; well below any sensible time of silence.
_ROUND_S = 0.1
_Value = TypeVar("_Value")
# Parts whose frame is awaited, and judgements kept until the guard has told what became of their parts.
_KEPT = 10_000
# Beyond so many judgements only rejects and faults keep their image, 6 MB at 1920x1080.
_IMAGES = 64
# Without a trigger, a camera is away when it has given no frame for so long, and for so many of its usual pauses.
UNSEEN_S = 0.5
_UNSEEN_PAUSES = 4
_PAUSES = 15


@dataclass(frozen=True)
class Recording:
    """Where the record of every part goes. ``on_part`` is told of it after its verdict has gone to the guard."""

    sinks: Sequence[Sink] = ()
    pictures: PictureStore | None = None
    on_part: Callable[[PartEvent], None] | None = None


class _Station(ABC):
    """What both kinds of line share: the link, the records, the camera that is reopened for ever."""

    def __init__(
        self,
        inspector: PartInspector,
        link: GuardLink,
        recording: Recording,
        stop: StopRequest,
        limit: int | None,
    ) -> None:
        self._inspector = inspector
        self._link = link
        self._recording = recording
        self._stop = stop
        self._limit = limit
        self._frames = 0
        self._dropped = 0
        self._reconnects = 0
        self._latencies = Latencies()
        self._camera_here = False
        self.ready = threading.Event()
        """Set when the camera has been there once."""
        self._told_ns = 0
        self._parts = 0
        self._count = {Verdict.PASS: 0, Verdict.REJECT: 0, Verdict.FAULT: 0}
        self._faults: dict[Fault, int] = {}

    @abstractmethod
    def run(self) -> Ended:
        """Work until the source ends, the limit is reached or a stop is requested."""

    @abstractmethod
    def hear(self, message: FromGuard) -> None:
        """A message of the guard; called in the link's thread."""

    def _alive(self, *, now: bool = False) -> None:
        """Tell the guard that the loop goes round, at most every few milliseconds."""
        t = time.monotonic_ns()
        if now or t - self._told_ns > _ROUND_S * 5e8:
            self._told_ns = t
            self._link.tell(Alive(self._frames, self._camera_here and self._sees(), self._notices_parts()))

    def _sees(self) -> bool:
        """Whether the camera that is there gives frames."""
        return True

    def _notices_parts(self) -> bool:
        """Whether a part would be noticed, where this program triggers."""
        return True

    def _wait(self, seconds: float) -> None:
        """Wait, alive, without a camera."""
        until = time.monotonic() + seconds
        while not self._stop.requested and (left := until - time.monotonic()) > 0:
            self._alive()
            self._stop.wait(min(left, _ROUND_S))

    def _set_camera(self, here: bool, name: str) -> None:
        if here and not self._camera_here and self.ready.is_set():
            self._reconnects += 1
            _log.warning("%s: works again", name)
        changed, self._camera_here = here is not self._camera_here, here
        if changed:
            self._alive(now=True)
        if here and not self.ready.is_set():
            self.ready.set()

    def _record(
        self,
        part: int,
        t_ns: int,
        source: str,
        judgement: Judgement,
        latency_ns: int | None,
        ejected: bool | None,
    ) -> None:
        self._parts += 1
        self._count[judgement.verdict] += 1
        if judgement.fault is not None:
            self._faults[judgement.fault] = self._faults.get(judgement.fault, 0) + 1
        if latency_ns is not None:
            self._latencies.add(latency_ns)
        recording = self._recording
        if not recording.sinks and recording.pictures is None and recording.on_part is None:
            return
        event = PartEvent(
            part=part,
            source=source,
            score=judgement.score,
            threshold=self._inspector.calibration.threshold,
            verdict=judgement.verdict.value,
            latency_ms=None if latency_ns is None else round(latency_ns / 1e6, 3),
            t_monotonic_ns=t_ns,
            time=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds"),
            fault=judgement.detail if judgement.fault is not None else None,
            fault_kind=judgement.fault,
            ejected=ejected,
        )
        for sink in recording.sinks:
            sink.write(event)
        if recording.pictures is not None and judgement.image is not None:
            recording.pictures.save(event, judgement.image, judgement.anomaly_map)
        if recording.on_part is not None:
            recording.on_part(event)

    def summary(self, ended: Ended, seconds: float, report: Report, restarts: int) -> LineSummary:
        """The counts, with the guard's last report."""
        return LineSummary(
            parts=self._parts,
            passed=self._count[Verdict.PASS],
            rejected=self._count[Verdict.REJECT],
            faults=self._count[Verdict.FAULT],
            faults_by_kind=dict(self._faults),
            triggers=report.triggers,
            bounces=report.bounces,
            lost_triggers=report.lost_triggers,
            late_verdicts=report.late_verdicts,
            dropped_frames=self._dropped,
            reconnects=self._reconnects,
            late_pulses=sum(s.late for s in report.outputs),
            missed_pulses=sum(s.missed for s in report.outputs),
            scorer_losses=report.scorer_losses,
            guard_restarts=restarts,
            lost_events=sum(sink.lost for sink in self._recording.sinks),
            latency_ms_p50=self._latencies.quantile_ms(0.5),
            latency_ms_p99=self._latencies.quantile_ms(0.99),
            seconds=round(seconds, 3),
            ended=ended,
            outputs=report.outputs,
        )


class FrameSource(Protocol):
    """What a line without a trigger needs of a :class:`edge_ad_runtime.cameras.base.CameraSource`."""

    @property
    def name(self) -> str: ...

    @property
    def live(self) -> bool: ...

    def open(self) -> Camera: ...


class FreeStation(_Station):
    """Without a trigger: every frame is a part; the newest wins."""

    def __init__(
        self,
        inspector: PartInspector,
        source: FrameSource,
        link: GuardLink,
        recording: Recording,
        stop: StopRequest,
        limit: int | None,
    ) -> None:
        super().__init__(inspector, link, recording, stop, limit)
        self._source = source
        self._asked_at: float | None = None
        self._pauses: deque[float] = deque(maxlen=_PAUSES)

    def hear(self, message: FromGuard) -> None:
        if isinstance(message, Notice):
            _log.warning("%s", message.text)

    def run(self) -> Ended:
        backoff = FIRST_REOPEN_S
        while not self._stop.requested:
            seen = self._parts
            try:
                with self._source.open() as camera:
                    camera.on_wait = self._waiting
                    try:
                        return self._run_camera(camera)
                    finally:
                        self._dropped += camera.dropped
            except CameraError as error:
                if not self._source.live:
                    raise
                self._set_camera(False, self._source.name)
                if backoff == FIRST_REOPEN_S or self._parts > seen:
                    _log.warning("%s (is reopened until it works)", error)
            if self._parts > seen:
                backoff = FIRST_REOPEN_S
            self._wait(backoff)
            backoff = min(2 * backoff, LAST_REOPEN_S)
        return "stop"

    def _waiting(self) -> None:
        self._alive()

    def _sees(self) -> bool:
        """What passes a silent camera is seen by nobody, long before the camera is given up. A slow one is not silent."""
        if self._asked_at is None or not self._pauses:
            return True
        usual = sorted(self._pauses)[len(self._pauses) // 2]
        return time.monotonic() - self._asked_at <= max(UNSEEN_S, _UNSEEN_PAUSES * usual)

    def _read(self, camera: Camera) -> Frame | None:
        self._asked_at = asked_at = time.monotonic()
        try:
            return camera.read()
        finally:
            self._asked_at = None
            self._pauses.append(time.monotonic() - asked_at)

    def _run_camera(self, camera: Camera) -> Ended:
        while not self._stop.requested:
            if self._parts == self._limit:
                return "limit"
            try:
                frame = self._read(camera)
            except FrameError as error:
                self._set_camera(True, self._source.name)
                failed = Judgement(Verdict.FAULT, fault=Fault.FRAME, detail=str(error))
                self._settle(failed, error.t_ns, error.source)
                continue
            if frame is None:
                return "stop" if self._stop.requested else "source"
            self._set_camera(True, self._source.name)
            self._settle(judge(self._inspector, frame.view), frame.t_ns, frame.source)
        return "stop"

    def _settle(self, judgement: Judgement, t_ns: int, source: str) -> None:
        """The verdict goes to the guard before anything else is done with it."""
        self._link.tell(FrameVerdict(t_ns, judgement.verdict, judgement.fault, judgement.detail))
        latency_ns = time.monotonic_ns() - t_ns
        self._frames += 1
        self._alive()
        self._record(self._parts + 1, t_ns, source, judgement, latency_ns, None)


def _bound(kept: OrderedDict[int, _Value]) -> None:
    while len(kept) > _KEPT:
        kept.popitem(last=False)


@dataclass(frozen=True)
class OwnTrigger:
    """A trigger within this program: ``works`` says whether it would notice a part now; ``not_before`` gives the
    earliest time from which a frame for a part that is announced now may still be had."""

    works: Callable[[], bool]
    not_before: Callable[[], int]


@dataclass(frozen=True)
class _Judged:
    judgement: Judgement
    source: str
    latency_ns: int | None


class TriggeredStation(_Station):
    """With a trigger: the guard tells of every part, and gets a verdict for it or the reason why there is none."""

    def __init__(
        self,
        inspector: PartInspector,
        source: PartCameraSource,
        link: GuardLink,
        recording: Recording,
        stop: StopRequest,
        limit: int | None,
        own_trigger: OwnTrigger | None = None,
    ) -> None:
        super().__init__(inspector, link, recording, stop, limit)
        self._source = source
        self._own_trigger = own_trigger
        self._lock = threading.Lock()
        self._camera: PartCamera | None = None
        # The camera knows a part by a number of this station's own, for a guard that was started anew may count from 1
        # again; a part is known by its trigger's time, which never comes twice.
        self._number = 0
        self._asked: OrderedDict[int, PartSeen] = OrderedDict()
        self._judged: OrderedDict[int, _Judged] = OrderedDict()
        self._settled_ns = 0

    def trigger(self, t_ns: int | None = None) -> None:
        """A part is at the trigger's place now, or was at ``t_ns``, monotonic; from any thread."""
        self._link.tell(SoftTrigger(time.monotonic_ns() if t_ns is None else t_ns))

    def _notices_parts(self) -> bool:
        return self._own_trigger is None or (self._camera_here and self._own_trigger.works())

    def hear(self, message: FromGuard) -> None:
        if isinstance(message, PartSeen):
            with self._lock:
                self._number = number = self._number + 1
                self._asked[number] = message
                _bound(self._asked)
                camera = self._camera
                if camera is not None:
                    camera.announce(number, self._wanted_from(message.t_trigger_ns))
            if camera is None:
                self._miss(Miss(number, Fault.CAMERA, "the camera is away"))
        elif isinstance(message, Settled):
            self._settle(message)
        elif isinstance(message, Notice):
            _log.warning("%s", message.text)

    def _wanted_from(self, t_trigger_ns: int) -> int:
        """A trigger that is seen in a frame is known only when that frame has gone by: the next one is the part's."""
        if self._own_trigger is None:
            return t_trigger_ns
        return max(t_trigger_ns, self._own_trigger.not_before())

    def run(self) -> Ended:
        backoff = FIRST_REOPEN_S
        while not self._stop.requested:
            if self._reached_limit:
                return "limit"
            seen = self._frames
            try:
                with self._source.open() as camera:
                    try:
                        with self._lock:
                            self._camera = camera
                        return self._run_camera(camera)
                    finally:
                        with self._lock:
                            self._camera = None
                        self._give_up_announced(camera)
                        self._dropped += camera.dropped
            except CameraError as error:
                if not self._source.live:
                    raise
                self._set_camera(False, self._source.name)
                if backoff == FIRST_REOPEN_S or self._frames > seen:
                    _log.warning("%s (is reopened until it works)", error)
            if self._frames > seen:
                backoff = FIRST_REOPEN_S
            self._wait(backoff)
            backoff = min(2 * backoff, LAST_REOPEN_S)
        return "stop"

    def _give_up_announced(self, camera: PartCamera) -> None:
        """Parts that were announced after the camera's last word."""
        try:
            while isinstance(item := camera.read(0), Miss):
                self._miss(item)
        except CameraError:
            return

    def _run_camera(self, camera: PartCamera) -> Ended:
        while not self._stop.requested:
            if self._reached_limit:
                return "limit"
            item = camera.read(_ROUND_S)
            if item is None and camera.ended:
                return "source"  # a camera that has nothing more to show is not away
            self._set_camera(camera.alive, self._source.name)
            if isinstance(item, PartFrame):
                self._judge(item)
            elif isinstance(item, Miss):
                self._miss(item)
            self._alive()
        return "stop"

    @property
    def _reached_limit(self) -> bool:
        return self._limit is not None and self._parts >= self._limit

    def _judge(self, item: PartFrame) -> None:
        with self._lock:
            seen = self._asked.get(item.part)
            if seen is None or seen.t_trigger_ns <= self._settled_ns:
                # It has passed the ejector: the time is better spent on the next one.
                self._asked.pop(item.part, None)
                return
        judgement = judge(self._inspector, item.frame.view)
        self._frames += 1
        self._answer(item.part, judgement, item.frame.source)

    def _miss(self, miss: Miss) -> None:
        judgement = Judgement(Verdict.FAULT, fault=miss.fault, detail=miss.detail)
        self._answer(miss.part, judgement, self._source.name)

    def _answer(self, number: int, judgement: Judgement, source: str) -> None:
        now = time.monotonic_ns()
        with self._lock:
            seen = self._asked.pop(number, None)
            if seen is None:
                return
            t_ns = seen.t_trigger_ns
            # Nothing would fetch the judgement of a part that is settled.
            if t_ns > self._settled_ns:
                kept = (
                    judgement
                    if self._keeps_image(judgement)
                    else replace(judgement, image=None, anomaly_map=None)
                )
                self._judged[t_ns] = _Judged(kept, source, now - t_ns)
                _bound(self._judged)
        self._link.tell(PartVerdict(seen.part, t_ns, judgement.verdict, judgement.fault, judgement.detail))

    def _keeps_image(self, judgement: Judgement) -> bool:
        if self._recording.pictures is None:
            return False
        return judgement.verdict is not Verdict.PASS or len(self._judged) < _IMAGES

    def _settle(self, settled: Settled) -> None:
        """The guard's word counts; what the scorer saw is added to it."""
        with self._lock:
            self._settled_ns = max(self._settled_ns, settled.t_trigger_ns)
            judged = self._judged.pop(settled.t_trigger_ns, None)
            # Those of a guard that died are never told of.
            while self._judged and next(iter(self._judged)) <= self._settled_ns:
                self._judged.popitem(last=False)
        seen = judged.judgement if judged is not None else None
        judgement = Judgement(
            settled.verdict,
            score=seen.score if seen is not None else None,
            fault=settled.fault,
            detail=settled.detail,
            image=seen.image if seen is not None else None,
            anomaly_map=seen.anomaly_map if seen is not None else None,
        )
        source = judged.source if judged is not None else self._source.name
        latency_ns = judged.latency_ns if judged is not None else None
        self._record(settled.part, settled.t_trigger_ns, source, judgement, latency_ns, settled.ejected)


def run_station(
    station: FreeStation | TriggeredStation,
    link: GuardLink,
    recording: Recording,
    stop: StopRequest,
    stop_drain_s: float = STOP_DRAIN_S,
) -> LineSummary:
    """Run a station to its end.

    At the end of a source the parts and pulses still due are waited for, after a stop request those of the next
    ``stop_drain_s``; then the outputs are in their safe states and closed, and so are the records. After an error that
    nobody expected a guard that is a process goes on rejecting, as after a crash.

    Raises:
        CameraError: a source that is not live cannot be read.
        OutputError: the guard is lost, or an output could not be brought into its safe state.
    """
    started = time.monotonic()
    try:
        link.listen(station.hear)
        ended = station.run()
        report = link.finish(stop_drain_s) if ended == "stop" else link.finish(DRAIN_S, stop, stop_drain_s)
    except (EdgeAdError, KeyboardInterrupt, SystemExit):
        link.abandon()
        raise
    except BaseException:
        link.leave()
        raise
    finally:
        SinkGroup(recording.sinks).close()
        if recording.pictures is not None:
            recording.pictures.close()
    return station.summary(ended, time.monotonic() - started, report, link.restarts)
