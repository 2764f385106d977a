"""``edge-ad run``: inspect parts from a camera and have the bad ones rejected."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from edge_ad.cli.camera_check import check_camera
from edge_ad.cli.tuned import tuned_options
from edge_ad_calibration.history import History
from edge_ad_runtime.bundle import open_bundle
from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.cameras import parse_camera, redact
from edge_ad_runtime.cores import beside, parse_cores, stay_on, usable_cores
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.events import PartEvent
from edge_ad_runtime.inspector import Inspector
from edge_ad_runtime.line.assembly import Devices, Line, camera_source, latency_ns
from edge_ad_runtime.line.check import camera_kind, check_bundle, check_line
from edge_ad_runtime.line.config import CameraSection, LineConfig, RecordsSection, from_options
from edge_ad_runtime.line.devices import missing_devices, shared_wires
from edge_ad_runtime.line.reading import LineFile, LineFileError, read_line_file, told
from edge_ad_runtime.line.summary import LineSummary
from edge_ad_runtime.line.timeline import Measured
from edge_ad_runtime.sinks import CallableSink, parse_sink
from edge_ad_runtime.state import default_state_dir
from edge_ad_runtime.stopping import StopRequest, stop_on_signals


@click.command("run")
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option(
    "--line",
    "line_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The line file: camera, trigger, travel, outputs, policy (docs/line.md).",
)
@click.option(
    "--camera",
    metavar="SOURCE",
    help="0, /dev/video0, rtsp://…, http://…, a video, an image, a folder, a glob, or mock:FOLDER; "
    "in place of the line file's.",
)
@click.option(
    "--reject",
    "rejects",
    multiple=True,
    metavar="URL",
    help="Reject output, repeatable: serial:///dev/ttyUSB0?protocol=lcus1&pulse_ms=50, "
    "gpio://gpiochip0/17, modbus-tcp://…, mock://name. All take pulse_ms, delay_ms, safe=auto|off|on.",
)
@click.option(
    "--events",
    "events",
    multiple=True,
    metavar="SINK",
    help="Record of every part, repeatable: jsonl:FILE, jsonl:-, mqtt://…, http://….",
)
@click.option("--limit", type=click.IntRange(1), help="Stop after this many parts.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of the engine [default: all cores].")
@click.option(
    "--fps",
    type=click.FloatRange(0, 1000, min_open=True),
    help="Play files at this many frames a second [default: as fast as they are inspected].",
)
@click.option(
    "--state",
    "state_dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the field calibrations [default: EDGE_AD_STATE or ~/.local/state/edge-ad].",
)
@click.option(
    "--allow-camera-change",
    is_flag=True,
    help="Run although exposure or white balance differ from the calibration's.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON to standard output.")
def command(
    bundle_path: Path,
    line_path: Path | None,
    camera: str | None,
    rejects: tuple[str, ...],
    events: tuple[str, ...],
    limit: int | None,
    threads: int | None,
    fps: float | None,
    state_dir: Path | None,
    allow_camera_change: bool,
    as_json: bool,
) -> None:
    """Inspect every part with BUNDLE, until the camera's source ends or SIGINT or SIGTERM comes.

    A part above the threshold, a part that cannot be inspected (a fault) and a part without a verdict in time are
    rejected, by a small process of its own that also acts when this one dies. The calibration in use is the
    current field calibration, else the bundle's own.
    """
    logging.basicConfig(format="edge-ad: %(message)s", level=logging.WARNING, stream=sys.stderr)
    file = None if line_path is None else read_line_file(line_path)
    config = _config(file, camera, rejects, events, threads, fps)
    state = state_dir or default_state_dir()
    with stop_on_signals() as stop, _stop_on_hangup(stop):
        if config.scorer.nice:
            os.nice(config.scorer.nice)
        cores = usable_cores()
        if config.scorer.cpus is not None:
            stay_on(parse_cores(config.scorer.cpus))
        bundle = open_bundle(bundle_path)
        calibration = History(state, bundle).current()
        if config.threshold is not None:
            calibration = msgspec.structs.replace(calibration, threshold=config.threshold.score)
        threads = config.scorer.threads
        inspector = Inspector(
            bundle,
            calibration,
            threads,
            skip_unchanged=True,
            options=tuned_options(bundle, threads, state, _say),
        )
        inspector.self_test()
        if file is not None:
            _check(config, inspector, file)
        source = check_camera(
            camera_source(config.camera, stop), calibration, _say, allow_change=allow_camera_change
        )
        line = Line(
            config,
            inspector,
            state=state,
            # A terminal that is held (Ctrl-S) must not hold the line.
            devices=Devices(camera=source, sinks=(CallableSink(_report_part, "standard error"),)),
            stop=stop,
            limit=limit,
            guard_cpus=beside(cores),
        )
        _say(_opening(config, inspector, calibration))
        summary = line.run()
    _say(_closing(summary))
    if as_json:
        click.echo(msgspec.json.encode(summary).decode())


def _config(
    file: LineFile | None,
    camera: str | None,
    rejects: Sequence[str],
    events: Sequence[str],
    threads: int | None,
    fps: float | None,
) -> LineConfig:
    """The line that file and options describe; what cannot be understood is wrong usage."""
    if file is not None:
        if rejects or fps is not None:
            raise click.UsageError("--reject and --fps belong into the line file")
        config = file.config
        if camera is not None:
            config = msgspec.structs.replace(config, camera=_other_camera(config.camera, camera))
        if events:
            config = msgspec.structs.replace(
                config, records=RecordsSection(sinks=(*config.records.sinks, *events))
            )
        if threads is not None:
            config = msgspec.structs.replace(
                config, scorer=msgspec.structs.replace(config.scorer, threads=threads)
            )
        return config
    if camera is None:
        raise click.UsageError("give --camera SOURCE, or --line FILE")
    try:
        parse_camera(camera, fps=fps)
        for text in events:
            parse_sink(text)
        # Two lines on one machine must not share a guard, and the same line must find its own again.
        name = "run-" + hashlib.sha256("\n".join([camera, *rejects]).encode()).hexdigest()[:8]
        return from_options(camera, rejects, name=name, fps=fps, records=events, threads=threads)
    except InputError as error:
        raise click.UsageError(str(error)) from error


def _other_camera(section: CameraSection, source: str) -> CameraSection:
    """The line's camera replaced, to try the line with a folder of images or another device: its settings stay where
    the other one can have them."""
    if camera_kind(source) == "files":
        return CameraSection(source=source, rotate=section.rotate, flip=section.flip)
    return CameraSection(**{**msgspec.structs.asdict(section), "source": source})


def _check(config: LineConfig, inspector: Inspector, file: LineFile) -> None:
    """Refuse a line that cannot work with this model on this machine; tell what is doubtful."""
    measured = Measured(model_p99_ms=latency_ns(inspector) / 1e6)
    located = file.locate(
        [
            *check_line(config, measured),
            *check_bundle(config, inspector.bundle.manifest.preprocess),
            *shared_wires(config),
            *missing_devices(config),
        ]
    )
    errors = [(problem, line) for problem, line in located if problem.level != "warning"]
    if errors:
        raise LineFileError(str(file.path), errors)
    for problem, line in located:
        _say(told(str(file.path), problem, line))


@contextmanager
def _stop_on_hangup(stop: StopRequest) -> Iterator[None]:
    """A closed terminal would otherwise end the process without releasing the outputs."""
    previous = signal.getsignal(signal.SIGHUP)
    if previous is not signal.SIG_DFL:
        yield  # nohup, or a program that has its own way
        return
    signal.signal(signal.SIGHUP, lambda _number, _frame: stop.request())
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, previous)


def _say(text: str) -> None:
    """To standard error; that nobody reads it any more must not stop the line."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def _report_part(event: PartEvent) -> None:
    if event.verdict == "pass":
        return
    if event.fault is not None or event.fault_kind is not None:
        detail = event.fault or event.fault_kind
    elif event.score is not None:
        detail = f"score {event.score:.4g} > {event.threshold:.4g}"
    else:
        detail = "by the verdict of the scorer before"
    latency = "" if event.latency_ms is None else f", {event.latency_ms:.1f} ms"
    _say(f"part {event.part}: {event.verdict}, {detail}, {event.source}{latency}")


