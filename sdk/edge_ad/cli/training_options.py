"""The options of a training, for every verb that trains."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from edge_ad.cli.options import image_size, roi
from edge_ad.cli.scoring_options import MIX_HELP, SCORE_HELP, mix, score
from edge_ad.nets.architecture import AUTOENCODERS, SIZES
from edge_ad.training.options import (
    EPOCH,
    NANO_RATE,
    NANO_STEPS,
    PAPER_RATE,
    PAPER_STEPS,
    TrainOptions,
    parse_budget,
    parse_directions,
)
from edge_ad.training.schedules import parse_schedule
from edge_ad_runtime.calibration import PAPER_MIX
from edge_ad_runtime.errors import EdgeAdError

_DEFAULTS = TrainOptions()
_SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)
_POSITIVE = click.FloatRange(0, min_open=True)


def _budget(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else parse_budget(value)
    except EdgeAdError as error:
        raise click.BadParameter(str(error)) from error


def _quantile(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    try:
        parse_schedule(value)
    except EdgeAdError as error:
        raise click.BadParameter(str(error)) from error
    return value


def _directions(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | float | None:
    try:
        return None if value is None else parse_directions(value)
    except EdgeAdError as error:
        raise click.BadParameter(str(error)) from error


def _evaluate_every(_ctx: click.Context, _param: click.Parameter, value: str) -> int | str:
    if value == EPOCH:
        return value
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"'{value}' is neither '{EPOCH}' nor a number of steps")
    return int(value)


_OPTIONS = (
    click.option(
        "--size",
        type=click.Choice(list(SIZES)),
        default=_DEFAULTS.size,
        show_default=True,
        help="Of the nets.",
    ),
    click.option(
        "--teacher",
        type=click.Path(path_type=Path),
        help="Teacher file, or a name from 'edge-ad teachers'; size n has one of its own.",
    ),
    click.option(
        "--steps",
        type=click.IntRange(1),
        help=f"Training steps [default: {NANO_STEPS} for n, {PAPER_STEPS} else].",
    ),
    click.option("--epochs", type=click.IntRange(1), help="Passes over the images, instead of --steps."),
    click.option(
        "--budget", callback=_budget, help="Time that all of it may take (90s, 10m, 2h), instead of --steps."
    ),
    click.option("--batch", type=click.IntRange(1), default=_DEFAULTS.batch, show_default=True),
    click.option(
        "--rate",
        type=_POSITIVE,
        help=f"Adam's learning rate [default: {NANO_RATE:g} for n, {PAPER_RATE:g} else].",
    ),
    click.option(
        "--decay-at",
        type=click.FloatRange(0, 1, min_open=True),
        default=_DEFAULTS.decay_at,
        show_default=True,
        help="Share of the steps after which the learning rate falls to a tenth.",
    ),
    click.option(
        "--optimizers",
        type=click.Choice(["joint", "separate"]),
        default=_DEFAULTS.optimizers,
        show_default=True,
        help="One for both nets, or one each.",
    ),
    click.option(
        "--autoencoder-rate",
        type=_POSITIVE,
        help="The autoencoder's learning rate, with separate optimizers.",
    ),
    click.option(
        "--weight-decay", type=click.FloatRange(0), default=_DEFAULTS.weight_decay, show_default=True
    ),
    click.option(
        "--hard-quantile",
        callback=_quantile,
        default=_DEFAULTS.hard_quantile,
        show_default=True,
        help="A number, linear:A:B, cosine:A:B or steps:A@0,B@0.5.",
    ),
    click.option(
        "--image-size",
        callback=image_size,
        default="256",
        show_default=True,
        help="SIDE or WIDTHxHEIGHT in pixels.",
    ),
    click.option(
        "--roi",
        callback=roi,
        metavar="X,Y,WIDTHxHEIGHT",
        help="Region of the images to look at, in their pixels; it is cut out, then resized.",
    ),
    click.option(
        "--tile",
        callback=image_size,
        metavar="SIDE|WIDTHxHEIGHT",
        help="Cut the resized images into tiles of this size, for large images; nets of tile size.",
    ),
    click.option(
        "--tile-overlap",
        type=click.IntRange(0),
        default=_DEFAULTS.tile_overlap,
        show_default=True,
        help="Least overlap of neighbouring tiles in pixels.",
    ),
    click.option(
        "--shared-layers",
        type=click.IntRange(0),
        metavar="N",
        help="First convolutions that teacher and student share [default: 2 for n, 0 else].",
    ),
    click.option(
        "--directions",
        callback=_directions,
        metavar="R|SHARE",
        help="Learn only R principal directions of the teacher's output, or as many as keep a share (0.99) of "
        "its energy.",
    ),
    click.option(
        "--autoencoder",
        type=click.Choice(AUTOENCODERS),
        help="light: without the decoder's two largest steps [default: light for n, paper else].",
    ),
    click.option(
        "--width",
        type=click.FloatRange(0, 1, min_open=True),
        help="Share of the hidden channels of teacher and student that are kept.  [default: 1]",
    ),
    click.option("--padding", is_flag=True, help="Pad in the nets, so that the map reaches the border."),
    click.option(
        "--validation",
        type=_SHARE,
        default=_DEFAULTS.validation,
        show_default=True,
        help="Share of the good images held out.",
    ),
    click.option("--group", help="Regular expression on file names; images that agree in it are not split."),
    click.option(
        "--penalty-images",
        "penalty",
        default=_DEFAULTS.penalty,
        show_default=True,
        metavar="generated|none|DIR",
        help="Unrelated images (ImageNet in the paper).",
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16"]),
        default=_DEFAULTS.precision,
        show_default=True,
        help="Of the convolutions; auto takes bf16 where the hardware has it.",
    ),
    click.option("--score", callback=score, default=_DEFAULTS.score, show_default=True, help=SCORE_HELP),
    click.option(
        "--mix",
        callback=mix,
        default=f"{PAPER_MIX.st}:{PAPER_MIX.ae}",
        show_default=True,
        help=MIX_HELP,
    ),
    click.option(
        "--background/--no-background",
        default=_DEFAULTS.background,
        show_default=True,
        help="Take the autoencoder map's mean over good images off it.",
    ),
    click.option(
        "--patience",
        type=click.IntRange(1),
        help="End early after this many evaluation points without progress.",
    ),
    click.option(
        "--validate-on",
        "labelled",
        type=click.Path(path_type=Path),
        help="Labelled data set for the image AUROC at each evaluation point; not the one you test on.",
    ),
    click.option(
        "--evaluate-every",
        callback=_evaluate_every,
        default=EPOCH,
        show_default=True,
        help="Steps between two evaluation points, or 'epoch' (at least 100 steps).",
    ),
    click.option(
        "--keep",
        type=click.Choice(["last", "best", "all"]),
        default=_DEFAULTS.keep,
        show_default=True,
        help="Nets of which evaluation points are kept.",
    ),
)


def training_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a training; it takes them, and its own --seed, as one ``options: TrainOptions``."""

    @functools.wraps(function)
    def command(**given: Any) -> None:
        names = {f.name for f in fields(TrainOptions)} & set(given)
        try:
            options = TrainOptions(**{name: given.pop(name) for name in names})
        except EdgeAdError as error:
            raise click.UsageError(str(error)) from error
        function(options=options, **given)

    wrapped: Callable[..., None] = command
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped
