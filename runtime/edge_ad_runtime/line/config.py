"""What a line is: camera, trigger, travel, outputs and policy, as validated values.

These structs are what a line file (:mod:`edge_ad_runtime.line.reading`, docs/line.md) is read into; they can as well be
made in Python or from command-line options (:func:`from_options`). A key's unit is in its name. Each field says what it
takes, and no struct exists whose values do not fit together. Whether the timing can work at all is told by
:mod:`edge_ad_runtime.line.check`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal
from urllib.parse import parse_qsl, urlencode

import msgspec
from msgspec import Meta

from edge_ad_runtime.cameras.motion import MotionSettings
from edge_ad_runtime.cameras.settings import SETTINGS_KEYS, CameraSettings
from edge_ad_runtime.cores import parse_cores
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.guard.config import GuardConfig
from edge_ad_runtime.line.section import NAME, Problem, Section
from edge_ad_runtime.outputs import Timing, parse_output
from edge_ad_runtime.outputs.base import MAX_DELAY_MS, MAX_PULSE_MS
from edge_ad_runtime.preprocess import Roi
from edge_ad_runtime.sinks import parse_sink
from edge_ad_runtime.sinks.pictures import PicturesConfig
from edge_ad_runtime.tracking.picking import PickSettings
from edge_ad_runtime.tracking.tracker import TrackSettings
from edge_ad_runtime.triggers import parse_belt, parse_encoder, parse_trigger

AHEAD_MS = 5.0
"""A part is decided on this long before its outputs have to be told: a turn of the guard's loop and a thread switch, with
room for a loaded machine."""
USUAL_FPS = 30.0
"""The rate that is assumed where none is given."""

SOFTWARE, MOTION = "software", "motion"
MAX_MS = 600_000.0
_MAX_LENGTH = 1e9
_URL = re.compile(r"(rtsps?|https?)://", re.IGNORECASE)

Ms = Annotated[float, Meta(ge=0, le=MAX_MS)]
PositiveMs = Annotated[float, Meta(gt=0, le=MAX_MS)]
Length = Annotated[float, Meta(gt=0, le=_MAX_LENGTH)]
Way = Annotated[float, Meta(ge=0, le=_MAX_LENGTH)]
Share = Annotated[float, Meta(ge=0, le=1)]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]
Pixels = Annotated[int, Meta(ge=1, le=65_535)]
Offset = Annotated[int, Meta(ge=0, le=65_535)]


def _refused(parse: Callable[[str], object], text: str) -> str | None:
    """Why a text is not understood."""
    try:
        parse(text)
    except InputError as error:
        return str(error)
    return None


class CameraSection(Section, frozen=True, kw_only=True):
    """``[camera]``. ``source`` is a camera text (:mod:`edge_ad_runtime.cameras`); then come the camera's settings.

    ``latency_ms`` is the longest time from the beginning of an exposure to the frame's timestamp. A part's frame must be
    exposed within ``frame_within_ms`` of the part's being in view. A camera that is silent for ``patience_ms`` after
    that gives no frame any more. None leaves each to :func:`pick_settings`.
    """

    table: ClassVar[str] = "camera"

    source: Text
    width: Annotated[int, Meta(ge=1, le=16_384)] | None = None
    height: Annotated[int, Meta(ge=1, le=16_384)] | None = None
    fps: Annotated[float, Meta(gt=0, le=1000)] | None = None
    pixel_format: Annotated[str, Meta(pattern="^[A-Za-z0-9]{1,32}$")] | None = None
    rotate: Literal[0, 90, 180, 270] = 0
    flip: Literal["none", "horizontal", "vertical", "both"] = "none"
    exposure_us: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    gain: Annotated[float, Meta(ge=-100_000, le=100_000)] | None = None
    white_balance_k: Annotated[int, Meta(ge=1000, le=20_000)] | None = None
    lock: bool = False
    latency_ms: Ms | None = None
    frame_within_ms: PositiveMs | None = None
    patience_ms: PositiveMs | None = None

    def rules(self) -> Iterator[Problem]:
        if (self.width is None) is not (self.height is None):
            lacking = "height" if self.height is None else "width"
            yield Problem("width" if lacking == "height" else "height", f"give {lacking}, too")

    @property
    def settings(self) -> CameraSettings:
        """The camera's settings that are given as keys."""
        return CameraSettings(
            width=self.width,
            height=self.height,
            fps=self.fps,
            pixel_format=self.pixel_format,
            rotate=self.rotate,
            flip=self.flip,
            exposure_us=self.exposure_us,
            gain=self.gain,
            white_balance_k=self.white_balance_k,
            lock=self.lock,
        )

    @property
    def asked(self) -> CameraSettings:
        """All settings that are asked for: the keys, and what stands in the camera text."""
        if _URL.match(self.source) or self.source.startswith("gst:"):
            return self.settings
        query = dict(parse_qsl(self.source.partition("?")[2]))
        texts = {key: value for key, value in query.items() if key in SETTINGS_KEYS and key != "lock"}
        try:
            in_text = msgspec.convert(texts, CameraSettings, strict=False)
        except (msgspec.ValidationError, InputError):
            return self.settings  # parse_camera() tells what is wrong with the text
        return msgspec.structs.replace(self.settings, **{key: getattr(in_text, key) for key in texts})

    @property
    def period_ms(self) -> float:
        """From one frame to the next, at the rate that is asked for or the usual one."""
        return 1000 / (self.asked.fps or USUAL_FPS)


