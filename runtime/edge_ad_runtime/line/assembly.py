"""A line put together: from what it is (:class:`edge_ad_runtime.line.config.LineConfig`) to what runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edge_ad_runtime.cameras import CameraSource, parse_camera
from edge_ad_runtime.cameras.capture import Shot
from edge_ad_runtime.cameras.motion import MotionTrigger
from edge_ad_runtime.cameras.triggered import PartCameraSource, TriggeredSource
from edge_ad_runtime.errors import ImageError, InputError
from edge_ad_runtime.events import PartEvent
from edge_ad_runtime.guard.config import GuardConfig
from edge_ad_runtime.guard.core import GuardParts
from edge_ad_runtime.guard.link import GuardLink, ProcessGuard, ThreadGuard
from edge_ad_runtime.guard.messages import SoftTrigger
from edge_ad_runtime.guard.process import parse_parts
from edge_ad_runtime.inspector import Inspection, Inspector
from edge_ad_runtime.line.check import camera_kind
from edge_ad_runtime.line.config import (
    MOTION,
    CameraSection,
    LineConfig,
    guard_config,
    pick_settings,
)
from edge_ad_runtime.line.judge import PartInspector
from edge_ad_runtime.line.station import (
    STOP_DRAIN_S,
    FreeStation,
    OwnTrigger,
    Recording,
    TriggeredStation,
    run_station,
)
from edge_ad_runtime.line.summary import LineSummary
from edge_ad_runtime.outputs.base import OutputConfig
from edge_ad_runtime.preprocess import PreprocessSpec, Roi
from edge_ad_runtime.sinks import parse_sink
from edge_ad_runtime.sinks.base import Sink
from edge_ad_runtime.sinks.pictures import PictureStore
from edge_ad_runtime.state import default_state_dir
from edge_ad_runtime.stopping import StopRequest
from edge_ad_runtime.tracking.picking import PickSettings
from edge_ad_runtime.triggers.base import Count, Edge, Running, SourceConfig
from edge_ad_runtime.types import Image

_LATENCY_RUNS = 5
# A scorer is not called silent before it could have scored so many frames.
_SILENT_FRAMES = 4
# After a stop request: with an encoder, for the belt may stand; and at most, for service managers lose their patience.
ENCODED_DRAIN_S = 5.0
LONGEST_STOP_S = 15.0


@dataclass(frozen=True)
class Devices:
    """Python objects in place of what the line's texts name. With any but ``camera`` and ``sinks`` the guard is a thread
    of this process (:class:`edge_ad_runtime.guard.link.ThreadGuard`)."""

    camera: CameraSource | None = None
    outputs: Sequence[OutputConfig] | None = None
    trigger: SourceConfig[Edge] | None = None
    encoder: SourceConfig[Count] | None = None
    belt: SourceConfig[Running] | None = None
    sinks: Sequence[Sink] = field(default_factory=tuple)

    @property
    def own(self) -> bool:
        return any(x is not None for x in (self.outputs, self.trigger, self.encoder, self.belt))


class Line:
    """A line that is ready to run: the guard guards, the records are open, the camera is not."""

    def __init__(
        self,
        config: LineConfig,
        inspector: PartInspector,
        *,
        state: Path | None = None,
        devices: Devices | None = None,
        stop: StopRequest | None = None,
        limit: int | None = None,
        on_part: Callable[[PartEvent], None] | None = None,
        guard_cpus: Sequence[int] | None = None,
    ) -> None:
        """Open the records and the guard.

        Args:
            config: the line.
            inspector: scores an image.
            state: the device's writable folder; None is :func:`edge_ad_runtime.state.default_state_dir`.
            devices: objects in place of texts.
            stop: ends the run between two parts when requested.
            limit: ends the run after this many parts.
            on_part: is told of every part after its verdict has gone to the guard.
            guard_cpus: the cores of a guard that is a process; None are those of the calling thread.

        Raises:
            InputError: a text is not understood.
            CameraError: there is no such file or folder.
            OutputError, TriggerError, MissingExtra: a device cannot be opened.
        """
        devices = devices or Devices()
        self._stop = stop or StopRequest()
        scorer = inspector if config.region is None else _Region(inspector, config.region.roi)
        source = devices.camera or camera_source(config.camera, self._stop)
        guard = guard_config(config)
        guard = msgspec.structs.replace(guard, silence_ns=max(guard.silence_ns, patience_ns(inspector)))
        sinks: list[Sink] = list(devices.sinks)
        pictures: PictureStore | None = None
        try:
            sinks.extend(parse_sink(text).open() for text in config.records.sinks)
            if config.pictures is not None:
                pictures = PictureStore(config.pictures.config, _placement(config, inspector))
            self._link = _open_guard(guard, devices, state, guard_cpus)
        except BaseException:
            for sink in sinks:
                sink.close()
            if pictures is not None:
                pictures.close()
            raise
        self._stop_drain_s = stop_drain_s(guard)
        self._recording = Recording(tuple(sinks), pictures, on_part)
        self._station: FreeStation | TriggeredStation
        if config.trigger is None:
            self._station = FreeStation(scorer, source, self._link, self._recording, self._stop, limit)
        else:
            parts, own = self._part_source(config, source)
            self._station = TriggeredStation(
                scorer, parts, self._link, self._recording, self._stop, limit, own
            )

    def _part_source(
        self, config: LineConfig, source: CameraSource
    ) -> tuple[PartCameraSource, OwnTrigger | None]:
        picks = pick_settings(config)
        if config.trigger is None or config.trigger.source != MOTION:
            return TriggeredSource(source, picks), None
        eye = MotionEye(MotionTrigger(config.trigger.motion_settings), picks, self._link)
        return TriggeredSource(source, picks, watch=eye.watch), OwnTrigger(eye.works, eye.not_before)

    @property
    def guard(self) -> GuardLink:
        """The connection to the guard."""
        return self._link

    def wait_ready(self, seconds: float) -> bool:
        """Wait until the camera is there, while :meth:`run` runs in another thread; returns whether it is."""
        return self._station.ready.wait(seconds)

    def trigger(self, t_ns: int | None = None) -> None:
        """A part is at the trigger's place now, or was at ``t_ns`` of ``time.monotonic_ns``; from any thread.

        Raises:
            InputError: the line has no trigger.
        """
        if not isinstance(self._station, TriggeredStation):
            raise InputError('the line has no trigger: give trigger.source = "software" and a travel')
        self._station.trigger(t_ns)

    def stop(self) -> None:
        """Ask the line to stop, from any thread."""
        self._stop.request()

    def run(self) -> LineSummary:
        """Run to the end of the source, the limit, or a stop; see :func:`edge_ad_runtime.line.station.run_station`."""
        return run_station(self._station, self._link, self._recording, self._stop, self._stop_drain_s)


class MotionEye:
    """Looks for parts in every frame, in the camera's thread, and triggers the guard."""

    def __init__(self, motion: MotionTrigger, picks: PickSettings, link: GuardLink) -> None:
        self._motion = motion
        self._picks = picks
        self._link = link
        self._latest_ns = 0

    def watch(self, shot: Shot) -> None:
        """A frame is there."""
        crossings = self._motion.frame(shot.pixels, shot.t_ns)
        self._latest_ns = shot.t_ns
        for t_ns in crossings:
            self._link.tell(SoftTrigger(t_ns))

    def works(self) -> bool:
        """Whether the empty belt is known, so that a part would be noticed."""
        return self._motion.ready

    def not_before(self) -> int:
        """The first trigger time for which the next frame, not the one just seen, is the first one after it."""
        return self._latest_ns - self._picks.latency_ns - self._picks.delay_ns + 1


