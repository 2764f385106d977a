"""Scoring a labelled test set and measuring the result."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from edge_ad.data import Dataset, Saturation
from edge_ad.evaluation.classes import ClassFigures, class_figures, overall_figures
from edge_ad.evaluation.masks import MaskedMaps, SaturatedMaps
from edge_ad.evaluation.metrics import best_f1, image_ap, image_auroc
from edge_ad.evaluation.pixels import pixel_metrics
from edge_ad.evaluation.scored import ScoredImage, score_images
from edge_ad.evaluation.scorer import Scorer
from edge_ad.evaluation.spro import au_spro
from edge_ad_runtime.calibration import Calibration, Mix
from edge_ad_runtime.errors import DataError, InputError
from edge_ad_runtime.preprocess import PreprocessSpec
from edge_ad_runtime.scoring import decide
from edge_ad_runtime.verdict import Verdict

LOOK_FIRST = 12
"""How many good images and how many defects are listed as perhaps mislabelled."""

LOCO_KINDS = ("logical_anomalies", "structural_anomalies")
"""The kinds of defects that MVTec LOCO AD tells apart."""

Origin = Literal["calibrated", "given", "best-f1"]


@dataclass(frozen=True)
class Outcome:
    """What a threshold does to the test set.

    ``origin`` says where it comes from: ``calibrated``, the model's own; ``given`` by the user; ``best-f1``,
    the best for these very labels, which no line will know. ``f1`` is that of the defects, None without any.
    """

    threshold: float
    origin: Origin
    good: int
    defects: int
    false_rejects: int
    escapes: int
    f1: float | None
    overall: ClassFigures
    classes: tuple[ClassFigures, ...]


@dataclass(frozen=True)
class LocoFigures:
    """MVTec LOCO AD's figures: logical and structural anomalies apart, each against the good images.

    ``spro`` is the area under the sPRO curve up to a false-positive rate of 0.05. Values are None where the
    masks or ``defects_config.json`` are missing; the means are over both kinds, None without both.
    """

    image_auroc: dict[str, float | None]
    spro: dict[str, float | None]
    mean_image_auroc: float | None
    mean_spro: float | None


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one model on one test set; those that the data cannot give are None.

    ``threshold`` is the one of the best F1, chosen *on these labels*; ``outcome`` what the threshold in force
    does, None where none applies. ``score`` and ``mix`` are the rule and the weights that were used.
    ``kind_auroc`` is the image AUROC of each kind of defect against the good images; ``loco`` None where
    there are no logical or structural anomalies. ``absent`` says for each
    None why, and ``notes`` what else should be known. ``seconds_per_image`` is the median.
    """

    images: tuple[ScoredImage, ...]
    score: str
    mix: Mix
    image_auroc: float | None
    image_ap: float | None
    image_f1: float | None
    threshold: float | None
    outcome: Outcome | None
    pixel_auroc: float | None
    aupro: float | None
    kind_auroc: dict[str, float | None]
    loco: LocoFigures | None
    seconds_per_image: float
    absent: dict[str, str]
    notes: tuple[str, ...]

    @property
    def good(self) -> int:
        """Number of good images."""
        return sum(not s.image.defect for s in self.images)

    @property
    def defects(self) -> int:
        """Number of images with a defect."""
        return len(self.images) - self.good

    @property
    def calibrated(self) -> Outcome:
        """The outcome at the calibrated threshold.

        Raises:
            InputError: the evaluation was made with another threshold, rule or mix.
        """
        if self.outcome is None or self.outcome.origin != "calibrated":
            raise InputError("this evaluation was not made at the calibrated threshold")
        return self.outcome

    def look_first(self, count: int = LOOK_FIRST) -> tuple[list[ScoredImage], list[ScoredImage]]:
        """Where wrong labels would be: good images by falling score, and defects by rising score."""
        good = [s for s in self.images if not s.image.defect]
        defects = [s for s in self.images if s.image.defect]
        return (
            sorted(good, key=lambda s: -s.score)[:count],
            sorted(defects, key=lambda s: s.score)[:count],
        )

    def as_dict(self) -> dict[str, Any]:
        """The evaluation without its maps, in the types of JSON."""
        good, defects = self.look_first()
        figures: dict[str, Any] = {
            "image_auroc": self.image_auroc,
            "image_ap": self.image_ap,
            "image_f1": self.image_f1,
            "threshold": self.threshold,
            "pixel_auroc": self.pixel_auroc,
            "aupro": self.aupro,
            "kind_auroc": self.kind_auroc,
            "loco": self.loco,
            "score": self.score,
            "mix": self.mix,
            "good": self.good,
            "defects": self.defects,
            "outcome": self.outcome,
            "look_first": {"good": [_line(s) for s in good], "defects": [_line(s) for s in defects]},
            "seconds_per_image": self.seconds_per_image,
            "absent": self.absent,
            "notes": list(self.notes),
            "images": [_line(s) | {"verdict": s.verdict} for s in self.images],
        }
        return dict(msgspec.to_builtins(figures))


