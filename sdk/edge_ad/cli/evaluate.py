"""``edge-ad evaluate``: measure a run or a bundle on labelled images."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from edge_ad.data import read_dataset
from edge_ad.evaluation.evaluate import evaluate, summary
from edge_ad.evaluation.pictures import check_folder, write_pictures
from edge_ad.evaluation.scorer import open_subject


@click.command("evaluate")
@click.argument("model", metavar="RUN_OR_BUNDLE", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="New folder for overlays, histogram, ROC curve, mistakes and evaluation.json.",
)
@click.option(
    "--threads", type=click.IntRange(1), help="CPU threads of a bundle's engine [default: all cores]."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: Path, data: Path, output: Path | None, threads: int | None, as_json: bool) -> None:
    """Measure RUN_OR_BUNDLE on the labelled test images of DATA (MVTec AD layout)."""
    if output is not None:
        check_folder(output)
    dataset = read_dataset(data)
    subject = open_subject(model, threads)
    result = evaluate(subject.scorer, subject.preprocess, dataset, progress=True)
    if output is not None:
        write_pictures(output, result, subject.preprocess, progress=True)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(result.as_dict()), indent=2).decode())
        return
    click.echo(summary(result, f"{model} ({subject.kind}) on {data}"))
    if output is not None:
        click.echo(f"pictures in {output}")
