"""What the calibration verbs share: the state option, and calibrations as text and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from edge_ad_calibration.history import History
from edge_ad_runtime.bundle import Bundle
from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.state import default_state_dir

state_option = click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the field calibrations.  [default: $EDGE_AD_STATE, else $XDG_STATE_HOME/edge-ad, "
    "else ~/.local/state/edge-ad]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def open_history(bundle: Bundle, state: Path | None) -> History:
    """The bundle's history in the given state folder, or in the default one."""
    return History(default_state_dir() if state is None else state, bundle)


def numbers(calibration: Calibration) -> dict[str, float]:
    """The figures of a calibration by the names that people see."""
    q = calibration.quantiles
    return {
        "threshold": calibration.threshold,
        "st map 0.9": q.qa_st,
        "st map 0.995": q.qb_st,
        "ae map 0.9": q.qa_ae,
        "ae map 0.995": q.qb_ae,
    }


def before_and_after(before: Calibration, after: Calibration) -> list[str]:
    """Lines ``name  old -> new``."""
    old, new = numbers(before), numbers(after)
    return [f"  {name:<13} {old[name]:>12.6g} -> {new[name]:.6g}" for name in old]


def describe(calibration: Calibration) -> str:
    """One line: threshold, how it was chosen, from what and when."""
    c = calibration
    how = "given" if c.false_reject_rate is None else f"for {c.false_reject_rate:.4g} false rejects"
    return f"threshold {c.threshold:.6g} ({how}) of {c.score}, mix {c.mix.st:.2g}:{c.mix.ae:.2g}, {c.images} images, {c.source}, {c.created}"


def plain(calibration: Calibration) -> dict[str, Any]:
    """The calibration as JSON has it, with the size of the background in place of its cells."""
    built: dict[str, Any] = msgspec.to_builtins(calibration)
    if calibration.background is not None:
        del built["background"]["cells"]
    return built


def print_json(value: Any) -> None:
    """Indented JSON on the standard output."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
