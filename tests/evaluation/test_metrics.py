"""The metrics against slow, literal implementations of their definitions, and by hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score

from edge_ad.evaluation.metrics import best_f1, image_ap, image_auroc, image_roc
from edge_ad.evaluation.pixels import INTEGRATION_LIMIT, Mask, pixel_metrics
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.types import FloatArray

Sample = tuple[FloatArray, Mask]


def components(mask: Mask) -> list[set[tuple[int, int]]]:
    """The 8-connected regions of a mask, by flooding."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    found = []
    while left:
        region, border = set(), [left.pop()]
        while border:
            y, x = border.pop()
            region.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            border += near
        found.append(region)
    return found


def slow_aupro(samples: Sequence[Sample], limit: float) -> float:
    """Bergmann et al., IJCV 2021: every distinct value as a threshold, each region counted by itself."""
    thresholds = sorted({float(v) for values, _ in samples for v in values.ravel()}, reverse=True)
    regions = [(values, region) for values, mask in samples for region in components(mask)]
    points = [(0.0, 0.0)]
    for threshold in thresholds:
        false = sum(int((values[~mask] >= threshold).sum()) for values, mask in samples)
        clean = sum(int((~mask).sum()) for _, mask in samples)
        overlap = [sum(values[at] >= threshold for at in region) / len(region) for values, region in regions]
        points.append((false / clean, sum(overlap) / len(overlap)))
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
def sample_sets(draw: st.DrawFn) -> list[Sample]:
    """Up to four small maps with masks; few distinct values, so that ties are the rule."""
    seed = draw(st.integers(0, 2**32 - 1))
    levels = draw(st.sampled_from([2, 3, 7, 1000]))
    share = draw(st.sampled_from([0.05, 0.3, 0.7]))
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(draw(st.integers(1, 4))):
        shape = tuple(rng.integers(1, 9, 2))
        values = (rng.integers(0, levels, shape) / levels).astype(np.float32)
        samples.append((values, rng.random(shape) < share))
    return samples


@given(sample_sets(), st.sampled_from([0.05, 0.3, 1.0]))
@settings(max_examples=200, deadline=None)
def test_pixel_metrics_agree_with_the_definition(samples: list[Sample], limit: float) -> None:
    got = pixel_metrics(samples, limit)
    labels = np.concatenate([mask.ravel() for _, mask in samples])
    if labels.all() or not labels.any():
        assert got is None
        return
    assert got is not None
    values = np.concatenate([v.ravel() for v, _ in samples])
    assert got.auroc == pytest.approx(roc_auc_score(labels, values), abs=1e-12)
    assert got.aupro == pytest.approx(slow_aupro(samples, limit), abs=1e-12)
    assert got.regions == sum(len(components(mask)) for _, mask in samples)


def test_aupro_of_an_image_done_by_hand() -> None:
    # Two regions: A of one pixel (value 3), B of two (values 1 and 3). Five clean pixels: 2, 0, 0, 0, 0.
    values = np.array([[3, 0, 0, 1], [0, 0, 2, 3]], np.float32)
    mask = np.array([[1, 0, 0, 1], [0, 0, 0, 1]], bool)
    # t=3: FPR 0, overlap (1 + 1/2)/2 = 3/4. t=2: FPR 1/5, 3/4. t=1: FPR 1/5, 1. t=0: FPR 1, 1.
    got = pixel_metrics([(values, mask)])
    assert got is not None and got.regions == 2
    assert got.aupro == pytest.approx((0.2 * 0.75 + 0.1 * 1) / 0.3)
    # Pairs of a defect pixel and a clean one: 3 > all (2 x 5), 1 > four of five.
    assert got.auroc == pytest.approx(14 / 15)


def test_a_small_region_counts_as_much_as_a_large_one() -> None:
    values = np.zeros((10, 20), np.float32)
    mask = np.zeros((10, 20), bool)
    mask[:, :8], mask[5, 15] = True, True
    values[:, :8] = 1
    got = pixel_metrics([(values, mask)])
    assert got is not None
    # One of two regions is found before any false positive, the other only with all clean pixels at once:
    # a straight climb from (0, 1/2) to (1, 1), whose mean up to 0.3 is 0.5 + 0.5 * 0.3 / 2.
    assert got.aupro == pytest.approx(0.5 + 0.5 * INTEGRATION_LIMIT / 2)
    assert got.auroc == pytest.approx((80 + 0.5) / 81)


