"""Where a job computes."""

from __future__ import annotations

import torch

from edge_ad_runtime.errors import InputError


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
