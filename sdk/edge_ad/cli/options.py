"""Options that several host verbs share."""

from __future__ import annotations

import re

import click
import torch

from edge_ad.devices import resolve_device

__all__ = ["image_size", "job_threads", "resolve_device"]


def image_size(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[int, int]:
    """Parse ``256`` or ``WIDTHxHEIGHT``; returns height and width."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", value.strip())
    if match is None:
        raise click.BadParameter(f"'{value}' is not SIDE or WIDTHxHEIGHT, like 256 or 512x256")
    width = int(match.group(1))
    return int(match.group(2) or width), width


def job_threads(threads: int | None) -> None:
    """Set torch's CPU threads, when given."""
    if threads:
        torch.set_num_threads(threads)
