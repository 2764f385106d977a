"""The report's pictures: an image with the heat maps of both models, as small JPEG files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np

from edge_ad.evaluation.pictures import colour_bar, panel_size
from edge_ad.report.model import Report
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.heat import heat_panel
from edge_ad_runtime.placement import inspected_region, place_map
from edge_ad_runtime.preprocess import PreprocessSpec, Roi, resize
from edge_ad_runtime.types import FloatArray, Image

SIDE, LARGE_SIDE = 224, 320
"""Longer side of a panel in pixels, and of the panels of a large picture."""
# Noise compresses badly; the whole page must stay small whatever the images show.
_PANEL_BYTES, _LARGE_BYTES = 13_000, 30_000
_BRIGHTEST = 1e6
_QUALITIES = (88, 75, 60, 45, 30, 15)


@dataclass(frozen=True)
class Picture:
    """An image with what both models see in it.

    ``image`` is ``uint8 HxWx3`` RGB as the camera gave it, ``region`` its inspected part; the combined maps of
    each model's own calibration are ``float32``, placed on the region and of its size.

    Raises:
        InputError: the sizes do not fit, or a map is not finite.
    """

    image: Image
    region: Roi
    float_map: FloatArray
    target_map: FloatArray

    def __post_init__(self) -> None:
        size = (self.region.height, self.region.width)
        if not self.float_map.shape == self.target_map.shape == size:
            raise InputError(
                f"maps of {self.float_map.shape} and {self.target_map.shape} do not fit a region of {size}"
            )
        if not (np.isfinite(self.float_map).all() and np.isfinite(self.target_map).all()):
            raise InputError("a map is not finite")


PictureSource: TypeAlias = Callable[[str], Picture]
"""Gives the picture of an image by its name in the record."""


def picture_of(image: Image, float_map: FloatArray, target_map: FloatArray, spec: PreprocessSpec) -> Picture:
    """The picture of a camera image ``uint8 HxWx3`` and its combined maps ``float32 hxw`` on the networks' grid.

    Cells that are not finite, which a broken model may give, become the brightest.

    Raises:
        InputError: the region of interest lies outside the image.
    """
    height, width = image.shape[:2]
    return Picture(
        image,
        inspected_region(spec, height, width),
        place_map(_finite(float_map), spec, height, width),
        place_map(_finite(target_map), spec, height, width),
    )


def panels(picture: Picture, report: Report, large: bool) -> tuple[bytes, bytes, bytes]:
    """The image, its float and its target heat map, each as a JPEG file's bytes.

    Both heat maps have the same colours: the middle is the float threshold, or where the score is not the
    map's maximum, half the highest cell of the two.
    """
    size = panel_size(picture.image, LARGE_SIDE if large else SIDE)
    limit = _LARGE_BYTES if large else _PANEL_BYTES
    maps = (picture.float_map, picture.target_map)
    contours: tuple[float | None, float | None] = (None, None)
    if report.score_rule == "max":
        level = report.float_.calibrated_threshold
        contours = (level, report.target.calibrated_threshold)
    else:
        level = max(float(m.max()) for m in maps) / 2
    heats = [
        heat_panel(picture.image, m, picture.region, size, level, c)
        for m, c in zip(maps, contours, strict=True)
    ]
    plain, float_heat, target_heat = (_jpeg(panel, limit) for panel in (resize(picture.image, *size), *heats))
    return plain, float_heat, target_heat


def scale_png() -> bytes:
    """The colours of the heat maps from the lowest, on the left, to the highest."""
    return cv2.imencode(".png", np.rot90(colour_bar(360), -1)[..., ::-1])[1].tobytes()


def _finite(cells: FloatArray) -> FloatArray:
    return np.asarray(np.nan_to_num(cells, nan=_BRIGHTEST, posinf=_BRIGHTEST, neginf=0), np.float32)


def _jpeg(image: Image, limit: int) -> bytes:
    """The best of some qualities that fits the limit, or the worst."""
    encoded = b""
    for quality in _QUALITIES:
        options = [cv2.IMWRITE_JPEG_QUALITY, quality]
        encoded = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), options)[1].tobytes()
        if len(encoded) <= limit:
            break
    return encoded
