"""Whether a line can work: plausibility of its timing, before a part is lost to it.

Every check is a function of values; what the machine has is looked up in :mod:`edge_ad_runtime.line.devices`.
"""

from __future__ import annotations

from collections.abc import Iterator

from edge_ad_runtime.errors import EdgeAdError
from edge_ad_runtime.line.config import (
    AHEAD_MS,
    MOTION,
    LineConfig,
    TravelSection,
    TriggerSection,
    lead_ns,
    output_key,
    pick_settings,
    reach_ns,
)
from edge_ad_runtime.line.section import Problem
from edge_ad_runtime.line.timeline import MARGIN_MS, Measured, Timeline, timeline
from edge_ad_runtime.placement import inspected_region
from edge_ad_runtime.preprocess import PreprocessSpec

LEAST_GAP_COUNTS = 4.0
"""A part's place is known to one count: with fewer in the minimum gap the counts do not tell two parts apart."""
LEAST_CLOSEST_COUNTS = 3.0
"""A dead encoder still seems to advance by one count; two parts must be clearly further apart to give it away."""


def check_line(line: LineConfig, measured: Measured | None = None) -> list[Problem]:
    """All that is wrong or doubtful with a line's timing and policy, judged by the worst case."""
    measured = measured or Measured()
    times = timeline(line, measured)
    problems = [*_answer_in_time(line, times), *_outputs(line), *_policy(line), *_region(line)]
    if line.trigger is not None and line.travel is not None and line.travel.min_gap is not None:
        trigger, travel = line.trigger, line.travel
        problems += _gaps(line, travel, travel.min_gap or 0.0)
        problems += _trigger(trigger, travel, times)
        problems += _frames(line, travel, measured, times)
        problems += _motion(trigger, times)
        if travel.mode == "distance":
            problems += _encoder(line, travel, travel.min_gap or 0.0)
            problems += _view(line, travel, measured, times)
    return problems


def check_bundle(line: LineConfig, spec: PreprocessSpec) -> list[Problem]:
    """What does not fit between a line and the preprocessing of its bundle."""
    if spec.roi is None:
        return []
    roi, size = spec.roi, _image_size(line)
    if line.region is not None:
        return [
            Problem(
                "region",
                f"the bundle has a region of its own, {roi.width}x{roi.height} at {roi.x},{roi.y}; leave [region] out",
            )
        ]
    if size is None:
        return []
    try:
        inspected_region(spec, height=size[1], width=size[0])
    except EdgeAdError as error:
        return [Problem("camera.width", f"{error}; the bundle was made for other images")]
    return []


def _ms(value: float) -> str:
    return f"{value:.4g} ms"


def _length(travel: TravelSection, ms: float) -> str:
    """A time as the length that the belt goes in it, in the unit of the file; empty where that is the time itself."""
    if travel.belt_mm_per_s is not None:
        return f" ({travel.belt_mm_per_s * ms / 1e3:.4g} mm)"
    if travel.mode == "distance":
        return f" ({travel.units_per_ms * ms:.4g} counts)"
    return ""


def _own_key(line: LineConfig, number: int, key: str) -> str:
    """A key of an output, or its URL where the value stands there."""
    return output_key(line, number, key if getattr(line.outputs[number], key) is not None else "url")


def _answer_in_time(line: LineConfig, times: Timeline) -> Iterator[Problem]:
    travel, spare = line.travel, times.spare_ms
    if travel is None or spare is None or times.decided_ms is None or spare >= 0:
        return
    model = "model (not measured)" if times.model_ms is None else f"model {_ms(times.model_ms)}"
    if times.triggered:
        sum_of = (
            f"delay {_ms(times.in_view_ms)} + frame period {_ms(times.period_ms)} + camera latency "
            f"{_ms(times.latency_ms)} + {model} + margin {_ms(MARGIN_MS)}"
        )
        needed = f"travel {_ms(times.ejector_ms)} - lead {_ms(lead_ns(line) / 1e6)} - {_ms(AHEAD_MS)}"
    else:
        sum_of = f"waiting for the frame before + {model} + margin {_ms(MARGIN_MS)}"
        needed = f"travel {_ms(times.ejector_ms)} - lead {_ms(lead_ns(line) / 1e6)}"
    yield Problem(
        f"travel.{travel.key_of('')}",
        f"the ejector is reached before the model can answer: the verdict comes up to {_ms(times.scored_ms)} after the "
        f"{'trigger' if times.triggered else 'frame'} ({sum_of}), but is needed {_ms(times.decided_ms)} after it "
        f"({needed}); move the ejector {_ms(-spare)}{_length(travel, -spare)} further down the belt, slow the belt, or "
        "take a faster model or camera",
    )


