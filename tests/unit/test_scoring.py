"""Scoring: the paper's normalization, the border, and the verdict's edge cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_ad_runtime.calibration import Calibration, Mix, Quantiles
from edge_ad_runtime.errors import CalibrationError
from edge_ad_runtime.scoring import Verdict, combine_maps, decide, image_score

QUANTILES = Quantiles(qa_st=1.0, qb_st=3.0, qa_ae=0.1, qb_ae=0.2)


def calibration(threshold: float) -> Calibration:
    return Calibration(
        bundle="", quantiles=QUANTILES, threshold=threshold, method="given", false_reject_rate=None, images=5,
        created="", source="",
    )  # fmt: skip


def test_combined_map_is_the_papers() -> None:
    rng = np.random.default_rng(0)
    st, ae = rng.random((2, 7, 5)).astype(np.float32)
    for mix in (Mix(), Mix(1, 0), Mix(0.2, 0.8)):
        expected = mix.st * 0.1 * (st - 1.0) / 2.0 + mix.ae * 0.1 * (ae - 0.1) / 0.1
        combined = combine_maps(st, ae, QUANTILES, mix)
        assert combined.dtype == np.float32
        np.testing.assert_allclose(combined, expected, rtol=1e-5, atol=1e-6)


def test_inputs_are_left_alone() -> None:
    st, ae = np.ones((2, 4, 4), np.float32)
    combine_maps(st, ae, QUANTILES, Mix())
    assert (st == 1).all() and (ae == 1).all()


@pytest.mark.parametrize("cell", [(0, 0), (0, 55), (55, 0), (55, 55), (30, 30)])
def test_a_peak_counts_the_same_in_every_corner(cell: tuple[int, int]) -> None:
    anomaly_map = np.zeros((56, 56), np.float32)
    anomaly_map[cell] = 2.5
    assert image_score(anomaly_map) == 2.5


@pytest.mark.parametrize(
    ("score", "verdict"),
    [(0.4, Verdict.PASS), (0.5, Verdict.PASS), (math.nextafter(0.5, 1), Verdict.REJECT), (9.0, Verdict.REJECT),
     (math.nan, Verdict.FAULT), (math.inf, Verdict.FAULT), (-math.inf, Verdict.FAULT)],
)  # fmt: skip
def test_verdict(score: float, verdict: Verdict) -> None:
    assert decide(score, calibration(0.5)) is verdict


@pytest.mark.parametrize("bad", [(2.0, 1.0), (1.0, 1.0), (math.nan, 1.0), (0.0, math.inf)])
def test_quantiles_that_do_not_rise_are_refused(bad: tuple[float, float]) -> None:
    with pytest.raises(CalibrationError, match="rising"):
        Quantiles(qa_st=bad[0], qb_st=bad[1], qa_ae=0, qb_ae=1)


def test_other_impossible_calibrations_are_refused() -> None:
    with pytest.raises(CalibrationError, match="add up to 1"):
        Mix(0.5, 0.6)
    with pytest.raises(CalibrationError, match="not a finite number"):
        calibration(math.nan)
