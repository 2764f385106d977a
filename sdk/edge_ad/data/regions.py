"""Turning COCO's regions into masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.data.coco import CocoAnnotation, CocoRle
from edge_ad_runtime.errors import DataError

Mask: TypeAlias = npt.NDArray[np.bool_]

# A point this far outside the image is rounding, not a mistake.
_TOLERANCE_PX = 1.0
_LARGEST_COORDINATE = 1e6
_RLE_FIRST, _RLE_VALUES = 48, 64
_RLE_MORE, _RLE_SIGN, _RLE_BITS = 0x20, 0x10, 5
_RLE_MAX_SHIFT = 35


@dataclass(frozen=True)
class Region:
    """An annotation's pixels, ``bool HxW``, or None where it says nothing about them or has none in the image.

    ``source`` says what it was made of, ``outside`` whether some of it lies outside the image.
    """

    mask: Mask | None
    source: Literal["polygons", "run lengths", "box", "nothing"]
    outside: bool = False


def annotation_region(annotation: CocoAnnotation, height: int, width: int) -> Region:
    """An annotation's region in an image of this size, in pixels.

    Raises:
        DataError: the region is malformed, or its run lengths are of another size.
    """
    shape = annotation.segmentation
    if isinstance(shape, CocoRle):
        mask = decode_rle(shape, height, width)
        return Region(mask if mask.any() else None, "run lengths")
    # Some tools write an empty polygon, or a box of no size, where they mean that there is none.
    if polygons := [_points(numbers) for numbers in shape or () if numbers]:
        return _polygons(polygons, "polygons", height, width)
    if annotation.bbox and any(annotation.bbox):
        if len(annotation.bbox) != 4:
            raise DataError(f"a box of {len(annotation.bbox)} numbers, not 4")
        x, y, w, h = annotation.bbox
        corners = _points([x, y, x + w, y, x + w, y + h, x, y + h])
        return _polygons([corners], "box", height, width)
    return Region(None, "nothing")


def decode_rle(rle: CocoRle, height: int, width: int) -> Mask:
    """Run lengths to a mask: runs of 0 and 1 in turn, beginning with 0, down the columns from left to right.

    Raises:
        DataError: the run lengths are malformed, or do not fill an image of this size.
    """
    if rle.size != (height, width):
        raise DataError(f"run lengths of {rle.size[1]}x{rle.size[0]} pixels for an image of {width}x{height}")
    counts = decompress_counts(rle.counts) if isinstance(rle.counts, str) else rle.counts
    if any(count < 0 for count in counts) or sum(counts) != height * width:
        raise DataError(f"run lengths that do not fill an image of {width}x{height} pixels")
    values = np.arange(len(counts)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, counts).reshape(width, height).T)


def decompress_counts(text: str) -> list[int]:
    """COCO's compressed run lengths to a list.

    Each number is a little-endian sequence of characters from ``0`` on with 5 bits each; bit 0x20 says that
    another follows, bit 0x10 of the last is the sign. From the fourth on, a number is the difference to the
    one two before it. Source: the format that the COCO API (``maskApi.c``) writes.

    Raises:
        DataError: the text is not of this form.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - _RLE_FIRST
        if not 0 <= bits < _RLE_VALUES or shift > _RLE_MAX_SHIFT:
            raise DataError(f"compressed run lengths with the character {character!r} in a wrong place")
        value |= (bits & ~_RLE_MORE) << shift
        shift += _RLE_BITS
        if bits & _RLE_MORE:
            continue
        if bits & _RLE_SIGN:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise DataError("compressed run lengths that are cut off")
    return counts


def polygon_mask(points: npt.NDArray[np.float64], height: int, width: int) -> Mask:
    """The pixels whose centres lie inside a polygon (even-odd rule), ``bool HxW``.

    A polygon too thin to hold a centre (a scratch) gives the pixels that its outline runs through, so that no
    defect is lost.

    Args:
        points: corners ``Nx2``, x and y in pixels; the image's corner is 0, the first pixel's centre 0.5.
        height: of the mask, in pixels.
        width: likewise.
    """
    toggles = np.zeros((height, width + 1), np.bool_)
    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
        low, high = (math.ceil(y - 0.5) for y in sorted((y1, y2)))
        rows = np.arange(max(low, 0), min(high, height))
        if rows.size:
            crossings = x1 + (rows + 0.5 - y1) * ((x2 - x1) / (y2 - y1))
            columns = np.ceil(crossings - 0.5).clip(0, width).astype(np.intp)
            toggles[rows, columns] ^= True
    mask = np.logical_xor.accumulate(toggles[:, :width], axis=1)
    if not mask.any():
        outline = np.zeros((height, width), np.uint8)
        pixels = np.floor(points).astype(np.int32)
        cv2.polylines(outline, [pixels.reshape(-1, 1, 2)], isClosed=True, color=1)
        mask = outline > 0
    return np.asarray(mask, np.bool_)


def _polygons(
    polygons: Sequence[npt.NDArray[np.float64]], source: Literal["polygons", "box"], height: int, width: int
) -> Region:
    mask = np.zeros((height, width), np.bool_)
    outside = False
    for points in polygons:
        mask |= polygon_mask(points, height, width)
        beyond = np.maximum(-points.min(axis=0), points.max(axis=0) - (width, height))
        outside = outside or bool(beyond.max() > _TOLERANCE_PX)
    return Region(mask if mask.any() else None, source, outside)


def _points(numbers: Sequence[float]) -> npt.NDArray[np.float64]:
    if len(numbers) < 4 or len(numbers) % 2:
        raise DataError(f"a polygon of {len(numbers)} numbers; it needs pairs of x and y")
    points = np.asarray(numbers, np.float64).reshape(-1, 2)
    if not (np.abs(points) <= _LARGEST_COORDINATE).all():
        raise DataError("a region whose coordinates are far from any image")
    return points
