"""Options that several host verbs share."""

from __future__ import annotations

import re

import click
import torch

from edge_ad.devices import resolve_device
from edge_ad_runtime.errors import EdgeAdError
from edge_ad_runtime.preprocess import Roi

__all__ = ["image_size", "job_threads", "resolve_device", "roi"]


def image_size(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Parse ``256`` or ``WIDTHxHEIGHT``; returns height and width, or None where nothing was given."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", value.strip())
    if match is None:
        raise click.BadParameter(f"'{value}' is not SIDE or WIDTHxHEIGHT, like 256 or 512x256")
    width = int(match.group(1))
    return int(match.group(2) or width), width


def roi(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Roi | None:
    """Parse ``X,Y,WIDTHxHEIGHT``."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+),(\d+),(\d+)x(\d+)", value.replace(" ", ""))
    if match is None:
        raise click.BadParameter(f"'{value}' is not X,Y,WIDTHxHEIGHT, like 320,40,640x480")
    try:
        return Roi(*map(int, match.groups()))
    except EdgeAdError as error:
        raise click.BadParameter(str(error)) from error


def job_threads(threads: int | None) -> None:
    """Set torch's CPU threads, when given."""
    if threads:
        torch.set_num_threads(threads)
