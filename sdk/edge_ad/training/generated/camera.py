"""From a drawn scene to a camera's picture: light, focus, exposure and noise."""

from __future__ import annotations

import cv2
import numpy as np

from edge_ad.training.generated.colour import all_channels
from edge_ad.training.generated.fields import octaves, white
from edge_ad_runtime.types import FloatArray, Image


def photograph(rng: np.random.Generator, scene: FloatArray) -> Image:
    """``float32 HxWx3`` of any scale to ``uint8 HxWx3``."""
    height, width = scene.shape[:2]
    if rng.random() < 0.5:
        light = octaves(rng, height, width, 2.0, 2, 4) * np.float32(rng.uniform(0.1, 0.6))
        scene = scene * all_channels(np.exp(light.clip(-1.5, 1.5)))
    scene = _focus(rng, scene)
    if rng.random() < 0.5:
        grain = white(rng, (height, width)) * np.float32(rng.exponential(0.02))
        scene = scene * all_channels(1 + grain)
    mean, deviation = cv2.meanStdDev(scene.reshape(-1, 1))
    # Mean and contrast are spread as photographs are.
    contrast = np.float32(0.235 * np.exp(0.3 * rng.standard_normal()) / max(deviation.item(), 1e-4))
    level = np.float32(rng.normal(0.45, 0.11))
    picture = (scene - mean.item()) * (255 * contrast)
    picture += 255 * level
    return np.asarray(picture.clip(0, 255), np.uint8)


def _focus(rng: np.random.Generator, scene: FloatArray) -> FloatArray:
    """Blur as lenses do: none, even, or more in some places."""
    choice = rng.random()
    if choice < 0.2:
        return scene
    sigma = float(np.exp(rng.uniform(np.log(0.4), np.log(3.0))))
    soft = np.asarray(cv2.GaussianBlur(scene, (0, 0), sigma), np.float32)
    if choice < 0.75:
        return soft
    height, width = scene.shape[:2]
    depth = octaves(rng, height, width, 2.0, 2, 4)
    return scene + (soft - scene) * all_channels((0.5 + 2 * depth).clip(0, 1))
