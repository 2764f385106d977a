"""``edge-ad line``: what a line file says, and whether it can work."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
import msgspec

from edge_ad.cli.tuned import tuned_options
from edge_ad_runtime.bundle import Bundle, open_bundle
from edge_ad_runtime.cameras import redact
from edge_ad_runtime.cores import parse_cores, stay_on, usable_cores
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.files import write_atomically
from edge_ad_runtime.guard.directory import end_guard, find_guards
from edge_ad_runtime.inspector import Inspector
from edge_ad_runtime.line.check import check_bundle, check_line
from edge_ad_runtime.line.config import LineConfig, OutputSection, ScorerSection, TravelSection, pick_settings
from edge_ad_runtime.line.devices import camera_device, link_target, missing_devices, resolved, shared_wires
from edge_ad_runtime.line.drawing import draw_svg, draw_text
from edge_ad_runtime.line.reading import LineFile, LineFileError, read_line_file, told
from edge_ad_runtime.line.section import Problem
from edge_ad_runtime.line.timeline import Measured, Timeline, timeline
from edge_ad_runtime.line.together import check_together
from edge_ad_runtime.state import default_state_dir
from edge_ad_runtime.timing import noise_frame, percentiles
from edge_ad_runtime.tracking.picking import PickSettings
from edge_ad_runtime.triggers import parse_belt, parse_encoder, parse_trigger

# Inspections that are timed, and how long that may take.
_RUNS = 100
_LONGEST_S = 10.0

Located = list[tuple[Problem, int | None]]


@click.group("line")
def command() -> None:
    """Line files: what is in them, and whether it can work. Guards: which run, and how to end them."""


@command.command("check")
@click.argument("line_files", metavar="LINE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--bundle",
    "bundle_path",
    metavar="BUNDLE",
    type=click.Path(path_type=Path),
    help="Time this bundle on this machine, and check that it fits the camera.",
)
@click.option("--no-devices", is_flag=True, help="Do not look whether the devices are here.")
@click.option(
    "--svg",
    "svg_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the timing into this file, too.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(
    line_files: tuple[Path, ...],
    bundle_path: Path | None,
    no_devices: bool,
    svg_path: Path | None,
    as_json: bool,
) -> None:
    """Show what LINE says, draw the timing of one part, and say what is wrong.

    Errors and warnings come with the line and the key where they stand. Exit code 1 if there are errors. No output is
    driven and no camera opened. Several LINEs are lines that run on this machine at the same time: what they claim together
    is checked, too. With --json each LINE gives one line of JSON.
    """
    if svg_path is not None and len(line_files) > 1:
        raise click.UsageError("--svg draws the timing of one LINE")
    if svg_path is not None and not svg_path.absolute().parent.is_dir():
        raise InputError(f"{svg_path}: there is no folder {svg_path.parent}")
    read = [_read(path, as_json) for path in line_files]
    files = [file for file in read if file is not None]
    bundle = None if bundle_path is None else open_bundle(bundle_path)
    together = (
        check_together([file.config for file in files], usable_cores())
        if len(files) > 1
        else [[]] * len(files)
    )
    sound = len(files) == len(read)
    for file, shared in zip(files, together, strict=True):
        sound = _check_one(file, shared, bundle, no_devices, svg_path, as_json) and sound
    if not sound:
        sys.exit(1)


def _read(path: Path, as_json: bool) -> LineFile | None:
    """A line file; None where it cannot be read and that was told as JSON."""
    try:
        return read_line_file(path)
    except LineFileError as error:
        if not as_json:
            raise
        _print_json(str(path), list(error.problems), [], None)
        return None


def _check_one(
    file: LineFile,
    shared: list[Problem],
    bundle: Bundle | None,
    no_devices: bool,
    svg_path: Path | None,
    as_json: bool,
) -> bool:
    """Check a line and tell the result; returns whether there is no error. ``shared`` is what other lines claim, too."""
    line = file.config
    measured = Measured() if bundle is None else _measure(bundle, line)
    problems = check_line(line, measured)
    if bundle is not None:
        problems += check_bundle(line, bundle.manifest.preprocess)
    problems += shared_wires(line)
    if not no_devices:
        problems += missing_devices(line)
    problems += shared
    located = sorted(file.locate(problems), key=lambda found: (found[0].level, found[1] or 0))
    times = timeline(line, measured)
    rows = understood(file, bundle, measured)
    if svg_path is not None:
        write_atomically(svg_path, draw_svg(times, line.name).encode())
    if as_json:
        _print_json(str(file.path), located, rows, times)
    else:
        _print(str(file.path), located, rows, times)
    return all(problem.level != "error" for problem in problems)


def _measure(bundle: Bundle, line: LineConfig) -> Measured:
    """Time inspections of noise at the camera's size, as the line would run them."""
    cores = usable_cores()
    if line.scorer.cpus is not None:
        stay_on(parse_cores(line.scorer.cpus))
    try:
        return _measure_here(bundle, line)
    finally:
        if usable_cores() != cores:
            stay_on(cores)


