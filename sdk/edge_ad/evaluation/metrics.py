"""How well scores of images tell defects from good parts: AUROC, average precision, best F1.

These need no picture and no map, so a training can call them after every few steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_ad_runtime.errors import InputError, MissingExtra

try:
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve
except ImportError as error:
    raise MissingExtra("scikit-learn", "host", "evaluation") from error

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BestF1:
    """The best F1 and the threshold that gives it; as on the line, a part is rejected *above* it."""

    f1: float
    threshold: float


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


def image_ap(scores: Sequence[float], defects: Sequence[bool]) -> float | None:
    """Average precision of the image scores, defect being the positive class; None with one class only.

    The area under the precision-recall curve as steps, without interpolation (scikit-learn's
    ``average_precision_score``); other tools call it AP or AUPR.

    Raises:
        InputError: a score is not finite, or the lengths differ.
    """
    _check_scores(scores, defects)
    return float(average_precision_score(defects, scores)) if both_classes(defects) else None


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


def _check_scores(scores: Sequence[float], defects: Sequence[bool]) -> None:
    if len(scores) != len(defects):
        raise InputError(f"{len(scores)} scores and {len(defects)} labels do not belong together")
    if not np.isfinite(np.asarray(scores, float)).all():
        raise InputError("a score is not a finite number; the model or its calibration is broken")
