"""``edge-ad recalibrate``: refit quantiles and threshold from good parts on the device."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from edge_ad.cli.calibration_text import (
    before_and_after,
    json_option,
    open_history,
    plain,
    print_json,
    state_option,
)
from edge_ad.cli.scoring_options import MIX_HELP, SCORE_HELP, mix, score
from edge_ad.cli.tuned import tuned_options
from edge_ad_calibration.fit import DEFAULT_FALSE_REJECT_RATE
from edge_ad_calibration.history import History
from edge_ad_calibration.session import RecalibrationResult, recalibrate
from edge_ad_runtime.bundle import Bundle, open_bundle
from edge_ad_runtime.calibration import MixChoice
from edge_ad_runtime.camera_state import CameraState, automatic, compare
from edge_ad_runtime.cameras import CameraSource, FrameError, parse_camera
from edge_ad_runtime.cameras.adjusted import source_state
from edge_ad_runtime.errors import CalibrationError, DataError
from edge_ad_runtime.images import list_images, read_image
from edge_ad_runtime.inspector import open_inspector
from edge_ad_runtime.stopping import StopRequest, stop_on_signals
from edge_ad_runtime.types import Image


@click.command("recalibrate")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--camera", metavar="SOURCE", help="Take the images from a camera, as for 'edge-ad run'.")
@click.option("--images", type=click.Path(path_type=Path), help="Take the images from a folder.")
@click.option("--frames", type=click.IntRange(min=1), default=100, show_default=True, help="With --camera.")
@click.option(
    "--interval-ms",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Time between two frames of --camera, so that each shows another part.",
)
@click.option(
    "--false-reject-rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of good parts that may be rejected.  [default: that of the bundle's factory calibration]",
)
@click.option("--score", callback=score, help=f"{SCORE_HELP}  [default: the one in use]")
@click.option("--mix", callback=mix, help=f"{MIX_HELP}  [default: the one in use]")
@click.option("--threshold", type=float, help="Set this threshold instead of fitting one.")
@click.option("--force", is_flag=True, help="Write in spite of failed checks.")
@click.option("--dry-run", is_flag=True, help="Do everything but write.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of the engine.  [default: all]")
@state_option
@json_option
def command(
    bundle: Path,
    camera: str | None,
    images: Path | None,
    frames: int,
    interval_ms: float,
    false_reject_rate: float | None,
    score: str | None,
    mix: MixChoice | None,
    threshold: float | None,
    force: bool,
    dry_run: bool,
    threads: int | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Refit quantiles and threshold of BUNDLE from good parts, and use them from then on.

    The bundle itself is not touched; 'edge-ad rollback' undoes it.
    """
    if (camera is None) == (images is None):
        raise click.UsageError("give either --camera or --images")
    if threshold is not None and not math.isfinite(threshold):
        raise click.UsageError(f"the threshold {threshold} is not a finite number")
    if threshold is not None and false_reject_rate is not None:
        raise click.UsageError("--threshold and --false-reject-rate exclude each other")
    inspector = open_inspector(
        bundle, threads=threads, options=tuned_options(open_bundle(bundle), threads, state)
    )
    history = open_history(inspector.bundle, state)
    _check_given_threshold(history, threshold, false_reject_rate)
    names: list[str] = []
    states: list[CameraState] = []
    with stop_on_signals() as stop:
        if camera is not None:
            source = parse_camera(camera).name
            pictures = _from_camera(camera, frames, interval_ms, stop, names, states)
        else:
            assert images is not None
            source = str(images)
            pictures = _from_folder(images, stop, names)
        result = recalibrate(
            inspector,
            pictures,
            history,
            false_reject_rate=_rate(inspector.bundle, false_reject_rate),
            threshold=threshold,
            score=score,
            mix=mix,
            source=source,
            names=names,
            force=force,
            dry_run=dry_run,
            camera=lambda: states[-1] if states else None,
        )
    if as_json:
        print_json(_as_json(result))
    else:
        _print(inspector.bundle, result)


