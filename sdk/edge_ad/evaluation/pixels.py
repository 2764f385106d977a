"""How well anomaly maps agree with masks: pixel AUROC and AUPRO.

Ours, because AUPRO is in no well-kept library and scikit-learn's AUROC sorts all pixels at once: here only
the defects' pixels are kept, the others are counted image by image, and both metrics are still exact, with
every distinct value as a threshold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.types import FloatArray

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

INTEGRATION_LIMIT = 0.3
"""The false-positive rate up to which the per-region overlap is integrated (Bergmann et al., IJCV 2021)."""


@dataclass(frozen=True)
class PixelMetrics:
    """Pixel AUROC and AUPRO, both 0 to 1, and the number of defect regions that AUPRO averages over."""

    auroc: float
    aupro: float
    regions: int


def pixel_metrics(
    samples: Iterable[tuple[FloatArray, Mask]], limit: float = INTEGRATION_LIMIT
) -> PixelMetrics | None:
    """Pixel AUROC, and the normalized area under the per-region overlap curve (AUPRO).

    AUPRO: at a threshold, the overlap is the share of a defect region's pixels whose value reaches it,
    averaged over all regions of all images; it is integrated over the false-positive rate (share of all
    defect-free pixels that reach it) from 0 to ``limit`` and divided by ``limit``. Regions are 8-connected.
    Source: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, section 4.

    Args:
        samples: pairs of an anomaly map, ``float32 HxW``, and its mask, ``bool HxW``. Iterated twice, so a
            generator will not do; memory is needed for the defects' pixels and for one pair.
        limit: between 0 and 1.

    Returns:
        None if the masks leave no defect pixel or no other pixel.

    Raises:
        InputError: a map is not finite, a mask has another shape, or the limit is outside 0 to 1.
    """
    check_limit(limit)
    if iter(samples) is samples:
        raise InputError("the samples are iterated twice; give a list or another collection, not an iterator")
    values, counts, overlaps, regions = _defect_pixels(samples)
    if not regions:
        return None
    rates = false_positive_rates(samples, values)
    if rates is None:
        return None
    auroc = area_under(counts / counts.sum(), rates, 1.0)
    return PixelMetrics(auroc, area_under(overlaps / regions, rates, limit), regions)


def check_limit(limit: float) -> None:
    """Raises:
    InputError: the integration limit is outside 0 to 1.
    """
    if not 0 < limit <= 1:
        raise InputError(f"the integration limit {limit} must lie between 0 and 1")


def check_sample(values: FloatArray, mask: Mask) -> None:
    """Raises:
    InputError: the map is not finite, or the mask has another shape.
    """
    if values.shape != mask.shape:
        raise InputError(f"a map of shape {values.shape} and a mask of {mask.shape} do not belong together")
    if not np.isfinite(values).all():
        raise InputError("an anomaly map is not finite; the model or its calibration is broken")


def _defect_pixels(samples: Iterable[tuple[FloatArray, Mask]]) -> tuple[FloatArray, Counts, Floats, int]:
    """The distinct values of the defects' pixels, rising; how many pixels have each; and how much of the
    regions they make up (a whole region is 1); and the number of regions."""
    values: list[FloatArray] = []
    shares: list[Floats] = []
    regions = 0
    for sample, mask in samples:
        check_sample(sample, mask)
        if not mask.any():
            continue
        count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        inside = labels[mask]
        shares.append((1.0 / np.bincount(inside, minlength=count).clip(1))[inside])
        values.append(sample[mask])
        regions += count - 1
    if not regions:
        return np.empty(0, np.float32), np.empty(0, np.int64), np.empty(0), 0
    distinct, index = np.unique(np.concatenate(values), return_inverse=True)
    counts = np.bincount(index).astype(np.int64)
    return distinct, counts, np.bincount(index, np.concatenate(shares)).astype(np.float64), regions


def false_positive_rates(samples: Iterable[tuple[FloatArray, Mask]], values: FloatArray) -> Floats | None:
    """The share of the defect-free pixels at the corners of a curve that climbs only at ``values``.

    Args:
        samples: pairs of a map, ``float32 HxW``, and the mask of all its defects, ``bool HxW``.
        values: the distinct values at which the curve climbs, rising; at least one.

    Returns:
        From the largest value downwards two corners for each: before its pixels, after them; the first is 0
        and the last 1. None if there is no defect-free pixel.
    """
    between = np.zeros(len(values) + 1, np.int64)
    equal = np.zeros(len(values), np.int64)
    for sample, mask in samples:
        others = np.sort(sample[~mask])
        place = np.searchsorted(values, others)
        same = values[np.minimum(place, len(values) - 1)] == others
        between += np.bincount(place[~same], minlength=len(between))
        equal += np.bincount(place[same], minlength=len(equal))
    total = int(between.sum() + equal.sum())
    if not total:
        return None
    steps = np.empty(2 * len(equal) + 1, np.int64)
    steps[0::2] = between[::-1]
    steps[1::2] = equal[::-1]
    return np.concatenate([[0.0], np.cumsum(steps) / total])


def area_under(climbs: Floats, rates: Floats, limit: float) -> float:
    """The area under a curve up to the false-positive rate ``limit``, divided by ``limit``.

    From the largest value downwards the curve runs level over the defect-free pixels between two values,
    then climbs straight to the next corner over the pixels that have the same value.

    Args:
        climbs: how much the curve climbs at each value, in the rising order of the values.
        rates: of :func:`false_positive_rates` for the same values.
        limit: between 0 and 1.
    """
    steps = np.zeros(len(rates) - 1)
    steps[1::2] = climbs[::-1]
    heights = np.concatenate([[0.0], np.cumsum(steps)])
    inside = int(np.searchsorted(rates, limit, side="right"))
    at_limit = np.interp(limit, rates, heights)
    y, x = np.append(heights[:inside], at_limit), np.append(rates[:inside], limit)
    # numpy calls it trapz up to 1.26 and trapezoid from 2.0 on.
    return float(((y[1:] + y[:-1]) * np.diff(x)).sum() / 2) / limit
