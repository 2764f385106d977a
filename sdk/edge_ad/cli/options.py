"""Options that several host verbs share."""

from __future__ import annotations

import re

import click
import torch

from edge_ad_runtime.errors import InputError


def image_size(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[int, int]:
    """Parse ``256`` or ``WIDTHxHEIGHT``; returns height and width."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", value.strip())
    if match is None:
        raise click.BadParameter(f"'{value}' is not SIDE or WIDTHxHEIGHT, like 256 or 512x256")
    width = int(match.group(1))
    return int(match.group(2) or width), width


def resolve_device(name: str) -> str:
    """``auto`` becomes CUDA where there is one.

    Raises:
        InputError: the device is unknown or not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise InputError(f"device '{name}' is unknown; use auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device here (or torch was built without CUDA); use --device cpu")
    return name


def job_threads(threads: int | None) -> None:
    """Set torch's CPU threads, when given."""
    if threads:
        torch.set_num_threads(threads)