def camera_source(section: CameraSection, stop: StopRequest) -> CameraSource:
    """The camera of a line, not opened.

    Raises:
        InputError, CameraError, MissingExtra: see :func:`edge_ad_runtime.cameras.parse_camera`.
    """
    settings = section.settings
    if camera_kind(section.source) == "stream":
        # What a stream's rate is, the line file says for the sake of its timing; nobody can set it from here.
        settings = msgspec.structs.replace(settings, fps=None)
    return parse_camera(section.source, settings=settings, stop=stop)


def patience_ns(inspector: PartInspector) -> int:
    """How long a scorer with this inspector may be silent, in whole powers of two of a second."""
    if not isinstance(inspector, Inspector):
        return 0
    worst = _SILENT_FRAMES * latency_ns(inspector)
    patience = 1_000_000_000
    while patience < worst:
        patience *= 2
    return patience


def stop_drain_s(config: GuardConfig) -> float:
    """How long a stop waits for rejects that are on their way. Where the belt's speed is known, all of them pass."""
    track = config.track
    if track is None:
        way_ns: float = config.travel_ns
    elif config.encoder is None:
        way_ns = track.travel + track.min_gap + track.reach_ns
    else:
        return ENCODED_DRAIN_S
    return min(max(STOP_DRAIN_S, way_ns / 1e9 + 0.5), LONGEST_STOP_S)


def latency_ns(inspector: Inspector) -> int:
    """The longest of a few runs of the engine, after a warm-up."""
    inspector.warm_up()
    worst = 0
    for _ in range(_LATENCY_RUNS):
        started = time.monotonic_ns()
        inspector.warm_up(1)
        worst = max(worst, time.monotonic_ns() - started)
    return worst


def _open_guard(
    config: GuardConfig, devices: Devices, state: Path | None, cpus: Sequence[int] | None
) -> GuardLink:
    if devices.own:
        texts = parse_parts(config)
        return ThreadGuard(
            config,
            GuardParts(
                outputs=texts.outputs if devices.outputs is None else devices.outputs,
                heartbeat=texts.heartbeat,
                trigger=devices.trigger or texts.trigger,
                encoder=devices.encoder or texts.encoder,
                belt=devices.belt or texts.belt,
            ),
        )
    if not config.outputs and config.heartbeat is None and config.track is None:
        # Nothing to guard.
        return ThreadGuard(config, GuardParts(outputs=()))
    return ProcessGuard(config, state or default_state_dir(), cpus)


def _placement(config: LineConfig, inspector: PartInspector) -> PreprocessSpec | None:
    """Where in the camera's image an anomaly map lies; None where the inspector does not say."""
    if not isinstance(inspector, Inspector):
        return None
    spec = inspector.bundle.manifest.preprocess
    return spec if config.region is None else msgspec.structs.replace(spec, roi=config.region.roi)


class _Region:
    """An inspector that sees a region of the camera's image."""

    def __init__(self, inspector: PartInspector, region: Roi) -> None:
        self._inspector = inspector
        self._region = region
        self.calibration = inspector.calibration

    def inspect(self, image: Image) -> Inspection:
        r = self._region
        if image.shape[0] < r.y + r.height or image.shape[1] < r.x + r.width:
            raise ImageError(
                f"the region {r.width}x{r.height} at {r.x},{r.y} reaches beyond the image of "
                f"{image.shape[1]}x{image.shape[0]}"
            )
        return self._inspector.inspect(image[r.y : r.y + r.height, r.x : r.x + r.width])
