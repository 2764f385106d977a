"""Raw maps and a calibration to a combined map, a score and a verdict; the same on host and device."""

from __future__ import annotations

import math
from enum import Enum

import numpy as np

from edge_ad_runtime.calibration import Calibration, Mix, Quantiles
from edge_ad_runtime.types import FloatArray


class Verdict(str, Enum):
    """What becomes of a part."""

    PASS = "pass"
    REJECT = "reject"
    FAULT = "fault"


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


def image_score(combined: FloatArray) -> float:
    """The image's score: the maximum of the combined map on the network's own grid.

    The paper takes the maximum after bilinear enlargement; the grid's own maximum is the same peak before
    smoothing. No border is padded or cut, so a defect at the border counts like any other.
    """
    return float(combined.max())


def decide(score: float, calibration: Calibration) -> Verdict:
    """Pass up to and including the threshold, reject above; a score that is not finite is a fault."""
    if not math.isfinite(score):
        return Verdict.FAULT
    return Verdict.PASS if score <= calibration.threshold else Verdict.REJECT
