"""The options ``--score`` and ``--mix``, on the host and on the device."""

from __future__ import annotations

import click

from edge_ad_runtime.calibration import MixChoice, parse_mix
from edge_ad_runtime.errors import EdgeAdError
from edge_ad_runtime.score_rule import parse_score


def score(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """The canonical text of a rule."""
    if value is None:
        return None
    try:
        return str(parse_score(value))
    except EdgeAdError as error:
        raise click.BadParameter(str(error)) from error


def mix(_ctx: click.Context, _param: click.Parameter, value: str | None) -> MixChoice | None:
    """Weights or ``auto``."""
    if value is None:
        return None
    try:
        return parse_mix(value)
    except EdgeAdError as error:
        raise click.BadParameter(str(error)) from error


SCORE_HELP = "Image score: max, topk:CELLS, topk:SHARE, percentile:P or mean."
MIX_HELP = "Weights of the teacher-student and the autoencoder map, ST:AE, or auto (from the good images)."
