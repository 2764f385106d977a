"""Whether a line can work: plausibility of its timing, before a part is lost to it.

Every check is a function of values; only :func:`missing_devices` looks at the machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edge_ad_runtime.cameras import parse_camera
from edge_ad_runtime.errors import EdgeAdError, MissingExtra
from edge_ad_runtime.line.config import (
    AHEAD_MS,
    LineConfig,
    TravelSection,
    lead_ns,
    pick_settings,
    reach_ns,
    travel_key,
)
from edge_ad_runtime.line.section import Problem
from edge_ad_runtime.line.timeline import MARGIN_MS, Measured, timeline
from edge_ad_runtime.outputs.gpio import find_chip
from edge_ad_runtime.placement import inspected_region
from edge_ad_runtime.preprocess import PreprocessSpec

LEAST_GAP_COUNTS = 4.0
"""A part's place is known to one count: with fewer in the minimum gap the counts do not tell two parts apart."""
LEAST_CLOSEST_COUNTS = 3.0
"""A dead encoder still seems to advance by one count; two parts must be clearly further apart to give it away."""


def check_line(line: LineConfig, measured: Measured | None = None) -> list[Problem]:
    """All that is wrong or doubtful with a line's timing and policy."""
    measured = measured or Measured()
    return [
        *_answer_in_time(line, measured),
        *_gaps(line),
        *_trigger(line, measured),
        *_frames(line, measured),
        *_encoder(line),
        *_outputs(line),
        *_policy(line),
        *_region(line),
    ]


def _ms(value: float) -> str:
    return f"{value:.4g} ms"


def _length(travel: TravelSection, ms: float) -> str:
    """A time as the length that the belt goes in it, in the unit of the file; empty where that is the time itself."""
    if travel.belt_mm_per_s is not None:
        return f" ({travel.belt_mm_per_s * ms / 1e3:.4g} mm)"
    if travel.mode == "distance":
        return f" ({travel.units_per_ms * ms:.4g} counts)"
    return ""


def _output_key(line: LineConfig, number: int, key: str) -> str:
    return f"output.{key}" if len(line.outputs) == 1 else f"output[{number + 1}].{key}"


def _own_key(line: LineConfig, number: int, key: str) -> str:
    """A key of an output, or its URL where the value stands there."""
    return _output_key(line, number, key if getattr(line.outputs[number], key) is not None else "url")


def _answer_in_time(line: LineConfig, measured: Measured) -> Iterator[Problem]:
    travel = line.travel
    if travel is None:
        return
    times = timeline(line, measured)
    spare = times.spare_ms
    if spare is None or times.decided_ms is None or spare >= 0:
        return
    model = "not measured" if times.model_ms is None else _ms(times.model_ms)
    if times.triggered:
        parts = (
            f"delay {_ms(times.in_view_ms)} + frame period {_ms(times.period_ms)} + camera latency "
            f"{_ms(times.latency_ms)} + model {model} + margin {_ms(MARGIN_MS)}"
        )
        decided = f"travel {_ms(times.ejector_ms)} - lead {_ms(lead_ns(line) / 1e6)} - {_ms(AHEAD_MS)}"
    else:
        parts = f"waiting for the frame before, model {model}, margin {_ms(MARGIN_MS)}"
        decided = f"travel {_ms(times.ejector_ms)} - lead {_ms(lead_ns(line) / 1e6)}"
    yield Problem(
        f"travel.{travel_key(travel)}",
        f"the ejector is reached before the model can answer: the verdict comes up to {_ms(times.scored_ms)} after the "
        f"{'trigger' if times.triggered else 'frame'} ({parts}), but is needed {_ms(times.decided_ms)} after it "
        f"({decided}); move the ejector {_ms(-spare)}{_length(travel, -spare)} further down the belt, slow the belt, or "
        "take a faster model or camera",
    )


def _gap_key(travel: TravelSection) -> str:
    keys = ("min_gap_ms", "min_gap_mm", "min_gap_counts")
    return "travel." + next(key for key in keys if getattr(travel, key) is not None)


