"""The jobs of the ``edge-ad`` command as Python functions.

from edge_ad.api import TrainOptions, convert, evaluate, load, train

model = train("data/bottle", "runs/bottle", TrainOptions(size="n", steps=2000))
print(evaluate(model, "data/bottle").image_auroc)
for prediction in model.predict("new_images"):
    print(prediction.name, prediction.score, prediction.verdict)
convert(model, "bottle.edgead")
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_ad.conversion import Conversion, ConvertOptions, labelled_images
from edge_ad.conversion import convert as convert_run
from edge_ad.data import read_dataset
from edge_ad.devices import resolve_device
from edge_ad.evaluation.evaluate import Evaluation
from edge_ad.evaluation.evaluate import evaluate as evaluate_scorer
from edge_ad.evaluation.scorer import Subject, open_subject
from edge_ad.run_folder import open_run
from edge_ad.training.job import train as train_run
from edge_ad.training.options import TrainOptions, plan
from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.errors import DataError, ImageError, RunError
from edge_ad_runtime.images import is_image_path, read_image
from edge_ad_runtime.placement import place_map
from edge_ad_runtime.scoring import apply_calibration, decide
from edge_ad_runtime.stopping import StopRequest
from edge_ad_runtime.types import FloatArray, Image
from edge_ad_runtime.verdict import Verdict

__all__ = [
    "ConvertOptions",
    "Model",
    "Prediction",
    "TrainOptions",
    "convert",
    "evaluate",
    "load",
    "train",
]

Source = Image | str | Path
"""A camera image ``uint8 HxWx3`` RGB, an image file, or a folder of image files (with its subfolders)."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    ``name`` is the image's path, or its number where it came as an array. ``anomaly_map`` is ``float32 HxW``,
    at the resolution of the image (or of its inspected region): 0 and 0.1 are the 0.9 and 0.995 quantiles of
    good parts. The verdict is ``reject`` where the score lies above the threshold.
    """

    name: str
    score: float
    threshold: float
    verdict: Verdict
    anomaly_map: FloatArray


class Model:
    """A finished run or a bundle, ready to look at images; :func:`load` opens one."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    @property
    def path(self) -> Path:
        """The run's folder or the bundle's file."""
        return self._subject.path

    @property
    def calibration(self) -> Calibration:
        """Quantiles, mix, score rule and threshold."""
        return self._subject.scorer.calibration

    @property
    def subject(self) -> Subject:
        """The scorer and its preprocessing, as the evaluation takes them."""
        return self._subject

    def predict(self, source: Source | Iterable[Source]) -> Iterator[Prediction]:
        """Predict for an image, a file, every image of a folder (sorted), or several of these, one by one.

        Raises:
            DataError: a folder holds no images.
            ImageError: an image cannot be read, or an array is no camera image.
        """
        for name, image in _images(source):
            maps = self._subject.scorer.raw_maps(image)
            combined, score = apply_calibration(maps, self.calibration)
            height, width = image.shape[:2]
            yield Prediction(
                name=name,
                score=score,
                threshold=self.calibration.threshold,
                verdict=decide(score, self.calibration),
                anomaly_map=place_map(combined, self._subject.preprocess, height, width),
            )


def load(path: str | Path, threads: int | None = None) -> Model:
    """Open a run's folder or a bundle.

    Raises:
        InputError, RunError, BundleError, MissingExtra: it cannot be opened.
    """
    return Model(open_subject(Path(path), threads))


def train(
    data: str | Path,
    out: str | Path,
    options: TrainOptions | None = None,
    *,
    device: str = "auto",
    resume: bool = False,
    stop: StopRequest | None = None,
) -> Model:
    """Train a run in the folder ``out`` on the good images of ``data``; what is odd about them is warned of.

    Args:
        data: a data set, or a folder of images of good parts.
        out: the run's folder.
        options: see :class:`edge_ad.training.options.TrainOptions`.
        device: ``auto``, ``cpu`` or ``cuda``.
        resume: go on with an interrupted run.
        stop: ends the training early when asked to, with a checkpoint.

    Raises:
        DataError, ImageError, InputError: the images or the options do not do.
        RunError: ``out`` holds another run, or the training was stopped.
    """
    resolved = resolve_device(device)
    prepared = plan(Path(data), options or TrainOptions(), resolved)
    for text in prepared.warnings:
        warnings.warn(text, stacklevel=2)
    if train_run(Path(out), prepared, resolved, stop or StopRequest(), resume) is None:
        raise RunError(f"{out}: the training was stopped; go on with resume=True")
    return load(out)


def evaluate(model: Model | str | Path, data: str | Path) -> Evaluation:
    """Measure a model, or the one at a path, on the labelled test images of a data set.

    Raises:
        DataError: there are no labelled test images.
        ImageError, InputError, RunError, BundleError: see :func:`edge_ad.evaluation.evaluate.evaluate`.
    """
    subject = (model if isinstance(model, Model) else load(model)).subject
    return evaluate_scorer(subject.scorer, subject.preprocess, read_dataset(Path(data)))


def convert(
    run: Model | str | Path,
    out: str | Path,
    options: ConvertOptions | None = None,
    *,
    calibration_images: str | Path | None = None,
    test: str | Path | None = None,
) -> Conversion:
    """Convert a run to a bundle.

    Args:
        run: the run, or its folder.
        out: the bundle's path, ``NAME.edgead``.
        options: target, precision, threshold, score, mix.
        calibration_images: good images; None takes the run's own data.
        test: labelled data to measure the cost on; None takes the run's own data if it has test images.

    Raises:
        RunError: ``run`` is no finished run.
        DataError, BundleError: see :func:`edge_ad.conversion.convert`.
    """
    opened = open_run(run.path if isinstance(run, Model) else Path(run))
    labelled = labelled_images(opened, Path(test) if test is not None else None)
    images = Path(calibration_images or opened.config.data)
    return convert_run(opened, images, labelled, Path(out), options or ConvertOptions())


def _images(source: Source | Iterable[Source]) -> Iterator[tuple[str, Image]]:
    several = [source] if isinstance(source, str | Path | np.ndarray) else source
    for number, one in enumerate(several):
        if isinstance(one, np.ndarray):
            if one.dtype != np.uint8 or one.ndim != 3 or one.shape[2] != 3 or one.size == 0:
                raise ImageError(
                    f"image {number}: {one.dtype} of shape {one.shape} is no camera image; "
                    "uint8 HxWx3 in RGB is wanted"
                )
            yield str(number), one
            continue
        path = Path(one)
        paths = sorted(p for p in path.rglob("*") if is_image_path(p)) if path.is_dir() else [path]
        if not paths:
            raise DataError(f"{path}: holds no images (PNG, JPEG, BMP, TIFF or WebP)")
        for file in paths:
            yield str(file), read_image(file)
