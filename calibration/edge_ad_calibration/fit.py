"""Fitting quantiles and threshold on good images; the same code at conversion and in the field."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence

import numpy as np

from edge_ad_runtime.calibration import PAPER_MIX, Calibration, Mix, MixChoice, Quantiles, background_of
from edge_ad_runtime.engines import RawMaps
from edge_ad_runtime.errors import CalibrationError
from edge_ad_runtime.score_rule import MAX, ScoreRule, parse_score
from edge_ad_runtime.scoring import combine_maps, image_score
from edge_ad_runtime.types import FloatArray

QUANTILE_A, QUANTILE_B = 0.9, 0.995
DEFAULT_FALSE_REJECT_RATE = 0.01
MIN_IMAGES = 5
_EULER = 0.5772156649015329


def fit_quantiles(maps: Sequence[RawMaps]) -> Quantiles:
    """The 0.9 and 0.995 quantiles over all cells of all maps (arXiv 2303.14535, Algorithm 1).

    Raises:
        CalibrationError: there are no maps, or they do not vary.
    """
    if not maps:
        raise CalibrationError("quantiles need at least one map of a good image")
    st, ae = (np.concatenate([np.ravel(m[i]) for m in maps]) for i in (0, 1))
    if not (np.isfinite(st).all() and np.isfinite(ae).all()):
        raise CalibrationError("the maps of the good images are not finite; the model is broken")
    (qa_st, qb_st), (qa_ae, qb_ae) = (np.quantile(x, (QUANTILE_A, QUANTILE_B)).tolist() for x in (st, ae))
    return Quantiles(qa_st=qa_st, qb_st=qb_st, qa_ae=qa_ae, qb_ae=qb_ae)


def fit_threshold(scores: Sequence[float], false_reject_rate: float = DEFAULT_FALSE_REJECT_RATE) -> float:
    """The score that a share ``false_reject_rate`` of good parts is expected to exceed.

    A score is a maximum over many cells, whose limit distribution is Gumbel's (Fisher, Tippett 1928); it
    is fitted by moments, which works with the few images that a line has, where an empirical quantile
    cannot reach beyond the largest score seen. Of means over cells the tail is shorter, and fewer good parts
    than the rate are rejected.

    Raises:
        CalibrationError: fewer than two scores, scores that do not vary, or a rate outside 0 to 1.
    """
    if not 0 < false_reject_rate < 1:
        raise CalibrationError(f"the false-reject rate {false_reject_rate} must lie between 0 and 1")
    values = np.asarray(scores, float)
    if len(values) < 2 or not np.isfinite(values).all():
        raise CalibrationError("a threshold needs at least two finite scores of good images")
    scale = float(values.std(ddof=1)) * math.sqrt(6) / math.pi
    if scale == 0:
        raise CalibrationError("all good images have the same score; use different images of good parts")
    location = float(values.mean()) - _EULER * scale
    return location - scale * math.log(-math.log1p(-false_reject_rate))


def fit_background(maps: Sequence[RawMaps]) -> FloatArray:
    """The mean autoencoder map over good images, ``float32 hxw``.

    Raises:
        CalibrationError: there are fewer than two maps, or they differ in size.
    """
    if len(maps) < 2 or len({m.ae.shape for m in maps}) != 1:
        raise CalibrationError("a background needs at least two maps of one size")
    return np.asarray(np.mean([m.ae for m in maps], axis=0, dtype=np.float64), np.float32)


def without_background(maps: Sequence[RawMaps], background: FloatArray) -> list[RawMaps]:
    """The maps that went into a background, each less the background of all *others*.

    A map less a mean that it is part of is smaller than a new image's would be: quantiles and threshold
    fitted on such maps would be too low, the more so the fewer there are.
    """
    n = len(maps)
    return [RawMaps(m.st, m.ae - (n * background - m.ae) / np.float32(n - 1)) for m in maps]


def score_maps(maps: Sequence[RawMaps], quantiles: Quantiles, mix: Mix, rule: ScoreRule = MAX) -> list[float]:
    """The image scores of raw maps."""
    return [image_score(combine_maps(m.st, m.ae, quantiles, mix), rule) for m in maps]


def fit_mix(maps: Sequence[RawMaps], quantiles: Quantiles, rule: ScoreRule = MAX) -> Mix:
    """Weights of the two maps by how much the good images' scores scatter in each: less scatter, more weight.

    After the quantile normalization a score's scatter over good images is what a defect has to rise above;
    the weights make it equal in both maps. No defect is needed.

    Raises:
        CalibrationError: the scores of a map do not vary.
    """
    spread_st, spread_ae = (
        float(np.std(score_maps(maps, quantiles, mix, rule), ddof=1)) for mix in (Mix(1, 0), Mix(0, 1))
    )
    if not (spread_st > 0 and spread_ae > 0):
        raise CalibrationError(
            "the scores of the good images do not vary; use different images of good parts"
        )
    weight = spread_ae / (spread_st + spread_ae)
    return Mix(weight, 1 - weight)


def fit_calibration(
    maps: Sequence[RawMaps],
    *,
    bundle: str,
    source: str,
    mix: MixChoice = PAPER_MIX,
    score: str = "max",
    background: bool = False,
    false_reject_rate: float = DEFAULT_FALSE_REJECT_RATE,
    threshold: float | None = None,
) -> Calibration:
    """Fit quantiles and threshold on the raw maps of good images.

    Args:
        maps: raw maps of good images, none of which was trained on.
        bundle: the id of the bundle whose engine gave the maps.
        source: what the images were, for the record.
        mix: weights of the two maps; ``auto`` chooses them by :func:`fit_mix`.
        score: rule of the image's score, as :func:`edge_ad_runtime.score_rule.parse_score` reads it.
        background: take the mean autoencoder map of these images off every map.
        false_reject_rate: share of good parts that the threshold may reject.
        threshold: a threshold given by the user instead of a fitted one.

    Raises:
        CalibrationError: there are fewer than five images, or they are unusable.
        InputError: the score's rule is not known.
    """
    if len(maps) < MIN_IMAGES:
        raise CalibrationError(
            f"{len(maps)} good images are too few to calibrate; at least {MIN_IMAGES} are needed"
        )
    mean = fit_background(maps) if background else None
    if mean is not None:
        maps = without_background(maps, mean)
    quantiles = fit_quantiles(maps)
    rule = parse_score(score)
    if mix == "auto":
        mix = fit_mix(maps, quantiles, rule)
    fitted = fit_threshold(score_maps(maps, quantiles, mix, rule), false_reject_rate)
    return Calibration(
        bundle=bundle,
        quantiles=quantiles,
        threshold=fitted if threshold is None else threshold,
        method="gumbel" if threshold is None else "given",
        false_reject_rate=false_reject_rate if threshold is None else None,
        images=len(maps),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        source=source,
        mix=mix,
        score=str(rule),
        background=None if mean is None else background_of(mean),
    )
