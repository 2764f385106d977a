"""An engine of tile size that computes the maps of a whole image, tile by tile."""

from __future__ import annotations

import numpy as np

from edge_ad_runtime.engines.base import Engine, RawMaps
from edge_ad_runtime.preprocess import PreprocessSpec
from edge_ad_runtime.tiling import TileGrid
from edge_ad_runtime.types import Image


class TiledEngine:
    """Runs an engine on each tile of a grid and joins the maps; an engine itself.

    ``map_st`` is exactly what the tiles give, cell by cell; ``map_ae`` fades from tile to tile (see
    :class:`edge_ad_runtime.tiling.TileGrid`). With ``skip_unchanged`` a tile whose pixels are byte for byte
    those of the run before is not computed again: its maps are kept. The input is copied, so its memory may
    be overwritten after a run. ``computed`` and ``skipped`` count tiles since the engine was made,
    ``last_skipped`` those of the last run.

    Not for several threads at once.
    """

    def __init__(self, engine: Engine, grid: TileGrid, skip_unchanged: bool = False) -> None:
        self.engine, self.grid, self.name = engine, grid, engine.name
        self.computed = self.skipped = self.last_skipped = 0
        self._skip_unchanged = skip_unchanged
        shape = (1, grid.spec.height, grid.spec.width, 3)
        # Without keeping, one buffer serves all tiles: engines want contiguous input.
        count = len(grid) if skip_unchanged else 1
        self._seen = [np.empty(shape, np.uint8) for _ in range(count)]
        self._kept: list[RawMaps | None] = [None] * len(grid)

    def run(self, batch: Image) -> RawMaps:
        """Raw maps of one preprocessed image, ``uint8 1xHxWx3`` RGB, of the grid's size."""
        skipped_before = self.skipped
        maps = [self._tile(batch, tile) for tile in range(len(self.grid))]
        self.last_skipped = self.skipped - skipped_before
        return RawMaps(self.grid.take([m.st for m in maps]), self.grid.blend([m.ae for m in maps]))

    def forget(self) -> None:
        """Compute every tile in the next run."""
        self._kept = [None] * len(self.grid)

    def _tile(self, batch: Image, tile: int) -> RawMaps:
        window = self.grid.window(batch, tile)
        seen = self._seen[tile if self._skip_unchanged else 0]
        kept = self._kept[tile]
        if kept is not None and _same(window, seen):
            self.skipped += 1
            return kept
        # Forgotten first: if the engine fails, no maps must stand for pixels that they are not of.
        self._kept[tile] = None
        np.copyto(seen, window)
        maps = self.engine.run(seen)
        self.computed += 1
        # A value that is not finite is a fault of that moment; the same pixels get another chance.
        if self._skip_unchanged and all(np.isfinite(m).all() for m in maps):
            self._kept[tile] = maps
        return maps


def whole_image_engine(engine: Engine, spec: PreprocessSpec, skip_unchanged: bool = False) -> Engine:
    """The engine that computes the maps of a whole input of ``spec``: a tiled one where it has tiles.

    ``engine`` takes inputs of ``spec.network_size``.
    """
    return engine if spec.grid is None else TiledEngine(engine, spec.grid, skip_unchanged)


def _same(window: Image, seen: Image) -> bool:
    """Whether all bytes are equal; one row is looked at first, which tells noise at once."""
    middle = window.shape[1] // 2
    return np.array_equal(window[:, middle], seen[:, middle]) and np.array_equal(window, seen)
