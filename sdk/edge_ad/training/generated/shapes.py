"""Random contours, and maps of which of them is on top."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad_runtime.types import FloatArray

# A multiple of 3, 4, 6 and 8, so that the corners of these polygons are vertices.
_VERTICES = 24
_SHIFT = 4


def power_law(rng: np.random.Generator, count: int, smallest: float, largest: float) -> FloatArray:
    """``count`` radii with a density proportional to ``r ** -3`` (Lee, Mumford, Huang 2001)."""
    low, high = smallest**-2, largest**-2
    return np.asarray((low + rng.random(count) * (high - low)) ** -0.5, np.float32)


def contours(rng: np.random.Generator, radii: FloatArray) -> FloatArray:
    """Closed contours around the origin, ``float32 Nx24x2`` in pixels (x, y), one for each radius.

    The contours of one call are alike to a random degree, as the things in one scene are.
    """
    n = len(radii)
    angles = np.linspace(0, 2 * np.pi, _VERTICES, endpoint=False, dtype=np.float32)[None]
    alike = rng.random() < 0.5
    draws = 1 if alike else n
    corners = rng.choice([3, 4, 4, 4, 6, 8, 24, 24, 24], (draws, 1)).astype(np.float32)
    sector = 2 * np.pi / corners
    polar = np.cos(sector / 2) / np.cos(angles % sector - sector / 2)
    bumps = rng.exponential(0.06, (draws, 4, 1)) * (rng.random((draws, 1, 1)) < 0.5)
    phases = rng.uniform(0, 2 * np.pi, (n, 4, 1))
    orders = np.arange(2, 6)[None, :, None]
    polar = polar * (1 + (bumps * np.cos(orders * angles[:, None] + phases)).sum(1))
    aspect = np.exp(0.5 * rng.standard_normal((draws, 1)))
    points = np.stack([polar * np.cos(angles) * aspect, polar * np.sin(angles) / aspect], 2)
    if rng.random() < 0.5:
        # Upright, as most of what people build is.
        turn = rng.integers(4, size=n) * (np.pi / 2) + rng.normal(0, 0.05) + rng.normal(0, 0.05, n)
    else:
        turn = rng.uniform(0, 2 * np.pi) + rng.choice([0.1, 3.2]) * rng.uniform(-1, 1, n)
    c, s = np.cos(turn), np.sin(turn)
    rotation = np.stack([np.stack([c, -s], 1), np.stack([s, c], 1)], 1)
    return np.asarray(points @ rotation.transpose(0, 2, 1) * radii[:, None, None], np.float32)


def stack_shapes(
    rng: np.random.Generator, height: int, width: int, radii: FloatArray
) -> npt.NDArray[np.uint8]:
    """Throw up to 255 shapes of these radii on each other; ``uint8 HxW``: 0 the ground, i + 1 where shape i is on top."""
    centres = rng.uniform(-0.05, 1.05, (len(radii), 1, 2)) * np.array([width, height])
    outlines = ((contours(rng, radii) + centres) * (1 << _SHIFT)).astype(np.int32)
    labels: npt.NDArray[Any] = np.zeros((height, width), np.uint8)
    for i, outline in enumerate(outlines):
        cv2.fillPoly(labels, [outline], i + 1, cv2.LINE_8, _SHIFT)
    return labels


def border_distance(labels: npt.NDArray[np.uint8]) -> FloatArray:
    """Each pixel's distance to the next border between labels, in pixels."""
    inside = np.ones(labels.shape, np.uint8)
    inside[:, 1:] &= labels[:, 1:] == labels[:, :-1]
    inside[1:] &= labels[1:] == labels[:-1]
    return np.asarray(cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_3), np.float32)