def _line(scored: ScoredImage) -> dict[str, Any]:
    return {"path": str(scored.image.path), "kind": scored.image.kind, "score": scored.score}


def evaluate(
    scorer: Scorer,
    preprocess: PreprocessSpec,
    dataset: Dataset,
    *,
    score: str | None = None,
    mix: Mix | None = None,
    threshold: float | Literal["best-f1"] | None = None,
    progress: bool = False,
) -> Evaluation:
    """Score every test image of a data set and measure.

    Args:
        scorer: the model.
        preprocess: the scorer's preprocessing, for the place of its maps on the images.
        dataset: its labelled test images are used.
        score: another rule for the image's score than the calibration's.
        mix: other weights of the two maps than the calibration's.
        threshold: of the verdicts; None is the calibrated one, which belongs to the calibration's own rule
            and mix: with others there are no verdicts.
        progress: show a progress bar on stderr.

    Raises:
        DataError: there are no labelled test images, or one class only and ``best-f1`` is asked for.
        ImageError: an image or a mask cannot be read.
        InputError: a score is not finite, or the rule is not known.
    """
    if not dataset.test:
        raise DataError(
            f"{dataset.root}: has no labelled test images to evaluate on; put good ones into "
            f"{dataset.root / 'test' / 'good'} and those of each defect into a folder beside it, "
            "with masks (optional) in ground_truth/<defect>/<name>_mask.png"
        )
    own = scorer.calibration
    used = msgspec.structs.replace(own, score=score or own.score, mix=mix or own.mix)
    scored = score_images(scorer, dataset.test, used, progress=progress)
    fitted = (used.score, used.mix) == (own.score, own.mix)
    return measure(
        scored, preprocess, used, threshold=threshold, fitted=fitted, saturation=dataset.saturation
    )


