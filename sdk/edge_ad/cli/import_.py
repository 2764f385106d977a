"""``edge-ad import``."""

from __future__ import annotations

from pathlib import Path

import click

from edge_ad.cli.options import image_size, job_threads
from edge_ad.importing.job import Imported, ImportOptions, import_model


def _size_if_given(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    return None if value is None else image_size(ctx, param, value)


@click.command("import")
@click.argument("source", metavar="FILE_OR_FOLDER", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of the run, or .safetensors file of a teacher; a new one.",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Good images that the model was not trained on; a run's quantiles and threshold are fitted on them.",
)
@click.option(
    "--trained-on",
    type=click.Path(path_type=Path),
    help="Good images that it was trained on: give the teacher's mean and deviation where the file lacks them, "
    "and are kept out of the fit.",
)
@click.option(
    "--image-size",
    callback=_size_if_given,
    help="SIDE or WIDTHxHEIGHT in pixels, where the file does not say [default: 256].",
)
@click.option(
    "--padding/--no-padding",
    default=None,
    help="Whether the nets pad, where the file does not say [default: no].",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=ImportOptions.seed,
    show_default=True,
    help="Recorded in the run.",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
def command(
    source: Path, out: Path, images: Path | None, trained_on: Path | None,
    image_size: tuple[int, int] | None, padding: bool | None, seed: int, threads: int | None,
) -> None:  # fmt: skip
    """Turn another implementation's model into a run or a teacher, without executing anything in its file.

    Known are checkpoints of anomalib's EfficientAd (.ckpt), folders with nelson1425's teacher_final.pth,
    student_final.pth and autoencoder_final.pth, and the teacher weights of either (.pth).
    """
    job_threads(threads)
    result = import_model(source, out, ImportOptions(images, trained_on, image_size, padding, seed))
    for note in result.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(_summary(result))


def _summary(result: Imported) -> str:
    line = f"{result.path}: {result.kind}, size {result.size}, {result.channels} channels"
    if (c := result.calibration) is not None:
        line += f", threshold {c.threshold:.4f} fitted on {c.images} images"
    return line
