"""What quantization cost: each model's maps and scores against the float nets', on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from edge_ad.conversion import ImageSets
from edge_ad.data import Dataset, TestImage
from edge_ad.evaluation.evaluate import measure
from edge_ad.evaluation.scored import ScoredImage
from edge_ad.run_folder import Run, TorchScorer
from edge_ad_calibration.fit import fit_calibration
from edge_ad_converters.parity import compare
from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.engines import RawMaps
from edge_ad_runtime.images import read_image
from edge_ad_runtime.preprocess import PreprocessSpec, preprocess
from edge_ad_runtime.scoring import apply_calibration
from edge_ad_runtime.types import FloatArray, Image
from tests.studies.peers.models import Model
from tests.studies.peers.runners import Runner, open_runner

REFERENCE = "float nets (torch)"
_THREADS = 1


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a model with one calibration.

    ``quantiles`` are ``own``, fitted on its own maps of the held-out good images, or ``float``, those of the
    float nets, as a graph has that was quantized after they were fitted. Correlations are Pearson's with the
    float nets: of combined maps the median and the smallest over the images, of scores over all test images.
    ``flipped`` counts verdicts that are not the float nets'. None where it does not apply.
    """

    model: str
    quantiles: str
    image_auroc: float | None
    aupro: float | None
    map_correlation_good: float
    worst_map_correlation_good: float
    map_correlation_all: float
    worst_map_correlation_all: float
    score_correlation: float
    flipped: int | None
    false_rejects: int | None
    escapes: int | None


@dataclass(frozen=True)
class TestSet:
    """Preprocessed images: the labelled test images and the good ones that calibrations are fitted on."""

    spec: PreprocessSpec
    images: tuple[TestImage, ...]
    shapes: tuple[tuple[int, int], ...]
    test: tuple[Image, ...]
    fit: tuple[Image, ...]

    @property
    def good(self) -> list[int]:
        """Which of the test images are good."""
        return [i for i, image in enumerate(self.images) if not image.defect]


def read_test_set(run: Run, dataset: Dataset, sets: ImageSets) -> TestSet:
    """Read and preprocess the images once, for all models."""
    spec = run.config.preprocess
    shapes, test = [], []
    for image in dataset.test:
        pixels = read_image(image.path)
        shapes.append((pixels.shape[0], pixels.shape[1]))
        test.append(preprocess(pixels, spec))
    fit = tuple(preprocess(read_image(p), spec) for p in sets.fit)
    return TestSet(spec, tuple(dataset.test), tuple(shapes), tuple(test), fit)


@dataclass(frozen=True)
class _Result:
    test: list[RawMaps]
    fit: list[RawMaps]


class Judge:
    """Measures models against the float nets of a run."""

    def __init__(self, run: Run, images: TestSet) -> None:
        self._config, self._images = run.config, images
        scorer = TorchScorer(run.nets, PreprocessSpec(images.spec.height, images.spec.width))
        self._float = _Result(*([scorer.raw_maps(b[0]) for b in part] for part in (images.test, images.fit)))
        self._float_calibration = self._fit(self._float.fit)

    def reference(self) -> Accuracy:
        """The float nets against themselves."""
        return self._figures(REFERENCE, "own", self._float, self._float_calibration)

    def judge(self, model: Model, folder: Path) -> list[Accuracy]:
        """A raw-map model with its own quantiles and, where it is quantized without us, with the float ones."""
        runner = open_runner(model, folder, _THREADS)
        result = _Result(*([_raw(runner, b) for b in part] for part in (self._images.test, self._images.fit)))
        found = [self._figures(model.name, "own", result, self._fit(result.fit))]
        if model.graph == "plain" and model.precision == "int8":
            found.append(self._figures(model.name, "float", result, self._float_calibration))
        return found

    def _fit(self, maps: Sequence[RawMaps]) -> Calibration:
        c = self._config
        return fit_calibration(
            maps, bundle="", source="study", score=c.score, mix=c.mix, background=c.background
        )

    def _figures(self, name: str, quantiles: str, result: _Result, calibration: Calibration) -> Accuracy:
        images = self._images
        everything = compare(self._float.test, result.test, self._float_calibration, calibration)
        good = compare(
            [self._float.test[i] for i in images.good], [result.test[i] for i in images.good],
            self._float_calibration, calibration,
        )  # fmt: skip
        scored = []
        for image, shape, maps in zip(images.images, images.shapes, result.test, strict=True):
            combined, score = apply_calibration(maps, calibration)
            scored.append(ScoredImage(image, *shape, combined, score, 0.0))
        evaluation = measure(scored, images.spec, calibration)
        return Accuracy(
            model=name, quantiles=quantiles, image_auroc=evaluation.image_auroc, aupro=evaluation.aupro,
            map_correlation_good=good.map_correlation, worst_map_correlation_good=good.worst_map_correlation,
            map_correlation_all=everything.map_correlation,
            worst_map_correlation_all=everything.worst_map_correlation,
            score_correlation=everything.score_correlation, flipped=sum(p.flipped for p in everything.pairs),
            false_rejects=evaluation.calibrated.false_rejects, escapes=evaluation.calibrated.escapes,
        )  # fmt: skip


def judge_combined(reference: Model, model: Model, folder: Path, images: TestSet) -> Accuracy:
    """A model that gives a combined map only, against its own float original.

    Its map is stretched over the image with a border of zeros and normalized by quantiles in the graph: AUROC and
    AUPRO are left to the tool it comes from.
    """
    a, b = (open_runner(m, folder, _THREADS) for m in (reference, model))
    pairs = [(a.infer(a.prepare(x))[0], b.infer(b.prepare(x))[0]) for x in images.test]
    correlations = [_correlation(*pair) for pair in pairs]
    good = [correlations[i] for i in images.good]
    peaks = [np.asarray([p[k].max() for p in pairs]) for k in (0, 1)]
    return Accuracy(
        model=model.name, quantiles="in the graph", image_auroc=None, aupro=None,
        map_correlation_good=float(np.median(good)), worst_map_correlation_good=min(good),
        map_correlation_all=float(np.median(correlations)), worst_map_correlation_all=min(correlations),
        score_correlation=_correlation(*peaks), flipped=None, false_rejects=None, escapes=None,
    )  # fmt: skip


def _raw(runner: Runner, batch: Image) -> RawMaps:
    st, ae = runner.infer(runner.prepare(batch))
    return RawMaps(np.asarray(st, np.float32), np.asarray(ae, np.float32))


def _correlation(a: FloatArray, b: FloatArray) -> float:
    return float(np.corrcoef(np.ravel(a).astype(float), np.ravel(b).astype(float))[0, 1])