class RegionSection(Section, frozen=True, kw_only=True):
    """``[region]``: the part of the camera's image that is inspected, in pixels."""

    table: ClassVar[str] = "region"

    x: Offset
    y: Offset
    width: Pixels
    height: Pixels

    @property
    def roi(self) -> Roi:
        return Roi(self.x, self.y, self.width, self.height)


class MotionSection(Section, frozen=True, kw_only=True):
    """``[trigger.motion]``: how parts are found in the image, see :class:`edge_ad_runtime.cameras.motion.MotionSettings`."""

    table: ClassVar[str] = "trigger.motion"

    direction: Literal["right", "left", "down", "up"] = "right"
    line: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    lane: tuple[Share, Share] = (0.0, 1.0)
    min_area: Annotated[float, Meta(ge=1e-4, le=0.5)] = 0.005
    min_gap: Annotated[float, Meta(ge=0, le=0.5)] = 0.02
    contrast: Annotated[float, Meta(ge=2, le=200)] = 12.0
    learn_s: Annotated[float, Meta(ge=0.1, le=60)] = 2.0
    adapt_s: Annotated[float, Meta(ge=1, le=3600)] = 30.0

    def rules(self) -> Iterator[Problem]:
        if self.lane[0] >= self.lane[1]:
            yield Problem("lane", "must be two shares of the view, the smaller first")

    @property
    def settings(self) -> MotionSettings:
        """For :class:`edge_ad_runtime.cameras.motion.MotionTrigger`."""
        return MotionSettings(
            direction=self.direction,
            line=self.line,
            lane=self.lane,
            min_area=self.min_area,
            min_gap=self.min_gap,
            contrast=self.contrast,
            learn_s=self.learn_s,
            adapt_s=self.adapt_s,
        )


class TriggerSection(Section, frozen=True, kw_only=True):
    """``[trigger]``: what says that a part is there. ``source`` is a URL (:mod:`edge_ad_runtime.triggers`), ``software``
    or ``motion``.

    The part is in the camera's view ``delay_ms`` after its trigger. Triggers nearer than ``debounce_ms`` to the one
    before are bounces. More than ``max_in_flight`` parts between trigger and decision are an overrun.
    """

    table: ClassVar[str] = "trigger"

    source: Text
    delay_ms: Ms = 0.0
    debounce_ms: Ms = 5.0
    max_in_flight: Annotated[int, Meta(ge=1, le=10_000)] = 64
    motion: MotionSection | None = None

    def rules(self) -> Iterator[Problem]:
        if self.motion is not None and self.source != MOTION:
            yield Problem("motion", f'belongs to source = "{MOTION}"')
        if self.source in (SOFTWARE, MOTION):
            return
        if "://" not in self.source:
            yield Problem("source", f'must be a URL such as gpio://gpiochip0/17, "{SOFTWARE}" or "{MOTION}"')
        elif (why := _refused(parse_trigger, self.source)) is not None:
            yield Problem("source", why)

    @property
    def motion_settings(self) -> MotionSettings:
        """How parts are found in the image, with ``source = "motion"``."""
        return (self.motion or MotionSection()).settings

    @property
    def url(self) -> str | None:
        """The guard's trigger; None when the scorer triggers."""
        return None if self.source in (SOFTWARE, MOTION) else self.source


