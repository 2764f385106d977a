"""sPRO against hand-computed cases, a literal implementation of its definition, and AUPRO."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad.evaluation.pixels import pixel_metrics
from edge_ad.evaluation.spro import SPRO_LIMIT, Region, SproSample, au_spro, saturation_pixels
from edge_ad_runtime.errors import InputError


def slow_spro(samples: Sequence[SproSample], limit: float) -> float | None:
    """Bergmann et al., IJCV 2022, section 4: every distinct value as a threshold, each defect by itself."""
    defects = [(s.values, r) for s in samples for r in s.regions]
    clean = [s.values[~s.union] for s in samples]
    total = sum(len(c) for c in clean)
    if not defects or not total:
        return None
    points = [(0.0, 0.0)]
    for t in sorted({float(v) for s in samples for v in s.values.ravel()}, reverse=True):
        overlaps = [min(float((v[r.mask] >= t).sum()) / r.saturation, 1.0) for v, r in defects]
        points.append((sum(int((c >= t).sum()) for c in clean) / total, sum(overlaps) / len(overlaps)))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= limit:
            break
        if x1 > limit:
            y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            x1 = limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


@st.composite
def sample_sets(draw: st.DrawFn) -> list[SproSample]:
    """Small maps with up to three defects each, which overlap; few distinct values, so that ties are the rule."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([2, 3, 7, 1000]))
    share = draw(st.sampled_from([0.05, 0.3, 0.7]))
    samples = []
    for _ in range(draw(st.integers(1, 4))):
        shape = tuple(rng.integers(1, 9, 2))
        values = (rng.integers(0, levels, shape) / levels).astype(np.float32)
        masks = [rng.random(shape) < share for _ in range(draw(st.integers(0, 3)))]
        regions = [Region(m, int(rng.integers(1, m.sum() + 1))) for m in masks if m.any()]
        samples.append(SproSample(values, tuple(regions)))
    return samples


@given(sample_sets(), st.sampled_from([0.05, 0.3, 1.0]))
@settings(max_examples=200, deadline=None)
def test_it_agrees_with_the_definition(samples: list[SproSample], limit: float) -> None:
    got, expected = au_spro(samples, limit), slow_spro(samples, limit)
    assert (got is None) == (expected is None)
    if expected is not None:
        assert got == pytest.approx(expected, abs=1e-12)


def test_by_hand_a_part_of_a_large_defect_is_enough() -> None:
    # One defect of four pixels, 9 8 1 0, of which two suffice; ten clean pixels: 5 and nine times 0.5.
    values = np.array([[9, 8, 1, 0, 5], [0.5, 0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5, -1]], np.float32)
    mask = np.zeros((3, 5), bool)
    mask[0, :4] = True
    # t=9: 1/2 at FPR 0; t=8: 1 at FPR 0. All of it is found before the first false positive.
    assert au_spro([SproSample(values, (Region(mask, 2),))], 0.3) == pytest.approx(1.0)
    # Three must be found: 2/3 at FPR 0 and up to FPR 1/11 (the 5), 1 from t=1 on, still at FPR 1/11.
    got = au_spro([SproSample(values, (Region(mask, 3),))], 0.3)
    assert got == pytest.approx((1 / 11 * 2 / 3 + (0.3 - 1 / 11)) / 0.3)
    # All four: 2/4, then 3/4; at t=0.5 nine more clean pixels come at once, and the last defect pixel after
    # them, at FPR 10/11.
    got = au_spro([SproSample(values, (Region(mask, 4),))], 0.3)
    assert got == pytest.approx((1 / 11 * 1 / 2 + (0.3 - 1 / 11) * 3 / 4) / 0.3)


def test_by_hand_defects_count_alike_and_may_overlap() -> None:
    # A has pixels 0 and 1, B pixels 1 and 2, the rest is clean; pixel 1 is high alone.
    values = np.array([[0, 9, 0, 1, 1, 1, 1, 1]], np.float32)
    a, b = (np.zeros((1, 8), bool) for _ in range(2))
    a[0, :2], b[0, 1:3] = True, True
    # Before any false positive pixel 1 is half of A, and all that B needs: mean 3/4, level up to FPR 1.
    got = au_spro([SproSample(values, (Region(a, 2), Region(b, 1)))])
    assert got == pytest.approx(0.75)


def test_with_the_whole_area_as_saturation_it_is_aupro() -> None:
    rng = np.random.default_rng(3)
    masks = [np.zeros((20, 30), bool) for _ in range(4)]
    for i, mask in enumerate(masks):
        mask[3 : 6 + 2 * i, 4 : 20 - i] = True
    maps = [(rng.random((20, 30)) + 0.5 * mask).astype(np.float32) for mask in masks]
    samples = [SproSample(v, (Region(m, int(m.sum())),)) for v, m in zip(maps, masks, strict=True)]
    pixels = pixel_metrics(list(zip(maps, masks, strict=True)), 0.3)
    assert pixels is not None
    assert au_spro(samples, 0.3) == pytest.approx(pixels.aupro, abs=1e-12)


def test_good_images_bring_false_positives() -> None:
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = True
    defect = SproSample(mask.astype(np.float32), (Region(mask, 1),))
    assert au_spro([defect]) == 1.0
    noisy = SproSample(np.full((4, 4), 2, np.float32), ())
    assert au_spro([defect, noisy]) == 0.0
    assert au_spro([noisy]) is None
    assert SPRO_LIMIT == 0.05


def test_saturation_is_an_area_or_a_share() -> None:
    assert saturation_pixels(1000, 300, False) == 300
    assert saturation_pixels(1000, 3000, False) == 1000
    assert saturation_pixels(1001, 0.25, True) == 250
    assert saturation_pixels(2, 0.25, True) == 1
    assert saturation_pixels(7, 1.0, True) == 7


def test_unusable_input_is_refused() -> None:
    mask = np.ones((2, 2), bool)
    with pytest.raises(InputError, match="at least 1"):
        Region(mask, 0)
    with pytest.raises(InputError, match="empty"):
        Region(~mask, 1)
    with pytest.raises(InputError, match="belong together"):
        SproSample(np.zeros((2, 3), np.float32), (Region(mask, 1),))
    with pytest.raises(InputError, match="not finite"):
        SproSample(np.full((2, 2), np.nan, np.float32), (Region(mask, 1),))
    with pytest.raises(InputError, match="not finite"):
        au_spro(
            [
                SproSample(np.zeros((2, 2), np.float32), (Region(mask, 1),)),
                SproSample(np.full((2, 2), np.inf, np.float32), ()),
            ]
        )
    with pytest.raises(InputError, match="twice"):
        au_spro(iter([SproSample(np.zeros((2, 2), np.float32), ())]))
    with pytest.raises(InputError, match="limit"):
        au_spro([], 0.0)
