"""Whether several lines can run on one machine beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edge_ad_runtime.cores import format_cores, parse_cores
from edge_ad_runtime.line.config import LineConfig
from edge_ad_runtime.line.section import Problem


def check_together(lines: Sequence[LineConfig], cores: Sequence[int]) -> list[list[Problem]]:
    """For each line what it has in common with the others and should not: its name, cores of its scorer.

    Args:
        lines: those that run at the same time, each as a process of its own.
        cores: the machine's; a line that does not say takes them all.
    """
    return [[*_name(lines, number), *_cores(lines, number, cores)] for number in range(len(lines))]


def _name(lines: Sequence[LineConfig], number: int) -> Iterator[Problem]:
    name = lines[number].name
    if sum(line.name == name for line in lines) > 1:
        yield Problem(
            "name", f'"{name}" is the name of another line given here, too; each needs a name of its own'
        )


def _cores(lines: Sequence[LineConfig], number: int, cores: Sequence[int]) -> Iterator[Problem]:
    own = _claimed(lines[number], cores)
    shared = [(other.name, own & _claimed(other, cores)) for i, other in enumerate(lines) if i != number]
    shared = [(name, common) for name, common in shared if common]
    if not shared:
        return
    names = " and ".join(f'"{name}"' for name, _ in shared)
    common = format_cores(set().union(*(both for _, both in shared)))
    claim = "takes all cores" if lines[number].scorer.cpus is None else "claims cores"
    yield Problem(
        "scorer.cpus",
        f"{claim} that {names} may take, too ({common}): where both score at once each is slowed, the longest times most"
        f"{_remedy(len(lines), number, cores)}",
        "warning",
    )


def _claimed(line: LineConfig, cores: Sequence[int]) -> set[int]:
    return set(cores) if line.scorer.cpus is None else set(parse_cores(line.scorer.cpus))


def _remedy(count: int, number: int, cores: Sequence[int]) -> str:
    """Equal shares of neighbouring cores, where there are enough."""
    if len(cores) < count:
        return f"; this machine has {len(cores)} cores for {count} lines"
    first, end = (len(cores) * n // count for n in (number, number + 1))
    return f'; give each line its own, for example cpus = "{format_cores(sorted(cores)[first:end])}" here'