_DISTANCE_ONLY = (
    "mm", "counts", "encoder", "mm_per_count", "min_gap_counts", "closest_counts", "belt_counts_per_s",
    "view_from_mm", "view_from_counts", "view_until_mm", "view_until_counts",
)  # fmt: skip


class TravelSection(Section, frozen=True, kw_only=True):
    """``[travel]``: the way from the trigger (without one: from the camera) to the ejector, and how it is told.

    Mode ``time``: ``ms`` at a constant speed. ``belt`` is a signal that says whether the belt runs
    (:mod:`edge_ad_runtime.triggers`), ``steady_ms`` how long it takes to run at its speed after a stop. Mode ``distance``:
    ``mm`` or ``counts`` of the ``encoder``.

    Parts nearer to each other than the ``min_gap`` cannot be told apart by a pulse. ``closest`` is the smallest distance
    of two parts that can occur; half of the minimum gap when it is not given. ``view_from`` and ``view_until`` are the ways
    from the trigger between which a part is wholly in the camera's view (mode ``distance``). ``belt_mm_per_s`` or ``belt_counts_per_s``
    is the belt's speed, with an encoder its highest one.
    """

    table: ClassVar[str] = "travel"

    mode: Literal["time", "distance"]
    ms: Ms | None = None
    mm: Length | None = None
    counts: Length | None = None
    encoder: Text | None = None
    mm_per_count: Length | None = None
    min_gap_ms: PositiveMs | None = None
    min_gap_mm: Length | None = None
    min_gap_counts: Length | None = None
    closest_ms: PositiveMs | None = None
    closest_mm: Length | None = None
    closest_counts: Length | None = None
    view_from_mm: Way | None = None
    view_from_counts: Way | None = None
    view_until_mm: Length | None = None
    view_until_counts: Length | None = None
    belt_mm_per_s: Length | None = None
    belt_counts_per_s: Length | None = None
    belt: Text | None = None
    steady_ms: Ms = 0.0

    def rules(self) -> Iterator[Problem]:
        yield from self._time_rules() if self.mode == "time" else self._distance_rules()
        if self.encoder is not None and (why := _refused(parse_encoder, self.encoder)) is not None:
            yield Problem("encoder", why)
        if self.belt is not None and (why := _refused(parse_belt, self.belt)) is not None:
            yield Problem("belt", why)

    def _time_rules(self) -> Iterator[Problem]:
        for key in _DISTANCE_ONLY:
            if getattr(self, key) is not None:
                yield Problem(key, 'belongs to mode = "distance"; this is mode = "time"')
        if self.ms is None:
            yield Problem("ms", "is missing: the time from the trigger to the ejector")
        yield from self._one_of("min_gap_ms", "min_gap_mm", needed=False)
        yield from self._one_of("closest_ms", "closest_mm", needed=False)
        if self.belt_mm_per_s is None:
            for key in ("min_gap_mm", "closest_mm"):
                if getattr(self, key) is not None:
                    yield Problem(key, f"needs belt_mm_per_s, too; or give {key.replace('_mm', '_ms')}")
        if self.steady_ms and self.belt is None:
            yield Problem("steady_ms", "needs belt, the signal that says whether the belt runs")

    def _distance_rules(self) -> Iterator[Problem]:
        for key in ("ms", "min_gap_ms", "closest_ms"):
            if getattr(self, key) is not None:
                other = key.replace("ms", "mm")
                yield Problem(
                    key, f'belongs to mode = "time"; this is mode = "distance": give {other} or counts'
                )
        for key, set_here in (("belt", self.belt is not None), ("steady_ms", self.steady_ms > 0)):
            if set_here:
                yield Problem(key, 'belongs to mode = "time"; an encoder sees by itself that the belt stands')
        if self.encoder is None:
            yield Problem("encoder", "is missing: the URL of the encoder, for example gpio://gpiochip0/27")
        yield from self._one_of("mm", "counts", needed=True)
        yield from self._one_of("min_gap_mm", "min_gap_counts", needed=False)
        yield from self._one_of("closest_mm", "closest_counts", needed=False)
        yield from self._one_of("view_from_mm", "view_from_counts", needed=False)
        yield from self._one_of("view_until_mm", "view_until_counts", needed=False)
        view_from, view_until = self.view_from, self.view_until
        if (view_from is None) is not (view_until is None):
            given, lacking = (
                ("view_from", "view_until") if view_until is None else ("view_until", "view_from")
            )
            yield Problem(self.key_of(given), f"needs {lacking}_mm or {lacking}_counts, too")
        elif view_from is not None and view_until is not None and view_from >= view_until:
            yield Problem(self.key_of("view_until"), "must be more than view_from")
        if self._one("belt_mm_per_s", "belt_counts_per_s") is None:
            yield Problem("belt_mm_per_s", "give it (the belt's highest speed), or belt_counts_per_s")
        yield from self._one_of("belt_mm_per_s", "belt_counts_per_s", needed=False)
        if self.mm_per_count is None:
            keys = ("mm", "min_gap_mm", "closest_mm", "view_from_mm", "view_until_mm", "belt_mm_per_s")
            for key in keys:
                if getattr(self, key) is not None:
                    yield Problem(key, "needs mm_per_count, how far the belt goes from one count to the next")

    def _one(self, *keys: str) -> float | None:
        return next((value for key in keys if (value := getattr(self, key)) is not None), None)

    def _one_of(self, first: str, second: str, *, needed: bool) -> Iterator[Problem]:
        given = [key for key in (first, second) if getattr(self, key) is not None]
        if len(given) == 2:
            yield Problem(second, f"stands beside {first}; give one of them")
        elif needed and not given:
            yield Problem(first, f"is missing; give {first} or {second}")

    @property
    def units_per_ms(self) -> float:
        """How far the belt goes in a millisecond at its (highest) speed, in the belt's unit: nanoseconds, or counts."""
        if self.mode == "time":
            return 1e6
        if self.belt_counts_per_s is not None:
            return self.belt_counts_per_s / 1e3
        return (self.belt_mm_per_s or 0.0) / (self.mm_per_count or 1.0) / 1e3

    @property
    def way(self) -> float:
        """From the trigger to the ejector, in the belt's unit (:mod:`edge_ad_runtime.tracking.belt`)."""
        return self._units(self.ms, self.mm, self.counts) or 0.0

    @property
    def min_gap(self) -> float | None:
        """In the belt's unit."""
        return self._units(self.min_gap_ms, self.min_gap_mm, self.min_gap_counts)

    @property
    def closest(self) -> float | None:
        """In the belt's unit; half of the minimum gap when it is not given."""
        given = self._units(self.closest_ms, self.closest_mm, self.closest_counts)
        return given if given is not None or self.min_gap is None else self.min_gap / 2

    @property
    def view_from(self) -> float | None:
        """In the belt's unit."""
        return self._units(None, self.view_from_mm, self.view_from_counts)

    @property
    def view_until(self) -> float | None:
        """In the belt's unit."""
        return self._units(None, self.view_until_mm, self.view_until_counts)

    def key_of(self, name: str) -> str:
        """The key under which a length stands: ``min_gap``, ``closest``, ``view_from`` or ``view_until`` with its unit,
        or the way itself where ``name`` is empty. Without any, the one in the mode's own unit."""
        stem = f"{name}_" if name else ""
        keys = [f"{stem}{unit}" for unit in ("ms", "mm", "counts") if hasattr(self, f"{stem}{unit}")]
        own = keys[0] if self.mode == "time" else next(key for key in keys if key.endswith("mm"))
        return next((key for key in keys if getattr(self, key) is not None), own)

    def _units(self, ms: float | None, mm: float | None, counts: float | None) -> float | None:
        if ms is not None:
            return ms * 1e6
        if counts is not None:
            return counts
        if mm is None:
            return None
        if self.mode == "time":
            return mm / (self.belt_mm_per_s or 1.0) * 1e9
        return mm / (self.mm_per_count or 1.0)


