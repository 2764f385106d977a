"""``edge-ad train``."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import torch

from edge_ad.cli.options import image_size, job_threads, resolve_device
from edge_ad.data import read_dataset, split_good
from edge_ad.nets.architecture import SIZES
from edge_ad.run_folder import RunConfig
from edge_ad.teacher import find_teacher
from edge_ad.training.job import steps_of_epochs, train
from edge_ad_runtime.preprocess import PreprocessSpec
from edge_ad_runtime.stopping import stop_on_signals

PAPER_STEPS = 70_000
NANO_STEPS = 2_000
PAPER_RATE = 1e-4
# Few steps need larger ones: measured in docs/nano.md.
NANO_RATE = 4e-4


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@click.option("--size", type=click.Choice(list(SIZES)), default="n", show_default=True)
@click.option("--teacher", type=click.Path(path_type=Path), help="Teacher file; size n has one of its own.")
@click.option(
    "--steps",
    type=click.IntRange(1),
    help=f"Training steps [default: {NANO_STEPS} for n, {PAPER_STEPS} else].",
)
@click.option("--epochs", type=click.IntRange(1), help="Passes over the images, instead of --steps.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    help=f"Adam's learning rate [default: {NANO_RATE:g} for n, {PAPER_RATE:g} else].",
)
@click.option("--weight-decay", type=click.FloatRange(0), default=1e-5, show_default=True)
@click.option(
    "--hard-quantile",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.999,
    show_default=True,
)
@click.option(
    "--image-size",
    callback=image_size,
    default="256",
    show_default=True,
    help="SIDE or WIDTHxHEIGHT in pixels.",
)
@click.option(
    "--validation",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.1,
    show_default=True,
    help="Share of the good images held out.",
)
@click.option("--group", help="Regular expression on file names; images that agree in it are not split.")
@click.option(
    "--penalty-images",
    type=click.Path(path_type=Path),
    help="Folder of unrelated images (ImageNet in the paper).",
)
@click.option("--seed", type=click.IntRange(0), default=42, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
def command(
    data: Path, out: Path, size: str, teacher: Path | None, steps: int | None, epochs: int | None, batch: int,
    rate: float | None, weight_decay: float, hard_quantile: float, image_size: tuple[int, int],
    validation: float, group: str | None, penalty_images: Path | None, seed: int, device: str,
    threads: int | None, resume: bool,
) -> None:  # fmt: skip
    """Train student and autoencoder on the good images of DATA.

    DATA has the MVTec AD layout (train/good, …) or is a plain folder of good images. Ctrl-C leaves a run
    that --resume, with the same options, goes on with.
    """
    if steps and epochs:
        raise click.UsageError("give --steps or --epochs, not both")
    job_threads(threads)
    dataset = read_dataset(data)
    split = split_good(dataset, validation, seed, group)
    for duplicate in split.duplicates:
        click.echo(f"warning: {duplicate} repeats another image and is left out", err=True)
    for leak in split.leaking:
        click.echo(f"warning: {leak} is a test image too and is left out of the training", err=True)
    if penalty_images is None:
        click.echo(
            "warning: without --penalty-images the student is not kept from imitating the teacher on "
            "anything but good parts",
            err=True,
        )
    height, width = image_size
    if epochs:
        steps = steps_of_epochs(epochs, len(split.train), batch)
    teacher_path, teacher_name, teacher_hash = find_teacher(size, teacher)
    config = RunConfig(
        size=size, data=str(data.resolve()), teacher=teacher_name, teacher_sha256=teacher_hash,
        preprocess=PreprocessSpec(height=height, width=width),
        steps=steps or (NANO_STEPS if size == "n" else PAPER_STEPS), batch=batch, rate=rate or (NANO_RATE if size == "n" else PAPER_RATE),
        weight_decay=weight_decay, decay_at=0.95, hard_quantile=hard_quantile, validation=validation,
        group=group, penalty=str(penalty_images.resolve()) if penalty_images else None, seed=seed,
    )  # fmt: skip
    click.echo(
        f"{len(split.train)} images to train on, {len(split.validation)} held out, {config.steps} steps, "
        f"size {size}, {width}x{height} px",
        err=True,
    )
    with stop_on_signals() as stop:
        result = train(out, config, dataset, teacher_path, resolve_device(device), stop, resume)
    if result is None:
        click.echo(f"stopped; go on with the same command and --resume ({out})", err=True)
        sys.exit(130)
    click.echo(
        f"{out}: {result.steps} steps in {result.seconds:.0f} s on {torch.get_num_threads()} threads, "
        f"threshold {result.calibration.threshold:.4f}"
    )
