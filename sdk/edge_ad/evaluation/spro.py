"""Saturated per-region overlap (sPRO), the localization metric of MVTec LOCO AD.

No kept library has its curve (anomalib's metric is the overlap at one threshold), so it is ours, exact, with
every distinct value as a threshold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from edge_ad.evaluation.pixels import (
    Floats,
    Mask,
    area_under,
    check_limit,
    check_sample,
    false_positive_rates,
)
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.types import FloatArray

SPRO_LIMIT = 0.05
"""The false-positive rate up to which MVTec LOCO AD's figures are integrated (Bergmann et al., IJCV 2022)."""


@dataclass(frozen=True)
class Region:
    """One annotated defect: its pixels, ``bool HxW``, and how many of them suffice (``saturation``, at least 1)."""

    mask: Mask
    saturation: int

    def __post_init__(self) -> None:
        if self.saturation < 1:
            raise InputError(f"a saturation of {self.saturation} pixels must be at least 1")
        if not self.mask.any():
            raise InputError("the mask of an annotated defect is empty")


@dataclass(frozen=True)
class SproSample:
    """An anomaly map, ``float32 HxW``, and the image's defects, which may overlap; none for a good image."""

    values: FloatArray
    regions: tuple[Region, ...]

    def __post_init__(self) -> None:
        for region in self.regions:
            check_sample(self.values, region.mask)

    @property
    def union(self) -> Mask:
        """The pixels of any defect, ``bool HxW``."""
        union = np.zeros(self.values.shape, np.bool_)
        for region in self.regions:
            union |= region.mask
        return union


def saturation_pixels(area: int, threshold: float, relative: bool) -> int:
    """How many of a defect's ``area`` pixels suffice: the threshold, or with ``relative`` that share of the area.

    At least 1 and at most ``area``. Source: Bergmann et al., IJCV 2022, section 4, and the thresholds of the
    data set's ``defects_config.json``.
    """
    wanted = int(threshold * area) if relative else int(threshold)
    return min(max(wanted, 1), area)


def au_spro(samples: Iterable[SproSample], limit: float = SPRO_LIMIT) -> float | None:
    """The normalized area under the saturated per-region overlap curve, 0 to 1.

    At a threshold a defect's overlap is ``min(pixels that reach it / saturation, 1)``, averaged over all
    defects of all images; it is integrated over the false-positive rate (share of all pixels in no defect
    that reach it) from 0 to ``limit`` and divided by ``limit``. With the whole area as saturation it is AUPRO.
    Source: Bergmann et al., "Beyond Dents and Scratches: Logical Constraints in Unsupervised Anomaly
    Detection and Localization", IJCV 2022, section 4.

    Args:
        samples: iterated twice, so a generator will not do; memory is needed for the defects' pixels and for
            one sample.
        limit: between 0 and 1.

    Returns:
        None if there is no defect, or no pixel outside of them.

    Raises:
        InputError: a map is not finite, or the limit is outside 0 to 1.
    """
    check_limit(limit)
    if iter(samples) is samples:
        raise InputError("the samples are iterated twice; give a list or another collection, not an iterator")
    values: list[FloatArray] = []
    shares: list[Floats] = []
    for sample in samples:
        for region in sample.regions:
            highest = _highest(sample.values[region.mask], region.saturation)
            values.append(highest)
            shares.append(np.full(len(highest), 1 / region.saturation))
    if not values:
        return None
    distinct, index = np.unique(np.concatenate(values), return_inverse=True)
    climbs = np.bincount(index, np.concatenate(shares)) / len(values)
    rates = false_positive_rates(_Unions(samples), distinct)
    return None if rates is None else area_under(climbs, rates, limit)


def _highest(inside: FloatArray, count: int) -> FloatArray:
    """The ``count`` highest values: as the threshold falls they fill the overlap, and the rest add nothing."""
    if count >= len(inside):
        return inside
    return np.asarray(np.partition(inside, len(inside) - count)[len(inside) - count :], np.float32)


class _Unions:
    """Each sample's map and the mask of all its defects, checked, made anew at each iteration."""

    def __init__(self, samples: Iterable[SproSample]) -> None:
        self._samples = samples

    def __iter__(self) -> Iterator[tuple[FloatArray, Mask]]:
        for sample in self._samples:
            union = sample.union
            check_sample(sample.values, union)
            yield sample.values, union
