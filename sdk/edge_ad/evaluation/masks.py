"""The test images' maps beside their ground-truth masks, at the image's full resolution.

A map is placed by its cells' centres and enlarged bilinearly to the image, as MVTec's own evaluation wants
it. With a region of interest only that region counts: nothing is claimed about the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edge_ad.data import Saturation, defect_mask, read_mask_values
from edge_ad.evaluation.pixels import Mask
from edge_ad.evaluation.scored import ScoredImage
from edge_ad.evaluation.spro import Region, SproSample, saturation_pixels
from edge_ad_runtime.errors import DataError
from edge_ad_runtime.placement import inspected_region, place_map
from edge_ad_runtime.preprocess import PreprocessSpec
from edge_ad_runtime.types import FloatArray


def image_mask(scored: ScoredImage) -> Mask | None:
    """All masks of the image together, ``bool HxW`` at its own size: empty for a good image, None where there
    is none.

    Raises:
        ImageError: a mask cannot be read, or is of another size than the image.
    """
    if not scored.image.defect:
        return np.zeros((scored.height, scored.width), bool)
    mask = defect_mask(scored.image, scored.height, scored.width)
    # An empty mask contradicts the image's folder, so it says as little as none.
    return mask if mask is not None and mask.any() else None


class MaskedMaps:
    """Pairs of a map and its mask in the inspected region, made anew at each iteration.

    ``defects`` counts the defective images among them, ``left_out`` those that have no mask.
    """

    def __init__(self, images: Sequence[ScoredImage], preprocess: PreprocessSpec) -> None:
        self._preprocess = preprocess
        self._images = [s for s in images if image_mask(s) is not None]
        self.defects = sum(s.image.defect for s in self._images)
        self.left_out = len(images) - len(self._images)

    def __iter__(self) -> Iterator[tuple[FloatArray, Mask]]:
        for scored in self._images:
            mask = image_mask(scored)
            assert mask is not None
            rows, columns = _inspected(scored, self._preprocess)
            yield _placed(scored, self._preprocess), mask[rows, columns]


class SaturatedMaps:
    """Samples for sPRO in the inspected region, made anew at each iteration: each mask file is one defect.

    Defective images without a mask are left out.
    """

    def __init__(
        self,
        images: Sequence[ScoredImage],
        preprocess: PreprocessSpec,
        saturation: Mapping[int, Saturation],
    ) -> None:
        self._images = [s for s in images if not s.image.defect or s.image.masks]
        self._preprocess, self._saturation = preprocess, saturation

    def __iter__(self) -> Iterator[SproSample]:
        for scored in self._images:
            yield SproSample(_placed(scored, self._preprocess), self._regions(scored))

    def _regions(self, scored: ScoredImage) -> tuple[Region, ...]:
        rows, columns = _inspected(scored, self._preprocess)
        regions = []
        for path in scored.image.masks if scored.image.defect else ():
            values = read_mask_values(path, scored.height, scored.width)
            found = np.unique(values[values > 0]).tolist()
            if len(found) > 1 or any(value not in self._saturation for value in found):
                raise DataError(
                    f"{path}: has the pixel values {found}; a mask holds one defect, and its value must be "
                    "in defects_config.json"
                )
            mask = values[rows, columns] > 0
            if mask.any():
                s = self._saturation[found[0]]
                pixels = saturation_pixels(int(mask.sum()), s.threshold, s.relative)
                regions.append(Region(mask, pixels))
        return tuple(regions)


def _inspected(scored: ScoredImage, preprocess: PreprocessSpec) -> tuple[slice, slice]:
    region = inspected_region(preprocess, scored.height, scored.width)
    return slice(region.y, region.y + region.height), slice(region.x, region.x + region.width)


def _placed(scored: ScoredImage, preprocess: PreprocessSpec) -> FloatArray:
    return place_map(scored.anomaly_map, preprocess, scored.height, scored.width)
