"""Networks and optimizer state in one safetensors file, so that loading a checkpoint never runs code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from edge_ad_runtime.errors import RunError
from edge_ad_runtime.files import write_atomically


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and a JSON-able description, atomically."""
    contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write_atomically(path, save(contiguous, {"edge_ad": msgspec.json.encode(meta).decode()}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote.

    Raises:
        RunError: the file is missing, damaged, or not one of ours.
    """
    try:
        with safe_open(str(path), "pt") as file:
            header = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        return tensors, msgspec.json.decode(header["edge_ad"])
    except FileNotFoundError as error:
        raise RunError(f"{path}: there is no such file") from error
    except KeyError as error:
        raise RunError(f"{path}: was not written by edge-ad") from error
    except Exception as error:
        raise RunError(f"{path}: not a readable safetensors file ({error})") from error


def load_module(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str, path: Path) -> None:
    """Load the tensors named ``prefix + key`` into a module, strictly.

    Raises:
        RunError: a tensor is missing, has another shape, or is not finite.
    """
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    bad = [k for k, v in state.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if bad:
        raise RunError(f"{path}: the weights of {', '.join(bad)} are not finite (NaN or infinite)")
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise RunError(f"{path}: does not fit the network ({error})") from error


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str = "optimizer.") -> dict[str, Tensor]:
    """The state of an optimizer as named tensors: ``prefix + parameter number + quantity``."""
    state = optimizer.state_dict()["state"]
    return {f"{prefix}{i}.{k}": v for i, entry in state.items() for k, v in entry.items()}


def load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str = "optimizer."
) -> None:
    """Put back what :func:`optimizer_tensors` took out; the groups' options stay as they are."""
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            number, key = name.removeprefix(prefix).split(".", 1)
            entries.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    # A fused optimizer runs over the memory as it lies: its state needs the strides of its parameter.
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if value.shape == parameter.shape:
                state[key] = torch.empty_like(parameter).copy_(value)
