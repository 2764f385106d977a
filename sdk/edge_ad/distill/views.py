"""Views of the distillation images: as the teacher sees them, and as the extractor does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from edge_ad_runtime.images import read_image
from edge_ad_runtime.preprocess import resize
from edge_ad_runtime.types import Image

_SCALES = (0.6, 1.0)


@dataclass(frozen=True)
class ViewSet:
    """Views of ``size`` px of ``images``; view ``i`` depends on the seed and ``i`` only.

    ``crop`` ``random``: a square of 0.6 to 1 times the image's shorter side, mirrored half of the time;
    ``whole``: the whole image, its sides stretched to a square, as in the paper. ``grayscale`` is the share
    of grey views. Images are taken in turn, or with ``shuffled`` at random.
    """

    images: tuple[Path, ...]
    size: int
    seed: int
    crop: Literal["random", "whole"] = "random"
    grayscale: float = 0.15
    shuffled: bool = False

    def draw(self, index: int) -> tuple[Image, Image]:
        """A view as the teacher sees it (``size``) and as the extractor does (twice that), ``uint8 HxWx3``.

        Raises:
            ImageError: the image is missing or broken.
        """
        rng = np.random.default_rng((self.seed, index))
        number = rng.integers(len(self.images)) if self.shuffled else index % len(self.images)
        image = read_image(self.images[number])
        if self.crop == "random":
            height, width = image.shape[:2]
            side = max(1, round(min(height, width) * rng.uniform(*_SCALES)))
            top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
            image = image[top : top + side, left : left + side]
            if rng.random() < 0.5:
                image = image[:, ::-1]
        if rng.random() < self.grayscale:
            grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
            image = np.repeat(grey[:, :, None], 3, axis=2)
        image = np.ascontiguousarray(image)
        return resize(image, self.size, self.size), resize(image, 2 * self.size, 2 * self.size)
