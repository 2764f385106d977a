"""The guards that run on this machine: which lines they guard, and how one is ended that no scorer will come back to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_ad_runtime.errors import OutputError
from edge_ad_runtime.guard.link import connect
from edge_ad_runtime.guard.messages import Ask, Finish, Report
from edge_ad_runtime.guard.process import SOCKET

END_PATIENCE_S = 30.0
_ANSWER_S = 5.0


@dataclass(frozen=True)
class GuardState:
    """A guard. ``report`` is None when it does not answer."""

    line: str
    pid: int
    report: Report | None


def find_guards(state: Path) -> Iterator[GuardState]:
    """The guards of all lines in a state folder. They are only asked: a scorer that runs is not disturbed, and what a guard
    keeps for the next scorer stays there."""
    for path in sorted((state / "lines").glob(f"*/{SOCKET}")):
        if (guard := _look(path.parent)) is not None:
            yield guard


def _look(folder: Path) -> GuardState | None:
    wire = connect(folder)
    if wire is None:
        return None
    with contextlib.closing(wire):
        report = None
        with contextlib.suppress(OSError):
            wire.send(Ask())
            report = wire.wait_for_report(_ANSWER_S)
        return GuardState(folder.name, wire.peer, report)


def end_guard(state: Path, line: str, drain_s: float) -> Report:
    """End the guard of a line that has no scorer; what is on its way is still rejected within ``drain_s`` seconds.

    Raises:
        OutputError: there is none, a scorer runs the line, or it does not end.
    """
    folder = state / "lines" / line
    guard = _look(folder)
    if guard is not None and guard.report is not None and (scorer := guard.report.scorer):
        raise OutputError(
            f"the line '{line}' is run by process {scorer}; end that with Ctrl-C or 'kill {scorer}', which ends the guard, "
            "too"
        )
    wire = connect(folder)
    if wire is None:
        raise OutputError(f"no guard runs the line '{line}' (state folder {state})")
    with contextlib.closing(wire):
        wire.greet()
        wire.send(Finish(round(drain_s * 1e9)))
        report = wire.wait_for_report(drain_s + END_PATIENCE_S)
        if report is None:
            raise OutputError(f"the guard of the line '{line}' does not end")
        if report.unsafe is not None:
            raise OutputError(report.unsafe)
        return report
