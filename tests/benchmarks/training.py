"""Training steps a second against a plain loop: the paper's pseudocode, one forward pass at a time.

    python -m tests.benchmarks.training [--size n] [--rounds 8] [--threads N] [--device cpu] [--json]

Both train the same nets on the same images, of which the plain loop is spared reading and decoding. It runs
in float32, in the default memory format, evaluates teacher and student anew for each of its images, computes
both halves of the student's output everywhere, and takes the hard-feature quantile by sorting. Its steps and
ours alternate in blocks; the ratio of the median times counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from edge_ad.nets.architecture import architecture
from edge_ad.nets.model import EfficientAdNets
from edge_ad.nets.pdn import Pdn
from edge_ad.teacher import save_teacher
from edge_ad.training.augment import jitter
from edge_ad.training.feed import device_images
from edge_ad.training.job import Trainer
from edge_ad.training.options import TrainOptions, plan
from tests.conftest import write_parts

IMAGES = 32
BLOCK = 3


class PlainLoop:
    """Algorithm 1 of arXiv 2303.14535, line by line."""

    def __init__(self, size: str, images: Tensor, penalty: Tensor) -> None:
        torch.manual_seed(0)
        self.nets = EfficientAdNets(architecture(size), (256, 256)).to(images.device).train()
        self.images, self.penalty = images, penalty
        trained = [*self.nets.student.parameters(), *self.nets.autoencoder.parameters()]
        self.optimizer = torch.optim.Adam(trained, lr=1e-4, weight_decay=1e-5)
        self.rng = np.random.default_rng(0)

    def _student(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.nets.student_split(self.nets.trunk(image))

    def _teacher(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            return self.nets.teacher_normalized(self.nets.trunk(image))

    def loss(self, image: Tensor, outside: Tensor, augmented: Tensor) -> Tensor:
        """The sum of the losses for an image, a penalty image and an augmented one, ``1x3xHxW`` each."""
        squared = (self._teacher(image) - self._student(image)[0]) ** 2
        hard = torch.quantile(squared.flatten(), 0.999)
        loss: Tensor = squared[squared >= hard].mean() + (self._student(outside)[0] ** 2).mean()
        autoencoder = self.nets.autoencoder(augmented)
        loss = loss + ((self._teacher(augmented) - autoencoder) ** 2).mean()
        # The autoencoder is detached, as in the reimplementations: its imitation must not move it.
        loss = loss + ((autoencoder.detach() - self._student(augmented)[1]) ** 2).mean()
        return loss

    def step(self, number: int) -> None:
        """One step."""
        image = self.images[number % IMAGES][None]
        outside = self.penalty[number % len(self.penalty)][None]
        loss = self.loss(image, outside, jitter(image, self.rng))
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()


def measure(
    size: str, rounds: int, device: str, precision: Literal["auto", "fp32", "bf16"]
) -> dict[str, object]:
    """Median step times of both loops, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = write_parts(root / "data", good=IMAGES + 8, size=256)
        penalty = root / "penalty"
        penalty.mkdir()
        rng = np.random.default_rng(1)
        for i in range(16):
            cv2.imwrite(str(penalty / f"{i}.png"), rng.integers(0, 256, (300, 400, 3), np.uint8))
        torch.manual_seed(7)
        spec = architecture(size)
        teacher = root / "teacher.safetensors"
        save_teacher(teacher, Pdn(spec.pdn.layers(spec.teacher_channels)), size, {"made": "by the benchmark"})
        options = TrainOptions(
            size=size, teacher=teacher, steps=1_000_000, penalty=str(penalty), precision=precision
        )
        trainer = Trainer(root / "run", plan(data, options, device), device)
        trainer.prepare()
        pixels = np.concatenate([trainer.images[i] for i in range(IMAGES)])
        images = device_images(pixels, trainer.nets).contiguous()
        plain = PlainLoop(size, images, images.flip(0))
        times: dict[str, list[float]] = {"plain": [], "edge-ad": []}
        with trainer.steps() as ours:
            contenders: tuple[tuple[str, Callable[[int], object]], ...] = (
                ("plain", plain.step),
                ("edge-ad", ours),
            )
            number = 0
            for repeat in range(rounds + 1):
                for name, step in contenders:
                    for k in range(BLOCK):
                        start = time.monotonic()
                        step(number + k)
                        if device == "cuda":
                            torch.cuda.synchronize()
                        if repeat:
                            times[name].append(time.monotonic() - start)
                number += BLOCK
    plain_s, ours_s = (statistics.median(times[name]) for name in ("plain", "edge-ad"))
    return {
        "size": size,
        "precision": trainer.config.precision,
        "threads": torch.get_num_threads(),
        "plain_steps_per_s": 1 / plain_s,
        "edge_ad_steps_per_s": 1 / ours_s,
        "speedup": plain_s / ours_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="n")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    result = measure(given.size, given.rounds, given.device, given.precision)
    if given.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{k:22}{v}" for k, v in result.items()))


if __name__ == "__main__":
    main()
