"""``edge-ad rollback``: return to the previous calibration."""

from __future__ import annotations

from pathlib import Path

import click

from edge_ad.cli.calibration_text import (
    before_and_after,
    describe,
    json_option,
    open_history,
    plain,
    print_json,
    state_option,
)
from edge_ad_runtime.bundle import open_bundle
from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.errors import CalibrationError


@click.command("rollback")
@click.argument("bundle", type=click.Path(path_type=Path))
@state_option
@json_option
def command(bundle: Path, state: Path | None, as_json: bool) -> None:
    """Make the calibration current that BUNDLE used before, down to its factory calibration."""
    opened = open_bundle(bundle)
    history = open_history(opened, state)
    before: Calibration | None
    try:
        before = history.current()
    except CalibrationError as error:
        # A damaged current calibration is a reason to roll back, not to refuse it.
        before = None
        click.echo(f"edge-ad: {error}", err=True)
    after = history.rollback()
    factory = after == opened.calibration
    if as_json:
        print_json(
            {
                "before": None if before is None else plain(before),
                "after": plain(after),
                "factory": factory,
                "state": str(history.folder),
            }
        )
        return
    click.echo(f"{opened.manifest.name} ({opened.id[:12]})")
    if before is not None:
        for line in before_and_after(before, after):
            click.echo(line)
    click.echo(f"current from now on: {'the factory calibration, ' if factory else ''}{describe(after)}")