def _check_given_threshold(history: History, threshold: float | None, rate: float | None) -> None:
    """A threshold that somebody chose is replaced by a fitted one only when asked for."""
    if history.current().method == "given" and threshold is None and rate is None:
        raise CalibrationError(
            f"the threshold in use, {history.current().threshold:g}, was given, not fitted: keep it with "
            f"--threshold {history.current().threshold:g}, or have one fitted with --false-reject-rate"
        )


def _rate(bundle: Bundle, given: float | None) -> float:
    return given or bundle.calibration.false_reject_rate or DEFAULT_FALSE_REJECT_RATE


def _from_folder(folder: Path, stop: StopRequest, names: list[str]) -> Iterator[Image]:
    paths = list_images(folder)
    if not paths:
        raise DataError(f"{folder}: holds no images (PNG, JPEG, BMP, TIFF or WebP)")
    for path in paths:
        _check_stop(stop)
        names.append(path.name)
        yield read_image(path)
        _progress(len(names), len(paths))


def _from_camera(
    text: str,
    frames: int,
    interval_ms: float,
    stop: StopRequest,
    names: list[str],
    states: list[CameraState],
) -> Iterator[Image]:
    source = parse_camera(text, stop=stop)
    with source.open() as camera:
        while len(names) < frames:
            if names and stop.wait(interval_ms / 1e3):
                break
            try:
                frame = camera.read()
            except FrameError as error:
                click.echo(f"edge-ad: left out: {error}", err=True)
                continue
            if frame is None:
                break
            names.append(f"frame {frame.index}" if source.live else frame.source)
            yield frame.image
            if len(names) in (1, frames):
                _note_state(source, states)
            _progress(len(names), frames)
    _check_stop(stop)
    if len(names) < frames:
        click.echo(f"edge-ad: {source.name} ended after {len(names)} of {frames} frames", err=True)


def _note_state(source: CameraSource, states: list[CameraState]) -> None:
    """Keep the camera's state; a camera that sets itself, or was set meanwhile, is told."""
    state = source_state(source)
    if state is None:
        return
    if states and (changes := compare(states[0], state)):
        raise CalibrationError(
            f"the camera changed while the images were taken: {'; '.join(changes)}; the calibration was not changed"
        )
    if not states and (on := automatic(state)):
        click.echo(
            f"edge-ad: warning: {' and '.join(on)}: scores will move with it. Lock it ('?lock=1', or values as in "
            "'edge-ad cameras SOURCE') and recalibrate",
            err=True,
        )
    states.append(state)


def _check_stop(stop: StopRequest) -> None:
    if stop.requested:
        raise CalibrationError("interrupted; the calibration was not changed")


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{done}/{total} images", nl=done == total, err=True)
    elif done == total or done % 25 == 0:
        click.echo(f"{done}/{total} images", err=True)


def _as_json(result: RecalibrationResult) -> dict[str, object]:
    return {
        "before": plain(result.before),
        "after": plain(result.after),
        "images": result.images,
        "repeats": result.repeats,
        "score_max": max(result.scores),
        "rejected_before": result.rejected_before,
        "rejected_after": result.rejected_after,
        "suspects": list(result.suspects),
        "warnings": list(result.warnings),
        "written": None if result.written is None else str(result.written),
    }


def _print(bundle: Bundle, result: RecalibrationResult) -> None:
    used = result.images - result.repeats
    click.echo(f"{bundle.manifest.name} ({bundle.id[:12]}), {used} different images of {result.images}")
    for line in before_and_after(result.before, result.after):
        click.echo(line)
    click.echo(f"  rejects of these images: {result.rejected_before} -> {result.rejected_after}")
    for warning in result.warnings:
        click.echo(f"  overridden: {warning}")
    if result.written is None:
        click.echo("dry run: nothing was written")
    else:
        click.echo(f"current from now on: {result.written}")
