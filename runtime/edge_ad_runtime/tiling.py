"""Which tiles a large image is cut into, and how the tiles' maps become the map of the whole image.

Source of the numbers: a descriptor of an unpadded patch description network sees a patch of 33x33 pixels,
and neighbours' patches lie 4 pixels apart (arXiv 2303.14535, Tables 6 and 7: convolutions of 4, 4, 3 and 4
pixels, and two 2x2 poolings after the first two). Where a tile begins at a multiple of 4, its cells are
therefore cells of the whole image, computed from the same pixels.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.types import FloatArray, Image

RECEPTIVE_FIELD = 33
STRIDE = 4
"""Of an unpadded patch description network of any size, in pixels."""
DEFAULT_OVERLAP = 64


def cells_of(pixels: int) -> int:
    """Cells that an unpadded patch description network has along an axis of ``pixels``; 0 where no patch fits."""
    return max(0, (pixels - RECEPTIVE_FIELD) // STRIDE + 1)


class TileSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size of the tiles, which is the networks' input size, and the least overlap of neighbours, in pixels."""

    height: int
    width: int
    overlap: int = DEFAULT_OVERLAP

    def __post_init__(self) -> None:
        if min(self.height, self.width) < RECEPTIVE_FIELD:
            raise InputError(
                f"tiles of {self.width}x{self.height} px are smaller than the patch of {RECEPTIVE_FIELD} px "
                "that one cell of the map sees"
            )
        if self.overlap % STRIDE:
            raise InputError(f"a tile overlap of {self.overlap} px is no multiple of {STRIDE}")
        for side in (self.height, self.width):
            # Below, a patch between two tiles would lie in neither.
            least = side - STRIDE * cells_of(side)
            if not least <= self.overlap <= side - STRIDE:
                raise InputError(
                    f"tiles of {side} px need an overlap of {-(-least // STRIDE) * STRIDE} to {side - STRIDE} px, "
                    f"not {self.overlap}"
                )


@dataclass(frozen=True)
class _Axis:
    """One axis of a grid.

    ``first`` is each tile's first cell on the whole axis, ``owned`` the whole axis's cells whose
    teacher-student value is taken from that tile (they share the axis out), ``weights`` the tile's share in
    each of its cells, ``float32``; the shares of a cell add up to 1.
    """

    offsets: tuple[int, ...]
    first: tuple[int, ...]
    owned: tuple[slice, ...]
    weights: tuple[FloatArray, ...]
    cells: int


