"""Float against target on the same images: the figures, the limits, and each image's part in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_ad.conversion.damage import MAX_LOST, Damage
from edge_ad.conversion.model import ConvertedModel
from edge_ad.conversion.options import ConvertOptions
from edge_ad.data import Dataset
from edge_ad.evaluation.evaluate import Evaluation, evaluate
from edge_ad.report.model import GOOD, ImageResult, KindResult, Limits, Side, defined, image_name
from edge_ad_converters.parity import Parity, compare
from edge_ad_runtime.engines import RawMaps
from edge_ad_runtime.images import read_image
from edge_ad_runtime.verdict import Verdict


@dataclass(frozen=True)
class MeasuredOn:
    """The images: labelled ones (``dataset``), or good ones alone; ``what`` says so in words."""

    what: str
    paths: tuple[Path, ...]
    kinds: tuple[str | None, ...]
    dataset: Dataset | None

    @property
    def names(self) -> list[str]:
        """Each image's name in the record."""
        root = self.dataset.root if self.dataset is not None else None
        short = [p.relative_to(root) if root and p.is_relative_to(root) else p for p in self.paths]
        return [image_name(p) for p in short]


@dataclass(frozen=True)
class Measurement:
    """What the comparison gave."""

    on: MeasuredOn
    reference: Side
    target: Side
    parity: Parity
    good_map_correlation: float | None
    images: tuple[ImageResult, ...]
    kinds: tuple[KindResult, ...] = ()
    lost: float | None = None


class Reference:
    """The float model's results, measured once and compared with as many targets as it takes."""

    def __init__(self, model: ConvertedModel, on: MeasuredOn) -> None:
        self.model, self.on = model, on
        self.maps, self.evaluation = _run(model, on)

    def compare(self, target: ConvertedModel, damage: Damage | None = None) -> Measurement:
        """Measure the target on the same images, and where ``damage`` is given by that, too."""
        maps, evaluation = _run(target, self.on)
        parity = compare(self.maps, maps, self.model.calibration, target.calibration)
        images = tuple(
            ImageResult(
                name=name,
                kind=kind,
                float_score=defined(pair.scores[0]),
                target_score=defined(pair.scores[1]),
                float_verdict=pair.verdicts[0],
                target_verdict=pair.verdicts[1],
                map_correlation=defined(pair.map_correlation),
            )
            for name, kind, pair in zip(self.on.names, self.on.kinds, parity.pairs, strict=True)
        )
        good = [i.map_correlation for i in images if i.kind == GOOD and i.map_correlation is not None]
        return Measurement(
            on=self.on,
            reference=_side(self.model, self.evaluation, images, 0),
            target=_side(target, evaluation, images, 1),
            parity=parity,
            good_map_correlation=float(np.median(good)) if good else None,
            images=images,
            kinds=_kinds(self.on, self.evaluation, evaluation),
            lost=None if damage is None else damage.lost(target.engine),
        )


def measured_on(test: Dataset | None, held_back: Sequence[Path], fit: Sequence[Path]) -> MeasuredOn:
    """The best images that there are: labelled, else good ones held back, else those of the fit."""
    if test is not None and test.test:
        paths = tuple(i.path for i in test.test)
        return MeasuredOn("labelled test images", paths, tuple(i.kind for i in test.test), test)
    if held_back:
        what = "good images held back from training, ranges and fit"
        return MeasuredOn(what, tuple(held_back), (GOOD,) * len(held_back), None)
    what = "the good images of the fit (there are no labelled ones and too few to hold any back)"
    return MeasuredOn(what, tuple(fit), (GOOD,) * len(fit), None)


