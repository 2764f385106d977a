"""The heat maps of a picture can be compared by eye; the charts show what flipped."""

from __future__ import annotations

import numpy as np
import pytest

from edge_ad.report.charts import correlations, histograms, scatter, sensitivity
from edge_ad.report.model import Limits, Report
from edge_ad.report.pictures import LARGE_SIDE, SIDE, Picture, panels, picture_of, scale_png
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.images import decode_image
from edge_ad_runtime.preprocess import PreprocessSpec, Roi
from edge_ad_runtime.types import FloatArray, Image
from tests.report.records import (
    FLOAT_THRESHOLD,
    TARGET_THRESHOLD,
    image,
    report,
    some_images,
)

GREY = np.full((200, 400, 3), 90, np.uint8)
SPEC = PreprocessSpec(height=64, width=64)


def _spot(value: float) -> FloatArray:
    """A map of 8x8 cells, zero but for four of them left of the middle; on the picture rows 49 to 56, columns 70
    to 84, as the cells of 64 px lie at 16, 20, …, 44."""
    cells = np.zeros((8, 8), np.float32)
    cells[3:5, 1:3] = value
    return cells


def _drawn(
    float_map: FloatArray, target_map: FloatArray, *, large: bool = False, rule: str = "max"
) -> list[Image]:
    picture = picture_of(GREY, float_map, target_map, SPEC)
    return [decode_image(data) for data in panels(picture, report(score_rule=rule), large)]


def test_the_same_map_has_the_same_colours() -> None:
    plain, a, b = _drawn(_spot(0.2), _spot(0.2))
    assert plain.shape == a.shape == (SIDE // 2, SIDE, 3) and np.abs(plain.astype(int) - 90).max() < 4
    assert np.array_equal(a, b)
    assert _drawn(_spot(0.2), _spot(0.2), large=True)[1].shape == (LARGE_SIDE // 2, LARGE_SIDE, 3)


@pytest.mark.parametrize("rule", ["max", "mean"])
def test_the_higher_map_is_the_brighter(rule: str) -> None:
    _, a, b = _drawn(_spot(0.05), _spot(0.24), rule=rule)
    rows, columns = slice(47, 58), slice(67, 87)
    assert b[rows, columns].mean() > a[rows, columns].mean() + 30
    # Where both are 0, both are as dark.
    assert np.abs(a[:, 120:].astype(int) - b[:, 120:].astype(int)).max() < 8


def test_the_line_is_each_model_s_own_threshold() -> None:
    between = (FLOAT_THRESHOLD + TARGET_THRESHOLD) / 2
    _, a, b = _drawn(_spot(between), _spot(between), large=True)
    assert (a.min(axis=2) > 200).any() and not (b.min(axis=2) > 200).any()


def test_cells_that_are_not_finite_are_the_brightest() -> None:
    _, a, b = _drawn(_spot(0.2), _spot(np.nan))
    assert b[47:58, 67:87].mean() > a[47:58, 67:87].mean() + 30
    _, flat, _ = _drawn(np.full((8, 8), np.inf, np.float32), _spot(0.2), rule="mean")
    assert flat.mean() > 100


def test_only_the_region_is_coloured_and_its_maps_must_fit() -> None:
    spec = PreprocessSpec(height=64, width=64, roi=Roi(100, 40, 120, 80))
    picture = picture_of(GREY, np.full((8, 8), 5, np.float32), np.zeros((8, 8), np.float32), spec)
    assert picture.float_map.shape == (80, 120)
    _, heat, _ = (decode_image(data).astype(int) for data in panels(picture, report(), True))
    coloured = heat.max(axis=2) - heat.min(axis=2) > 60
    rows, columns = np.nonzero(coloured)
    scale = LARGE_SIDE / 400
    assert (rows.min(), rows.max()) == pytest.approx((40 * scale, 120 * scale), abs=3)
    assert (columns.min(), columns.max()) == pytest.approx((100 * scale, 220 * scale), abs=3)
    with pytest.raises(InputError, match="do not fit"):
        Picture(GREY, Roi(0, 0, 10, 10), np.zeros((10, 10), np.float32), np.zeros((9, 10), np.float32))
    with pytest.raises(InputError, match="not finite"):
        Picture(GREY, Roi(0, 0, 1, 1), np.zeros((1, 1), np.float32), np.full((1, 1), np.nan, np.float32))


def test_the_scale_runs_from_dark_to_bright() -> None:
    scale = decode_image(scale_png()).astype(int).sum(axis=2)[5]
    scale = np.delete(scale, np.argmax(np.abs(np.diff(scale))) + np.arange(-2, 4))
    assert scale[0] < 20 and scale[-1] > 500 and (np.diff(scale) > -30).all()


def _red(chart: bytes) -> int:
    pixels = decode_image(chart).astype(int)
    return int(((pixels[..., 0] > 180) & (pixels[..., 1] < 80) & (pixels[..., 2] < 80)).sum())


def test_flipped_images_are_ringed() -> None:
    calm = [i for i in some_images() if not i.flipped]
    assert _red(scatter(report(calm))) == 0
    assert _red(scatter(report())) > 50


@pytest.mark.parametrize(
    "record",
    [
        report([image("a.png", "good", np.nan, np.nan, map_correlation=np.nan)], sensitivity=()),
        report([image("a.png", "good", 0.1, 0.1, map_correlation=1.0)]),
        report([image(str(n), "good", 0.1, 0.1, map_correlation=c) for n, c in enumerate((-1.0, 0.3, 1.0))]),
        report([image("a.png", "dent", 1e-9, 1e9)]),
        report(limits=Limits(max_drop=None, min_map_correlation=None, passed=True, broken=(), forced=False)),
    ],
)
def test_charts_can_be_drawn_of_anything(record: Report) -> None:
    for draw in (scatter, histograms, correlations, sensitivity):
        assert decode_image(draw(record)).std() > 2
