"""``edge-ad info``: what a bundle is and how it is calibrated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from edge_ad.cli.calibration_text import describe, json_option, open_history, plain, print_json, state_option
from edge_ad_calibration.history import Entry, History
from edge_ad_runtime.bundle import Bundle, open_bundle
from edge_ad_runtime.errors import CalibrationError
from edge_ad_runtime.preprocess import in_words


@click.command("info")
@click.argument("bundle", type=click.Path(path_type=Path))
@state_option
@json_option
def command(bundle: Path, state: Path | None, as_json: bool) -> None:
    """Show what BUNDLE is, how it is calibrated on this device, and what its conversion measured.

    Needs no engine. In the history, * marks the current calibration and - those that are out of use. A
    damaged current calibration ends it with exit code 1, after what could be read.
    """
    opened = open_bundle(bundle)
    history = open_history(opened, state)
    facts = _facts(opened)
    problem: CalibrationError | None = None
    try:
        facts["calibration"] = _calibrations(opened, history)
    except CalibrationError as error:
        problem = error
        facts["calibration"] = {"error": str(error), "factory": plain(opened.calibration)}
    if as_json:
        print_json({**facts, "report": opened.report})
    else:
        _print(opened, history, facts, problem)
    if problem is not None:
        raise problem


def _facts(bundle: Bundle) -> dict[str, Any]:
    m = bundle.manifest
    return {
        "name": m.name,
        "id": bundle.id,
        "path": str(bundle.path),
        "size": m.size,
        "target": m.target,
        "precision": m.precision,
        "preprocess": msgspec.to_builtins(m.preprocess),
        "map": {"height": m.map_height, "width": m.map_width},
        "gmac": m.gmac,
        "image_gmac": m.image_gmac,
        "bundle_bytes": _bytes_on_disk(bundle.path),
        "model_bytes": len(bundle.model),
        "golden_samples": len(bundle.golden),
        "golden_tolerance": m.golden_tolerance,
        "created": m.created,
        "provenance": m.provenance,
    }


def _bytes_on_disk(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def _calibrations(bundle: Bundle, history: History) -> dict[str, Any]:
    entries = history.entries()
    current = next((e.number for e in entries if e.current), None)
    return {
        "state": str(history.folder),
        "current_number": current,
        "current": plain(history.current()),
        "factory": plain(bundle.calibration),
        "history": [
            {
                "number": e.number,
                "current": e.current,
                "undone": e.undone,
                "problem": e.problem,
                "calibration": None if e.calibration is None else plain(e.calibration),
            }
            for e in entries
        ],
    }


def _print(bundle: Bundle, history: History, facts: dict[str, Any], problem: CalibrationError | None) -> None:
    spec = bundle.manifest.preprocess
    tile = "" if spec.tiles is None else f" ({facts['gmac']:.3g} a tile)"
    rows = {
        "name": facts["name"],
        "id": facts["id"],
        "model": f"size {facts['size']}, {facts['precision']}, {facts['image_gmac']:.3g} GMAC an image{tile}, "
        f"{facts['model_bytes'] / 1e6:.2f} MB",
        "target": facts["target"],
        "input": f"{in_words(spec)}, {spec.interpolation}",
        "bundle": f"{facts['bundle_bytes'] / 1e6:.2f} MB, {facts['golden_samples']} golden samples, "
        f"{facts['created']}",
        **bundle.manifest.provenance,
        "factory": describe(bundle.calibration),
    }
    if problem is None:
        current = facts["calibration"]["current_number"]
        rows["current"] = "factory" if current is None else f"field calibration {current}"
        rows["state"] = str(history.folder)
    width = max(map(len, rows))
    for name, value in rows.items():
        click.echo(f"{name:<{width}}  {value}")
    if problem is None:
        for entry in history.entries():
            mark = "*" if entry.current else "-" if entry.undone else " "
            click.echo(f"{mark} {entry.number:>4}  {_line(entry)}")
    if figures := list(_figures(bundle.report)):
        click.echo("report")
        for name, figure in figures:
            click.echo(f"  {name}: {figure}")


def _line(entry: Entry) -> str:
    return f"damaged: {entry.problem}" if entry.calibration is None else describe(entry.calibration)


def _figures(report: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The report's single values, with dotted names; lists are left to --json."""
    for name, value in report.items():
        if isinstance(value, dict):
            yield from _figures(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            yield prefix + name, f"{value:.6g}"
        elif isinstance(value, (str, int)):
            yield prefix + name, value
