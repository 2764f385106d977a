"""``edge-ad report``: the conversion's report, taken out of a bundle."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from edge_ad_runtime.bundle import Bundle, open_bundle
from edge_ad_runtime.errors import BundleError, InputError
from edge_ad_runtime.files import write_atomically

_DOCUMENTS = {".html": "report.html", ".htm": "report.html", ".md": "report.md"}


@click.command("report")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="NAME.html, NAME.md or NAME.json."
)
def command(bundle: Path, out: Path) -> None:
    """Write the report of BUNDLE's conversion to a file, as a page, as Markdown or as JSON.

    Needs no engine. The page and the Markdown are those that the conversion made and the bundle's hashes cover.
    """
    suffix = out.suffix.lower()
    if suffix != ".json" and suffix not in _DOCUMENTS:
        raise click.UsageError(f"'{out}' ends in none of .html, .md and .json, which choose what is written")
    data = _content(open_bundle(bundle), suffix)
    if not out.parent.is_dir():
        raise InputError(f"{out.parent}: there is no such folder; make it or choose another")
    if out.is_dir():
        raise InputError(f"{out}: is a folder; choose another name")
    write_atomically(out, data)
    click.echo(f"{out}: {len(data) / 1e3:.0f} kB")


def _content(bundle: Bundle, suffix: str) -> bytes:
    if suffix == ".json":
        return msgspec.json.format(msgspec.json.encode(bundle.report), indent=2) + b"\n"
    name = _DOCUMENTS[suffix]
    document = bundle.documents.get(name)
    if document is None:
        raise BundleError(
            f"{bundle.path}: holds no {name}; it was converted by an older edge-ad, or without one. Its figures "
            "can be had as JSON (-o NAME.json); for a page, convert the run again"
        )
    return document
