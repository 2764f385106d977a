"""``edge-ad distill``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from edge_ad.cli.options import job_threads, resolve_device
from edge_ad.distill.config import PRESETS, DistillConfig, preset
from edge_ad.distill.extractors import ExtractorOptions, open_extractor, probe
from edge_ad.distill.features import INPUT_RANGES, InputRange
from edge_ad.distill.group import process_group
from edge_ad.distill.job import distill
from edge_ad.nets.architecture import SIZES
from edge_ad_runtime.stopping import stop_on_signals

_DEFAULTS = DistillConfig()


def _help(text: str, name: str) -> str:
    """The text with the default of the option, and the paper's where that is another one."""
    default, paper = getattr(_DEFAULTS, name), PRESETS["paper"].get(name)
    other = f"; paper: {paper}" if paper not in (None, default) else ""
    return f"{text}  [default: {default}{other}]"


@click.command()
@click.argument("images", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--extractor",
    required=True,
    help="A file (.onnx, .tflite, TorchScript .pt or .ts, ResNet-50-v2 .safetensors), or torchvision:MODEL[@WEIGHTS].",
)
@click.option(
    "--layers",
    metavar="FINE[,COARSE]",
    help="Tensors, outputs or modules to tap: 1/8 and 1/16 of the image's size [default: the file's outputs].",
)
@click.option(
    "--extractor-input",
    type=click.Choice(INPUT_RANGES),
    help="Values that the extractor wants [default: imagenet; uint8 where the file takes integers].",
)
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for the teacher and the extracted features.",
)
@click.option(
    "--preset",
    "preset_name",
    type=click.Choice(list(PRESETS)),
    default="default",
    show_default=True,
    help="Where the defaults come from: edge-ad's, or the paper's.",
)
@click.option("--size", type=click.Choice(list(SIZES)), help=_help("Size of the teacher.", "size"))
@click.option("--views", type=click.IntRange(1), help=_help("Views extracted once.", "views"))
@click.option(
    "--online/--cached",
    default=None,
    help="Run the extractor in the training loop, with new views at every step, instead of once  "
    "[default: cached; paper: online]",
)
@click.option(
    "--view-size",
    type=click.IntRange(64),
    help=_help("Side of a view as the teacher sees it; the extractor sees twice that.", "view_size"),
)
@click.option(
    "--crop",
    type=click.Choice(["random", "whole"]),
    help=_help("Random squares, mirrored half of the time, or whole images.", "crop"),
)
@click.option("--grayscale", type=click.FloatRange(0, 1), help=_help("Share of grey views.", "grayscale"))
@click.option(
    "--projection",
    type=click.Choice(["pca", "pool"]),
    help="How features become teacher channels  [default: pca for n, pool as in the paper else]",
)
@click.option(
    "--statistics", type=click.IntRange(1), help=_help("Views for the channel statistics.", "statistics")
)
@click.option("--steps", type=click.IntRange(1), help=_help("Training steps.", "steps"))
@click.option("--batch", type=click.IntRange(1), help=_help("Views to a step, of all processes.", "batch"))
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), help=_help("Adam's peak learning rate.", "rate")
)
@click.option(
    "--schedule",
    type=click.Choice(["cosine", "constant"]),
    help=_help("Course of the learning rate.", "schedule"),
)
@click.option("--weight-decay", type=click.FloatRange(0), help=_help("Adam's weight decay.", "weight_decay"))
@click.option(
    "--clip", type=click.FloatRange(0), help=_help("Largest norm of the gradients, 0 for none.", "clip")
)
@click.option(
    "--validation",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help=_help("Share of the images held out.", "validation"),
)
@click.option(
    "--precision",
    type=click.Choice(["bf16", "fp16", "fp32"]),
    help=_help("Of the convolutions, the extractor's included where torch runs it.", "precision"),
)
@click.option(
    "--teacher-precision",
    type=click.Choice(["fp32", "fp16"]),
    help=_help("Of the weights in the teacher's file.", "teacher_precision"),
)
@click.option("--seed", type=click.IntRange(0), help=_help("Seed of every random choice.", "seed"))
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of each process.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    images: Path, extractor: str, layers: str | None, extractor_input: InputRange | None, out: Path,
    preset_name: str, device: str, threads: int | None, as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Distil a teacher from a frozen feature extractor over the folder IMAGES (read recursively).

    The features are extracted once into the folder OUT (a 256 px view takes 0.7 MB for size n, 3.3 MB for s and m).
    Ctrl-C stops; the same command goes on.

    On several GPUs or hosts: torchrun --nproc-per-node N -m edge_ad.distill IMAGES …, with OUT on storage that
    all see; --batch is divided among the processes.
    """
    job_threads(threads)
    config = preset(preset_name, **{name: value for name, value in given.items() if value is not None})
    names = tuple(name.strip() for name in layers.split(",")) if layers is not None else ()
    with process_group(resolve_device(device)) as (group, own), stop_on_signals() as stop:
        options = ExtractorOptions(names, extractor_input, own, config.precision != "fp32")
        network = open_extractor(extractor, options)
        if group.first:
            seen = ", ".join(map(str, probe(network, 2 * config.view_size).layers))
            values = network.record["extractor_input"]
            click.echo(f"{network.name}: input {values}; {seen}", err=True)
        result = distill(images, network, out, config, own, stop, group)
    if result is None:
        if group.first:
            click.echo(f"stopped; the same command goes on ({out})", err=True)
        sys.exit(130)
    if not group.first:
        return
    if as_json:
        click.echo(json.dumps({"teacher": str(result.teacher), "mse": result.mse, "steps": result.steps}))
        return
    click.echo(f"{result.teacher}: MSE {result.mse:.4f} on held-out images after {result.steps} steps")