def measure(
    images: Sequence[ScoredImage],
    preprocess: PreprocessSpec,
    calibration: Calibration,
    *,
    threshold: float | Literal["best-f1"] | None = None,
    fitted: bool = True,
    saturation: Mapping[int, Saturation] | None = None,
) -> Evaluation:
    """The metrics of images already scored with the calibration; see :func:`evaluate`.

    ``fitted`` says whether the calibration's threshold was fitted with its rule and mix; ``saturation`` is the
    data set's, for sPRO.
    """
    scores = [s.score for s in images]
    defects = [s.image.defect for s in images]
    f1 = best_f1(scores, defects)
    kinds = sorted({s.image.kind for s in images if s.image.defect})
    absent: dict[str, str] = {}
    notes = []
    if f1 is None:
        reason = f"the test set has no {'good' if any(defects) else 'defective'} images"
        absent |= dict.fromkeys(("image_auroc", "image_ap", "image_f1", "threshold"), reason)
        if threshold == "best-f1":
            raise DataError(f"the threshold of the best F1 needs both classes, but {reason}")
    masks = MaskedMaps(images, preprocess)
    pixels = pixel_metrics(masks) if masks.defects else None
    if pixels is None:
        reason = (
            "the masks leave no defect pixel, or no other pixel, in the inspected region"
            if masks.defects
            else "no defective image has a ground-truth mask"
        )
        absent |= dict.fromkeys(("pixel_auroc", "aupro"), reason)
    elif masks.left_out:
        notes.append(f"left out of the pixel metrics, having no mask: {masks.left_out} defective")
    kind_auroc = {kind: _kind_auroc(images, kind) for kind in kinds}
    judged, outcome = tuple(images), None
    if threshold == "best-f1":
        assert f1 is not None
        judged, outcome = _judge(images, calibration, f1.threshold, "best-f1")
    elif threshold is not None:
        judged, outcome = _judge(images, calibration, threshold, "given")
    elif fitted:
        judged, outcome = _judge(images, calibration, calibration.threshold, "calibrated")
    else:
        absent["outcome"] = "the calibrated threshold was fitted with another image score or mix"
    return Evaluation(
        images=judged,
        score=calibration.score,
        mix=calibration.mix,
        image_auroc=image_auroc(scores, defects),
        image_ap=image_ap(scores, defects),
        image_f1=f1.f1 if f1 else None,
        threshold=f1.threshold if f1 else None,
        outcome=outcome,
        pixel_auroc=pixels.auroc if pixels else None,
        aupro=pixels.aupro if pixels else None,
        kind_auroc=kind_auroc,
        loco=_loco(images, preprocess, kind_auroc, saturation or {}),
        seconds_per_image=statistics.median(s.seconds for s in images),
        absent=absent,
        notes=tuple(notes),
    )


def _judge(
    images: Sequence[ScoredImage], calibration: Calibration, threshold: float, origin: Origin
) -> tuple[tuple[ScoredImage, ...], Outcome]:
    """The images with their verdicts at the threshold, and the counts."""
    calibration = msgspec.structs.replace(calibration, threshold=threshold)
    judged = tuple(dataclasses.replace(s, verdict=decide(s.score, calibration)) for s in images)
    rejected = [s.verdict is not Verdict.PASS for s in judged]
    kinds = [s.image.kind for s in judged]
    overall = overall_figures(kinds, rejected)
    good = sum(not s.image.defect for s in judged)
    false_rejects = sum(s.mistaken for s in judged if not s.image.defect)
    escapes = sum(s.mistaken for s in judged if s.image.defect)
    found = len(judged) - good - escapes
    return judged, Outcome(
        threshold=threshold,
        origin=origin,
        good=good,
        defects=len(judged) - good,
        false_rejects=false_rejects,
        escapes=escapes,
        f1=2 * found / (2 * found + false_rejects + escapes) if found + escapes else None,
        overall=overall,
        classes=class_figures(kinds, rejected),
    )


def _kind_auroc(images: Sequence[ScoredImage], kind: str) -> float | None:
    chosen = [s for s in images if s.image.kind == kind or not s.image.defect]
    return image_auroc([s.score for s in chosen], [s.image.defect for s in chosen])


def _loco(
    images: Sequence[ScoredImage],
    preprocess: PreprocessSpec,
    kind_auroc: Mapping[str, float | None],
    saturation: Mapping[int, Saturation],
) -> LocoFigures | None:
    kinds = [kind for kind in LOCO_KINDS if kind in kind_auroc]
    if not kinds:
        return None
    spro: dict[str, float | None] = {}
    for kind in kinds:
        chosen = [s for s in images if s.image.kind == kind or not s.image.defect]
        spro[kind] = au_spro(SaturatedMaps(chosen, preprocess, saturation)) if saturation else None
    auroc = {kind: kind_auroc[kind] for kind in kinds}
    return LocoFigures(auroc, spro, _mean_of_both(auroc), _mean_of_both(spro))


def _mean_of_both(values: Mapping[str, float | None]) -> float | None:
    known = [v for v in values.values() if v is not None]
    return statistics.mean(known) if len(known) == len(LOCO_KINDS) else None
