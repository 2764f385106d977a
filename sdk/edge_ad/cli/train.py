"""``edge-ad train``."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import torch

from edge_ad.cli.options import job_threads, resolve_device
from edge_ad.cli.training_options import training_options
from edge_ad.training.job import train
from edge_ad.training.options import Plan, TrainOptions, plan
from edge_ad_runtime.preprocess import in_words
from edge_ad_runtime.stopping import stop_on_signals


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@training_options
@click.option("--seed", type=click.IntRange(0), default=TrainOptions.seed, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
def command(
    data: Path, out: Path, options: TrainOptions, device: str, threads: int | None, resume: bool
) -> None:
    """Train student and autoencoder on the good images of DATA.

    DATA has the MVTec AD layout (train/good, …) or is a plain folder of good images. Ctrl-C leaves a run
    that --resume, with the same options, goes on with.
    """
    job_threads(threads)
    resolved = resolve_device(device)
    prepared = plan(data, options, resolved)
    _say(prepared)
    with stop_on_signals() as stop:
        result = train(out, prepared, resolved, stop, resume)
    if result is None:
        click.echo(f"stopped; go on with the same command and --resume ({out})", err=True)
        sys.exit(130)
    if result.directions is not None and result.energy is not None:
        click.echo(
            f"{result.directions} of {prepared.config.projected_from} directions keep {result.energy:.2%} of the "
            "energy of the teacher's output"
        )
    click.echo(
        f"{out}: {result.steps} steps in {result.seconds:.0f} s on {torch.get_num_threads()} threads, "
        f"threshold {result.calibration.threshold:.4f}"
    )


def _say(prepared: Plan) -> None:
    split, config = prepared.split, prepared.config
    for warning in prepared.warnings:
        click.echo(f"warning: {warning}", err=True)
    length = f"{config.budget:g} s" if config.budget is not None else f"{config.steps} steps"
    click.echo(
        f"{len(split.train)} images to train on, {len(split.validation)} held out, {length}, "
        f"size {config.size}, {in_words(config.preprocess)}, {config.precision}",
        err=True,
    )