class OutputSection(Section, frozen=True, kw_only=True):
    """``[[output]]``: a reject output's URL (:mod:`edge_ad_runtime.outputs`); its timing in the URL or as keys, see
    :class:`edge_ad_runtime.outputs.Timing`."""

    table: ClassVar[str] = "output"

    url: Text
    pulse_ms: Annotated[float, Meta(gt=0, le=MAX_PULSE_MS)] | None = None
    delay_ms: Annotated[float, Meta(ge=0, le=MAX_DELAY_MS)] | None = None
    lead_ms: Annotated[float, Meta(ge=0, le=MAX_DELAY_MS)] | None = None
    min_off_ms: Annotated[float, Meta(ge=0, le=MAX_PULSE_MS)] | None = None
    safe: Literal["auto", "off", "on"] | None = None
    energise: Literal["reject", "accept"] | None = None

    def rules(self) -> Iterator[Problem]:
        if (why := _refused(parse_output, self.full_url)) is not None:
            yield Problem("url", why)

    @property
    def full_url(self) -> str:
        """The URL with the keys in it."""
        keys = {f.name: getattr(self, f.name) for f in msgspec.structs.fields(type(self)) if f.name != "url"}
        given = {k: f"{v:.12g}" if isinstance(v, float) else v for k, v in keys.items() if v is not None}
        if not given:
            return self.url
        return f"{self.url}{'&' if '?' in self.url else '?'}{urlencode(given)}"

    @property
    def timing(self) -> Timing:
        return parse_output(self.full_url).timing

    @property
    def name(self) -> str:
        """For people, without credentials."""
        return parse_output(self.full_url).name


