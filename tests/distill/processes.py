"""One of the processes that test_processes.py starts with torchrun: ``FOLDER PICTURES``.

Each part leaves what the processes saw in a file of its rank.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from edge_ad.distill.config import DistillConfig
from edge_ad.distill.features import Features
from edge_ad.distill.group import Group, process_group
from edge_ad.distill.job import distill
from edge_ad.distill.trainer import Trainer
from edge_ad_runtime.errors import EdgeAdError, RunError
from edge_ad_runtime.stopping import StopRequest, stop_on_signals
from edge_ad_runtime.types import Image
from tests.distill.common import RandomExtractor, StopAfter, small


def gradient_batch() -> tuple[Image, torch.Tensor]:
    """A batch of four views and their targets."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8, generator=generator)
    return images.numpy(), torch.randn(4, 64, 16, 16, generator=generator)


def gradients(group: Group) -> dict[str, torch.Tensor]:
    """The gradients of a step on :func:`gradient_batch`, each process seeing its share."""
    trainer = Trainer(options(), "cpu", group)
    images, targets = gradient_batch()
    share = slice(group.rank * 4 // group.world, (group.rank + 1) * 4 // group.world)
    trainer.backward(images[share], targets[share])
    return {k: p.grad.clone() for k, p in trainer.net.named_parameters() if p.grad is not None}


def options(**changes: Any) -> DistillConfig:
    """A distillation for two processes."""
    return small(**({"views": 80, "statistics": 70, "batch": 4} | changes))


class _Breaks(RandomExtractor):
    """Fails in one process at its third batch."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.left = 3 if rank == 1 else 1000

    def __call__(self, images: Sequence[Image]) -> Features:
        self.left -= 1
        if self.left < 0:
            raise ValueError("the extractor broke")
        return super().__call__(images)


def _failure(job: Any) -> str:
    try:
        job()
    except (EdgeAdError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def _main(folder: Path, pictures: Path) -> None:
    torch.set_num_threads(1)
    try:
        _together(folder, pictures)
    except RunError as error:
        (folder / "lost.txt").write_text(str(error))
        raise


def _together(folder: Path, pictures: Path) -> None:
    with process_group("cpu") as (group, device):
        extractor = RandomExtractor()

        def go(name: str, stop: StopRequest, **changes: Any) -> int | None:
            result = distill(pictures, extractor, folder / name, options(**changes), device, stop, group)
            return None if result is None else result.steps

        seen: dict[str, Any] = {"rank": group.rank, "world": group.world}
        torch.save(gradients(group), folder / f"gradients{group.rank}.pth")
        seen["whole"] = go("whole", StopRequest())
        # Only the second process is asked to stop, each time one look later.
        seen["stops"] = 0
        looks = 2
        while go("broken", StopAfter(looks) if group.rank == 1 else StopRequest()) is None:
            seen["stops"] += 1
            looks *= 2
        seen["online"] = go("online", StopRequest(), online=True, steps=2)
        seen["uneven"] = _failure(lambda: go("uneven", StopRequest(), batch=3))
        breaks = _Breaks(group.rank)
        seen["broke"] = _failure(
            lambda: distill(pictures, breaks, folder / "broke", options(), device, StopRequest(), group)
        )
        (folder / f"seen{group.rank}.json").write_text(json.dumps(seen))
        group.agree()
        if group.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        # As in the command: torchrun's SIGTERM to the one that is left is no sudden end.
        with stop_on_signals():
            for _ in range(100):
                group.agree()


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
