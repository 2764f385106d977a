"""``edge-ad simulate``: try a line on a modelled belt, on virtual or in real time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from edge_ad.cli.tuned import tuned_options
from edge_ad_calibration.history import History
from edge_ad_runtime.bundle import open_bundle
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.images import read_image
from edge_ad_runtime.inspector import Inspector
from edge_ad_runtime.line.check import check_line
from edge_ad_runtime.line.config import LineConfig, guard_config, pick_settings
from edge_ad_runtime.line.reading import LineFileError, read_line_file
from edge_ad_runtime.line.timeline import Measured
from edge_ad_runtime.simulation.faults import CATCHABLE, UNAVOIDABLE, parse_kinds
from edge_ad_runtime.simulation.live import Scorer, paced, simulate_live
from edge_ad_runtime.simulation.report import Live, SimReport
from edge_ad_runtime.simulation.runner import explain_part, simulate
from edge_ad_runtime.simulation.scene import Scene, fitted_scene
from edge_ad_runtime.simulation.truth import ImageTruth, LabelTruth, Truth
from edge_ad_runtime.state import default_state_dir
from edge_ad_runtime.stopping import stop_on_signals
from edge_ad_runtime.verdict import Verdict

_USUAL_SPEED = 500.0
_MOST_SHOWN = 20
_BAR_WIDTH = 30
# A modelled signal that comes later than this may be the cause of what goes wrong.
_TOO_LATE_MS = 20.0


@click.command("simulate")
@click.argument("bundle_path", metavar="[BUNDLE]", type=click.Path(path_type=Path), required=False)
@click.option("--line", "line_path", type=click.Path(path_type=Path, dir_okay=False), help="The line file.")
@click.option(
    "--images",
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder with the folders 'good' and one for each defect.",
)
@click.option("--parts", default=10_000, show_default=True, type=click.IntRange(1), help="How many parts.")
@click.option(
    "--faults",
    "faults_text",
    default="none",
    show_default=True,
    metavar="none|random|KIND,…",
    help="What goes wrong, see below.",
)
@click.option("--seed", default=7, show_default=True, type=click.IntRange(0), help="Repeats a simulation.")
@click.option(
    "--bad-share",
    default=0.05,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="The share of bad parts.",
)
@click.option(
    "--latency-ms",
    type=click.FloatRange(0, 60_000, min_open=True),
    help="The scorer's usual time for a part, with --line and without BUNDLE [default: 20].",
)
@click.option(
    "--realtime", is_flag=True, help="Run the true processes, in real time, on modelled devices; with --line."
)
@click.option(
    "--rate",
    type=click.FloatRange(0, 1000, min_open=True),
    help="Parts a second, with --realtime [default: 5, or what the line is made for].",
)
@click.option(
    "--ejector-lead-ms",
    type=click.FloatRange(0, 60_000),
    help="The time that the modelled ejector takes to act, with --realtime [default: the line's lead_ms].",
)
@click.option("--explain", type=click.IntRange(1), metavar="PART", help="Tell what happened to one part.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON to standard output.")
def command(
    bundle_path: Path | None,
    line_path: Path | None,
    images: Path | None,
    parts: int,
    faults_text: str,
    seed: int,
    bad_share: float,
    latency_ms: float | None,
    realtime: bool,
    rate: float | None,
    ejector_lead_ms: float | None,
    explain: int | None,
    as_json: bool,
) -> None:
    """Run the tracking of a line against a modelled belt: parts, photo-eye, encoder, camera, scorer, ejector.

    Time is virtual. Without --line every 1000 parts run on another line, drawn at random among those whose timing can
    work. With BUNDLE and --images each image is scored once, and its verdict and time are used; without BUNDLE the
    labels are the verdicts. With --line the first output is the ejector; its window and the parts' sizes are not in the
    line file and are taken as large as the minimum gap bears.

    With --realtime the guard and the scorer are those of `edge-ad run`, each a process; photo-eye, encoder, belt signal,
    camera and outputs are modelled, and no device of the line file is touched. A scorer that crashes or stalls is killed
    or stopped indeed. Without BUNDLE the camera shows plates with the labels on them. What was struck is worked out
    afterwards from the times at which the output was commanded. Ctrl-C ends it with the report so far.

    Exit code 1 if a part escaped that the model had not missed, or one was struck by mistake.
    """
    try:
        kinds = parse_kinds(faults_text)
    except InputError as error:
        raise click.BadParameter(str(error), param_hint="--faults") from error
    if bundle_path is not None and images is None:
        raise click.UsageError("BUNDLE needs --images, the parts that it is to judge")
    if explain is not None and explain > parts:
        raise click.BadParameter(f"must be at most --parts, {parts}", param_hint="--explain")
    line = None if line_path is None else _read(line_path)
    scene = None if line is None else _line_scene(line, latency_ms)
    if realtime:
        if line is None or scene is None:
            raise click.UsageError("--realtime needs --line")
        if explain is not None:
            raise click.UsageError(
                "--explain is for virtual time: what real processes do is not repeated by a seed"
            )
        scorer = _live_scorer(bundle_path, images, line)
        live_truth: Truth = LabelTruth() if images is None else ImageTruth(images)
        with stop_on_signals() as stop:
            report = simulate_live(
                line,
                paced(scene, rate),
                live_truth,
                parts,
                seed=seed,
                kinds=kinds,
                bad_share=bad_share,
                stop=stop,
                scorer=scorer,
                ejector_lead_ms=ejector_lead_ms,
                progress=_progress(parts),
            )
        _tell(report, as_json)
        return
    for value, name in ((rate, "--rate"), (ejector_lead_ms, "--ejector-lead-ms")):
        if value is not None:
            raise click.UsageError(f"{name} needs --realtime")
    truth = _truth(bundle_path, images)
    if explain is not None:
        click.echo(explain_part(explain, seed, parts, truth, kinds, bad_share, scene))
        return
    _tell(simulate(seed, parts, truth, kinds, bad_share, scene, progress=_progress(parts)), as_json)


command.epilog = (
    "Faults that the line has to cope with, and of which 'random' draws some for every 1000 parts: "
    f"{', '.join(sorted(k.value for k in CATCHABLE))}. Faults that nothing on a line can know of in time, only by name: "
    f"{', '.join(sorted(k.value for k in UNAVOIDABLE))}."
)


def _tell(report: SimReport, as_json: bool) -> None:
    """Print the report; what a line must not do makes the exit status 1, so that a script notices."""
    click.echo(msgspec.json.encode(report).decode() if as_json else _text(report))
    if not report.sound:
        sys.exit(1)


def _read(path: Path) -> LineConfig:
    """A line that 'edge-ad run' would take, whatever the model's time."""
    file = read_line_file(path)
    errors = [problem for problem in check_line(file.config, Measured()) if problem.level == "error"]
    if errors:
        raise LineFileError(str(path), file.locate(errors))
    return file.config