def _measure_here(bundle: Bundle, line: LineConfig) -> Measured:
    threads = line.scorer.threads
    inspector = Inspector(bundle, threads=threads, options=tuned_options(bundle, threads))
    inspector.warm_up()
    spec, asked = bundle.manifest.preprocess, line.camera.asked
    frame = noise_frame([spec])
    if asked.width is not None and asked.height is not None and spec.roi is None:
        frame = frame[: asked.height, : asked.width]
    taken: list[int] = []
    began = time.monotonic()
    while len(taken) < _RUNS and time.monotonic() - began < _LONGEST_S:
        taken.append(inspector.inspect(frame).total_ns)
    return Measured(model_p99_ms=percentiles(taken).p99)


def understood(file: LineFile, bundle: Bundle | None, measured: Measured) -> list[tuple[str, str]]:
    """A line in words, one row for each of its parts; passwords are left out."""
    line = file.config
    rows = [("line", f"{line.name} ({file.path})"), ("camera", _camera(line))]
    if line.region is not None:
        region = line.region
        rows.append(("region", f"{region.width}x{region.height} at {region.x},{region.y}"))
    if bundle is not None:
        name = f"{bundle.manifest.name}, {bundle.manifest.target}"
        rows.append(("bundle", f"{name}, 99 % of inspections within {measured.model_p99_ms:.4g} ms here"))
    rows.append(("trigger", _trigger(line)))
    if line.travel is not None:
        rows += _travel(line, line.travel)
    rows += [("output", _output(output)) for output in line.outputs]
    if line.heartbeat is not None:
        rows.append(("heartbeat", _device(OutputSection(url=line.heartbeat.url).name, line.heartbeat.url)))
    failsafe = line.failsafe
    policy = f"fault: {failsafe.fault}"
    if line.trigger is not None:
        policy = f"no verdict in time: {failsafe.missing}, {policy}, on the belt at the start: {failsafe.unknown_at_start}"
    rows.append(("failsafe", f"{policy}; a scorer silent for {failsafe.silence_ms:g} ms is lost"))
    rows += [("record", redact(sink)) for sink in line.records.sinks]
    if line.pictures is not None:
        p = line.pictures
        kinds = [k for k, kept in (("rejects", p.rejects), ("faults", p.faults)) if kept]
        kinds += [f"every {p.every_nth_pass}th pass"] if p.every_nth_pass else []
        rows.append(
            (
                "pictures",
                f"{', '.join(kinds) or 'none'} as {p.format} in {p.folder}, at most {p.quota_mb:g} MB",
            )
        )
    if line.threshold is not None:
        rows.append(("threshold", f"{line.threshold.score:g}, instead of the calibration's"))
    scorer = line.scorer
    if scorer != ScorerSection():
        threads = (
            "threads as tuned, or one for each core"
            if scorer.threads is None
            else f"{scorer.threads} threads"
        )
        cpus = "" if scorer.cpus is None else f" on the cores {scorer.cpus}"
        rows.append(("scorer", f"{threads}{cpus}, nice {scorer.nice}"))
    return rows


def _camera(line: LineConfig) -> str:
    asked, source = line.camera.asked, line.camera.source
    device = camera_device(source)
    target = None if device is None else link_target(device)
    parts = [
        redact(source.partition("?")[0] if device is None else str(device))
        + (f" -> {target}" if target else "")
    ]
    if asked.width is not None:
        parts.append(f"{asked.width}x{asked.height}")
    units = {"fps": "frames/s", "exposure_us": "us exposed", "white_balance_k": "K", "gain": "gain"}
    parts += [
        f"{value:g} {unit}" for key, unit in units.items() if (value := getattr(asked, key)) is not None
    ]
    parts += [text for text in (asked.pixel_format, "locked" if asked.lock else None) if text]
    if asked.rotate:
        parts.append(f"rotated by {asked.rotate}")
    if asked.flip != "none":
        parts.append(f"flipped: {asked.flip}")
    return ", ".join(parts)


def _device(name: str, url: str) -> str:
    device = resolved(url)
    return name if device is None else f"{name} -> {device}"


def _trigger(line: LineConfig) -> str:
    trigger = line.trigger
    if trigger is None:
        return "none: every frame is a part, the newest wins"
    name = trigger.source if trigger.url is None else _device(parse_trigger(trigger.url).name, trigger.url)
    return (
        f"{name}, in view after {trigger.delay_ms:g} ms, bounces up to {trigger.debounce_ms:g} ms, at most "
        f"{trigger.max_in_flight} parts undecided"
    )


def _view(pick: PickSettings, travel: TravelSection) -> str:
    """Where a frame counts, and the speeds at which every part's frame is exposed there."""
    unit, per = ("counts", 1.0) if travel.mm_per_count is None else ("mm", travel.mm_per_count)
    begin_s, end_s = pick.delay_ns / 1e9, (pick.delay_ns + pick.within_ns + pick.latency_ns) / 1e9
    first, last = (travel.view_from or 0.0) * per, (travel.view_until or 0.0) * per
    slowest = (
        f"from {first / begin_s:.4g} {unit}/s on" if begin_s else "at no speed" if first else "at any speed"
    )
    return (
        f"{first:.4g} to {last:.4g} {unit} behind the trigger; parts are there for their frames {slowest}, up to "
        f"{last / end_s:.4g} {unit}/s; at other speeds they are faults"
    )


