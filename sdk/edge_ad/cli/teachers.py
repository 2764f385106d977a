"""``edge-ad teachers``."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import msgspec

from edge_ad.checkpoint import load_tensors
from edge_ad.teacher_store.catalogue import PUBLISHED
from edge_ad.teacher_store.download import DownloadStopped
from edge_ad.teacher_store.fetch import fetch
from edge_ad.teacher_store.folders import State, Stored, cached_teacher, check, stored_teachers
from edge_ad_runtime.errors import EdgeAdError, InputError
from edge_ad_runtime.stopping import stop_on_signals


@dataclass(frozen=True)
class _Row:
    """A line of the list; ``bytes`` is None where the file is not there."""

    name: str
    size: str
    state: str
    place: str
    bytes: int | None
    path: str
    source: str
    licence: str


@click.group("teachers", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List teachers, with their state and licence; see the commands for more.

    A name in the list can be given to 'edge-ad train --teacher'.
    """
    if ctx.invoked_subcommand is not None:
        return
    rows = _rows()
    click.echo(msgspec.json.encode([asdict(r) for r in rows]) if as_json else _table(rows))


@command.command("verify")
@click.argument("name", required=False)
def verify(name: str | None) -> None:
    """Compare the teachers at hand, or the one called NAME, with their SHA-256; exit code 1 if one is damaged."""
    stored = stored_teachers()
    if name is not None and name not in stored:
        raise InputError(f"there is no teacher '{name}' here; 'edge-ad teachers' lists them")
    states = {n: check(s.path) for n, s in stored.items() if name in (None, n)}
    for n, state in states.items():
        click.echo(f"{n}: {state.value} ({stored[n].path})")
    if State.DAMAGED in states.values():
        sys.exit(1)


@command.command("fetch")
@click.argument("name", type=click.Choice(sorted(PUBLISHED)))
@click.option("--from", "given", metavar="URL|FILE", help="The archive, where you have it already.")
@click.option("--mirror", metavar="URL", help="Address of a folder that holds the archive.")
@click.option("--yes", is_flag=True, help="Accept the terms, also unstated ones, without being asked.")
def fetch_teacher(name: str, given: str | None, mirror: str | None, yes: bool) -> None:
    """Fetch the teacher NAME into the user's cache ($EDGE_AD_CACHE, else ~/.cache/edge-ad)."""
    teacher = PUBLISHED[name]
    if given and mirror:
        raise click.UsageError("give --from or --mirror")
    if check(cached_teacher(name)) is not State.VERIFIED:
        click.echo(f"{name}: {teacher.archive.source}\nlicence: {teacher.archive.licence}", err=True)
        click.echo("edge-ad only downloads it; whether you may use it is for you to judge.", err=True)
        if not yes and not _agreed():
            raise InputError("nothing was fetched; --yes accepts the terms")
    with stop_on_signals() as stop:
        try:
            path = fetch(teacher, stop, given, mirror)
        except DownloadStopped as error:
            click.echo(str(error), err=True)
            sys.exit(130)
    click.echo(f"{path}: verified; use it with 'edge-ad train --size {teacher.size} --teacher {name}'")


def _agreed() -> bool:
    return sys.stdin.isatty() and click.confirm("Fetch it?", default=False, err=True)


def _rows() -> list[_Row]:
    stored = stored_teachers()
    rows = [_stored_row(s) for s in stored.values()]
    for name, teacher in PUBLISHED.items():
        if name not in stored:
            a = teacher.archive
            rows.append(
                _Row(
                    name,
                    teacher.size,
                    State.ABSENT.value,
                    "",
                    None,
                    str(cached_teacher(name)),
                    a.source,
                    a.licence,
                )
            )
    return rows


def _stored_row(stored: Stored) -> _Row:
    size, source, licence = _describe(stored.path)
    return _Row(
        stored.name,
        size,
        check(stored.path).value,
        stored.place,
        stored.path.stat().st_size,
        str(stored.path),
        source,
        licence,
    )


def _describe(path: Path) -> tuple[str, str, str]:
    """Size, source and licence from a teacher's file."""
    try:
        _, meta = load_tensors(path)
        provenance = dict(meta.get("provenance") or {})
    except (EdgeAdError, TypeError, ValueError) as error:
        return "?", str(error), ""
    card = path.with_suffix(".md")
    source = (
        provenance.get("source") or provenance.get("imported") or provenance.get("extractor") or "its file"
    )
    return (
        str(meta.get("size", "?")),
        str(source),
        str(provenance.get("licence") or (f"see {card.name}" if card.is_file() else "not recorded")),
    )


def _table(rows: list[_Row]) -> str:
    lines = []
    for row in rows:
        size = "" if row.bytes is None else f"{row.bytes / 1e6:.1f} MB"
        lines.append(f"{row.name:12} {row.size:4} {size:>9}  {row.state:12} {row.place}")
        lines += [f"    {row.source}", f"    licence: {row.licence}"]
    return "\n".join(lines)