def _line_scene(line: LineConfig, latency_ms: float | None) -> Scene:
    config, travel = guard_config(line), line.travel
    if config.track is None or travel is None or not line.outputs:
        raise InputError(
            f"line {line.name}: only lines with [trigger], [travel] and an [[output]] can be simulated; without a "
            "trigger every frame is a part, and nothing is tracked"
        )
    by_counts = travel.mode == "distance"
    mm_per_count = (travel.mm_per_count or 1.0) if by_counts else None
    speed = travel.units_per_ms * 1e3 * mm_per_count if mm_per_count else travel.belt_mm_per_s or _USUAL_SPEED
    closest = travel.closest
    return fitted_scene(
        config.track,
        pick_settings(line),
        line.outputs[0].timing,
        speed=speed,
        mm_per_count=mm_per_count,
        closest=None if closest is None else closest * (mm_per_count or speed / 1e9),
        frame_ns=round(line.camera.period_ms * 1e6),
        scorer_ns=(latency_ms or 20.0) * 1e6,
        silence_ns=config.silence_ns,
    )


def _truth(bundle_path: Path | None, images: Path | None) -> Truth:
    if images is None:
        return LabelTruth()
    if bundle_path is None:
        return ImageTruth(images)
    bundle = open_bundle(bundle_path)
    calibration = History(default_state_dir(), bundle).current()
    inspector = Inspector(bundle, calibration, options=tuned_options(bundle, None))
    inspector.self_test()
    inspector.warm_up()

    def judge(path: Path) -> tuple[bool, int]:
        inspection = inspector.inspect(read_image(path))
        return inspection.verdict is not Verdict.PASS, inspection.total_ns

    return ImageTruth(images, judge)