class HeartbeatSection(Section, frozen=True, kw_only=True):
    """``[heartbeat]``: the URL of an output that is toggled as long as frames are scored."""

    table: ClassVar[str] = "heartbeat"

    url: Text

    def rules(self) -> Iterator[Problem]:
        if (why := _refused(parse_output, self.url)) is not None:
            yield Problem("url", why)


class FailsafeSection(Section, frozen=True, kw_only=True):
    """``[failsafe]``: what becomes of a part whose verdict is ``missing`` when it has to be decided on, of one that could
    not be inspected (``fault``), and of what lies between trigger and ejector at the start. A scorer that is silent for
    ``silence_ms`` is lost."""

    table: ClassVar[str] = "failsafe"

    missing: Literal["reject", "pass"] = "reject"
    fault: Literal["reject", "pass"] = "reject"
    unknown_at_start: Literal["reject", "pass"] = "reject"
    silence_ms: Annotated[float, Meta(ge=50, le=60_000)] = 1000.0


class RecordsSection(Section, frozen=True, kw_only=True):
    """``[records]``: where the record of every part goes, texts such as ``jsonl:parts.jsonl``."""

    table: ClassVar[str] = "records"

    sinks: tuple[Text, ...] = ()

    def rules(self) -> Iterator[Problem]:
        refused = (_refused(parse_sink, text) for text in self.sinks)
        yield from (Problem("sinks", why) for why in refused if why is not None)


class PicturesSection(Section, frozen=True, kw_only=True):
    """``[pictures]``: which parts' pictures are kept, see :class:`edge_ad_runtime.sinks.pictures.PicturesConfig`."""

    table: ClassVar[str] = "pictures"

    folder: Text
    quota_mb: Annotated[float, Meta(gt=0, le=1e9)] = 1000.0
    min_free_mb: Annotated[float, Meta(ge=0, le=1e9)] = 500.0
    rejects: bool = True
    faults: bool = True
    every_nth_pass: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 0
    format: Literal["jpg", "png"] = "jpg"
    heat_map: bool = False

    @property
    def config(self) -> PicturesConfig:
        """For :class:`edge_ad_runtime.sinks.pictures.PictureStore`."""
        return PicturesConfig(
            folder=Path(self.folder),
            quota_mb=self.quota_mb,
            min_free_mb=self.min_free_mb,
            rejects=self.rejects,
            faults=self.faults,
            every_nth_pass=self.every_nth_pass,
            format=self.format,
            heat_map=self.heat_map,
        )


class ThresholdSection(Section, frozen=True, kw_only=True):
    """``[threshold]``: a part with a score above ``score`` is rejected, whatever the calibration says."""

    table: ClassVar[str] = "threshold"

    score: Annotated[float, Meta(ge=-1e6, le=1e6)]


