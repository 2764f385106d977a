"""``edge-ad evaluate``: measure a run or a bundle on labelled images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import click
import msgspec

from edge_ad.cli.scoring_options import SCORE_HELP, mix, score
from edge_ad.data import read_dataset
from edge_ad.evaluation.evaluate import evaluate
from edge_ad.evaluation.map_files import MapFormat, check_maps_folder, write_maps
from edge_ad.evaluation.pictures import check_folder, write_pictures
from edge_ad.evaluation.report import summary
from edge_ad.evaluation.scorer import open_subject
from edge_ad_runtime.calibration import Mix
from edge_ad_runtime.placement import Border


def _threshold(
    _ctx: click.Context, _param: click.Parameter, value: str | None
) -> float | Literal["best-f1"] | None:
    if value is None or value == "best-f1":
        return "best-f1" if value else None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise click.BadParameter(f"'{value}' is not a number or 'best-f1'")
    return number


def _weights(ctx: click.Context, param: click.Parameter, value: str | None) -> Mix | None:
    chosen = mix(ctx, param, value)
    if chosen == "auto":
        raise click.BadParameter("'auto' needs good images to choose on: train or convert with it")
    return chosen


@click.command("evaluate")
@click.argument("model", metavar="RUN_OR_BUNDLE", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="New folder for overlays, histogram, ROC curve, mistakes, the images to look at first and "
    "evaluation.json.",
)
@click.option(
    "--threshold",
    callback=_threshold,
    metavar="NUMBER|best-f1",
    help="Threshold of the table; best-f1 chooses it on these very labels [default: the calibrated one].",
)
@click.option("--score", callback=score, metavar="RULE", help=f"{SCORE_HELP} [default: the model's]")
@click.option(
    "--mix",
    callback=_weights,
    metavar="ST:AE",
    help="Weights of the teacher-student and the autoencoder map [default: the model's].",
)
@click.option(
    "--maps",
    type=click.Path(path_type=Path),
    help="Folder for the anomaly maps at full resolution, DATA's name/test/KIND/IMAGE.tiff in it, as MVTec's "
    "evaluation scripts want them.",
)
@click.option(
    "--map-format",
    type=click.Choice(["tiff", "png", "jpg", "npy"]),
    default="tiff",
    show_default=True,
    help="tiff and npy are float32; png and jpg grey by one scale for the set.",
)
@click.option(
    "--map-border",
    type=click.Choice(["repeat", "zero"]),
    default="repeat",
    show_default=True,
    help="What the files show beyond the outermost cells; scores never see it.",
)
@click.option(
    "--threads", type=click.IntRange(1), help="CPU threads of a bundle's engine [default: all cores]."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    model: Path, data: Path, output: Path | None, threshold: float | Literal["best-f1"] | None,
    score: str | None, mix: Mix | None, maps: Path | None, map_format: MapFormat, map_border: Border,
    threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure RUN_OR_BUNDLE on the labelled test images of DATA (MVTec AD layout).

    The table says for each folder of images how many there are and the share of right verdicts (accuracy),
    of defects among the rejected images (precision) and of rejected images among the defects (recall), over
    this folder alone; '-' is what has no meaning, as precision and recall among good images. With another
    --score or --mix than the model's the calibrated threshold does not apply, and without --threshold there
    are no verdicts.
    """
    if output is not None:
        check_folder(output)
    out = None if maps is None else check_maps_folder(maps, data.resolve().name)
    dataset = read_dataset(data)
    for warning in dataset.warnings:
        click.echo(f"warning: {warning}", err=True)
    subject = open_subject(model, threads)
    result = evaluate(
        subject.scorer, subject.preprocess, dataset, score=score, mix=mix, threshold=threshold, progress=True
    )
    scale = None
    if out is not None:
        scale = write_maps(
            out, result.images, subject.preprocess, kind=map_format, border=map_border, progress=True
        )
    if output is not None:
        write_pictures(output, result, subject.preprocess, progress=True)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(result.as_dict()), indent=2).decode())
        return
    click.echo(summary(result, f"{model} ({subject.kind}) on {data}"))
    if output is not None:
        click.echo(f"pictures in {output}")
    if out is not None:
        grey = "" if scale is None else f", black {scale.black:.4f}, white {scale.white:.4f}"
        click.echo(f"maps in {out}{grey}")
