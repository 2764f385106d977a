"""Scoring a labelled test set and measuring the result."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_ad.data import Dataset, TestImage, read_mask
from edge_ad.evaluation.metrics import Mask, best_f1, image_auroc, pixel_metrics
from edge_ad.evaluation.scorer import Scorer
from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.errors import DataError, ImageError, InputError, MissingExtra
from edge_ad_runtime.images import read_image
from edge_ad_runtime.placement import inspected_region, place_map
from edge_ad_runtime.preprocess import PreprocessSpec
from edge_ad_runtime.scoring import Verdict, combine_maps, decide, image_score
from edge_ad_runtime.types import FloatArray

try:
    from tqdm import tqdm
except ImportError as error:
    raise MissingExtra("tqdm", "host", "evaluation") from error


@dataclass(frozen=True)
class ScoredImage:
    """One test image with its combined map (``float32 hxw``, the network's grid), score and verdict.

    ``height`` and ``width`` are the image's own; ``seconds`` covers preprocessing, network and scoring.
    """

    image: TestImage
    height: int
    width: int
    anomaly_map: FloatArray
    score: float
    verdict: Verdict
    seconds: float

    @property
    def mistaken(self) -> bool:
        """Whether the verdict at the calibrated threshold is wrong."""
        return (self.verdict is not Verdict.PASS) != self.image.defect


@dataclass(frozen=True)
class Confusion:
    """What the calibrated threshold does to the test set."""

    threshold: float
    good: int
    defects: int
    false_rejects: int
    escapes: int


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one model on one test set; those that the data cannot give are None.

    ``threshold`` is the one of the best F1, chosen *on these labels*; ``calibrated`` the outcome at the
    model's own threshold. ``kind_auroc`` is the image AUROC of each kind of defect against the good
    images. ``absent`` says for each None why, and ``notes`` what was left out.
    ``seconds_per_image`` is the median.
    """

    images: tuple[ScoredImage, ...]
    image_auroc: float | None
    image_f1: float | None
    threshold: float | None
    calibrated: Confusion
    pixel_auroc: float | None
    aupro: float | None
    kind_auroc: dict[str, float | None]
    seconds_per_image: float
    absent: dict[str, str]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The evaluation without its maps, for JSON."""
        c = self.calibrated
        return {
            "image_auroc": self.image_auroc,
            "image_f1": self.image_f1,
            "threshold": self.threshold,
            "pixel_auroc": self.pixel_auroc,
            "aupro": self.aupro,
            "calibrated_threshold": c.threshold,
            "good": c.good,
            "defects": c.defects,
            "false_rejects": c.false_rejects,
            "escapes": c.escapes,
            "kind_auroc": self.kind_auroc,
            "seconds_per_image": self.seconds_per_image,
            "absent": self.absent,
            "notes": list(self.notes),
            "images": [
                {
                    "path": str(s.image.path),
                    "kind": s.image.kind,
                    "score": s.score,
                    "verdict": s.verdict.value,
                }
                for s in self.images
            ],
        }


def evaluate(
    scorer: Scorer, preprocess: PreprocessSpec, dataset: Dataset, *, progress: bool = False
) -> Evaluation:
    """Score every test image of a data set and measure.

    Args:
        scorer: the model.
        preprocess: the scorer's preprocessing, for the place of its maps on the images.
        dataset: its labelled test images are used.
        progress: show a progress bar on stderr.

    Raises:
        DataError: there are no labelled test images.
        ImageError: an image or a mask cannot be read.
        InputError: a score is not finite.
    """
    if not dataset.test:
        raise DataError(
            f"{dataset.root}: has no labelled test images to evaluate on; put good ones into "
            f"{dataset.root / 'test' / 'good'} and those of each defect into a folder beside it, "
            "with masks (optional) in ground_truth/<defect>/<name>_mask.png"
        )
    return measure(_score_images(scorer, dataset.test, progress), preprocess, scorer.calibration)


def measure(
    images: Sequence[ScoredImage], preprocess: PreprocessSpec, calibration: Calibration
) -> Evaluation:
    """The metrics of images already scored with the calibration; see :func:`evaluate`."""
    scores = [s.score for s in images]
    defects = [s.image.defect for s in images]
    f1 = best_f1(scores, defects)
    good = [s for s in images if not s.image.defect]
    kinds = sorted({s.image.kind for s in images if s.image.defect})
    absent: dict[str, str] = {}
    if f1 is None:
        reason = f"the test set has no {'defective' if good else 'good'} images"
        absent |= dict.fromkeys(("image_auroc", "image_f1", "threshold"), reason)
    masks = _MaskedMaps(images, preprocess)
    pixels = pixel_metrics(masks) if masks.defects else None
    if pixels is None:
        reason = (
            "the masks leave no defect pixel, or no other pixel, in the inspected region"
            if masks.defects
            else "no defective image has a ground-truth mask"
        )
        absent |= dict.fromkeys(("pixel_auroc", "aupro"), reason)
    notes = []
    if masks.left_out and pixels is not None:
        notes.append(f"left out of the pixel metrics, having no mask: {masks.left_out} defective")
    return Evaluation(
        images=tuple(images),
        image_auroc=image_auroc(scores, defects),
        image_f1=f1.f1 if f1 else None,
        threshold=f1.threshold if f1 else None,
        calibrated=Confusion(
            threshold=calibration.threshold,
            good=len(good),
            defects=len(images) - len(good),
            false_rejects=sum(s.mistaken for s in good),
            escapes=sum(s.mistaken for s in images if s.image.defect),
        ),
        pixel_auroc=pixels.auroc if pixels else None,
        aupro=pixels.aupro if pixels else None,
        kind_auroc={kind: _kind_auroc(images, kind) for kind in kinds},
        seconds_per_image=statistics.median(s.seconds for s in images),
        absent=absent,
        notes=tuple(notes),
    )


def _score_images(scorer: Scorer, images: Sequence[TestImage], progress: bool) -> list[ScoredImage]:
    scored = []
    for image in tqdm(images, desc="scoring", unit="image", disable=not progress):
        pixels = read_image(image.path)
        start = time.monotonic_ns()
        maps = scorer.raw_maps(pixels)
        calibration = scorer.calibration
        combined = combine_maps(maps.st, maps.ae, calibration.quantiles, calibration.mix)
        score = image_score(combined)
        seconds = (time.monotonic_ns() - start) / 1e9
        if not np.isfinite(combined).all():
            raise InputError(f"{image.path}: its anomaly map is not finite; the model is broken")
        height, width = pixels.shape[:2]
        verdict = decide(score, calibration)
        scored.append(ScoredImage(image, height, width, combined, score, verdict, seconds))
    return scored


def _kind_auroc(images: Sequence[ScoredImage], kind: str) -> float | None:
    chosen = [s for s in images if s.image.kind == kind or not s.image.defect]
    return image_auroc([s.score for s in chosen], [s.image.defect for s in chosen])


def image_mask(scored: ScoredImage) -> Mask | None:
    """The image's mask, ``bool HxW`` at its own size: empty for a good image, None where it is not known.

    Raises:
        ImageError: the mask cannot be read.
    """
    if not scored.image.defect:
        return np.zeros((scored.height, scored.width), bool)
    if scored.image.mask is None:
        return None
    try:
        mask = read_mask(scored.image.mask, scored.height, scored.width)
    except ImageError as error:
        raise ImageError(f"{scored.image.mask}: {error}") from error
    # An empty mask contradicts the image's folder, so it says as little as none.
    return mask if mask.any() else None


class _MaskedMaps:
    """Pairs of a map and its mask at the image's full resolution, made anew at each iteration.

    The map is placed by its cells' centres and enlarged bilinearly to the image, as MVTec's own evaluation
    wants it. With a region of interest only that region counts: nothing is claimed about the rest.
    """

    def __init__(self, images: Sequence[ScoredImage], preprocess: PreprocessSpec) -> None:
        self._preprocess = preprocess
        known = [s for s in images if image_mask(s) is not None]
        self._images = known
        self.defects = sum(s.image.defect for s in known)
        self.left_out = len(images) - len(known)

    def __iter__(self) -> Iterator[tuple[FloatArray, Mask]]:
        for scored in self._images:
            mask = image_mask(scored)
            assert mask is not None
            region = inspected_region(self._preprocess, scored.height, scored.width)
            rows = slice(region.y, region.y + region.height)
            columns = slice(region.x, region.x + region.width)
            placed = place_map(scored.anomaly_map, self._preprocess, scored.height, scored.width)
            yield placed, mask[rows, columns]


def summary(evaluation: Evaluation, title: str) -> str:
    """The evaluation as a table for people, several lines."""
    e, c = evaluation, evaluation.calibrated
    lines = [
        title,
        f"{len(e.images)} test images: {c.good} good, {c.defects} with a defect",
        "",
        _row("image AUROC", e.image_auroc, e.absent.get("image_auroc")),
        _row("best F1", e.image_f1, e.absent.get("image_f1"), f"   above {_number(e.threshold)}"),
        _row("pixel AUROC", e.pixel_auroc, e.absent.get("pixel_auroc")),
        _row("AUPRO to 0.3", e.aupro, e.absent.get("aupro")),
        "",
        f"at the calibrated threshold {c.threshold:.4f}: {c.false_rejects} of {c.good} good images rejected, "
        + f"{c.escapes} of {c.defects} defects passed",
    ]
    if e.kind_auroc:
        width = max(len(kind) for kind in e.kind_auroc)
        lines += ["", f"{'defect':<{max(width, 6)}}  images  passed  AUROC"]
        for kind, auroc in e.kind_auroc.items():
            of_kind = [s for s in e.images if s.image.kind == kind]
            passed = sum(s.mistaken for s in of_kind)
            lines.append(f"{kind:<{max(width, 6)}}  {len(of_kind):>6}  {passed:>6}  {_number(auroc)}")
    lines += ["", f"{e.seconds_per_image * 1e3:.1f} ms an image (median, without reading the file)"]
    return "\n".join([*lines, *e.notes])


def _row(name: str, value: float | None, reason: str | None, more: str = "") -> str:
    return f"{name:<14}{_number(value)}{more if value is not None else f'   {reason}'}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