def _live_scorer(bundle_path: Path | None, images: Path | None, line: LineConfig) -> Scorer:
    if bundle_path is None:
        return Scorer(images=images)
    bundle = open_bundle(bundle_path)
    calibration = History(default_state_dir(), bundle).current()
    if line.threshold is not None:
        calibration = msgspec.structs.replace(calibration, threshold=line.threshold.score)
    return Scorer(bundle_path, calibration, images)


def _progress(parts: int) -> Callable[[int], None] | None:
    """A bar on standard error, where that is a terminal."""
    if not sys.stderr.isatty():
        return None
    done = 0

    def told(count: int) -> None:
        nonlocal done
        done += count
        filled = _BAR_WIDTH * done // parts
        end = "\n" if done >= parts else ""
        click.echo(
            f"\r[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {done} of {parts}{end}", nl=False, err=True
        )

    return told


def _text(r: SimReport) -> str:
    margin = "none passed" if r.worst_margin_ms is None else f"{r.worst_margin_ms:g} ms"
    rows = [
        (
            "parts",
            f"{r.parts}, {r.bad} bad; {r.per_minute:g} a minute, {r.most_in_flight} on their way at most",
        ),
        ("escapes", f"{r.escapes}, {r.missed_by_model} of them missed by the model"),
        ("wrong hits", str(r.wrong_hits)),
        ("kept", f"{r.kept} that ought to have been removed, {r.unseen_passed} that nobody saw"),
        ("good", f"{r.good_passed} passed, {r.good_rejected} removed ({r.false_rejects} by the model)"),
        ("fault rejects", f"{r.fault_rejects} parts removed; faults told: {_counts(r.faults)}"),
        ("troubles", _counts(r.injected)),
        ("pulses", f"{r.pulses}, {r.late_pulses} late, {r.missed_pulses} missed"),
        ("verdicts", f"{r.late_verdicts} late; least time to spare: {margin}"),
        ("time", f"{r.virtual_s:g} s simulated in {r.wall_s:g} s, seed {r.seed}"),
    ]
    if r.live is not None:
        rows += _live_rows(r.live)
    lines = [f"{name:14}{text}" for name, text in rows]
    how = "" if r.live is not None else " (--explain {})"
    shown = r.problems[:_MOST_SHOWN]
    lines += [f"part {problem.part}: {problem.what}{how.format(problem.part)}" for problem in shown]
    if len(r.problems) > len(shown):
        lines.append(
            f"… and {len(r.problems) - len(shown)} more or less like these; --json tells of the first 100"
        )
    if r.unavoidable:
        lines.append(f"asked for by name, and beyond what a line can know: {', '.join(r.unavoidable)}")
    return "\n".join(lines)


def _live_rows(live: Live) -> list[tuple[str, str]]:
    if live.p50_ms is None:
        off = f"none could be measured; {live.absent} did not come"
    else:
        off = (
            f"{live.p50_ms:g} ms off their deadlines (p99 {live.p99_ms:g}, worst {live.worst_ms:g}; of {live.pulses}); "
            f"{live.absent} did not come"
        )
    took = "none" if live.scorer_ms_p50 is None else f"{live.scorer_ms_p50:g} ms (p99 {live.scorer_ms_p99:g})"
    processes = (
        f"scorer killed {live.crashes} times, found silent or dead {live.scorer_losses} times; guard restarted "
        f"{live.guard_restarts} times; {live.lost_records} records lost"
    )
    rows = [
        ("real pulses", off),
        ("real verdicts", f"{took} after the trigger"),
        ("processes", processes),
        ("the model", f"at most {live.belt_late_ms:g} ms late with a signal of its belt"),
    ]
    if live.belt_late_ms > _TOO_LATE_MS:
        rows.append(
            ("", "this machine was too busy for that: what is told above may be the model's own fault")
        )
    return [*rows, ("stopped", "before all parts had passed")] if live.stopped else rows


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
