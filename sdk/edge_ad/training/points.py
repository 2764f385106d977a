"""Evaluation points: how the nets do on images that they are not trained on, and which nets are kept."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from edge_ad.data import Dataset
from edge_ad.evaluation.metrics import image_auroc
from edge_ad.nets.model import EfficientAdNets
from edge_ad.run_folder import RunConfig, SplitRecord, TorchEngine, finish, write_config
from edge_ad.training.images import ImageStore, training_store
from edge_ad_calibration.fit import QUANTILE_B, fit_calibration
from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.engines import RawMaps
from edge_ad_runtime.engines.tiled import whole_image_engine
from edge_ad_runtime.errors import CalibrationError, DataError
from edge_ad_runtime.files import folder_written_atomically
from edge_ad_runtime.scoring import apply_calibration

POINTS = "points"
BEST = "best"
# A tail that falls by less than this share is no progress.
_PROGRESS = 0.01


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """What one evaluation point measured.

    ``tail`` is the geometric mean of the two raw maps' 0.995 quantiles over the good validation images: it
    falls as long as the student learns something that holds for parts it has not seen. ``score_*`` describe
    the image scores of these images, ``auroc`` is the image AUROC on the labelled validation set.
    """

    step: int
    tail: float
    threshold: float
    score_mean: float
    score_std: float
    score_max: float
    auroc: float | None

    def better_than(self, other: Point) -> bool:
        """Higher AUROC where there is a labelled set, then the lower tail."""
        if self.auroc is not None and other.auroc is not None and self.auroc != other.auroc:
            return self.auroc > other.auroc
        return self.tail < other.tail


class Watch(msgspec.Struct, frozen=True):
    """The best point so far, the lowest tail that was progress, and how many points came since without any."""

    best: Point | None = None
    tail: float | None = None
    stale: int = 0

    def after(self, point: Point) -> Watch:
        """The watch with one more point."""
        best = point if self.best is None or point.better_than(self.best) else self.best
        # With labels, a higher AUROC is progress too.
        risen = (
            point.auroc is not None
            and self.best is not None
            and self.best.auroc is not None
            and point.auroc > self.best.auroc
        )
        fallen = self.tail is None or point.tail < self.tail * (1 - _PROGRESS)
        if fallen or risen:
            return Watch(best, point.tail if fallen else self.tail, 0)
        return Watch(best, self.tail, self.stale + 1)


@dataclass(frozen=True)
class Validation:
    """The good validation images and, where there is one, the labelled set (images and which have a defect)."""

    good: ImageStore
    labelled: ImageStore | None
    defects: tuple[bool, ...]


def open_validation(good: Sequence[Path], labelled: Dataset | None, config: RunConfig) -> Validation:
    """The images of the evaluation points.

    Raises:
        DataError: the labelled set has no defects, or nothing but defects.
    """
    store = training_store(good, config.preprocess)
    if labelled is None:
        return Validation(store, None, ())
    defects = tuple(image.defect for image in labelled.test)
    if len(set(defects)) != 2:
        raise DataError(
            f"{labelled.root}: a labelled validation set needs good and defective images (test/good, test/<defect>)"
        )
    return Validation(store, training_store([i.path for i in labelled.test], config.preprocess), defects)


def raw_maps(nets: EfficientAdNets, images: ImageStore, config: RunConfig) -> list[RawMaps]:
    """The raw maps of each whole image, by the float nets in evaluation mode."""
    engine = whole_image_engine(TorchEngine(nets), config.preprocess)
    return [engine.run(images[i]) for i in range(len(images))]


def calibrate(maps: Sequence[RawMaps], config: RunConfig) -> Calibration:
    """The calibration of a run's float nets on the validation images' raw maps."""
    return fit_calibration(
        maps,
        bundle="",
        source="validation images of the training",
        score=config.score,
        mix=config.mix,
        background=config.background,
    )


def evaluate_point(
    nets: EfficientAdNets, config: RunConfig, validation: Validation, step: int
) -> tuple[Point, Calibration] | None:
    """Measure the nets as they are; None where they cannot be calibrated yet (constant maps, say)."""
    maps = raw_maps(nets, validation.good, config)
    try:
        calibration = calibrate(maps, config)
    except CalibrationError:
        return None
    scores = np.asarray([apply_calibration(m, calibration)[1] for m in maps])
    auroc = None
    if validation.labelled is not None:
        labelled = [apply_calibration(m, calibration)[1] for m in raw_maps(nets, validation.labelled, config)]
        auroc = image_auroc(labelled, validation.defects)
    tails = [float(np.quantile(np.stack([m[i] for m in maps]), QUANTILE_B)) for i in (0, 1)]
    point = Point(
        step=step,
        tail=math.sqrt(tails[0] * tails[1]),
        threshold=calibration.threshold,
        score_mean=float(scores.mean()),
        score_std=float(scores.std(ddof=1)),
        score_max=float(scores.max()),
        auroc=auroc,
    )
    return point, calibration


def keep_point(
    out: Path,
    name: str,
    nets: EfficientAdNets,
    config: RunConfig,
    split: SplitRecord,
    calibration: Calibration,
) -> Path:
    """Write the nets as a run of their own, ``points/<name>``, with all that scoring needs.

    A crash leaves the point that was there before, the new one, or none, never a part of one.
    """
    folder = out / POINTS / name
    with folder_written_atomically(folder) as temporary:
        write_config(temporary, config, split)
        finish(temporary, nets, calibration)
        if folder.exists():
            shutil.rmtree(folder)
    return folder
