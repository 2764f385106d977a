"""Tiles: where they lie, and that their joined maps are the map of the whole image."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from edge_ad.nets.architecture import architecture
from edge_ad.nets.model import EfficientAdNets, normalize, to_tensor
from edge_ad.nets.pdn import map_size
from edge_ad.run_folder import TorchEngine
from edge_ad_runtime.engines import RawMaps
from edge_ad_runtime.engines.tiled import TiledEngine, whole_image_engine
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.placement import place_map
from edge_ad_runtime.preprocess import PreprocessSpec
from edge_ad_runtime.tiling import STRIDE, TileGrid, TileSpec, cells_of
from edge_ad_runtime.types import FloatArray, Image

GRIDS = [
    TileGrid(TileSpec(256, 256), 768, 1024),
    TileGrid(TileSpec(256, 320, 32), 412, 900),
    TileGrid(TileSpec(64, 64, 48), 100, 136),
    TileGrid(TileSpec(61, 70, 40), 241, 70),
    TileGrid(TileSpec(256, 256), 256, 256),
]


class Counting:
    """Stands in for a network: a cell is the mean of its patch, and of the whole tile in the second map."""

    name = "counting"

    def __init__(self, grid: TileGrid) -> None:
        self.runs = 0
        self.fails = False
        self._size = grid.tile_map_size

    def run(self, batch: Image) -> RawMaps:
        assert batch.flags.c_contiguous
        self.runs += 1
        if self.fails:
            raise RuntimeError("no power")
        st = np.empty(self._size, np.float32)
        for row, column in np.ndindex(st.shape):
            y, x = STRIDE * row, STRIDE * column
            st[row, column] = batch[0, y : y + 33, x : x + 33].mean()
        return RawMaps(st, np.full(self._size, batch.mean(), np.float32))


def noise(grid: TileGrid, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (1, grid.height, grid.width, 3), np.uint8)


def parts_of(grid: TileGrid, whole: FloatArray) -> list[FloatArray]:
    """What the tiles would give if they were cut out of the whole map."""
    rows, columns = grid.tile_map_size
    return [
        whole[y // STRIDE : y // STRIDE + rows, x // STRIDE : x // STRIDE + columns] for y, x in grid.offsets
    ]


@pytest.mark.parametrize("grid", GRIDS)
def test_the_tiles_cover_the_image_from_edge_to_edge(grid: TileGrid) -> None:
    assert len(grid) == len(grid.offsets) == len(set(grid.offsets))
    for axis, size, tile in ((0, grid.height, grid.spec.height), (1, grid.width, grid.spec.width)):
        offsets = sorted({o[axis] for o in grid.offsets})
        assert offsets[0] == 0 and offsets[-1] + tile == size
        assert all(o % STRIDE == 0 for o in offsets)
        steps = [b - a for a, b in itertools.pairwise(offsets)]
        assert all(tile - step >= grid.spec.overlap for step in steps)
        # No tile more than needed, and none closer to its neighbour than the others by more than a cell.
        assert len(steps) == -(-(size - tile) // (tile - grid.spec.overlap))
        assert not steps or max(steps) - min(steps) <= STRIDE
    assert grid.map_size == map_size(architecture("s").pdn.layers(1), False, grid.height, grid.width)
    assert grid.tile_map_size == map_size(
        architecture("m").pdn.layers(1), False, grid.spec.height, grid.spec.width
    )


@pytest.mark.parametrize("grid", GRIDS)
def test_tiles_that_agree_give_the_whole_map_back(grid: TileGrid) -> None:
    whole = np.random.default_rng(1).random(grid.map_size, np.float32)
    assert np.array_equal(grid.take(parts_of(grid, whole)), whole)
    assert grid.blend(parts_of(grid, whole)) == pytest.approx(whole, rel=1e-6)


def test_blending_leaves_no_seam() -> None:
    grid = TileGrid(TileSpec(256, 256), 256, 640)
    levels = [np.full(grid.tile_map_size, float(i), np.float32) for i in range(len(grid))]
    row = grid.blend(levels)[0]
    assert row[0] == 0 and row[-1] == len(grid) - 1
    # 8 cells or more of overlap: no two neighbours differ by more than a fifth of what the tiles do.
    assert np.all(np.diff(row) >= 0) and np.diff(row).max() < 0.2
    assert np.diff(grid.take(levels)[0]).max() == 1


def test_each_cell_of_the_tiles_counts_in_the_blended_map() -> None:
    grid = GRIDS[2]
    for tile in range(len(grid)):
        maps = [np.zeros(grid.tile_map_size, np.float32) for _ in range(len(grid))]
        maps[tile][:] = 1
        assert np.count_nonzero(grid.blend(maps)) == maps[tile].size


@pytest.mark.parametrize(
    ("tiles", "size", "said"),
    [
        ((256, 256), (768, 1022), "an input 1022 px wide cannot be cut.*use 1020 or 1024 px"),
        ((256, 256), (770, 1024), "an input 770 px high cannot be cut.*use 768 or 772 px"),
        ((256, 512), (256, 256), "tiles 512 px wide do not fit in an input of 256x256 px"),
        ((256, 256, 30), (512, 512), "30 px is no multiple of 4"),
        ((256, 256, 28), (512, 512), "tiles of 256 px need an overlap of 32 to 252 px, not 28"),
        ((256, 256, 256), (512, 512), "not 256"),
        ((32, 256), (512, 512), "smaller than the patch of 33 px"),
    ],
)
def test_tiles_that_do_not_fit_are_refused(tiles: tuple[int, ...], size: tuple[int, int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        PreprocessSpec(height=size[0], width=size[1], tiles=TileSpec(*tiles))


def test_the_teacher_student_map_of_tiles_is_that_of_the_whole_image() -> None:
    """The proof that stitching is exact: one network sees the whole image, the other sees it in tiles."""
    torch.manual_seed(0)
    grid = TileGrid(TileSpec(256, 256, 32), 348, 600)
    tiled = EfficientAdNets(architecture("n"), (256, 256))
    whole = EfficientAdNets(architecture("n"), (348, 600))
    for name in ("teacher", "student"):
        getattr(whole, name).load_state_dict(getattr(tiled, name).state_dict())
    batch = noise(grid)
    with torch.inference_mode():
        expected = whole(normalize(to_tensor(batch)))[0][0].numpy()
    maps = TiledEngine(TorchEngine(tiled), grid).run(batch)
    assert maps.st.shape == expected.shape == grid.map_size
    # Kernels may add up in another order at a tile's border than in the middle of the image.
    assert maps.st == pytest.approx(expected, rel=1e-4)
    # A shift by one cell would be far outside that.
    assert np.abs(maps.st[:, 1:] - expected[:, :-1]).max() > 0.1 * expected.mean()


def test_a_stitched_map_is_placed_where_the_defect_is() -> None:
    grid = TileGrid(TileSpec(64, 64, 48), 148, 180)
    spec = PreprocessSpec(height=148, width=180, tiles=grid.spec)
    batch = np.zeros((1, 148, 180, 3), np.uint8)
    batch[0, 90:93, 121:124] = 255
    engine = whole_image_engine(Counting(grid), spec)
    placed = place_map(engine.run(batch).st, spec, 2 * 148, 2 * 180)
    rows, columns = np.nonzero(placed > 0.99 * placed.max())
    assert rows.mean() == pytest.approx(2 * 91.5, abs=8) and columns.mean() == pytest.approx(2 * 122.5, abs=8)


def test_a_tile_is_skipped_if_and_only_if_none_of_its_pixels_changed() -> None:
    grid = GRIDS[2]
    inner, fresh = Counting(grid), Counting(grid)
    engine, plain = TiledEngine(inner, grid, skip_unchanged=True), TiledEngine(fresh, grid)
    batch = noise(grid)
    rng = np.random.default_rng(3)
    engine.run(batch)
    assert (inner.runs, engine.computed, engine.last_skipped) == (len(grid), len(grid), 0)
    for _ in range(12):
        # The camera fills the same memory again; one bit of one value is enough.
        y, x = int(rng.integers(grid.height)), int(rng.integers(grid.width))
        batch[0, y, x, 1] ^= 1
        before = inner.runs
        maps, expected = engine.run(batch), plain.run(batch)
        assert np.array_equal(maps.st, expected.st) and np.array_equal(maps.ae, expected.ae)
        hit = sum(t <= y < t + grid.spec.height and s <= x < s + grid.spec.width for t, s in grid.offsets)
        assert inner.runs - before == hit and engine.last_skipped == len(grid) - hit
    assert engine.computed == inner.runs and engine.skipped == 13 * len(grid) - inner.runs
    assert plain.skipped == 0 and fresh.runs == 12 * len(grid)
    # What was handed out belongs to whoever took it.
    maps.st[:] = maps.ae[:] = -1
    assert np.array_equal(engine.run(batch).st, expected.st) and engine.last_skipped == len(grid)
    engine.forget()
    assert np.array_equal(engine.run(batch).st, expected.st) and engine.last_skipped == 0


def test_no_maps_are_kept_of_a_run_that_failed() -> None:
    grid = GRIDS[2]
    inner = Counting(grid)
    engine = TiledEngine(inner, grid, skip_unchanged=True)
    first, second = noise(grid, 1), noise(grid, 2)
    expected = engine.run(first)
    inner.fails = True
    with pytest.raises(RuntimeError, match="no power"):
        engine.run(second)
    inner.fails = False
    # The first tile's buffer holds the second image's pixels, its maps are those of the first one.
    assert np.array_equal(engine.run(second).st, TiledEngine(Counting(grid), grid).run(second).st)
    assert np.array_equal(engine.run(first).st, expected.st)


def test_values_that_are_not_finite_are_not_kept() -> None:
    grid = GRIDS[2]

    class Broken(Counting):
        def run(self, batch: Image) -> RawMaps:
            maps = super().run(batch)
            if self.runs == 2:
                maps.st[3, 3] = np.nan
            return maps

    inner = Broken(grid)
    engine = TiledEngine(inner, grid, skip_unchanged=True)
    batch = noise(grid)
    assert np.isnan(engine.run(batch).st).any()
    assert np.isfinite(engine.run(batch).st).all() and inner.runs == len(grid) + 1
    assert np.isfinite(engine.run(batch).st).all() and inner.runs == len(grid) + 1


def test_without_tiles_nothing_is_wrapped() -> None:
    spec = PreprocessSpec(height=64, width=64)
    inner = Counting(GRIDS[2])
    assert whole_image_engine(inner, spec) is inner
    assert spec.network_size == (64, 64) and spec.grid is None
    assert cells_of(32) == 0 and cells_of(33) == 1
