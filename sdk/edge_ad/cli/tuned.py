"""Engine options that ``edge-ad tune`` chose, for the verbs that open an engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from edge_ad_runtime.bundle import Bundle
from edge_ad_runtime.engines import EngineOptions
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.state import default_state_dir
from edge_ad_runtime.tuning.store import find_tuning


def _to_standard_error(text: str) -> None:
    click.echo(text, err=True)


def tuned_options(
    bundle: Bundle,
    threads: int | None,
    state: Path | None = None,
    say: Callable[[str], None] = _to_standard_error,
) -> EngineOptions | None:
    """The options of the bundle's tuning, told in one line; None where there is none that fits.

    A number of threads that somebody gave puts the tuning aside as a whole: what it holds was measured with its own.
    """
    if threads is not None or bundle.manifest.target == "tensorrt":
        return None
    try:
        tuning = find_tuning(state or default_state_dir(), bundle)
    except InputError:
        # A user without a home folder has no state, and this needs none.
        return None
    if tuning is None:
        return None
    say(f"engine tuned on {tuning.created}: {tuning.options.words} ('edge-ad tune --reset' takes it back)")
    return tuning.options