def _gaps(line: LineConfig) -> Iterator[Problem]:
    travel, trigger = line.travel, line.trigger
    if travel is None or trigger is None or travel.min_gap is None or travel.closest is None:
        return
    gap_ms, reach_ms = travel.min_gap / travel.units_per_ms, reach_ns(line) / 1e6
    speed = "" if travel.mode == "time" else " at the belt's highest speed"
    if gap_ms < reach_ms:
        yield Problem(
            _gap_key(travel),
            f"is {_ms(gap_ms)}{speed}, but a pulse acts until {_ms(reach_ms)} after its part is at the ejector and would "
            f"strike the next one; make it at least {_ms(reach_ms)}{_length(travel, reach_ms)}, or the pulse shorter",
        )
    elif travel.mode == "distance" and travel.min_gap - reach_ms * travel.units_per_ms < 1:
        yield Problem(
            _gap_key(travel),
            "is less than one count longer than the belt goes during a pulse, and a part's place is known to one count; "
            "make the gap longer, the pulse shorter, or take a finer encoder",
        )
    early_ms = lead_ns(line) / 1e6 + AHEAD_MS
    needed_ms = gap_ms + early_ms
    way_ms = travel.way / travel.units_per_ms
    if way_ms <= needed_ms:
        yield Problem(
            f"travel.{travel_key(travel)}",
            f"is {_ms(way_ms)}{speed}, but must be longer than the minimum gap and what the outputs are told ahead, "
            f"{_ms(needed_ms)}{_length(travel, needed_ms)}: the part behind must be known when a part is decided on",
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


def _trigger(line: LineConfig, measured: Measured) -> Iterator[Problem]:
    travel, trigger = line.travel, line.trigger
    if travel is None or trigger is None or travel.min_gap is None or travel.closest is None:
        return
    gap_ms, closest_ms = travel.min_gap / travel.units_per_ms, travel.closest / travel.units_per_ms
    given = travel.closest_ms or travel.closest_mm or travel.closest_counts
    if given is not None and trigger.debounce_ms >= closest_ms:
        yield Problem(
            "trigger.debounce_ms",
            f"is not shorter than the smallest distance of two parts, {_ms(closest_ms)}: the second one would be taken for "
            f"a bounce and go by unseen; make it shorter than {_ms(closest_ms)}",
        )
    elif trigger.debounce_ms >= gap_ms:
        yield Problem(
            "trigger.debounce_ms",
            f"is not shorter than the minimum gap, {_ms(gap_ms)}: a part that follows closely would be taken for a bounce "
            f"and go by unseen; a photo-eye needs a few milliseconds",
        )
    elif trigger.debounce_ms >= closest_ms:
        yield Problem(
            "trigger.debounce_ms",
            f"a part that follows another within {_ms(trigger.debounce_ms)} is taken for a bounce and goes by unseen; say "
            "with closest_ms or closest_mm how near parts can be",
            "warning",
        )
    times = timeline(line, measured)
    most = 1 + int(max(times.decided_ms or 0.0, 0.0) / closest_ms)
    if most > trigger.max_in_flight:
        yield Problem(
            "trigger.max_in_flight",
            f"up to {most} parts can be undecided at once, those beyond {trigger.max_in_flight} are rejected as overruns; "
            f"make it {most}, or say with closest_ms or closest_mm that parts are further apart",
            "warning",
        )
    if given is not None and measured.model_p99_ms is not None and measured.model_p99_ms > closest_ms:
        yield Problem(
            "travel."
            + next(
                k for k in ("closest_ms", "closest_mm", "closest_counts") if getattr(travel, k) is not None
            ),
            f"parts can follow each other every {_ms(closest_ms)}, but the model takes {_ms(measured.model_p99_ms)}: in a "
            "longer row of such parts the last ones are rejected without a verdict",
            "warning",
        )


def camera_kind(source: str) -> str:
    """``stream``, ``device``, ``mock`` or ``files``."""
    scheme = source.partition(":")[0].lower()
    if scheme in ("rtsp", "rtsps", "http", "https"):
        return "stream"
    if scheme == "mock":
        return "mock"
    if (source.isascii() and source.isdigit()) or source.startswith("/dev/") or "://" in source:
        return "device"
    return "files"


def _frames(line: LineConfig, measured: Measured) -> Iterator[Problem]:
    trigger, camera = line.trigger, line.camera
    kind = camera_kind(camera.source)
    if trigger is None or kind == "files":
        return
    if camera.latency_ms is None and kind == "stream":
        yield Problem(
            "camera.latency_ms",
            "is missing: the frames of a network camera carry the time of their arrival, so only you can say how long after "
            "the beginning of its exposure a frame may arrive; without it a frame from before the trigger could be taken "
            "(docs/line.md says how to measure it)",
        )
        return
    if camera.latency_ms is None and camera.fps is None and measured.frame_period_ms is None:
        yield Problem(
            "camera.fps",
            "is not given, so 30 frames a second are assumed; give fps, or latency_ms (the longest time from the beginning "
            "of an exposure to the frame's timestamp), lest a frame from before the trigger be taken",
            "warning",
        )
    times = timeline(line, measured)
    pick = pick_settings(line, measured.frame_period_ms)
    if pick.within_ns / 1e6 < times.period_ms:
        yield Problem(
            "camera.frame_within_ms",
            f"is shorter than a frame period, {_ms(times.period_ms)}: parts between two frames get none and are rejected; "
            "make it longer, or the camera faster",
            "warning",
        )
    travel = line.travel
    given = travel is not None and (travel.closest_ms or travel.closest_mm or travel.closest_counts)
    if travel is not None and travel.closest is not None and given:
        closest_ms, latest_ms = travel.closest / travel.units_per_ms, (pick.within_ns + pick.latency_ns) / 1e6
        if latest_ms >= closest_ms:
            yield Problem(
                "camera.frame_within_ms" if camera.frame_within_ms is not None else "camera",
                f"a part's frame may be exposed up to {_ms(latest_ms)} after the part is in view (frame_within_ms and "
                f"latency_ms), when the next one, {_ms(closest_ms)} behind, may be there; make them shorter, or check that "
                "the next part would be seen as a part in the wrong place",
                "warning",
            )


def _encoder(line: LineConfig) -> Iterator[Problem]:
    travel = line.travel
    if line.trigger is None or travel is None or travel.mode != "distance":
        return
    if travel.min_gap is None or travel.closest is None:
        return
    finer = "take an encoder with more counts, or one on a faster shaft"
    if travel.min_gap < LEAST_GAP_COUNTS:
        yield Problem(
            _gap_key(travel),
            f"is {travel.min_gap:.3g} counts, but the place of a part is known to one count, and at least "
            f"{LEAST_GAP_COUNTS:g} are needed to tell two parts apart; {finer}",
        )
    elif travel.closest < LEAST_CLOSEST_COUNTS:
        given = next((k for k in ("closest_mm", "closest_counts") if getattr(travel, k) is not None), None)
        yield Problem(
            _gap_key(travel) if given is None else f"travel.{given}",
            f"parts may be {travel.closest:.3g} counts apart, but at least {LEAST_CLOSEST_COUNTS:g} are needed to notice "
            f"that the encoder is dead; {finer}" + (", or give closest_mm" if given is None else ""),
        )
    shortest = min((o.timing.pulse_ms for o in line.outputs), default=None)
    if shortest is not None and shortest * travel.units_per_ms < 1:
        yield Problem(
            "travel.encoder",
            f"is coarse: in a pulse of {_ms(shortest)} the belt goes less than one count, to which a part's place is known; "
            f"{finer}, or make the pulse longer",
            "warning",
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
    if failsafe.missing == "pass" and line.trigger is not None:
        yield Problem(
            "failsafe.missing",
            'is "pass": a scorer that is late, stopped or dead lets every part through',
            "warning",
        )
    if failsafe.fault == "pass":
        yield Problem("failsafe.fault", 'is "pass": parts that could not be inspected go through', "warning")
    if failsafe.unknown_at_start == "pass" and line.trigger is not None:
        yield Problem(
            "failsafe.unknown_at_start",
            'is "pass": what lies on the belt at the start goes through unseen',
            "warning",
        )
    if line.trigger is not None and travel is not None and travel.mode == "time" and travel.belt is None:
        yield Problem(
            "travel.belt",
            "is not given: when the belt stops or changes its speed, pulses strike the wrong place unnoticed; wire the "
            "signal that says whether it runs, or an encoder",
            "warning",
        )


def _region(line: LineConfig) -> Iterator[Problem]:
    camera, region = line.camera, line.region
    if region is None or camera.width is None or camera.height is None:
        return
    turned = camera.rotate in (90, 270)
    width, height = (camera.height, camera.width) if turned else (camera.width, camera.height)
    if region.x + region.width > width or region.y + region.height > height:
        key = "width" if region.x + region.width > width else "height"
        yield Problem(
            f"region.{key}",
            f"the region {region.width}x{region.height} at {region.x},{region.y} reaches beyond the camera's image of "
            f"{width}x{height}" + (f" (rotated by {camera.rotate})" if turned else ""),
        )


def check_bundle(line: LineConfig, spec: PreprocessSpec) -> list[Problem]:
    """What does not fit between a line and the preprocessing of its bundle."""
    if spec.roi is None:
        return []
    roi, camera = spec.roi, line.camera
    if line.region is not None:
        return [
            Problem(
                "region",
                f"the bundle has a region of its own, {roi.width}x{roi.height} at {roi.x},{roi.y}; leave [region] out",
            )
        ]
    if camera.width is None or camera.height is None:
        return []
    turned = camera.rotate in (90, 270)
    width, height = (camera.height, camera.width) if turned else (camera.width, camera.height)
    try:
        inspected_region(spec, height, width)
    except EdgeAdError as error:
        return [Problem("camera.width", f"{error}; the bundle was made for larger images")]
    return []


def missing_devices(line: LineConfig) -> list[Problem]:
    """The devices, files and packages that the line names and this machine does not have. Nothing is opened."""
    problems = [
        Problem(_output_key(line, i, "url"), text)
        for i, output in enumerate(line.outputs)
        if (text := _missing(output.url)) is not None
    ]
    urls = {
        "heartbeat.url": None if line.heartbeat is None else line.heartbeat.url,
        "trigger.source": None if line.trigger is None else line.trigger.url,
        "travel.encoder": None if line.travel is None else line.travel.encoder,
        "travel.belt": None if line.travel is None else line.travel.belt,
    }
    problems += [
        Problem(key, text)
        for key, url in urls.items()
        if url is not None and (text := _missing(url)) is not None
    ]
    return [*problems, *_missing_camera(line), *_scarce_disk(line)]


def _missing(url: str) -> str | None:
    """What the device of a URL lacks here: a path below /dev, or a GPIO chip."""
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    if parts.scheme == "gpio":
        chip = unquote(parts.netloc) or str(path.parent)
        try:
            found = find_chip(chip)
        except MissingExtra as error:
            return str(error)
        except OSError as error:
            return f"{error}; name one of them, or check the board's device tree"
        return None if found.exists() else f"there is no {found}; 'gpiodetect' lists the GPIO chips"
    if not path.is_relative_to("/dev") or parts.netloc:
        return None
    # Behind the device's path may stand what is meant on it, as in modbus-rtu:///dev/ttyUSB0/coil/0.
    if any(p.exists() and not p.is_dir() for p in (path, *path.parents)):
        return None
    return f"there is no {path}; check that it is plugged in ('ls /dev/serial/by-id' lists serial ports)"


def _missing_camera(line: LineConfig) -> Iterator[Problem]:
    source = line.camera.source
    try:
        parse_camera(source)
    except EdgeAdError as error:
        yield Problem("camera.source", str(error))
        return
    device = Path(
        f"/dev/video{source}" if source.isascii() and source.isdigit() else source.partition("?")[0]
    )
    if device.is_relative_to("/dev") and not device.exists():
        here = ", ".join(sorted(map(str, Path("/dev").glob("video*")))) or "no /dev/video*"
        yield Problem("camera.source", f"there is no {device}; here is {here}")


def _scarce_disk(line: LineConfig) -> Iterator[Problem]:
    if line.pictures is None:
        return
    folder = Path(line.pictures.folder).absolute()
    there = next((p for p in (folder, *folder.parents) if p.exists()), None)
    if there is None:
        return
    if not there.is_dir():
        yield Problem("pictures.folder", f"{there} is a file; give a folder")
        return
    free_mb = shutil.disk_usage(there).free / 1e6
    if free_mb < line.pictures.min_free_mb:
        yield Problem(
            "pictures.min_free_mb",
            f"only {free_mb:.0f} MB are free on the disk of {folder}, less than should stay free: no picture is kept",
            "warning",
        )