def _gaps(line: LineConfig, travel: TravelSection, min_gap: float) -> Iterator[Problem]:
    gap_ms, reach_ms = min_gap / travel.units_per_ms, reach_ns(line) / 1e6
    key = f"travel.{travel.key_of('min_gap')}"
    speed = "" if travel.mode == "time" else " at the belt's highest speed"
    if gap_ms < reach_ms:
        yield Problem(
            key,
            f"is {_ms(gap_ms)}{speed}, but a pulse acts until {_ms(reach_ms)} after its part is at the ejector and would "
            f"strike the next one; make it at least {_ms(reach_ms)}{_length(travel, reach_ms)}, or the pulse shorter",
        )
    elif travel.mode == "distance" and min_gap - reach_ms * travel.units_per_ms < 1:
        yield Problem(
            key,
            "is less than one count longer than the belt goes during a pulse, and a part's place is known to one count; "
            "make the gap longer, the pulse shorter, or take a finer encoder",
        )
    for i, output in enumerate(line.outputs):
        timing = output.timing
        if timing.min_off_ms and timing.pulse_ms + timing.min_off_ms > 2 * gap_ms:
            most = max(2 * gap_ms - timing.pulse_ms, 0)
            yield Problem(
                _own_key(line, i, "min_off_ms"),
                f"joins the pulses for two parts across a good one between them, which may be {_ms(gap_ms)} from both; "
                f"make it at most {_ms(most)}",
            )


def _trigger(trigger: TriggerSection, travel: TravelSection, times: Timeline) -> Iterator[Problem]:
    gap_ms, closest_ms = (
        (travel.min_gap or 0.0) / travel.units_per_ms,
        (travel.closest or 0.0) / travel.units_per_ms,
    )
    key = travel.key_of("closest")
    given = getattr(travel, key) is not None
    shortest_ms = closest_ms if given else gap_ms
    if trigger.debounce_ms >= shortest_ms:
        yield Problem(
            "trigger.debounce_ms",
            f"is not shorter than the {'smallest distance of two parts' if given else 'minimum gap'}, {_ms(shortest_ms)}: a "
            "part that follows closely would be taken for a bounce and go by unseen; a photo-eye needs a few milliseconds",
        )
    elif trigger.debounce_ms >= closest_ms:
        yield Problem(
            "trigger.debounce_ms",
            f"a part that follows another within {_ms(trigger.debounce_ms)} is taken for a bounce and goes by unseen; say "
            f"with travel.{key} how near parts can be",
            "warning",
        )
    most = 1 + int(max(times.decided_ms or 0.0, 0.0) / closest_ms)
    if most > trigger.max_in_flight:
        yield Problem(
            "trigger.max_in_flight",
            f"up to {most} parts can be undecided at once, those beyond {trigger.max_in_flight} are rejected as overruns; "
            f"make it {most}, or say with travel.{key} that parts are further apart",
            "warning",
        )
    if given and times.model_ms is not None and times.model_ms > closest_ms:
        yield Problem(
            f"travel.{key}",
            f"parts can follow each other every {_ms(closest_ms)}, but the model takes {_ms(times.model_ms)}: in a longer "
            "row of such parts the last ones are rejected without a verdict",
            "warning",
        )


def _motion(trigger: TriggerSection, times: Timeline) -> Iterator[Problem]:
    """Motion is known when a frame has come, one period after the part crossed the line at the latest, and another one may
    pass before its part is announced; the part's own frame must not have gone by then."""
    least = 2 * times.period_ms - times.latency_ms
    if trigger.source == MOTION and trigger.delay_ms < least:
        yield Problem(
            "trigger.delay_ms",
            f"is too short for motion, which is known up to two frame periods after the fact: make it at least {_ms(least)}, "
            "or parts get no frame; put the trip line further ahead",
            "warning",
        )


