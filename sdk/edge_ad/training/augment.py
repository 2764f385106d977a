"""The augmentation of the autoencoder branch, and the penalty images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from edge_ad_runtime.preprocess import resize
from edge_ad_runtime.types import Image

# ITU-R BT.601 luma, as torchvision's colour functions use it.
_LUMA = (0.2989, 0.587, 0.114)


def jitter(image: Tensor, rng: np.random.Generator) -> Tensor:
    """One of brightness, contrast and saturation, scaled by λ ~ U(0.8, 1.2); ``Nx3xHxW`` in 0 to 1."""
    factor = float(rng.uniform(0.8, 1.2))
    kind = rng.integers(3)
    if kind == 0:
        other = torch.zeros_like(image)
    else:
        grey = (image * image.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        other = grey.mean((1, 2, 3), keepdim=True) if kind == 1 else grey
    return (other + factor * (image - other)).clamp(0, 1)


def penalty_image(image: Image, height: int, width: int) -> Image:
    """A penalty image as the paper takes it: resized to twice the input, its centre cut out; ``1xHxWx3``."""
    large = resize(image, 2 * height, 2 * width)
    top, left = height // 2, width // 2
    return np.ascontiguousarray(large[None, top : top + height, left : left + width])


def random_grey(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Make the batch ``Nx3xHxW`` grey with a probability of 0.3."""
    if rng.random() >= 0.3:
        return images
    return (images * images.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True).expand_as(images)
