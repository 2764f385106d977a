"""A small extractor, pictures, options and ways to stop, for the distillation's tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_ad.distill.config import DistillConfig
from edge_ad.distill.features import Features, read_features
from edge_ad_runtime.stopping import StopRequest
from edge_ad_runtime.types import Image


class RandomExtractor:
    """Two random convolutions: an extractor in form, fast enough for every test run."""

    name = "random"

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.record = {"extractor_input": "0..1"}
        self.fine = torch.randn(48, 3, 8, 8, generator=generator)
        self.coarse = torch.randn(96, 3, 16, 16, generator=generator)

    def __call__(self, images: Sequence[Image]) -> Features:
        batch = torch.from_numpy(np.stack(list(images))).permute(0, 3, 1, 2).float() / 255
        outputs = [("fine", F.conv2d(batch, self.fine, stride=8))]
        outputs.append(("coarse", F.conv2d(batch, self.coarse, stride=16)))
        return read_features(outputs, *batch.shape[2:])


class TwoLayers(nn.Module):
    """A network with a layer at 1/8, one at 1/16, and a head behind them, as torchvision's ResNets have."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.layer2 = nn.Conv2d(3, channels, 8, stride=8)
            self.layer3 = nn.Conv2d(channels, 40, 2, stride=2)
            self.layer4 = nn.Conv2d(40, 8, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer4(torch.relu(self.layer3(torch.relu(self.layer2(x)))))
        return out


class Tapped(nn.Module):
    """The same, giving its two layers: what a user would export."""

    def __init__(self, net: TwoLayers) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.net.layer2(x)
        return fine, self.net.layer3(torch.relu(fine))


class StopAfter(StopRequest):
    """Asks to stop when it has been looked at a number of times; or kills the process, as a power cut would."""

    def __init__(self, looks: int, kill: bool = False) -> None:
        super().__init__()
        self.looks, self.kill = looks, kill

    @property
    def requested(self) -> bool:
        self.looks -= 1
        if self.looks < 0 and self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.looks < 0


def write_pictures(folder: Path, count: int = 6) -> Path:
    """Coloured clouds, 96x72."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(coarse, (96, 72), interpolation=cv2.INTER_CUBIC))
    return folder


def small(**changes: Any) -> DistillConfig:
    """A distillation of a few seconds."""
    options: dict[str, Any] = {"views": 40, "view_size": 64, "steps": 6, "batch": 2, "precision": "fp32"}
    return DistillConfig(**(options | changes))


def noise(side: int = 64, count: int = 2) -> list[Image]:
    """Random images."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(count)]