class ScorerSection(Section, frozen=True, kw_only=True):
    """``[scorer]``: the engine's ``threads`` (None: as tuned, or one for each core); ``cpus``, the cores on which the
    scoring process stays (None: all), in the form of :func:`edge_ad_runtime.cores.parse_cores`; and its niceness."""

    table: ClassVar[str] = "scorer"

    threads: Annotated[int, Meta(ge=1, le=1024)] | None = None
    cpus: Text | None = None
    nice: Annotated[int, Meta(ge=-20, le=19)] = 0

    def rules(self) -> Iterator[Problem]:
        if self.cpus is None:
            return
        if (why := _refused(parse_cores, self.cpus)) is not None:
            yield Problem("cpus", why)
        elif self.threads is not None and self.threads > (count := len(parse_cores(self.cpus))):
            yield Problem("threads", f"are more than the {count} of cpus; give as many, or leave threads out")


class LineConfig(Section, frozen=True, kw_only=True):
    """A whole line. Without ``trigger`` every frame is a part."""

    name: Annotated[str, Meta(pattern=NAME)] = "line"
    camera: CameraSection
    region: RegionSection | None = None
    trigger: TriggerSection | None = None
    travel: TravelSection | None = None
    outputs: tuple[OutputSection, ...] = msgspec.field(default=(), name="output")
    heartbeat: HeartbeatSection | None = None
    failsafe: FailsafeSection = FailsafeSection()
    records: RecordsSection = RecordsSection()
    pictures: PicturesSection | None = None
    threshold: ThresholdSection | None = None
    scorer: ScorerSection = ScorerSection()

    def rules(self) -> Iterator[Problem]:
        travel = self.travel
        if self.trigger is None:
            if travel is not None and travel.mode == "distance":
                yield Problem("travel.mode", 'must be "time": without [trigger] every frame is a part')
            elif travel is not None:
                for key in ("min_gap_ms", "min_gap_mm", "closest_ms", "closest_mm", "belt"):
                    if getattr(travel, key) is not None:
                        yield Problem(f"travel.{key}", "needs [trigger]: without one every frame is a part")
        elif travel is None:
            yield Problem("trigger", "needs [travel], the way from the trigger to the ejector")
        elif travel.min_gap is None:
            key = "min_gap_ms" if travel.mode == "time" else "min_gap_mm"
            yield Problem(
                f"travel.{key}",
                "is missing: the distance below which a pulse for one part may strike the next",
            )
        elif travel.way <= travel.min_gap:
            yield Problem(
                f"travel.{travel.key_of('')}",
                f"must be longer than the minimum gap ({travel.key_of('min_gap')}); move the ejector further down the belt, "
                "or make the gap shorter",
            )


def output_key(line: LineConfig, number: int, key: str) -> str:
    """The dotted path of a key of the output ``number``, from 0."""
    return f"output.{key}" if len(line.outputs) == 1 else f"output[{number + 1}].{key}"


def lead_ns(line: LineConfig) -> int:
    """How long before a part is at the ejector the first of the outputs has to be told; never negative."""
    return max([0, *(o.timing.lead_ns - o.timing.delay_ns for o in line.outputs)])


def reach_ns(line: LineConfig) -> int:
    """How long after a part is at the ejector the last of the outputs acts."""
    return max((o.timing.delay_ns + o.timing.pulse_ns for o in line.outputs), default=0)


def guard_config(line: LineConfig, period_ms: float | None = None) -> GuardConfig:
    """What the guard is told; see :class:`edge_ad_runtime.guard.config.GuardConfig`.

    Args:
        line: the line.
        period_ms: as of :func:`pick_settings`.
    """
    travel, trigger, failsafe = line.travel, line.trigger, line.failsafe
    return GuardConfig(
        line=line.name,
        outputs=tuple(output.full_url for output in line.outputs),
        heartbeat=None if line.heartbeat is None else line.heartbeat.url,
        trigger=None if trigger is None else trigger.url,
        encoder=None if travel is None else travel.encoder,
        belt=None if travel is None else travel.belt,
        track=_track_settings(line, period_ms),
        travel_ns=round(travel.way) if travel is not None and trigger is None else 0,
        pass_faults=failsafe.fault == "pass",
        reject_unknown=failsafe.unknown_at_start == "reject",
        silence_ns=round(failsafe.silence_ms * 1e6),
    )


