"""``edge-ad distill``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edge_ad.cli.options import job_threads, resolve_device
from edge_ad.distill.extractors import open_extractor
from edge_ad.distill.job import DistillConfig, distill
from edge_ad.nets.architecture import SIZES
from edge_ad_runtime.stopping import stop_on_signals

_DEFAULTS = DistillConfig()


@click.command()
@click.argument("images", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--extractor",
    required=True,
    type=click.Path(path_type=Path),
    help="ResNet-50-v2 .safetensors or MobileNetV2 .tflite.",
)
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for the teacher and the extracted features.",
)
@click.option("--size", type=click.Choice(list(SIZES)), default=_DEFAULTS.size, show_default=True)
@click.option(
    "--views",
    type=click.IntRange(1),
    default=_DEFAULTS.views,
    show_default=True,
    help="Random crops, extracted once.",
)
@click.option(
    "--view-size",
    type=click.IntRange(64),
    default=_DEFAULTS.view_size,
    show_default=True,
    help="Side of a crop as the teacher sees it; the extractor sees twice that.",
)
@click.option(
    "--projection",
    type=click.Choice(["pca", "pool"]),
    help="How features become teacher channels [default: pca for n, pool as in the paper else].",
)
@click.option("--steps", type=click.IntRange(1), default=_DEFAULTS.steps, show_default=True)
@click.option("--batch", type=click.IntRange(1), default=_DEFAULTS.batch, show_default=True)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    default=_DEFAULTS.rate,
    show_default=True,
    help="Adam's peak learning rate.",
)
@click.option("--weight-decay", type=click.FloatRange(0), default=_DEFAULTS.weight_decay, show_default=True)
@click.option("--precision", type=click.Choice(["bf16", "fp32"]), default="bf16", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=_DEFAULTS.seed, show_default=True)
@click.option(
    "--device", default="auto", show_default=True, help="auto, cpu or cuda; the extractor runs on the CPU."
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
def command(
    images: Path, extractor: Path, out: Path, size: str, views: int, view_size: int, projection: str | None,
    steps: int, batch: int, rate: float, weight_decay: float, precision: str, seed: int, device: str,
    threads: int | None,
) -> None:  # fmt: skip
    """Distil a teacher from a frozen feature extractor over the folder IMAGES (read recursively).

    The features are extracted once into the folder OUT (a 256 px view of size n takes 0.7 MB). Ctrl-C
    stops; the same command goes on.
    """
    job_threads(threads)
    config = DistillConfig(
        size=size, views=views, view_size=view_size, projection=projection or ("pca" if size == "n" else "pool"),
        steps=steps, batch=batch, rate=rate, weight_decay=weight_decay, bf16=precision == "bf16", seed=seed,
    )  # fmt: skip
    with stop_on_signals() as stop:
        result = distill(images, open_extractor(extractor), out, config, resolve_device(device), stop)
    if result is None:
        click.echo(f"stopped; the same command goes on ({out})", err=True)
        sys.exit(130)
    click.echo(f"{result.teacher}: MSE {result.mse:.4f} on held-out images after {result.steps} steps")
