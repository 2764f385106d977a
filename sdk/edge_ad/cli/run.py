"""``edge-ad run``: inspect parts from a camera and drive the reject outputs."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from edge_ad_calibration.history import History
from edge_ad_runtime.actuation import open_actuators
from edge_ad_runtime.bundle import open_bundle
from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.cameras import parse_camera
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.events import PartEvent, open_events, parse_events
from edge_ad_runtime.inspector import Inspector
from edge_ad_runtime.line import LineSummary, run_line
from edge_ad_runtime.outputs import OutputConfig, parse_output
from edge_ad_runtime.state import default_state_dir
from edge_ad_runtime.stopping import StopRequest, stop_on_signals

_T = TypeVar("_T")


def _usage(option: str, parse: Callable[[], _T]) -> _T:
    """What cannot be understood is wrong usage; what cannot be opened is a failure of the job."""
    try:
        return parse()
    except InputError as error:
        raise click.BadParameter(str(error), param_hint=option) from error


@click.command("run")
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option(
    "--camera",
    required=True,
    metavar="SOURCE",
    help="0, /dev/video0, rtsp://…, http://…, a video, an image, a folder, a glob, or mock:FOLDER.",
)
@click.option(
    "--reject",
    "rejects",
    multiple=True,
    metavar="URL",
    help="Reject output, repeatable: serial:///dev/ttyUSB0?protocol=lcus1&pulse_ms=50, "
    "gpio://gpiochip0/17, mock://name. All take pulse_ms, delay_ms, safe=off|on.",
)
@click.option("--events", "events_text", metavar="SINK", help="Record of every part: jsonl:FILE or jsonl:-.")
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
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON to standard output.")
def command(
    bundle_path: Path,
    camera: str,
    rejects: tuple[str, ...],
    events_text: str | None,
    limit: int | None,
    threads: int | None,
    fps: float | None,
    state_dir: Path | None,
    as_json: bool,
) -> None:
    """Inspect every part that SOURCE shows with BUNDLE, until it ends or SIGINT or SIGTERM comes.

    A part above the threshold, and a part that cannot be inspected (a fault), gives a pulse on every
    --reject output. The calibration in use is the current field calibration, else the bundle's own.
    """
    logging.basicConfig(format="edge-ad: %(message)s", level=logging.WARNING, stream=sys.stderr)
    with stop_on_signals() as stop, _stop_on_hangup(stop):
        source = _usage("--camera", partial(parse_camera, camera, fps=fps, stop=stop))
        configs = [_usage("--reject", partial(parse_output, url)) for url in rejects]
        if events_text is not None:
            _usage("--events", partial(parse_events, events_text))
        bundle = open_bundle(bundle_path)
        calibration = History(state_dir or default_state_dir(), bundle).current()
        inspector = Inspector(bundle, calibration, threads)
        inspector.self_test()
        inspector.warm_up()
        events = None if events_text is None else open_events(events_text)
        actuators = open_actuators(configs)
        _say(_opening(bundle.manifest.name, inspector.engine.name, source.name, configs, calibration))
        summary = run_line(inspector, source, actuators, events, stop, limit=limit, on_part=_report_part)
    _say(_closing(summary))
    if as_json:
        click.echo(msgspec.json.encode(summary).decode())


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
    detail = event.fault or f"score {event.score:.4g} > {event.threshold:.4g}"
    _say(f"part {event.part}: {event.verdict}, {detail}, {event.source}, {event.latency_ms:.1f} ms")


def _opening(
    bundle: str, engine: str, source: str, configs: list[OutputConfig], calibration: Calibration
) -> str:
    origin = f"{calibration.images} images, {calibration.created}, {calibration.source}"
    lines = [
        f"bundle       {bundle} ({engine})",
        f"camera       {source}",
        f"calibration  threshold {calibration.threshold:.4g}, {origin}",
    ]
    for config in configs:
        timing = config.timing
        lines.append(
            f"reject       {config.name}: {timing.pulse_ms:g} ms, delay {timing.delay_ms:g} ms, "
            f"safe state {timing.safe}"
        )
    return "\n".join(lines if configs else [*lines, "reject       no output (--reject)"])


def _closing(s: LineSummary) -> str:
    text = f"{s.parts} parts: {s.passed} passed, {s.rejected} rejected, {s.faults} faults"
    if s.latency_ms_p50 is not None and s.latency_ms_p99 is not None:
        text += f"; latency {s.latency_ms_p50:.1f} ms (p99 {s.latency_ms_p99:.1f})"
    troubles = {
        "frames dropped": s.dropped_frames,
        "reconnects": s.reconnects,
        "pulses late": s.late_pulses,
        "pulses missed": s.missed_pulses,
        "pulses cancelled": sum(o.cancelled for o in s.outputs),
        "output errors": sum(o.errors for o in s.outputs),
        "events lost": s.lost_events,
    }
    return "; ".join([text, *(f"{n} {what}" for what, n in troubles.items() if n)])
