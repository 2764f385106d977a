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
    """A guard that answers. ``report`` is None while a scorer is connected, for it then talks to that alone; ``told``
    says so in words."""

    line: str
    report: Report | None
    told: str


def find_guards(state: Path) -> Iterator[GuardState]:
    """The guards of all lines in a state folder that answer."""
    for path in sorted((state / "lines").glob(f"*/{SOCKET}")):
        name = path.parent.name
        wire = connect(path.parent)
        if wire is None:
            continue
        try:
            welcome = wire.greet()
            wire.send(Ask())
            report = wire.wait_for_report(_ANSWER_S)
        except OutputError as error:
            yield GuardState(name, None, str(error))
        else:
            yield GuardState(name, report, f"process {welcome.pid}, without a scorer")
        finally:
            wire.close()


def end_guard(state: Path, line: str, drain_s: float) -> Report:
    """End the guard of a line that has no scorer; what is on its way is still rejected within ``drain_s`` seconds.

    Raises:
        OutputError: there is none, a scorer runs the line, or it does not end.
    """
    wire = connect(state / "lines" / line)
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
