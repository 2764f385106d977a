"""Scoring: the paper's normalization, the border, and the verdict's edge cases."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from edge_ad_runtime.calibration import Calibration, Mix, Quantiles, background_of, parse_mix
from edge_ad_runtime.engines import RawMaps
from edge_ad_runtime.errors import CalibrationError, InputError
from edge_ad_runtime.score_rule import ScoreRule, parse_score
from edge_ad_runtime.scoring import apply_calibration, combine_maps, decide, image_score
from edge_ad_runtime.verdict import Verdict

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


@pytest.mark.parametrize("with_background", [False, True])
@pytest.mark.parametrize("text", ["max", "mean", "topk:3", "percentile:90"])
def test_scratch_changes_no_bit_and_nothing_of_the_caller(with_background: bool, text: str) -> None:
    rng = np.random.default_rng(0)
    scratch = np.full((7, 5), np.nan, np.float32)
    for _ in range(50):
        st, ae, back = rng.random((3, 7, 5)).astype(np.float32)
        record = msgspec.structs.replace(
            calibration(0.5),
            score=text,
            mix=Mix(0.3, 0.7),
            background=background_of(back) if with_background else None,
        )
        maps = RawMaps(st.copy(), ae.copy())
        maps.st.flags.writeable = maps.ae.flags.writeable = False
        expected, score = apply_calibration(maps, record)
        combined, with_scratch = apply_calibration(maps, record, scratch)
        assert with_scratch == score
        assert combined.tobytes() == expected.tobytes()
        assert not np.shares_memory(combined, scratch)
        scratch[:] = np.nan
        assert combined.tobytes() == expected.tobytes()
        assert (maps.st == st).all() and (maps.ae == ae).all()


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max", 9.9),
        ("mean", 4.95),
        ("topk:1", 9.9),
        ("topk:4", 9.75),
        ("topk:1000", 4.95),
        ("topk:0.04", 9.75),
        ("topk:0.0001", 9.9),
        ("percentile:100", 9.9),
        ("percentile:50", 4.95),
        ("percentile:0", 0.0),
        ("percentile:99.99999", 9.9),
        ("topk:1234567", 4.95),
    ],
)
def test_image_scores(text: str, expected: float) -> None:
    """On the cells 0, 0.1, …, 9.9."""
    cells = (np.random.default_rng(0).permutation(100).reshape(10, 10) / 10).astype(np.float32)
    rule = parse_score(text)
    assert image_score(cells, rule) == pytest.approx(expected, rel=1e-5)
    assert parse_score(str(rule)) == rule


@pytest.mark.parametrize("text", ["max", "mean", "topk:3", "percentile:50"])
def test_one_cell_that_is_not_finite_is_a_fault_by_every_rule(text: str) -> None:
    cells = np.zeros((8, 8), np.float32)
    cells[3, 3] = np.nan
    assert decide(image_score(cells, parse_score(text)), calibration(0.5)) is Verdict.FAULT
    cells[3, 3] = -np.inf
    if text != "max":
        assert decide(image_score(cells, parse_score(text)), calibration(0.5)) is Verdict.FAULT


@pytest.mark.parametrize(
    "text",
    ["", "max:1", "mean:", "topk", "topk:0", "topk:1.5", "topk:-3", "percentile:101", "percentile:x", "min"],
)
def test_unknown_scores_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="image score"):
        parse_score(text)


def test_a_calibration_applies_its_rule_and_refuses_unknown_ones() -> None:
    rng = np.random.default_rng(1)
    maps = RawMaps(*rng.random((2, 6, 6)).astype(np.float32))
    record = Calibration(
        bundle="", quantiles=QUANTILES, threshold=0, method="given", false_reject_rate=None, images=5,
        created="", source="", mix=Mix(0.3, 0.7), score="topk:5",
    )  # fmt: skip
    combined, score = apply_calibration(maps, record)
    assert np.array_equal(combined, combine_maps(maps.st, maps.ae, QUANTILES, Mix(0.3, 0.7)))
    assert score == image_score(combined, ScoreRule("topk", 5))
    with pytest.raises(CalibrationError, match="image score"):
        Calibration(
            bundle="", quantiles=QUANTILES, threshold=0, method="given", false_reject_rate=None, images=5,
            created="", source="", score="top:5",
        )  # fmt: skip


def test_mixes_are_read() -> None:
    assert parse_mix("auto") == "auto"
    assert parse_mix("1:0") == Mix(1, 0)
    mix = parse_mix("2:1")
    assert isinstance(mix, Mix) and mix.st == pytest.approx(2 / 3)
    for text in ("", "1", "0:0", "-1:2", "a:b", "1:2:3", "nan:1"):
        with pytest.raises(CalibrationError, match="mix"):
            parse_mix(text)