def test_diagonal_neighbours_are_one_region() -> None:
    mask = np.eye(4, dtype=bool)
    got = pixel_metrics([(mask.astype(np.float32), mask)])
    assert got is not None and (got.regions, got.aupro, got.auroc) == (1, 1.0, 1.0)


def test_a_constant_map_is_chance() -> None:
    mask = np.zeros((8, 8), bool)
    mask[2:4, 2:4] = True
    got = pixel_metrics([(np.full((8, 8), 0.3, np.float32), mask)])
    assert got is not None
    assert got.auroc == pytest.approx(0.5)
    assert got.aupro == pytest.approx(INTEGRATION_LIMIT / 2)


def test_the_worst_map_gets_nothing() -> None:
    mask = np.zeros((8, 8), bool)
    mask[0, 0] = True
    got = pixel_metrics([((~mask).astype(np.float32), mask)])
    assert got is not None and (got.auroc, got.aupro) == (0.0, 0.0)


def test_good_images_count_as_false_positives() -> None:
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = True
    defect = mask.astype(np.float32)
    noisy = np.full((4, 4), 2, np.float32)
    alone = pixel_metrics([(defect, mask)])
    with_noise = pixel_metrics([(defect, mask), (noisy, np.zeros((4, 4), bool))])
    assert alone is not None and alone.aupro == 1
    # 16 of 31 clean pixels exceed every defect pixel, which is beyond the integration limit.
    assert with_noise is not None and with_noise.aupro == 0
    assert with_noise.auroc == pytest.approx(15 / 31)


def test_unusable_pixels_are_refused() -> None:
    mask = np.ones((2, 2), bool)
    with pytest.raises(InputError, match="do not belong together"):
        pixel_metrics([(np.zeros((2, 3), np.float32), mask)])
    with pytest.raises(InputError, match="not finite"):
        pixel_metrics([(np.full((2, 2), np.nan, np.float32), mask)])
    with pytest.raises(InputError, match="twice"):
        pixel_metrics(iter([(np.zeros((2, 2), np.float32), mask)]))
    with pytest.raises(InputError, match="limit"):
        pixel_metrics([], 0.0)


def test_image_auroc_counts_ties_as_a_half() -> None:
    assert image_auroc([1, 2, 2, 3], [False, False, True, True]) == pytest.approx(3.5 / 4)
    assert image_auroc([5, 5, 5], [False, True, True]) == pytest.approx(0.5)


def test_average_precision_by_hand() -> None:
    # From the top: defect (precision 1), good, defect (2/3); each defect adds a step of recall of a half.
    assert image_ap([4, 3, 2, 1], [True, False, True, False]) == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("defect", [False, True])
def test_one_class_gives_no_metric(defect: bool) -> None:
    scores, defects = [0.1, 0.2, 0.3], [defect] * 3
    assert image_auroc(scores, defects) is None
    assert image_ap(scores, defects) is None
    assert best_f1(scores, defects) is None
    assert image_roc(scores, defects) is None
    assert image_auroc([], []) is None


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="not a finite"):
        image_auroc([0.1, float("nan")], [False, True])
    with pytest.raises(InputError, match="belong together"):
        best_f1([0.1], [False, True])


def test_best_f1_by_hand() -> None:
    # Rejecting 4, 3 and 2: precision 2/3, recall 1, F1 0.8; rejecting 4 alone: 1, 1/2, F1 2/3.
    got = best_f1([1, 2, 3, 4], [False, True, False, True])
    assert got is not None
    assert got.f1 == pytest.approx(0.8)
    assert got.threshold == 1.5


@given(
    st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 3.0]), st.booleans()), min_size=1, max_size=30)
)
@settings(deadline=None)
def test_no_threshold_beats_the_best_f1(labelled: list[tuple[float, bool]]) -> None:
    scores = [score for score, _ in labelled]
    defects = [defect for _, defect in labelled]
    got = best_f1(scores, defects)
    if got is None:
        assert all(defects) or not any(defects)
        return
    # A part is rejected above the threshold, as on the line.
    assert f1_score(defects, [s > got.threshold for s in scores]) == pytest.approx(got.f1)
    everywhere = [f1_score(defects, [s > t for s in scores]) for t in [-2.0, *scores]]
    assert got.f1 == pytest.approx(max(everywhere))


def test_neighbouring_floats_can_be_separated() -> None:
    high = float(np.nextafter(1.0, 2.0))
    got = best_f1([1.0, high], [False, True])
    assert got is not None and got.f1 == 1
    assert 1.0 <= got.threshold < high