def camera_kind(source: str) -> str:
    """``stream`` (frames carry the time of their arrival), ``device``, ``mock`` or ``files``."""
    scheme = source.partition(":")[0].lower()
    if scheme in ("rtsp", "rtsps", "http", "https", "gst"):
        return "stream"
    if scheme == "mock":
        return "mock"
    path = source.partition("?")[0]
    if (path.isascii() and path.isdigit()) or path.startswith("/dev/") or "://" in path:
        return "device"
    return "files"


def _frames(
    line: LineConfig, travel: TravelSection, measured: Measured, times: Timeline
) -> Iterator[Problem]:
    camera = line.camera
    kind = camera_kind(camera.source)
    if kind == "files":
        return
    if camera.latency_ms is None and kind == "stream":
        yield Problem(
            "camera.latency_ms",
            "is missing: the frames of this kind of camera carry the time of their arrival, so only you can say how long after "
            "the beginning of its exposure a frame may arrive; without it a frame from before the trigger could be taken "
            "(docs/line.md says how to measure it)",
        )
        return
    if camera.latency_ms is None and camera.asked.fps is None and measured.frame_period_ms is None:
        yield Problem(
            "camera.fps",
            "is not given, so 30 frames a second are assumed; give fps, or latency_ms (the longest time from the beginning "
            "of an exposure to the frame's timestamp), lest a frame from before the trigger be taken",
            "warning",
        )
    pick = pick_settings(line, measured.frame_period_ms)
    if pick.within_ns / 1e6 < times.period_ms:
        yield Problem(
            "camera.frame_within_ms",
            f"is shorter than a frame period, {_ms(times.period_ms)}: parts between two frames get none and are rejected; "
            "make it longer, or the camera faster",
            "warning",
        )
    closest_ms, latest_ms = (
        (travel.closest or 0.0) / travel.units_per_ms,
        (pick.within_ns + pick.latency_ns) / 1e6,
    )
    if getattr(travel, travel.key_of("closest")) is not None and latest_ms >= closest_ms:
        yield Problem(
            "camera.frame_within_ms" if camera.frame_within_ms is not None else "camera",
            f"a part's frame may be exposed up to {_ms(latest_ms)} after the part is in view (frame_within_ms and "
            f"latency_ms), when the next one, {_ms(closest_ms)} behind, may be there; make them shorter, or be sure that a "
            "picture of another place is rejected",
            "warning",
        )


def _encoder(line: LineConfig, travel: TravelSection, min_gap: float) -> Iterator[Problem]:
    closest, key = travel.closest or 0.0, travel.key_of("closest")
    finer = "take an encoder with more counts, or one on a faster shaft"
    if min_gap < LEAST_GAP_COUNTS:
        yield Problem(
            f"travel.{travel.key_of('min_gap')}",
            f"is {min_gap:.3g} counts, but the place of a part is known to one count, and at least {LEAST_GAP_COUNTS:g} are "
            f"needed to tell two parts apart; {finer}",
        )
    elif closest < LEAST_CLOSEST_COUNTS:
        given = getattr(travel, key) is not None
        yield Problem(
            f"travel.{key if given else travel.key_of('min_gap')}",
            f"parts may be {closest:.3g} counts apart, but at least {LEAST_CLOSEST_COUNTS:g} are needed to notice that the "
            f"encoder is dead; {finer}"
            + ("" if given else f", or say with travel.{key} that parts are further apart"),
        )
    shortest = min((o.timing.pulse_ms for o in line.outputs), default=None)
    if shortest is not None and shortest * travel.units_per_ms < 1:
        yield Problem(
            "travel.encoder",
            f"is coarse: in a pulse of {_ms(shortest)} the belt goes less than one count, to which a part's place is known; "
            f"{finer}, or make the pulse longer",
            "warning",
        )


