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


def combine_maps(
    map_st: FloatArray, map_ae: FloatArray, quantiles: Quantiles, mix: Mix, scratch: FloatArray | None = None
) -> FloatArray:
    """The combined anomaly map, ``float32 hxw`` like its inputs, in memory of its own.

    Each raw map is moved so that its ``qa`` becomes 0 and its ``qb`` becomes 0.1 (arXiv 2303.14535,
    Algorithm 2), then they are mixed. ``scratch``, of the maps' shape, is overwritten; it may be ``map_ae``
    itself where that is needed no more.
    """
    q = quantiles
    scale_st = mix.st * 0.1 / (q.qb_st - q.qa_st)
    scale_ae = mix.ae * 0.1 / (q.qb_ae - q.qa_ae)
    offset = q.qa_st * scale_st + q.qa_ae * scale_ae
    combined = map_st * np.float32(scale_st)
    combined += np.multiply(map_ae, np.float32(scale_ae), out=scratch)
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


def apply_calibration(
    maps: RawMaps, calibration: Calibration, scratch: FloatArray | None = None
) -> tuple[FloatArray, float]:
    """The combined map and the image score of raw maps, by a calibration's background, quantiles, mix and rule.

    The raw maps are not changed, and the combined map shares no memory with them or with ``scratch``: that one,
    ``float32`` of the maps' shape, is overwritten, and saves the memory of the steps in between.

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
        ae = np.subtract(ae, background, out=scratch)
    combined = combine_maps(maps.st, ae, calibration.quantiles, calibration.mix, scratch)
    return combined, image_score(combined, parse_score(calibration.score))


def decide(score: float, calibration: Calibration) -> Verdict:
    """Pass up to and including the threshold, reject above; a score that is not finite is a fault."""
    if not math.isfinite(score):
        return Verdict.FAULT
    return Verdict.PASS if score <= calibration.threshold else Verdict.REJECT
