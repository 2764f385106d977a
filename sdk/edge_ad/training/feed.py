"""What a step takes in: which images, how they are augmented, and the penalty images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from edge_ad.nets.model import EfficientAdNets, normalize, to_tensor
from edge_ad.run_folder import RunConfig
from edge_ad.training.augment import jitter, penalty_image, random_grey
from edge_ad.training.generated import generated_image
from edge_ad.training.images import ImageStore
from edge_ad.training.losses import Clean, clean_outputs
from edge_ad_runtime.errors import DataError
from edge_ad_runtime.images import is_image_path, read_image
from edge_ad_runtime.types import Image

GENERATED = "generated"
# Frozen outputs up to this size are kept, so that the frozen nets run once for each image, not once a pass.
CLEAN_BYTES = 2 << 30


class Penalty(Protocol):
    """Where the penalty images come from."""

    def batch(self, step: int, count: int, rng: np.random.Generator) -> Image:
        """``uint8 NxHxWx3``; depends on its arguments and the source alone."""
        ...


class _FolderPenalty:
    def __init__(self, folder: Path, height: int, width: int) -> None:
        paths = (
            sorted(p for p in folder.rglob("*") if p.is_file() and is_image_path(p))
            if folder.is_dir()
            else []
        )
        if not paths:
            raise DataError(f"{folder}: holds no penalty images")
        self._store = ImageStore(
            paths, height * width * 3, lambda p: penalty_image(read_image(p), height, width)
        )

    def batch(self, step: int, count: int, rng: np.random.Generator) -> Image:
        return self._store.batch(rng.integers(len(self._store), size=count).tolist())


class _GeneratedPenalty:
    def __init__(self, seed: int, height: int, width: int) -> None:
        self._seed, self._height, self._width = seed, height, width

    def batch(self, step: int, count: int, rng: np.random.Generator) -> Image:
        return np.stack(
            [generated_image(self._seed, step * count + i, self._height, self._width) for i in range(count)]
        )


def open_penalty(config: RunConfig) -> Penalty | None:
    """The penalty images of a run.

    Raises:
        DataError: the folder holds no images.
    """
    height, width = config.preprocess.network_size
    if config.penalty is None:
        return None
    if config.penalty == GENERATED:
        return _GeneratedPenalty(config.seed, height, width)
    return _FolderPenalty(Path(config.penalty), height, width)


class StepImages(NamedTuple):
    """A step's images, ``uint8 NxHxWx3``, and the generator for its further random choices."""

    picks: tuple[int, ...]
    image: Image
    penalty: Image | None
    rng: np.random.Generator


class Feed:
    """Makes the images of each step; those of step k depend on the seed and k alone."""

    def __init__(self, config: RunConfig, images: ImageStore, penalty: Penalty | None) -> None:
        self._config, self._images, self._penalty = config, images, penalty

    def make(self, step: int) -> StepImages:
        """The images of a step."""
        rng = np.random.default_rng((self._config.seed, step))
        picks = step_picks(len(self._images), self._config.batch, self._config.seed, step)
        penalty = None
        if self._penalty is not None:
            penalty = self._penalty.batch(step, self._config.batch, rng)
        return StepImages(picks, self._images.batch(picks), penalty, rng)


def step_picks(count: int, batch: int, seed: int, step: int) -> tuple[int, ...]:
    """The images of a step: every image once in each pass, each pass in an order of its own."""
    picks = []
    for position in range(step * batch, (step + 1) * batch):
        order = np.random.default_rng((seed, 1, position // count)).permutation(count)
        picks.append(int(order[position % count]))
    return tuple(picks)


class CleanCache:
    """The frozen nets' outputs for the training images, computed once each where they fit in ``CLEAN_BYTES``."""

    def __init__(self, nets: EfficientAdNets, images: ImageStore) -> None:
        self._nets, self._count = nets, len(images)
        self._kept: dict[int, Clean] = {}

    def __call__(self, picks: Sequence[int], image: Image) -> Clean:
        """The outputs for a step's images, ``uint8 NxHxWx3``."""
        found = []
        for row, pick in enumerate(picks):
            clean = self._kept.get(pick)
            if clean is None:
                clean = clean_outputs(self._nets, device_images(image[row : row + 1], self._nets))
                if self._count * sum(t.nbytes for t in clean) <= CLEAN_BYTES:
                    self._kept[pick] = clean
            found.append(clean)
        if len(found) == 1:
            return found[0]
        return Clean(torch.cat([c.trunk for c in found]), torch.cat([c.teacher for c in found]))


class StepTensors(NamedTuple):
    """A step's augmented and penalty images on the device, ``float32 Nx3xHxW``, ImageNet-normalized."""

    augmented: Tensor
    penalty: Tensor | None


def step_tensors(images: StepImages, nets: EfficientAdNets) -> StepTensors:
    """Augment a step's images (draws from their generator)."""
    device = nets.teacher_mean.device
    augmented = normalize(jitter(on_device(images.image, device), images.rng))
    if images.penalty is None:
        return StepTensors(augmented, None)
    return StepTensors(augmented, normalize(random_grey(on_device(images.penalty, device), images.rng)))


def device_images(images: Image, nets: EfficientAdNets) -> Tensor:
    """``uint8 NxHxWx3`` to normalized tensors on the nets' device."""
    return normalize(on_device(images, nets.teacher_mean.device))


def on_device(images: Image, device: torch.device) -> Tensor:
    """``uint8 NxHxWx3`` to ``float32 Nx3xHxW`` in 0 to 1 on a device, in memory channels last."""
    return to_tensor(images).to(device).contiguous(memory_format=torch.channels_last)
