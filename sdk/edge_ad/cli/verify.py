"""``edge-ad verify``: check a bundle's files and its golden samples in this device's engine."""

from __future__ import annotations

from pathlib import Path

import click

from edge_ad.cli.calibration_text import json_option, print_json
from edge_ad.cli.tuned import tuned_options
from edge_ad_runtime.bundle import open_bundle
from edge_ad_runtime.errors import BundleError, InputError
from edge_ad_runtime.inspector import Inspector


@click.command("verify")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of the engine.  [default: all]")
@json_option
def command(bundle: Path, threads: int | None, as_json: bool) -> None:
    """Check the hash of every file in BUNDLE and run its golden samples; exit code 1 when one is off."""
    try:
        opened = open_bundle(bundle)
        if not opened.golden:
            raise BundleError(f"{bundle}: has no golden samples, so its computation cannot be checked")
        inspector = Inspector(opened, threads=threads, options=tuned_options(opened, threads))
        worst = inspector.self_test()
    except InputError as error:
        if as_json:
            print_json({"ok": False, "bundle": str(bundle), "error": str(error)})
        raise
    tolerance = opened.manifest.golden_tolerance
    # Bundles of before the limits have none.
    broken = list(opened.report.get("limits", {}).get("broken", ()))
    if as_json:
        print_json(
            {
                "ok": True,
                "bundle": str(bundle),
                "id": opened.id,
                "files": len(opened.manifest.files),
                "golden_samples": len(opened.golden),
                "worst_deviation": worst,
                "tolerance": tolerance,
                "engine": inspector.engine.name,
                "broken_limits": broken,
            }
        )
        return
    for sentence in broken:
        click.echo(f"warning: converted by force although it breaks a limit: {sentence}", err=True)
    click.echo(f"{opened.manifest.name} ({opened.id[:12]}): {len(opened.manifest.files)} files are unchanged")
    click.echo(
        f"{len(opened.golden)} golden samples in {inspector.engine.name}: worst deviation {worst:.3g} "
        f"({tolerance:.3g} allowed)"
    )