def broken_limits(measurement: Measurement, options: ConvertOptions) -> tuple[str, ...]:
    """A sentence for each limit that the target breaks."""
    broken = []
    for name, label in (("image_auroc", "image AUROC"), ("aupro", "AUPRO")):
        before, after = getattr(measurement.reference, name), getattr(measurement.target, name)
        if before is not None and not before - (after or 0.0) <= options.max_drop:
            broken.append(
                f"{label} drops from {before:.4f} to {after or 0.0:.4f}, by more than {options.max_drop:g}"
            )
    good_images = sum(kind == GOOD for kind in measurement.on.kinds)
    for kind in measurement.kinds:
        allowed = allowed_kind_drop(kind.images, good_images, options.max_kind_drop)
        if kind.drop is not None and not kind.drop <= allowed:
            broken.append(
                f"the defects '{kind.kind}' ({kind.images} images) are told from good parts less well: AUROC "
                f"{kind.float_auroc:.4f}, then {kind.target_auroc or 0.0:.4f}; it may drop by {allowed:.3g}"
            )
    correlation = measurement.good_map_correlation
    good = any(kind == GOOD for kind in measurement.on.kinds)
    if good and not (correlation is not None and correlation >= options.min_map_correlation):
        found = "not defined" if correlation is None else f"{correlation:.4f}"
        broken.append(f"the map correlation of good images is {found}, below {options.min_map_correlation:g}")
    if measurement.lost is not None and not measurement.lost <= MAX_LOST:
        broken.append(
            f"{measurement.lost:.1%} of the map's cells that damage made stand out no longer do, more than "
            f"{MAX_LOST:.0%}"
        )
    return tuple(broken)


def allowed_kind_drop(images: int, good: int, wanted: float) -> float:
    """How far the AUROC of a kind of defect may drop: as wanted, or where that is less, by one exchange of ranks.

    An AUROC is the share of the pairs of a defective and a good image in their right order. One pair that
    changes places moves it by ``1 / (images * good)``, the least that it can move: with 3 defective and 10 good
    images by 0.033. Rounding to 8 bits does that to two images of nearly the same score, so it says nothing. No
    more than this one pair is forgiven: with few images a kind that is lost and one that is not look alike, and
    the loss of a kind costs more than the speed.
    """
    # A hair above, since the difference of two rounded shares may exceed it.
    return max(wanted, 1 / (images * good) if images and good else 0.0) + 1e-9


def _kinds(on: MeasuredOn, before: Evaluation | None, after: Evaluation | None) -> tuple[KindResult, ...]:
    if before is None or after is None:
        return ()
    return tuple(
        KindResult(
            kind=kind,
            images=sum(k == kind for k in on.kinds),
            float_auroc=auroc,
            target_auroc=after.kind_auroc[kind],
        )
        for kind, auroc in before.kind_auroc.items()
    )


def limits(broken: tuple[str, ...], options: ConvertOptions) -> Limits:
    """The record of the limits."""
    return Limits(
        max_drop=options.max_drop,
        min_map_correlation=options.min_map_correlation,
        max_kind_drop=options.max_kind_drop,
        passed=not broken,
        broken=broken,
        forced=bool(broken),
    )


def _run(model: ConvertedModel, on: MeasuredOn) -> tuple[list[RawMaps], Evaluation | None]:
    model.recorded.clear()
    evaluation = None
    if on.dataset is not None:
        evaluation = evaluate(model, model.spec, on.dataset, progress=True)
    else:
        for path in on.paths:
            model.raw_maps(read_image(path))
    maps = list(model.recorded)
    model.recorded.clear()
    return maps, evaluation


def _side(
    model: ConvertedModel, evaluation: Evaluation | None, images: Sequence[ImageResult], which: int
) -> Side:
    verdicts = [(i.float_verdict, i.target_verdict)[which] for i in images]
    passed = [v is Verdict.PASS for v in verdicts]
    good = [i.kind == GOOD for i in images]
    labelled = evaluation is not None
    return Side(
        engine=model.engine.name,
        precision=model.precision,
        calibrated_threshold=model.calibration.threshold,
        quantiles=model.calibration.quantiles,
        image_auroc=evaluation.image_auroc if evaluation else None,
        image_f1=evaluation.image_f1 if evaluation else None,
        pixel_auroc=evaluation.pixel_auroc if evaluation else None,
        aupro=evaluation.aupro if evaluation else None,
        false_rejects=sum(g and not p for g, p in zip(good, passed, strict=True)),
        escapes=sum(p and not g for g, p in zip(good, passed, strict=True)) if labelled else None,
    )
