"""Maps lie on the image where the networks see."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_ad.nets.architecture import architecture
from edge_ad.nets.pdn import Pdn, map_size
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.placement import cell_centres, inspected_region, place_map
from edge_ad_runtime.preprocess import PreprocessSpec, Roi, preprocess
from edge_ad_runtime.tiling import RECEPTIVE_FIELD, STRIDE


@pytest.mark.parametrize("size", ["n", "s", "m"])
def test_a_cell_is_the_centre_of_the_patch_that_the_network_sees(size: str) -> None:
    layers = architecture(size).pdn.layers(1)
    net = Pdn(layers)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(0.01)
    pixels = 61
    image = torch.ones(1, 3, pixels, pixels, requires_grad=True)
    out = net(image)
    cells = out.shape[-1]
    for row, column in [(0, 0), (2, 5), (cells - 1, cells - 1)]:
        (gradient,) = torch.autograd.grad(out[0, 0, row, column], image, retain_graph=True)
        ys, xs = np.nonzero(gradient[0].abs().sum(0).numpy())
        first, step = cell_centres(cells, pixels)
        assert (ys.min() + ys.max()) / 2 == first + step * row
        assert (xs.min() + xs.max()) / 2 == first + step * column
        assert ys.max() - ys.min() + 1 == RECEPTIVE_FIELD


@pytest.mark.parametrize("size", ["n", "s", "m"])
@pytest.mark.parametrize("pixels", [96, 97, 98, 99])
def test_a_padded_cell_is_the_centre_of_its_patch(size: str, pixels: int) -> None:
    net = Pdn(architecture(size).pdn.layers(1), padded=True)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(0.01)
    image = torch.ones(1, 3, pixels, pixels, requires_grad=True)
    out = net(image)
    cells = out.shape[-1]
    # In the middle, where no padding cuts the patch.
    for row, column in [(6, 7), (cells // 2, cells // 2), (cells - 8, 10)]:
        (gradient,) = torch.autograd.grad(out[0, 0, row, column], image, retain_graph=True)
        ys, xs = np.nonzero(gradient[0].abs().sum(0).numpy())
        first, step = cell_centres(cells, pixels)
        assert (ys.min() + ys.max()) / 2 == first + step * row
        assert (xs.min() + xs.max()) / 2 == first + step * column


@pytest.mark.parametrize("size", ["n", "s", "m"])
def test_the_unpadded_map_of_every_input_size_is_recognized(size: str) -> None:
    layers = architecture(size).pdn.layers(1)
    for pixels in range(RECEPTIVE_FIELD, 300):
        cells, _ = map_size(layers, False, pixels, pixels)
        assert cell_centres(cells, pixels) == (16, STRIDE)


def test_other_maps_are_tiles() -> None:
    assert cell_centres(8, 32) == (1.5, 4)
    assert cell_centres(1, 9) == (4, 9)
    with pytest.raises(InputError):
        cell_centres(0, 9)


def test_an_impulse_lands_on_its_cells_centre() -> None:
    spec = PreprocessSpec(256, 256)
    for row, column in [(10, 40), (1, 1), (54, 30)]:
        cells = np.zeros((56, 56), np.float32)
        cells[row, column] = 1
        placed = place_map(cells, spec, 256, 256)
        assert placed.shape == (256, 256) and placed.dtype == np.float32
        assert np.argwhere(placed == 1).tolist() == [[16 + 4 * row, 16 + 4 * column]]
        # Bilinear: a tent of four pixels to each side, whose weights add up to the cell's area.
        assert placed.sum() == pytest.approx(16)
        assert placed[16 + 4 * row, 16 + 4 * column + 1] == pytest.approx(0.75)


def test_the_border_repeats_the_outermost_cells() -> None:
    cells = np.zeros((56, 56), np.float32)
    cells[0, 0], cells[55, 55] = 1, 2
    placed = place_map(cells, PreprocessSpec(256, 256), 256, 256)
    assert (placed[:17, :17] == 1).all()
    assert (placed[236:, 236:] == 2).all()
    assert placed[20:, :].max() == 2 and placed[0, 20] == 0
    constant = place_map(np.full((56, 56), 0.7, np.float32), PreprocessSpec(256, 256), 100, 333)
    assert constant == pytest.approx(np.float32(0.7))


def test_a_zero_border_lies_beyond_the_outermost_cells_only() -> None:
    cells = np.full((56, 56), 0.7, np.float32)
    placed = place_map(cells, PreprocessSpec(256, 256), 256, 256, "zero")
    # The first cell's centre is 16 and it reaches half a step of 4 px to each side: 14 to 238.
    inside = np.zeros((256, 256), bool)
    inside[14:239, 14:239] = True
    assert np.array_equal(placed != 0, inside)
    assert placed[inside] == pytest.approx(0.7)
    twice = place_map(cells, PreprocessSpec(256, 256), 512, 256, "zero")
    assert np.flatnonzero(twice[:, 100]).tolist() == list(range(29, 477))
    # Tiles fill the image, so there is nothing beyond them.
    tiles = np.full((32, 32), 0.7, np.float32)
    for size in (64, 100, 256, 1000):
        assert place_map(tiles, PreprocessSpec(256, 256), size, size, "zero").min() > 0
    values = np.random.default_rng(1).random((56, 56)).astype(np.float32)
    repeated = place_map(values, PreprocessSpec(256, 256), 256, 256)
    assert np.array_equal(
        place_map(values, PreprocessSpec(256, 256), 256, 256, "zero")[inside], repeated[inside]
    )


def test_scale_region_and_aspect_are_undone() -> None:
    spec = PreprocessSpec(height=128, width=256, roi=Roi(100, 50, 512, 512))
    cells = np.zeros((24, 56), np.float32)
    cells[10, 40] = 1
    placed = place_map(cells, spec, 700, 900)
    region = inspected_region(spec, 700, 900)
    assert (region.x, region.y) == (100, 50) and placed.shape == (512, 512)
    weights = placed / placed.sum()
    # Pixel centres: network x 176 is image (176 + 0.5) * 2 - 0.5; y 56 is (56 + 0.5) * 4 - 0.5.
    assert (weights.sum(0) * np.arange(512)).sum() == pytest.approx(352.5, abs=1e-3)
    assert (weights.sum(1) * np.arange(512)).sum() == pytest.approx(225.5, abs=1e-3)


@pytest.mark.parametrize(
    ("spec", "height", "width", "y", "x"),
    [
        (PreprocessSpec(128, 128), 128, 128, 70, 40),
        (PreprocessSpec(128, 128), 480, 640, 300, 222),
        (PreprocessSpec(96, 160), 480, 640, 280, 333),
        (PreprocessSpec(128, 128, Roi(200, 100, 256, 256)), 480, 640, 230, 300),
    ],
)
def test_a_spot_comes_back_where_it_was(
    spec: PreprocessSpec, height: int, width: int, y: int, x: int
) -> None:
    """Through the one preprocessing, patches of 33 pixels every 4, and back."""
    image = np.zeros((height, width, 3), np.uint8)
    image[y - 4 : y + 5, x - 4 : x + 5] = 255
    pixels = preprocess(image, spec)[0, :, :, 0].astype(np.float32)
    rows, columns = ((n - RECEPTIVE_FIELD) // STRIDE + 1 for n in pixels.shape)
    # What a patch shows of the spot, weighted towards the patch's centre.
    tent = 17 - np.abs(np.arange(RECEPTIVE_FIELD) - 16.0)
    kernel = np.outer(tent, tent)
    cells = np.array(
        [
            [(pixels[4 * i : 4 * i + 33, 4 * j : 4 * j + 33] * kernel).sum() for j in range(columns)]
            for i in range(rows)
        ],
        np.float32,
    )
    placed = place_map(cells, spec, height, width)
    region = inspected_region(spec, height, width)
    mass = np.where(placed > 0.5 * placed.max(), placed, 0)
    mass /= mass.sum()
    found_y = region.y + (mass.sum(1) * np.arange(region.height)).sum()
    found_x = region.x + (mass.sum(0) * np.arange(region.width)).sum()
    # Half a pixel of the network and half one of the image.
    assert abs(found_y - y) < 0.5 * region.height / spec.height + 0.5
    assert abs(found_x - x) < 0.5 * region.width / spec.width + 0.5


def test_a_region_outside_the_image_is_refused() -> None:
    spec = PreprocessSpec(64, 64, Roi(10, 10, 100, 100))
    with pytest.raises(InputError, match="does not fit"):
        place_map(np.zeros((8, 8), np.float32), spec, 64, 64)
    with pytest.raises(InputError, match="cannot be placed"):
        place_map(np.zeros((0, 8), np.float32), PreprocessSpec(64, 64), 64, 64)
