"""What the quantizer runs the graph on: calibration images at the network's input size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_ad.data.inputs import read_input
from edge_ad_runtime.errors import DataError
from edge_ad_runtime.preprocess import PreprocessSpec
from edge_ad_runtime.tiling import TileGrid
from edge_ad_runtime.types import Image


@dataclass(frozen=True)
class NetworkInputs:
    """``batches``, ``uint8 1xHxWx3`` of the network's input size, and the ``names`` of what they show."""

    batches: tuple[Image, ...]
    names: tuple[str, ...]


def network_inputs(paths: Sequence[Path], spec: PreprocessSpec) -> NetworkInputs:
    """The images as the network takes them; with tiles as many tiles as images, but each place of the grid once.

    The tiles are taken from the images in turn, so that every place is seen on as many images as its share allows.

    Raises:
        DataError: the images show the same picture, or do not hold the region of interest.
        ImageError: one cannot be read.
    """
    grid = spec.grid
    chosen: dict[int, list[int]] = defaultdict(list)
    if grid is not None:
        for image, tile in tile_picks(len(paths), len(grid)):
            chosen[image].append(tile)
    batches, names = [], []
    first: Image | None = None
    alike = len(paths) > 1
    for number, path in enumerate(paths):
        whole = read_input(path, spec)
        first = whole if first is None else first
        alike = alike and np.array_equal(first, whole)
        if grid is None:
            batches.append(whole)
            names.append(str(path))
        for tile in chosen[number]:
            assert grid is not None
            batches.append(np.ascontiguousarray(grid.window(whole, tile)))
            names.append(_name(path, grid, tile))
    if alike:
        raise DataError(
            f"all {len(paths)} calibration images show the same picture ({paths[0]}, …); INT8 ranges need "
            "different good parts"
        )
    return NetworkInputs(tuple(batches), tuple(names))


def tile_picks(images: int, tiles: int) -> list[tuple[int, int]]:
    """Image and tile of each pick: ``max(images, tiles)`` of them, spread evenly over both."""
    return [(k % images, k % tiles) for k in range(max(images, tiles))]


def _name(path: Path, grid: TileGrid, tile: int) -> str:
    y, x = grid.offsets[tile]
    return f"{path} (tile at {x},{y})"