def _track_settings(line: LineConfig, period_ms: float | None) -> TrackSettings | None:
    travel, trigger = line.travel, line.trigger
    if trigger is None or travel is None or travel.min_gap is None or travel.closest is None:
        return None
    pick = pick_settings(line, period_ms)
    return TrackSettings(
        travel=travel.way,
        min_gap=travel.min_gap,
        lead_ns=lead_ns(line),
        reach_ns=reach_ns(line),
        ahead_ns=round(AHEAD_MS * 1e6),
        debounce_ns=round(trigger.debounce_ms * 1e6),
        max_in_flight=trigger.max_in_flight,
        pass_missing=line.failsafe.missing == "pass",
        pass_faults=line.failsafe.fault == "pass",
        steady_ns=round(travel.steady_ms * 1e6),
        # Half of what two parts are apart at least, so that an edge more or less raises no alarm.
        min_advance=travel.closest / 2 if travel.mode == "distance" else 0.0,
        view_from_ns=pick.delay_ns,
        view_until_ns=pick.delay_ns + pick.within_ns + pick.latency_ns,
        view_from=travel.view_from or 0.0,
        view_until=travel.view_until,
    )


def pick_settings(line: LineConfig, period_ms: float | None = None) -> PickSettings:
    """Which frame belongs to a part; see :class:`edge_ad_runtime.tracking.picking.PickSettings`.

    Args:
        line: the line.
        period_ms: from one frame to the next, where it was measured; None is :attr:`CameraSection.period_ms`.

    Where the line does not say: a frame's timestamp is at most one exposure and one read-out after the exposure's
    beginning, both at most a frame period; a part's frame may be the second one; and the camera is waited for as long
    as that takes, and 100 ms more.
    """
    camera = line.camera
    period = camera.period_ms if period_ms is None else period_ms
    exposure_us = camera.asked.exposure_us
    exposure = period if exposure_us is None else exposure_us / 1e3
    latency = exposure + period if camera.latency_ms is None else camera.latency_ms
    within = 2 * period if camera.frame_within_ms is None else camera.frame_within_ms
    patience = within + latency + period + 100 if camera.patience_ms is None else camera.patience_ms
    return PickSettings(
        delay_ns=round(line.trigger.delay_ms * 1e6) if line.trigger is not None else 0,
        within_ns=round(within * 1e6),
        latency_ns=round(latency * 1e6),
        patience_ns=round(patience * 1e6),
    )


def from_options(
    camera: str,
    rejects: Sequence[str] = (),
    *,
    name: str = "line",
    fps: float | None = None,
    trigger: str | None = None,
    travel_ms: float | None = None,
    min_gap_ms: float | None = None,
    delay_ms: float = 0.0,
    heartbeat: str | None = None,
    records: Sequence[str] = (),
    threads: int | None = None,
) -> LineConfig:
    """A line without a file.

    Args:
        camera: a camera text.
        rejects: the outputs' URLs.
        name: the line's name.
        fps: frames a second.
        trigger: as ``trigger.source``; None is free running.
        travel_ms: from the trigger, or from the frame, to the ejector.
        min_gap_ms: as ``travel.min_gap_ms``; None is 1.2 times the time that the longest pulse reaches.
        delay_ms: from the trigger to the camera's view.
        heartbeat: the heartbeat output's URL.
        records: where the record of every part goes.
        threads: the engine's threads.

    Raises:
        InputError: a value is unusable, or they do not fit together.
    """
    outputs = tuple(OutputSection(url=url) for url in rejects)
    if trigger is not None and min_gap_ms is None:
        longest = max((o.timing.delay_ms + o.timing.pulse_ms for o in outputs), default=Timing().pulse_ms)
        min_gap_ms = 1.2 * longest
    travel = None if travel_ms is None else TravelSection(mode="time", ms=travel_ms, min_gap_ms=min_gap_ms)
    return LineConfig(
        name=name,
        camera=CameraSection(source=camera, fps=fps),
        trigger=None if trigger is None else TriggerSection(source=trigger, delay_ms=delay_ms),
        travel=travel,
        outputs=outputs,
        heartbeat=None if heartbeat is None else HeartbeatSection(url=heartbeat),
        records=RecordsSection(sinks=tuple(records)),
        scorer=ScorerSection(threads=threads),
    )
