"""Raw maps and a calibration to a combined map, a score and a verdict; the same on host and device."""

from __future__ import annotations

import math

import numpy as np

from edge_ad_runtime.calibration import Calibration, Mix, Quantiles
from edge_ad_runtime.engines.base import RawMaps
from edge_ad_runtime.errors import CalibrationError
from edge_ad_runtime.score_rule import MAX, ScoreRule, parse_score
from edge_ad_runtime.types import FloatArray
from edge_ad_runtime.verdict import Verdict


def combine_maps(map_st: FloatArray, map_ae: FloatArray, quantiles: Quantiles, mix: Mix) -> FloatArray:
    """The combined anomaly map, ``float32 hxw`` like its inputs.

    Each raw map is moved so that its ``qa`` becomes 0 and its ``qb`` becomes 0.1 (arXiv 2303.14535,
    Algorithm 2), then they are mixed.
    """
    q = quantiles
    scale_st = mix.st * 0.1 / (q.qb_st - q.qa_st)
    scale_ae = mix.ae * 0.1 / (q.qb_ae - q.qa_ae)
    offset = q.qa_st * scale_st + q.qa_ae * scale_ae
    combined = map_st * np.float32(scale_st)
    combined += map_ae * np.float32(scale_ae)
    combined -= np.float32(offset)
    return combined


def image_score(combined: FloatArray, rule: ScoreRule = MAX) -> float:
    """The image's score from the combined map, ``float32 hxw``, on the network's own grid.

    The paper takes the maximum after bilinear enlargement; the grid's own maximum is the same peak before
    smoothing. No border is padded or cut, so a defect at the border counts like any other. One cell that is
    NaN or infinite makes the score so, by every rule.
    """
    if rule.kind == "max":
        return float(combined.max())
    if rule.kind == "mean":
        return float(combined.mean(dtype=np.float64))
    # A percentile or a partition could leave out the one value that says that the model is broken.
    if not np.isfinite(combined).all():
        return math.nan
    if rule.kind == "percentile":
        return float(np.percentile(combined, rule.amount))
    count = rule.amount if rule.amount >= 1 else max(1, round(rule.amount * combined.size))
    count = min(int(count), combined.size)
    return float(np.partition(combined.ravel(), -count)[-count:].mean(dtype=np.float64))


def apply_calibration(maps: RawMaps, calibration: Calibration) -> tuple[FloatArray, float]:
    """The combined map and the image score of raw maps, by a calibration's background, quantiles, mix and rule.

    Raises:
        CalibrationError: the background is of another size than the maps.
    """
    ae = maps.ae
    if calibration.background is not None:
        background = calibration.background.values()
        if background.shape != ae.shape:
            raise CalibrationError(
                f"the calibration's background has {background.shape[0]}x{background.shape[1]} cells, the maps "
                f"{ae.shape[0]}x{ae.shape[1]}"
            )
        ae = ae - background
    combined = combine_maps(maps.st, ae, calibration.quantiles, calibration.mix)
    return combined, image_score(combined, parse_score(calibration.score))


def decide(score: float, calibration: Calibration) -> Verdict:
    """Pass up to and including the threshold, reject above; a score that is not finite is a fault."""
    if not math.isfinite(score):
        return Verdict.FAULT
    return Verdict.PASS if score <= calibration.threshold else Verdict.REJECT
