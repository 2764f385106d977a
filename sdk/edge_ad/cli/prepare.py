"""``edge-ad prepare``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from edge_ad.data.prepare import RECORD_FILE, Prepared, PrepareOptions, prepare

_SHOWN = 20


@click.command("prepare")
@click.option(
    "--annotations", required=True, type=click.Path(path_type=Path), help="COCO instance annotations (JSON)."
)
@click.option(
    "--labeled", required=True, type=click.Path(path_type=Path), help="Folder of the images listed in them."
)
@click.option(
    "--unlabeled",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder of good images, with its subfolders; may be repeated.",
)
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder of the data set; a new one."
)
@click.option(
    "--train-ratio",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.8,
    show_default=True,
    help="Share of the good images to train on; the others are to test on.",
)
@click.option("--seed", type=click.IntRange(0), default=42, show_default=True)
@click.option(
    "--ignore-category",
    "ignore",
    multiple=True,
    help="Category, by name or id, that marks no defect; may be repeated.",
)
@click.option("--skip-missing", is_flag=True, help="Leave out listed images that are not there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    annotations: Path, labeled: Path, unlabeled: tuple[Path, ...], out: Path, train_ratio: float, seed: int,
    ignore: tuple[str, ...], skip_missing: bool, as_json: bool,
) -> None:  # fmt: skip
    """Make a data set in the MVTec AD layout from COCO annotations and folders of good images.

    Each category becomes a folder of defects, each region a part of its image's mask. Listed images without
    annotations are good. Images are copied.
    """
    options = PrepareOptions(annotations, labeled, unlabeled, train_ratio, seed, ignore, skip_missing)
    result = prepare(out, options, progress=True)
    _tell("note", result.notes, out)
    _tell("warning", result.warnings, out)
    click.echo(msgspec.json.encode(result) if as_json else _summary(result))


def _tell(what: str, lines: Sequence[str], out: Path) -> None:
    for line in lines[:_SHOWN]:
        click.echo(f"{what}: {line}", err=True)
    if len(lines) > _SHOWN:
        click.echo(f"{what}: and {len(lines) - _SHOWN} more, all in {out / RECORD_FILE}", err=True)


def _summary(result: Prepared) -> str:
    rows = [("train/good", result.train_good), ("test/good", result.test_good)]
    rows += [(f"test/{kind}", count) for kind, count in result.defects.items()]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {count:>6}" for name, count in rows]
    left = f", {result.left_out} images left out" if result.left_out else ""
    return "\n".join([*lines, f"{result.out}: {result.masks} masks{left}"])
