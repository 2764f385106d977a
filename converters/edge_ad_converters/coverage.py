"""Whether calibration images do: are there enough, and is one unlike the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_ad_converters.ranges import Statistics

# A reach that still grows by this much from half of the images to all of them is not settled.
_SETTLED = 0.05
# How many times the others' reach makes an image odd, in the median over the tensors.
_ODD = 1.5


@dataclass(frozen=True)
class Coverage:
    """``growth`` is by how much the tensors' reach grows, in the mean, from a half of the images to all of them;
    ``enough`` how many images would do (at most what is there: they do); ``odd`` the numbers of images that
    reach far beyond the others."""

    growth: float
    enough: int
    odd: tuple[int, ...]


def coverage(statistics: Mapping[str, Statistics]) -> Coverage:
    """Judge the images by the reach of each tensor in each image."""
    reach = np.stack([s.image_reach for s in statistics.values() if s.image_reach.max() > 0])
    images = reach.shape[1]
    growth = float(np.mean([_growth(row) for row in reach])) if images > 1 else 1.0
    # Each doubling about halves what is still to come: the tail of a maximum of n values thins out as 1 / n.
    doublings = max(0, int(np.ceil(np.log2(growth / _SETTLED)))) if growth > 0 else 0
    relative = np.median(reach / np.median(reach, axis=1, keepdims=True), axis=0)
    odd = np.flatnonzero(relative > _ODD) if images > 2 else np.zeros(0, int)
    return Coverage(growth, images * 2**doublings, tuple(int(i) for i in odd))


def _growth(reach: npt.NDArray[np.float64]) -> float:
    """The expected relative growth of the maximum from a random half of the values to all of them, exactly.

    The maximum of a random half is the k-th largest value if that is in it and none larger is.
    """
    ordered = np.sort(reach)[::-1]
    total, half = len(ordered), len(ordered) // 2
    chance, expected = 1.0, 0.0
    for k, value in enumerate(ordered):
        left = total - k
        if left < half or half == 0:
            break
        expected += chance * half / left * value
        chance *= 1 - half / left
    return float(ordered[0] / expected - 1) if expected > 0 else 0.0