@dataclass(frozen=True)
class TileGrid:
    """The tiles of an image of ``height`` x ``width`` pixels, row by row.

    Neighbours overlap by at least ``spec.overlap``; the surplus is spread evenly, in steps of 4 px, so that
    the first tile begins at the image's edge and the last one ends at the other.

    Raises:
        InputError: the tiles do not fit: larger than the image, or not a multiple of 4 px smaller.
    """

    spec: TileSpec
    height: int
    width: int

    def __post_init__(self) -> None:
        for name, size, tile in (
            ("high", self.height, self.spec.height),
            ("wide", self.width, self.spec.width),
        ):
            if tile > size:
                raise InputError(
                    f"tiles {tile} px {name} do not fit in an input of {self.width}x{self.height} px"
                )
            if (rest := (size - tile) % STRIDE) != 0:
                raise InputError(
                    f"an input {size} px {name} cannot be cut into tiles of {tile} px: the difference must be a "
                    f"multiple of {STRIDE}; use {size - rest} or {size - rest + STRIDE} px"
                )

    @functools.cached_property
    def _rows(self) -> _Axis:
        return _axis(self.height, self.spec.height, self.spec.overlap)

    @functools.cached_property
    def _columns(self) -> _Axis:
        return _axis(self.width, self.spec.width, self.spec.overlap)

    def __len__(self) -> int:
        return len(self._rows.offsets) * len(self._columns.offsets)

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the whole image's map, in cells."""
        return self._rows.cells, self._columns.cells

    @property
    def tile_map_size(self) -> tuple[int, int]:
        """Height and width of a tile's map, in cells."""
        return cells_of(self.spec.height), cells_of(self.spec.width)

    @property
    def offsets(self) -> tuple[tuple[int, int], ...]:
        """Top and left of each tile in pixels."""
        return tuple((y, x) for y in self._rows.offsets for x in self._columns.offsets)

    def window(self, batch: Image, tile: int) -> Image:
        """A tile's view into a whole input, ``uint8 1xHxWx3``; not contiguous."""
        row, column = divmod(tile, len(self._columns.offsets))
        y, x = self._rows.offsets[row], self._columns.offsets[column]
        return batch[:, y : y + self.spec.height, x : x + self.spec.width]

    def take(self, maps: Sequence[FloatArray]) -> FloatArray:
        """One map from the tiles' maps, each cell from one tile.

        Exact for the teacher-student map: a cell is computed from the same 33x33 pixels in whichever tile it
        lies.

        Args:
            maps: ``float32 hxw`` of each tile, of ``tile_map_size``.
        """
        whole = np.empty(self.map_size, np.float32)
        for tile, part in enumerate(maps):
            row, column = divmod(tile, len(self._columns.offsets))
            rows, columns = self._rows.owned[row], self._columns.owned[column]
            top, left = self._rows.first[row], self._columns.first[column]
            whole[rows, columns] = part[
                rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
            ]
        return whole

    def blend(self, maps: Sequence[FloatArray]) -> FloatArray:
        """One map from the tiles' maps; where tiles overlap, they fade into each other.

        For the autoencoder's map, whose cells depend on the whole tile.

        Args:
            maps: ``float32 hxw`` of each tile, of ``tile_map_size``.
        """
        whole = np.zeros(self.map_size, np.float32)
        height, width = self.tile_map_size
        for tile, part in enumerate(maps):
            row, column = divmod(tile, len(self._columns.offsets))
            top, left = self._rows.first[row], self._columns.first[column]
            share = self._rows.weights[row][:, None] * self._columns.weights[column]
            whole[top : top + height, left : left + width] += share * part
        return whole


def _axis(size: int, tile: int, overlap: int) -> _Axis:
    cells, own = cells_of(size), cells_of(tile)
    steps = (size - tile) // STRIDE
    gaps = -(-steps // ((tile - overlap) // STRIDE))
    first = [k * steps // gaps for k in range(gaps + 1)] if gaps else [0]
    # Between two tiles the cells are shared out in the middle of what both have.
    cuts = [0, *((b + a + own) // 2 for a, b in itertools.pairwise(first)), cells]
    return _Axis(
        offsets=tuple(f * STRIDE for f in first),
        first=tuple(first),
        owned=tuple(slice(a, b) for a, b in itertools.pairwise(cuts)),
        weights=_weights(first, own, cells),
        cells=cells,
    )


def _weights(first: Sequence[int], own: int, cells: int) -> tuple[FloatArray, ...]:
    """Each tile's share in its cells: a squared sine over the overlap with each neighbour, made to add up to 1."""
    shares = np.zeros((len(first), cells))
    for i, start in enumerate(first):
        ramp = np.ones(own)
        if i > 0 and (common := first[i - 1] + own - start) > 0:
            ramp[:common] *= _rise(common)
        if i + 1 < len(first) and (common := start + own - first[i + 1]) > 0:
            ramp[own - common :] *= _rise(common)[::-1]
        shares[i, start : start + own] = ramp
    shares /= shares.sum(0)
    return tuple(
        share[start : start + own].astype(np.float32) for share, start in zip(shares, first, strict=True)
    )


def _rise(cells: int) -> FloatArray:
    """From above 0 to below 1 in ``cells`` steps; it and its mirror image add up to 1."""
    return np.asarray(np.sin(np.pi / 2 * (np.arange(cells) + 0.5) / cells) ** 2, np.float32)