def _travel(line: LineConfig, travel: TravelSection) -> list[tuple[str, str]]:
    def length(units: float | None) -> str:
        if units is None:
            return "none"
        ms = units / travel.units_per_ms
        if travel.mode == "time":
            mm = "" if travel.belt_mm_per_s is None else f" ({travel.belt_mm_per_s * ms / 1e3:.4g} mm)"
            return f"{ms:.4g} ms{mm}"
        mm = "" if travel.mm_per_count is None else f"{units * travel.mm_per_count:.4g} mm, "
        return f"{units:.4g} counts ({mm}{ms:.4g} ms at the highest speed)"

    rows = [("travel", f"{length(travel.way)}, by {travel.mode}")]
    if travel.min_gap is not None:
        rows.append(("gap", f"{length(travel.min_gap)} at least between parts that a pulse can tell apart"))
    if line.trigger is not None and travel.view_from is not None and travel.view_until is not None:
        rows.append(("view", _view(pick_settings(line), travel)))
    if travel.encoder is not None:
        rows.append(("encoder", _device(parse_encoder(travel.encoder).name, travel.encoder)))
    if travel.belt is not None:
        belt = _device(parse_belt(travel.belt).name, travel.belt)
        rows.append(("belt", f"{belt}, at its speed after {travel.steady_ms:g} ms"))
    return rows


def _output(output: OutputSection) -> str:
    t = output.timing
    return (
        f"{_device(output.name, output.url)}: {t.pulse_ms:g} ms, lead {t.lead_ms:g} ms, delay {t.delay_ms:g} ms, "
        f"current means {t.energise}, safe state {t.safe}"
    )


def _print(file: str, located: Located, rows: list[tuple[str, str]], times: Timeline) -> None:
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        click.echo(f"{name:<{width}}  {text}")
    click.echo(f"\n{draw_text(times)}")
    if times.spare_ms is not None and times.spare_ms >= 0:
        model = "" if times.model_ms is not None else " before the model's time (--bundle measures it)"
        click.echo(f"\nspare  {times.spare_ms:.4g} ms{model}")
    if located:
        click.echo("")
    for problem, line in located:
        click.echo(told(file, problem, line))
    errors = sum(problem.level == "error" for problem, _ in located)
    click.echo(f"\n{_count(errors, 'error')}, {_count(len(located) - errors, 'warning')}")


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def _print_json(file: str, located: Located, rows: list[tuple[str, str]], times: Timeline | None) -> None:
    click.echo(
        msgspec.json.encode(
            {
                "file": file,
                "ok": all(problem.level != "error" for problem, _ in located),
                "problems": [
                    {"level": p.level, "key": p.key or None, "line": line, "text": p.text}
                    for p, line in located
                ],
                "understood": [{"what": what, "text": text} for what, text in rows],
                "timeline": times,
                "spare_ms": None if times is None else times.spare_ms,
            }
        ).decode()
    )


@command.command("status")
@click.option(
    "--state",
    "state_dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="The device's state folder [default: EDGE_AD_STATE or ~/.local/state/edge-ad].",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(state_dir: Path | None, as_json: bool) -> None:
    """Show the guards that run on this machine.

    A guard whose scorer has died goes on rejecting until a scorer comes back: start `edge-ad run` again with the same
    line, or end the guard with `edge-ad line stop`. A line that runs is not disturbed.
    """
    guards = list(find_guards(state_dir or default_state_dir()))
    if as_json:
        click.echo(msgspec.json.encode({"guards": guards}).decode())
        return
    for guard in guards:
        r = guard.report
        if r is None:
            click.echo(f"{guard.line}: guard {guard.pid} does not answer; end it with 'kill -9 {guard.pid}'")
            continue
        scorer = f"run by process {r.scorer}" if r.scorer else "without a scorer"
        click.echo(f"{guard.line}: {scorer}, guard {guard.pid}")
        faults = sum(r.faults.values())
        click.echo(f"  {r.parts} parts: {r.passed} passed, {r.rejected} rejected, {faults} faults")
        for output in r.outputs:
            click.echo(f"  {output.name}: {output.pulses} pulses, {output.missed} missed")
    if not guards:
        click.echo("no guard runs here")


@command.command("stop")
@click.argument("name", metavar="NAME")
@click.option(
    "--drain",
    "drain_s",
    type=click.FloatRange(0, 600),
    default=0.0,
    show_default=True,
    help="Seconds for which parts on their way are still rejected.",
)
@click.option(
    "--state",
    "state_dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="The device's state folder [default: EDGE_AD_STATE or ~/.local/state/edge-ad].",
)
def stop(name: str, drain_s: float, state_dir: Path | None) -> None:
    """End the guard of the line called NAME, after its scorer has died for good.

    NAME is what 'name' in the line file says; `edge-ad line status` shows it. The outputs are brought into their safe
    states. A line that is running is stopped where it runs.
    """
    end_guard(state_dir or default_state_dir(), name, drain_s)
    click.echo(f"{name}: ended")
