"""``edge-ad tune``: find the engine options that are the fastest for a bundle on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from edge_ad.cli.calibration_text import json_option, print_json, state_option
from edge_ad_runtime.bundle import Bundle, open_bundle
from edge_ad_runtime.cores import parse_cores, stay_on
from edge_ad_runtime.engines import EngineOptions
from edge_ad_runtime.errors import EdgeAdError
from edge_ad_runtime.files import make_folder
from edge_ad_runtime.state import default_state_dir
from edge_ad_runtime.stopping import stop_on_signals
from edge_ad_runtime.tuning.choice import SCATTER_WORTH_TELLING, Criterion, Timing
from edge_ad_runtime.tuning.job import tune
from edge_ad_runtime.tuning.measure import Stopped
from edge_ad_runtime.tuning.store import FOLDER, Tuning, remove_tunings, write_tuning


def _cores(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    try:
        return None if value is None else parse_cores(value)
    except EdgeAdError as error:
        raise click.BadParameter(str(error)) from error


@click.command("tune")
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option(
    "--rounds",
    type=click.IntRange(2, 100_000),
    help="Runs of each candidate in each of two or three stages.  [default: 50, with --by p99 200]",
)
@click.option(
    "--by",
    type=click.Choice(["median", "p99"]),
    default="median",
    show_default=True,
    help="What shall be small: the usual time, or nearly the longest.",
)
@click.option(
    "--cpus",
    callback=_cores,
    metavar="CORES",
    help="Tune for a line that has only these cores ([scorer] cpus), such as 0-1 or 0,2.",
)
@click.option("--reset", is_flag=True, help="Forget what was chosen for BUNDLE; measure nothing.")
@state_option
@json_option
def command(
    bundle_path: Path,
    rounds: int | None,
    by: Criterion,
    cpus: tuple[int, ...] | None,
    reset: bool,
    state: Path | None,
    as_json: bool,
) -> None:
    """Measure engine options with BUNDLE on this machine, and use the fastest from then on.

    Threads, cores and what the bundle's engine lets one choose are tried in turn, each in a process of its own, and each has
    to give the golden samples' maps. Of those that are as fast but for noise the one with the fewest threads is taken. Run it
    on the device, with nothing else running. Ctrl-C leaves everything as it was.
    """
    folder = default_state_dir() if state is None else state
    bundle = open_bundle(bundle_path)
    if reset:
        _reset(folder, bundle, as_json)
        return
    if cpus is not None:
        stay_on(cpus)
    # Before minutes of measuring.
    make_folder(folder / FOLDER)
    bars = _Bars()
    with stop_on_signals() as stop:
        try:
            outcome = tune(
                bundle, rounds=rounds or (200 if by == "p99" else 50), by=by, stop=stop, progress=bars.show
            )
        except Stopped:
            bars.end()
            click.echo("stopped; nothing was changed", err=True)
            sys.exit(130)
    bars.end()
    path = write_tuning(folder, outcome.tuning)
    if as_json:
        print_json({**msgspec.to_builtins(outcome.tuning), "scatter": outcome.scatter, "file": str(path)})
    else:
        click.echo(_table(outcome.tuning))
        click.echo(f"\ntaken: {outcome.tuning.options.words}; 'edge-ad run' uses it from now on ({path})")
    if outcome.scatter > SCATTER_WORTH_TELLING:
        click.echo(
            f"warning: the machine was busy: half of the times of the defaults lie {outcome.scatter:.0%} of their median "
            "apart; stop what else runs and tune again",
            err=True,
        )


def _reset(folder: Path, bundle: Bundle, as_json: bool) -> None:
    removed = remove_tunings(folder, bundle.id)
    if as_json:
        print_json({"bundle": bundle.id, "removed": [str(path) for path in removed]})
    elif removed:
        click.echo("\n".join(f"removed {path}" for path in removed))
    else:
        click.echo(f"{bundle.manifest.name} was not tuned in {folder}")


class _Bars:
    """A progress bar for each stage, on standard error."""

    def __init__(self) -> None:
        self._bar: Any = None

    def show(self, stage: str, done: int, of: int) -> None:
        if done == 0:
            self.end()
            self._bar = click.progressbar(length=of, label=f"{stage:<8}", file=sys.stderr)
            self._bar.__enter__()
        else:
            self._bar.update(1)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None


def _table(tuning: Tuning) -> str:
    names = {timing.options: timing.options.words for timing in tuning.candidates}
    width = max(map(len, names.values()))
    ratio = "x default" if tuning.by == "median" else "p99 ratio"
    lines = [
        f"{tuning.engine} on {tuning.cores} cores of {tuning.cpu}, {tuning.rounds} rounds",
        f"  {'candidate':<{width}}  {'p50, ms':>9}  {'p99, ms':>9}  {ratio:>9}",
    ]
    lines += [_row(timing, names[timing.options], width, tuning.options) for timing in tuning.candidates]
    return "\n".join(lines)


def _row(timing: Timing, name: str, width: int, taken: EngineOptions) -> str:
    mark = "*" if timing.options == taken else " "
    if timing.failed is not None or timing.p50_ms is None or timing.p99_ms is None or timing.ratio is None:
        return f"{mark} {name:<{width}}  {timing.failed}"
    return f"{mark} {name:<{width}}  {timing.p50_ms:>9.2f}  {timing.p99_ms:>9.2f}  {timing.ratio:>9.3f}"
