"""Where an anomaly map's cells lie on the camera's image.

A cell of the map is the centre of the patch it sees, so the map does not reach the edge of the image: at
256 px its 56x56 cells have their centres at 16, 20, …, 236. Stretching the map over the whole image would
move a defect by up to 20 px. Everything that draws a map or compares it with a mask places it here.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.preprocess import PreprocessSpec, Roi
from edge_ad_runtime.tiling import RECEPTIVE_FIELD, STRIDE, cells_of
from edge_ad_runtime.types import FloatArray

Border: TypeAlias = Literal["repeat", "zero"]
"""What is drawn where no cell lies: the outermost cells' values again, or zeros."""


def cell_centres(cells: int, pixels: int) -> tuple[float, float]:
    """Centre of the first cell and distance of the cells along one axis, in pixels of the network's input.

    Pixel ``i`` has its centre at ``i``. An axis of ``pixels`` gives an unpadded patch description network
    ``(pixels - 33) // 4 + 1`` cells, the first one's patch beginning at pixel 0; a padded one has its first
    centre on pixel 0. Any other number of cells is taken as tiles of equal size that fill the axis.

    Raises:
        InputError: a count is not positive.
    """
    if cells < 1 or pixels < 1:
        raise InputError(f"a map of {cells} cells on {pixels} px cannot be placed")
    if cells == cells_of(pixels):
        return (RECEPTIVE_FIELD - 1) / 2, float(STRIDE)
    if pixels >= RECEPTIVE_FIELD and cells == _padded_cells(pixels):
        # The paddings of 3, 1, 3, 1 and 1 cells, each in the pixels of its layer, move the first centre to 0.
        return 0.0, float(STRIDE)
    tile = pixels / cells
    return (tile - 1) / 2, tile


def _padded_cells(pixels: int) -> int:
    """Cells along an axis of a padded patch description network (arXiv 2303.14535, Table 6)."""
    after_first = (pixels + 3 + 2) // 2
    return (after_first + 3 + 2) // 2 - 3


def inspected_region(spec: PreprocessSpec, height: int, width: int) -> Roi:
    """The part of a ``height`` x ``width`` camera image that the network sees.

    Raises:
        InputError: the region of interest lies outside the image.
    """
    roi = spec.roi or Roi(0, 0, width, height)
    if roi.x + roi.width > width or roi.y + roi.height > height:
        raise InputError(
            f"the region of interest {roi.x},{roi.y},{roi.width},{roi.height} "
            f"does not fit in the {width}x{height} image"
        )
    return roi


def place_map(
    anomaly_map: FloatArray, spec: PreprocessSpec, height: int, width: int, border: Border = "repeat"
) -> FloatArray:
    """An anomaly map, ``float32 hxw``, at the camera image's own resolution.

    Returns ``float32`` of the size of :func:`inspected_region` for a ``height`` x ``width`` image: bilinear
    between the cells' centres; towards the border, where no cell's centre lies, the outermost cells are
    repeated. With the border ``zero`` they are repeated for half a cell and zeros follow, the ring of 14 px
    of an unpadded network's input (anomalib's ``pad_maps`` makes one); maps that fill the image have none.

    Raises:
        InputError: the map is not a non-empty matrix, or the region of interest lies outside the image.
    """
    if anomaly_map.ndim != 2 or anomaly_map.size == 0:
        raise InputError(f"an anomaly map of shape {anomaly_map.shape} cannot be placed, expected hxw")
    region = inspected_region(spec, height, width)
    rows, columns = anomaly_map.shape
    x, y = _positions(columns, spec.width, region.width), _positions(rows, spec.height, region.height)
    low, high, part = _neighbours(x, columns)
    wide = anomaly_map[:, low] * (1 - part) + anomaly_map[:, high] * part
    low, high, part = _neighbours(y, rows)
    placed = np.asarray(wide[low] * (1 - part)[:, None] + wide[high] * part[:, None], np.float32)
    if border == "zero":
        placed[_beyond(y, rows), :] = 0
        placed[:, _beyond(x, columns)] = 0
    return placed


def _positions(cells: int, pixels: int, size: int) -> npt.NDArray[np.float64]:
    """Where each of ``size`` output pixels lies among the cells, whose centres are 0, 1, …"""
    first, step = cell_centres(cells, pixels)
    # Resizing maps pixel edges to pixel edges, so centres are shifted by half a pixel on both sides.
    return np.asarray(((np.arange(size) + 0.5) * (pixels / size) - 0.5 - first) / step, np.float64)


def _beyond(position: npt.NDArray[np.float64], cells: int) -> npt.NDArray[np.bool_]:
    """Which positions lie in no cell; a cell reaches half a step to each side of its centre.

    A map that leaves out less than a cell (of tiles, or of a padded network) fills the axis.
    """
    if position[0] > -1:
        return np.zeros(position.shape, np.bool_)
    return np.asarray((position < -0.5) | (position > cells - 0.5), np.bool_)


def _neighbours(
    position: npt.NDArray[np.float64], cells: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], FloatArray]:
    """For each position: the two nearest cells and the second one's weight."""
    position = np.clip(position, 0, cells - 1)
    low = np.floor(position).astype(np.intp)
    return low, np.minimum(low + 1, cells - 1), (position - low).astype(np.float32)
