"""How far a converted model is from its float original, in what users care about."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.engines import RawMaps
from edge_ad_runtime.scoring import Verdict, apply_calibration, decide
from edge_ad_runtime.types import FloatArray


class Parity(msgspec.Struct, frozen=True):
    """Target against float on the same images, each with its own calibration.

    ``score_correlation`` is Pearson's over the images, ``map_correlation`` the median over the images of
    Pearson's over the cells of the combined map, ``worst_map_correlation`` the smallest. A verdict is
    flipped when one model passes the part and the other does not; ``flipped`` holds the image's numbers.
    """

    images: int
    score_correlation: float
    map_correlation: float
    worst_map_correlation: float
    flipped: tuple[int, ...]


def compare(
    reference: Sequence[RawMaps],
    target: Sequence[RawMaps],
    reference_calibration: Calibration,
    target_calibration: Calibration,
) -> Parity:
    """Compare the raw maps of the same images from two models."""
    scores: tuple[list[float], list[float]] = ([], [])
    correlations, flipped = [], []
    for i, pair in enumerate(zip(reference, target, strict=True)):
        combined = []
        verdicts = []
        for maps, calibration, column in zip(
            pair, (reference_calibration, target_calibration), scores, strict=True
        ):
            anomaly_map, score = apply_calibration(maps, calibration)
            combined.append(anomaly_map)
            column.append(score)
            verdicts.append(decide(column[-1], calibration))
        correlations.append(_correlation(combined[0], combined[1]))
        if (verdicts[0] is Verdict.PASS) != (verdicts[1] is Verdict.PASS):
            flipped.append(i)
    return Parity(
        images=len(correlations),
        score_correlation=_correlation(np.asarray(scores[0]), np.asarray(scores[1])),
        map_correlation=float(np.median(correlations)),
        worst_map_correlation=min(correlations),
        flipped=tuple(flipped),
    )


def _correlation(a: FloatArray, b: FloatArray) -> float:
    return float(np.corrcoef(np.ravel(a).astype(float), np.ravel(b).astype(float))[0, 1])
