"""The metrics: image AUROC, best F1, pixel AUROC and AUPRO.

Image metrics are scikit-learn's. The pixel metrics are ours, because AUPRO is in no well-kept library and
scikit-learn's AUROC sorts all pixels at once: here only the defects' pixels are kept, the others are
counted image by image, and both metrics are still exact, with every distinct value as a threshold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad_runtime.errors import InputError, MissingExtra
from edge_ad_runtime.types import FloatArray

try:
    from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve
except ImportError as error:
    raise MissingExtra("scikit-learn", "host", "evaluation") from error

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

INTEGRATION_LIMIT = 0.3
"""The false-positive rate up to which the per-region overlap is integrated (Bergmann et al., IJCV 2021)."""


@dataclass(frozen=True)
class BestF1:
    """The best F1 and the threshold that gives it; as on the line, a part is rejected *above* it."""

    f1: float
    threshold: float


@dataclass(frozen=True)
class PixelMetrics:
    """Pixel AUROC and AUPRO, both 0 to 1, and the number of defect regions that AUPRO averages over."""

    auroc: float
    aupro: float
    regions: int


def both_classes(defects: Sequence[bool]) -> bool:
    """Whether there are good and defective images, which a ranking metric needs."""
    return any(defects) and not all(defects)


def image_auroc(scores: Sequence[float], defects: Sequence[bool]) -> float | None:
    """Area under the ROC curve of the image scores, ties counted as a half; None with one class only.

    Raises:
        InputError: a score is not finite, or the lengths differ.
    """
    _check_scores(scores, defects)
    return float(roc_auc_score(defects, scores)) if both_classes(defects) else None


def image_roc(scores: Sequence[float], defects: Sequence[bool]) -> tuple[Floats, Floats] | None:
    """False-reject rate and detection rate of the ROC curve's corners; None with one class only.

    Raises:
        InputError: a score is not finite, or the lengths differ.
    """
    _check_scores(scores, defects)
    if not both_classes(defects):
        return None
    false_rejects, detections, _ = roc_curve(defects, scores, drop_intermediate=False)
    return np.asarray(false_rejects, float), np.asarray(detections, float)


def best_f1(scores: Sequence[float], defects: Sequence[bool]) -> BestF1 | None:
    """The largest F1 that a threshold reaches (defect is the positive class); None with one class only.

    Among thresholds of equal F1 the lowest is taken, since a defect that passes costs more than a good part
    that is rejected. scikit-learn calls a score *at* its threshold positive and the line passes it, so the
    threshold is put midway to the next lower score.

    Raises:
        InputError: a score is not finite, or the lengths differ.
    """
    _check_scores(scores, defects)
    if not both_classes(defects):
        return None
    precision, recall, thresholds = precision_recall_curve(defects, scores)
    # The last point has no threshold; at recall 0 with precision 0 the harmonic mean is 0, not 0/0.
    precision, recall = precision[:-1], recall[:-1]
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    best = int(f1.argmax())
    first_rejected = float(thresholds[best])
    last_passed = max((float(s) for s in scores if s < first_rejected), default=None)
    if last_passed is None:
        return BestF1(float(f1[best]), float(np.nextafter(first_rejected, -np.inf)))
    middle = last_passed + (first_rejected - last_passed) / 2
    return BestF1(float(f1[best]), middle if middle < first_rejected else last_passed)


def pixel_metrics(
    samples: Iterable[tuple[FloatArray, Mask]], limit: float = INTEGRATION_LIMIT
) -> PixelMetrics | None:
    """Pixel AUROC, and the normalized area under the per-region overlap curve (AUPRO).

    AUPRO: at a threshold, the overlap is the share of a defect region's pixels whose value reaches it,
    averaged over all regions of all images; it is integrated over the false-positive rate (share of all
    defect-free pixels that reach it) from 0 to ``limit`` and divided by ``limit``. Regions are 8-connected.
    Source: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, section 4.

    Args:
        samples: pairs of an anomaly map, ``float32 HxW``, and its mask, ``bool HxW``. Iterated twice, so a
            generator will not do; memory is needed for the defects' pixels and for one pair.
        limit: between 0 and 1.

    Returns:
        None if the masks leave no defect pixel or no other pixel.

    Raises:
        InputError: a map is not finite, a mask has another shape, or the limit is outside 0 to 1.
    """
    if not 0 < limit <= 1:
        raise InputError(f"the integration limit {limit} must lie between 0 and 1")
    if iter(samples) is samples:
        raise InputError("the samples are iterated twice; give a list or another collection, not an iterator")
    values, counts, overlaps, regions = _defect_pixels(samples)
    if not regions:
        return None
    between, equal = _count_others(samples, values)
    others = int(between.sum() + equal.sum())
    if not others:
        return None
    return _areas(overlaps / regions, counts, between, equal, limit, regions)


def _check_scores(scores: Sequence[float], defects: Sequence[bool]) -> None:
    if len(scores) != len(defects):
        raise InputError(f"{len(scores)} scores and {len(defects)} labels do not belong together")
    if not np.isfinite(np.asarray(scores, float)).all():
        raise InputError("a score is not a finite number; the model or its calibration is broken")


def _check_sample(values: FloatArray, mask: Mask) -> None:
    if values.shape != mask.shape:
        raise InputError(f"a map of shape {values.shape} and a mask of {mask.shape} do not belong together")
    if not np.isfinite(values).all():
        raise InputError("an anomaly map is not finite; the model or its calibration is broken")


def _defect_pixels(
    samples: Iterable[tuple[FloatArray, Mask]],
) -> tuple[FloatArray, npt.NDArray[np.int64], Floats, int]:
    """The distinct values of the defects' pixels, rising; how many pixels have each; and how much of the
    regions they make up (a whole region is 1); and the number of regions."""
    values: list[FloatArray] = []
    shares: list[Floats] = []
    regions = 0
    for sample, mask in samples:
        _check_sample(sample, mask)
        if not mask.any():
            continue
        count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        inside = labels[mask]
        shares.append((1.0 / np.bincount(inside, minlength=count).clip(1))[inside])
        values.append(sample[mask])
        regions += count - 1
    if not regions:
        return np.empty(0, np.float32), np.empty(0, np.int64), np.empty(0), 0
    distinct, index = np.unique(np.concatenate(values), return_inverse=True)
    counts = np.bincount(index).astype(np.int64)
    return distinct, counts, np.bincount(index, np.concatenate(shares)).astype(np.float64), regions


def _count_others(
    samples: Iterable[tuple[FloatArray, Mask]], values: FloatArray
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """How many defect-free pixels lie just below each value (and, last, above all), and how many equal it."""
    between = np.zeros(len(values) + 1, np.int64)
    equal = np.zeros(len(values), np.int64)
    for sample, mask in samples:
        others = np.sort(sample[~mask])
        place = np.searchsorted(values, others)
        same = values[np.minimum(place, len(values) - 1)] == others
        between += np.bincount(place[~same], minlength=len(between))
        equal += np.bincount(place[same], minlength=len(equal))
    return between, equal


def _areas(
    overlaps: Floats,
    counts: npt.NDArray[np.int64],
    between: npt.NDArray[np.int64],
    equal: npt.NDArray[np.int64],
    limit: float,
    regions: int,
) -> PixelMetrics | None:
    """The areas under both curves, whose corners lie only at values of defect pixels.

    From the largest value downwards, the curve first runs level over the defect-free pixels between two
    values, then climbs straight to the next corner over the pixels that have the same value.
    """
    others = int(between.sum() + equal.sum())
    if not others:
        return None
    steps = np.empty(2 * len(equal) + 1, np.int64)
    steps[0::2] = between[::-1]
    steps[1::2] = equal[::-1]
    rates = np.concatenate([[0.0], np.cumsum(steps) / others])

    def corners(gains: Floats) -> Floats:
        climbs = np.zeros(len(steps))
        climbs[1::2] = gains[::-1]
        return np.concatenate([[0.0], np.cumsum(climbs)])

    auroc = _trapezoid(corners(counts / counts.sum()), rates)
    overlap = corners(overlaps)
    inside = int(np.searchsorted(rates, limit, side="right"))
    at_limit = np.interp(limit, rates, overlap)
    area = _trapezoid(np.append(overlap[:inside], at_limit), np.append(rates[:inside], limit))
    return PixelMetrics(auroc, area / limit, regions)


def _trapezoid(y: Floats, x: Floats) -> float:
    # numpy calls it trapz up to 1.26 and trapezoid from 2.0 on.
    return float(((y[1:] + y[:-1]) * np.diff(x)).sum() / 2)
