"""The fit of quantiles and threshold, against numpy and against large samples."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad_calibration.fit import (
    MIN_IMAGES,
    fit_calibration,
    fit_mix,
    fit_quantiles,
    fit_threshold,
    score_maps,
)
from edge_ad_runtime.calibration import (
    Background,
    Calibration,
    Mix,
    Quantiles,
    decode_calibration,
    encode_calibration,
)
from edge_ad_runtime.engines import RawMaps
from edge_ad_runtime.errors import CalibrationError
from edge_ad_runtime.score_rule import parse_score
from edge_ad_runtime.scoring import apply_calibration


def maps_of(count: int, seed: int = 0, cells: int = 12) -> list[RawMaps]:
    rng = np.random.default_rng(seed)
    return [
        RawMaps(*(rng.gamma(2.0, scale, (cells, cells)).astype(np.float32) for scale in (1.0, 3.0)))
        for _ in range(count)
    ]


def fit(maps: list[RawMaps], rate: float = 0.01, threshold: float | None = None) -> Calibration:
    return fit_calibration(maps, bundle="b", source="s", false_reject_rate=rate, threshold=threshold)


def test_quantiles_are_those_over_all_cells() -> None:
    maps = maps_of(9)
    q = fit_quantiles(maps)
    st_cells, ae_cells = (np.stack([m[i] for m in maps]) for i in (0, 1))
    assert q.qa_st == pytest.approx(np.quantile(st_cells, 0.9), rel=1e-6)
    assert q.qb_st == pytest.approx(np.quantile(st_cells, 0.995), rel=1e-6)
    assert q.qa_ae == pytest.approx(np.quantile(ae_cells, 0.9), rel=1e-6)
    assert q.qb_ae == pytest.approx(np.quantile(ae_cells, 0.995), rel=1e-6)


def test_quantiles_of_known_values() -> None:
    ramp = np.arange(1001, dtype=np.float32).reshape(7, 143)
    assert fit_quantiles([RawMaps(ramp, 2 * ramp)]) == Quantiles(
        qa_st=900.0, qb_st=995.0, qa_ae=1800.0, qb_ae=1990.0
    )


@pytest.mark.parametrize("rate", [0.1, 0.01, 0.001])
def test_the_realised_rate_is_the_one_asked_for(rate: float) -> None:
    """Fitted on one large Gumbel sample, counted on another."""
    rng = np.random.default_rng(1)
    threshold = fit_threshold(rng.gumbel(0.3, 0.05, 200_000).tolist(), rate)
    realised = float((rng.gumbel(0.3, 0.05, 1_000_000) > threshold).mean())
    assert realised == pytest.approx(rate, rel=0.12)


def test_a_hundred_images_are_enough_on_average() -> None:
    rng = np.random.default_rng(2)
    rates = []
    for _ in range(300):
        threshold = fit_threshold(rng.gumbel(1.0, 0.2, 100).tolist(), 0.01)
        rates.append(-math.expm1(-math.exp(-(threshold - 1.0) / 0.2)))
    assert np.mean(rates) == pytest.approx(0.01, rel=0.35)
    assert max(rates) < 0.05


def test_scores_that_are_maxima_of_many_cells() -> None:
    """The assumption itself: the maximum over many cells of a light-tailed map is nearly Gumbel."""
    rng = np.random.default_rng(3)
    scores = rng.gamma(2.0, 1.0, (6000, 400)).max(axis=1)
    threshold = fit_threshold(scores[:2000].tolist(), 0.01)
    assert 0.004 < float((scores[2000:] > threshold).mean()) < 0.02


@settings(max_examples=100, deadline=None)
@given(
    scores=st.lists(st.floats(-10, 10), min_size=2, max_size=60),
    low=st.floats(1e-6, 0.4),
    factor=st.floats(1.01, 2),
)
def test_fewer_false_rejects_need_a_higher_threshold(scores: list[float], low: float, factor: float) -> None:
    if np.std(scores) < 1e-6:
        return
    assert fit_threshold(scores, low) > fit_threshold(scores, low * factor)


@settings(max_examples=50, deadline=None)
@given(shift=st.floats(-5, 5), scale=st.floats(0.01, 100))
def test_the_threshold_moves_with_the_scores(shift: float, scale: float) -> None:
    scores = np.random.default_rng(4).gumbel(size=50)
    expected = fit_threshold(scores.tolist()) * scale + shift
    assert fit_threshold((scores * scale + shift).tolist()) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_calibration_normalizes_its_own_maps() -> None:
    """A tenth of the cells lie above 0 and half a percent above 0.1, as Algorithm 2 wants, map by map."""
    maps = maps_of(50, cells=20)
    calibration = fit(maps)
    q = calibration.quantiles
    for index, (a, b) in enumerate(((q.qa_st, q.qb_st), (q.qa_ae, q.qb_ae))):
        normalized = 0.1 * (np.stack([m[index] for m in maps]) - a) / (b - a)
        assert (normalized > 0).mean() == pytest.approx(0.1, abs=1e-3)
        assert (normalized > 0.1).mean() == pytest.approx(0.005, abs=1e-4)
    scores = score_maps(maps, q, calibration.mix)
    assert calibration.threshold == pytest.approx(fit_threshold(scores, 0.01))


def test_the_record() -> None:
    fitted = fit(maps_of(30), rate=0.002)
    assert (fitted.bundle, fitted.source, fitted.images) == ("b", "s", 30)
    assert (fitted.method, fitted.false_reject_rate, fitted.mix) == ("gumbel", 0.002, Mix())
    given_one = fit(maps_of(30), threshold=0.75)
    assert (given_one.threshold, given_one.method, given_one.false_reject_rate) == (0.75, "given", None)
    assert given_one.quantiles == fitted.quantiles


def test_errors() -> None:
    with pytest.raises(CalibrationError, match="at least one map"):
        fit_quantiles([])
    broken = maps_of(5)
    broken[3].ae[0, 0] = np.nan
    with pytest.raises(CalibrationError, match="not finite"):
        fit_quantiles(broken)
    flat = np.ones((4, 4), np.float32)
    with pytest.raises(CalibrationError, match="finite and rising"):
        fit_quantiles([RawMaps(flat, flat)] * 5)
    for rate in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(CalibrationError, match="between 0 and 1"):
            fit_threshold([1.0, 2.0], rate)
    for scores in ([], [1.0], [1.0, float("nan")], [1.0, float("inf")]):
        with pytest.raises(CalibrationError, match="at least two finite scores"):
            fit_threshold(scores)
    with pytest.raises(CalibrationError, match="the same score"):
        fit_threshold([0.5] * 10)
    with pytest.raises(CalibrationError, match="too few"):
        fit(maps_of(MIN_IMAGES - 1))
    with pytest.raises(CalibrationError, match="not a finite number"):
        fit(maps_of(MIN_IMAGES), threshold=float("nan"))


def scattered(count: int = 12) -> list[RawMaps]:
    """Maps whose autoencoder half scatters three times as much as the other, in units of its quantiles."""
    rng = np.random.default_rng(5)
    base = rng.random((20, 20)).astype(np.float32)
    return [
        RawMaps(base + np.float32(0.1 * rng.random()), 4 * base + np.float32(1.2 * rng.random()))
        for _ in range(count)
    ]


def test_the_chosen_mix_makes_both_scatters_equal() -> None:
    maps = scattered()
    quantiles = fit_quantiles(maps)
    mix = fit_mix(maps, quantiles)
    assert mix.st > 0.6
    spreads = [
        mix.st * np.std(score_maps(maps, quantiles, Mix(1, 0))),
        mix.ae * np.std(score_maps(maps, quantiles, Mix(0, 1))),
    ]
    assert spreads[0] == pytest.approx(spreads[1])
    calibration = fit_calibration(maps, bundle="", source="", mix="auto")
    assert calibration.mix == mix
    with pytest.raises(CalibrationError, match="do not vary"):
        fit_mix(maps[:1] * 5, quantiles)


@pytest.mark.parametrize("score", ["max", "topk:7", "percentile:99", "mean"])
def test_the_threshold_is_that_of_the_rule(score: str) -> None:
    maps = scattered()
    calibration = fit_calibration(maps, bundle="", source="", score=score)
    scores = score_maps(maps, calibration.quantiles, calibration.mix, parse_score(score))
    assert calibration.score == score
    assert calibration.threshold == fit_threshold(scores)
    assert max(scores) < calibration.threshold + 3 * np.std(scores)


def framed(count: int, seed: int = 0, frame: float = 5.0) -> list[RawMaps]:
    """Noise, and in the autoencoder map a frame that is the same in every image."""
    rng = np.random.default_rng(seed)
    border = np.zeros((16, 20), np.float32)
    border[:, -1] = frame
    return [
        RawMaps(
            rng.gamma(2.0, 1.0, border.shape).astype(np.float32),
            border + rng.gamma(2.0, 0.1, border.shape).astype(np.float32),
        )
        for _ in range(count)
    ]


def test_a_frame_hides_a_defect_until_it_is_taken_off() -> None:
    good, new = framed(30), framed(200, seed=1)
    bad = RawMaps(new[0].st.clip(0, 2), new[0].ae.copy())
    bad.ae[8, 8] += 2.0
    plain = fit_calibration(good, bundle="", source="", mix=Mix(0, 1))
    without = fit_calibration(good, bundle="", source="", mix=Mix(0, 1), background=True)
    assert plain.background is None and without.background is not None
    assert (without.background.height, without.background.width) == (16, 20)
    assert apply_calibration(bad, plain)[1] < plain.threshold
    assert apply_calibration(bad, without)[1] > without.threshold
    decoded = decode_calibration(encode_calibration(without), "here")
    assert decoded == without
    assert apply_calibration(bad, decoded)[1] == apply_calibration(bad, without)[1]


@pytest.mark.parametrize("count", [5, 8, 40])
def test_the_background_is_not_fitted_on_the_image_that_it_is_taken_off(count: int) -> None:
    """New good images are rejected about as often as asked for, even after a fit on five."""
    rejected = []
    for seed in range(40):
        calibration = fit_calibration(
            framed(count, seed), bundle="", source="", mix=Mix(0, 1), background=True, false_reject_rate=0.05
        )
        new = framed(50, seed=1000 + seed)
        rejected += [apply_calibration(m, calibration)[1] > calibration.threshold for m in new]
    assert np.mean(rejected) < 0.11


def test_backgrounds_of_another_size_are_refused() -> None:
    calibration = fit_calibration(framed(6), bundle="", source="", background=True)
    other = RawMaps(*np.ones((2, 8, 8), np.float32))
    with pytest.raises(CalibrationError, match="16x20 cells, the maps 8x8"):
        apply_calibration(other, calibration)
    with pytest.raises(CalibrationError, match="has 12 bytes"):
        Background(2, 2, b"\0" * 12)
    with pytest.raises(CalibrationError, match="not finite"):
        Background(1, 1, np.array([np.nan], "<f4").tobytes())


def test_calibrations_of_the_first_version_are_read() -> None:
    calibration = fit(maps_of(6))
    fields = json.loads(encode_calibration(calibration))
    del fields["background"]
    fields["format_version"] = 1
    read = decode_calibration(json.dumps(fields).encode(), "here")
    assert read.background is None and read.threshold == calibration.threshold
    fields["format_version"] = 4
    with pytest.raises(CalibrationError, match="update edge-ad"):
        decode_calibration(json.dumps(fields).encode(), "here")