def _view(line: LineConfig, travel: TravelSection, measured: Measured, times: Timeline) -> Iterator[Problem]:
    """A frame is exposed from ``delay_ms`` on, for as long as it may be late; the part must be in view all that time."""
    if travel.view_from is None or travel.view_until is None:
        yield Problem(
            "travel.view_from_mm",
            "is not given: when the belt slows or stops before the picture is taken, the picture of another place counts "
            "for the part; give view_from_mm and view_until_mm, between which a part is wholly in view",
            "warning",
        )
        return
    pick = pick_settings(line, measured.frame_period_ms)
    begin_ms, end_ms = pick.delay_ns / 1e6, (pick.delay_ns + pick.within_ns + pick.latency_ns) / 1e6
    per_ms = travel.units_per_ms
    if begin_ms * per_ms < travel.view_from:
        least = travel.view_from / per_ms
        yield Problem(
            "trigger.delay_ms",
            f"even at the belt's highest speed a part is in view {_ms(least)} after its trigger only; make it longer",
        )
    if end_ms * per_ms > travel.view_until:
        yield Problem(
            f"travel.{travel.key_of('view_until')}",
            f"at the belt's highest speed a part has left the view {_ms(travel.view_until / per_ms)} after its trigger, but "
            f"its frame may be exposed up to {_ms(end_ms)} after it (delay_ms, frame_within_ms, latency_ms): every part would "
            "be rejected; make these shorter, the camera faster, or the view longer",
        )
    if times.decided_ms is not None and end_ms > times.decided_ms:
        yield Problem(
            "camera.frame_within_ms" if line.camera.frame_within_ms is not None else "camera",
            f"a part's frame may be exposed up to {_ms(end_ms)} after the trigger (delay_ms, frame_within_ms, latency_ms), "
            f"but the part is decided on {_ms(times.decided_ms)} after it, before its view can be checked; give a shorter "
            "frame_within_ms",
        )


def _outputs(line: LineConfig) -> Iterator[Problem]:
    if not line.outputs:
        yield Problem("output", "there is none: verdicts are only recorded, nothing is rejected", "warning")
    for i, output in enumerate(line.outputs):
        if line.trigger is None and output.timing.safe == "off":
            yield Problem(
                _own_key(line, i, "safe"),
                'is "off" on a line without a trigger: while the camera or the scorer is away, every part passes; '
                'use "auto", which rejects meanwhile',
                "warning",
            )


def _policy(line: LineConfig) -> Iterator[Problem]:
    failsafe, travel = line.failsafe, line.travel
    if failsafe.fault == "pass":
        yield Problem("failsafe.fault", 'is "pass": parts that could not be inspected go through', "warning")
    if line.trigger is None:
        return
    if failsafe.missing == "pass":
        yield Problem(
            "failsafe.missing",
            'is "pass": a scorer that is late, stopped or dead lets every part through',
            "warning",
        )
    if failsafe.unknown_at_start == "pass":
        yield Problem(
            "failsafe.unknown_at_start",
            'is "pass": what lies on the belt at the start goes through unseen',
            "warning",
        )
    if travel is not None and travel.mode == "time" and travel.belt is None:
        yield Problem(
            "travel.belt",
            "is not given: when the belt stops, pulses strike the wrong place unnoticed; wire the signal that says whether "
            "it runs, or an encoder",
            "warning",
        )


def _image_size(line: LineConfig) -> tuple[int, int] | None:
    """Width and height of the camera's image as it is inspected, where the line says them."""
    asked = line.camera.asked
    if asked.width is None or asked.height is None:
        return None
    return (asked.height, asked.width) if asked.rotate in (90, 270) else (asked.width, asked.height)


def _region(line: LineConfig) -> Iterator[Problem]:
    region, size = line.region, _image_size(line)
    if region is None or size is None:
        return
    width, height = size
    if region.x + region.width > width or region.y + region.height > height:
        turned = f" (rotated by {line.camera.asked.rotate})" if line.camera.asked.rotate else ""
        yield Problem(
            f"region.{'width' if region.x + region.width > width else 'height'}",
            f"the region {region.width}x{region.height} at {region.x},{region.y} reaches beyond the camera's image of "
            f"{width}x{height}{turned}",
        )
