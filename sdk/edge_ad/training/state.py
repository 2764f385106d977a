"""What a resumed training needs: nets, optimizers, and how far it had come."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from edge_ad.checkpoint import load_module, load_optimizer, load_tensors, optimizer_tensors, save_tensors
from edge_ad.nets.model import EfficientAdNets
from edge_ad.training.points import Watch
from edge_ad_runtime.errors import RunError
from edge_ad_runtime.files import write_atomically

METRICS = "metrics.jsonl"


class Progress(msgspec.Struct, frozen=True):
    """``step`` steps are done, ``end`` is the last one (an early stop brings it forward), in ``seconds`` so far."""

    step: int
    end: int
    seconds: float = 0.0
    watch: Watch = Watch()


def save_state(
    path: Path, nets: EfficientAdNets, optimizers: Sequence[torch.optim.Optimizer], progress: Progress
) -> None:
    """Write a checkpoint, atomically."""
    state = {f"nets.{k}": v for k, v in nets.state_dict().items()}
    for i, optimizer in enumerate(optimizers):
        state |= optimizer_tensors(optimizer, f"optimizer{i}.")
    save_tensors(path, state, {"progress": msgspec.to_builtins(progress)})


def load_state(path: Path, nets: EfficientAdNets, optimizers: Sequence[torch.optim.Optimizer]) -> Progress:
    """Read a checkpoint.

    Raises:
        RunError: it is damaged, or does not fit the nets.
    """
    tensors, meta = load_tensors(path)
    load_module(nets, tensors, "nets.", path)
    for i, optimizer in enumerate(optimizers):
        load_optimizer(optimizer, tensors, f"optimizer{i}.")
    return _progress(path, meta)


def read_progress(path: Path) -> Progress:
    """How far a checkpoint's training had come.

    Raises:
        RunError: it is damaged.
    """
    return _progress(path, load_tensors(path)[1])


def _progress(path: Path, meta: Mapping[str, Any]) -> Progress:
    try:
        return msgspec.convert(meta["progress"], Progress)
    except (KeyError, msgspec.ValidationError) as error:
        raise RunError(f"{path}: is not a training's checkpoint ({error})") from error


def append_metrics(out: Path, line: dict[str, object]) -> None:
    """Add a line to the run's metrics."""
    with (out / METRICS).open("ab") as file:
        file.write(msgspec.json.encode(line) + b"\n")


def read_metrics(out: Path) -> list[dict[str, float | None]]:
    """The run's metrics so far; a last line that a power cut left half-written is left out."""
    path, lines = out / METRICS, []
    if path.exists():
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(msgspec.DecodeError):
                lines.append(msgspec.json.decode(line, type=dict[str, float | None]))
    return lines


def cut_metrics(out: Path, step: int) -> None:
    """Drop the metrics after a step, which the resumed training will measure again."""
    lines = [line for line in read_metrics(out) if (line.get("step") or 0) <= step]
    write_atomically(out / METRICS, b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
