"""Anomaly maps in colours over the image in grey."""

from __future__ import annotations

import cv2
import numpy as np

from edge_ad_runtime.preprocess import Roi, resize
from edge_ad_runtime.types import FloatArray, Image

WHITE = (255, 255, 255)


def colour_level(values: FloatArray, threshold: float) -> FloatArray:
    """Values of combined maps to colours from 0 to 1, the same for all pictures of a model.

    With a positive threshold ``t`` it is ``v / (v + t)``: 0 (the 0.9 quantile of good images' cells) and
    less is 0, the threshold a half, and the peak of the strongest defect can still be told from its
    surroundings. A threshold that is not positive (given by hand) is a half too, a unit above it 1.
    """
    if threshold > 0:
        positive = np.maximum(values, 0)
        return np.asarray(positive / (positive + np.float32(threshold)), np.float32)
    return np.asarray(np.clip((values - threshold + 1) / 2, 0, 1), np.float32)


def heat_panel(
    image: Image, placed: FloatArray, region: Roi, size: tuple[int, int], level: float, contour: float | None
) -> Image:
    """An anomaly map in colours over the grey image, ``uint8 HxWx3`` RGB of ``size``; grey outside the region.

    Args:
        image: the camera image, ``uint8 HxWx3`` RGB.
        placed: the combined map at the image's resolution, ``float32`` of the region's size.
        region: the inspected part of the image.
        size: height and width of the panel.
        level: the map's value in the middle of the colours, see :func:`colour_level`.
        contour: where the map exceeds it, a white line goes round; None draws none.
    """
    height, width = image.shape[:2]
    rows = slice(region.y, region.y + region.height)
    columns = slice(region.x, region.x + region.width)
    coloured = colours(colour_level(placed, level))
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    heat = np.asarray(grey // 2, np.uint8)
    heat[rows, columns] = cv2.addWeighted(grey[rows, columns], 0.35, coloured, 0.65, 0)
    heat = resize(heat, *size)
    if contour is not None:
        above = np.zeros((height, width), np.uint8)
        above[rows, columns] = placed > contour
        outline(heat, above, WHITE)
    return heat


def colours(level: FloatArray) -> Image:
    """Levels from 0 to 1 in colours, ``uint8 HxWx3`` RGB."""
    mapped = cv2.applyColorMap((level * 255).round().astype(np.uint8), cv2.COLORMAP_INFERNO)
    return np.asarray(cv2.cvtColor(mapped, cv2.COLOR_BGR2RGB), np.uint8)


def outline(panel: Image, area: Image, colour: tuple[int, int, int]) -> None:
    """Draw the outline of the non-zero area, ``uint8 HxW`` of any size, onto the panel."""
    small = cv2.resize(area, panel.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(small, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(panel, contours, -1, colour, 1)