def _opening(config: LineConfig, inspector: Inspector, calibration: Calibration) -> str:
    origin = f"{calibration.images} images, {calibration.created}, {calibration.source}"
    lines = [
        f"bundle       {inspector.bundle.manifest.name} ({inspector.engine.name})",
        f"camera       {redact(config.camera.source)}",
        f"calibration  threshold {calibration.threshold:.4g}, {origin}",
    ]
    if config.trigger is not None:
        lines.append(f"trigger      {redact(config.trigger.source)}")
    for output in config.outputs:
        timing = output.timing
        lines.append(
            f"reject       {output.name}: {timing.pulse_ms:g} ms, lead {timing.lead_ms:g} ms, delay {timing.delay_ms:g} ms, "
            f"safe state {timing.safe}"
        )
    if config.outputs and (start := _at_start(config)):
        lines.append(f"start        {start}")
    return "\n".join(lines if config.outputs else [*lines, "reject       no output (--reject)"])


def _at_start(config: LineConfig) -> str | None:
    """Why outputs are active before any part was inspected."""
    if config.trigger is None:
        careless = all(output.timing.safe == "off" for output in config.outputs)
        return (
            None if careless else "everything is rejected until frames are inspected (safe=off prevents that)"
        )
    if config.failsafe.unknown_at_start == "pass":
        return None
    return "a new guard rejects everything until what lies on the belt has passed the ejector (failsafe.unknown_at_start)"


def _closing(s: LineSummary) -> str:
    text = f"{s.parts} parts: {s.passed} passed, {s.rejected} rejected, {s.faults} faults"
    if s.latency_ms_p50 is not None and s.latency_ms_p99 is not None:
        text += f"; latency {s.latency_ms_p50:.1f} ms (p99 {s.latency_ms_p99:.1f})"
    troubles = {
        "frames dropped": s.dropped_frames,
        "reconnects": s.reconnects,
        "triggers lost": s.lost_triggers,
        "verdicts late": s.late_verdicts,
        "pulses late": s.late_pulses,
        "pulses missed": s.missed_pulses,
        "pulses cancelled": sum(o.cancelled for o in s.outputs),
        "output errors": sum(o.errors for o in s.outputs),
        "events lost": s.lost_events,
        "times the scorer was silent": s.scorer_losses,
        "restarts of the guard": s.guard_restarts,
    }
    return "; ".join([text, *(f"{n} {what}" for what, n in troubles.items() if n)])
