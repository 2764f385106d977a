"""The conversion job: fuse, export, quantize, calibrate in the target's engine, measure, write, read back."""

from __future__ import annotations

import contextlib
import datetime
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from tqdm import tqdm

from edge_ad import __version__
from edge_ad.data import Dataset, content_hash, read_dataset
from edge_ad.describe import describe
from edge_ad.evaluation.evaluate import Evaluation, evaluate
from edge_ad.run_folder import Run, RunConfig, TorchScorer
from edge_ad_calibration.fit import MIN_IMAGES, fit_calibration
from edge_ad_converters.ort_target import MODEL_FILE, build_ort
from edge_ad_converters.parity import Parity, compare
from edge_ad_runtime.bundle import GoldenSample, Manifest, check_bundle_path, open_bundle, write_bundle
from edge_ad_runtime.calibration import Calibration, MixChoice, encode_calibration
from edge_ad_runtime.engines import Engine, RawMaps, open_engine
from edge_ad_runtime.errors import DataError, ImageError, InputError
from edge_ad_runtime.images import read_image
from edge_ad_runtime.inspector import Inspector
from edge_ad_runtime.preprocess import PreprocessSpec, preprocess
from edge_ad_runtime.scoring import apply_calibration
from edge_ad_runtime.types import Image

# Ranges are extremes: more images than these change them little and cost time.
MAX_RANGE_IMAGES = 128
FEW_RANGE_IMAGES = 16
# The scatter of a threshold fitted on fewer scores is as large as the distance that it is to keep.
FEW_FIT_IMAGES = 20
# Largest relative deviation of the fused float graph from the plain networks.
FUSION_TOLERANCE = 1e-4
_PARITY_IMAGES = 4
_GOLDEN_GOOD, _GOLDEN_DEFECTS = 2, 1
# How far another CPU's kernels may round differently; a saturating one (8-bit products added in 16 bits, as
# x86 without VNNI does) is far outside.
_GOLDEN_TOLERANCE = {"fp32": 1e-3, "int8": 0.05}
_LATENCY_ROUNDS = 20


@dataclass(frozen=True)
class ConvertOptions:
    """What to convert to; see ``edge-ad convert --help``. ``score``, ``mix`` and ``background`` of None
    are the run's."""

    target: Literal["ort"] = "ort"
    precision: Literal["fp32", "int8"] = "int8"
    false_reject_rate: float = 0.01
    threshold: float | None = None
    score: str | None = None
    mix: MixChoice | None = None
    background: bool | None = None
    seed: int = 42


@dataclass(frozen=True)
class Conversion:
    """A written bundle and what was measured; ``report`` is the bundle's ``report.json``."""

    path: Path
    bundle_id: str
    report: dict[str, Any]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class ImageSets:
    """``ranges`` quantize, ``fit`` (never trained on) give quantiles and threshold; preprocessed batches."""

    ranges: tuple[Path, ...]
    fit: tuple[Path, ...]
    warnings: tuple[str, ...]


def convert(
    run: Run, calibration_images: Path, test: Dataset | None, out: Path, options: ConvertOptions
) -> Conversion:
    """Convert a run and write the bundle ``out``.

    Args:
        run: the finished run.
        calibration_images: a folder of good images (or a data set with ``train/good``).
        test: labelled images to measure the cost on; None measures on the good images of the fit alone.
        out: the bundle's path.
        options: target, precision, threshold.

    Raises:
        BundleError: the bundle cannot be written there.
        DataError: the images do not do.
        InputError: the fused graph does not compute what the networks do (never to be expected).
    """
    check_bundle_path(out)
    spec = run.config.preprocess
    sets = choose_images(run, calibration_images, test, options.seed)
    fit_images = [read_image(p) for p in sets.fit]
    range_batches = [preprocess(read_image(p), spec) for p in sets.ranges]
    models = build_ort(describe(run.nets), options.precision, range_batches)
    reference = _Model(open_engine("ort", models.float_model, "fp32"), spec)
    target = _Model(open_engine(options.target, models.target_model, options.precision), spec)
    deviation = _check_fusion(run, reference, fit_images[:_PARITY_IMAGES])
    for model in (reference, target):
        model.fit(
            fit_images, run.config, options, source=f"{len(fit_images)} held-out good images at conversion"
        )
    measured = _measure(reference, target, test, fit_images, spec)
    report = {
        **measured,
        "fusion_deviation": deviation,
        "latency_ms": _latency(reference, target, preprocess(fit_images[0], spec)),
        "gmac": models.gmac,
        "model_bytes": {"float": len(models.float_model), "target": len(models.target_model)},
        "images": {"ranges": len(sets.ranges) if options.precision == "int8" else 0, "fit": len(sets.fit)},
        "warnings": list(sets.warnings),
    }
    height, width = run.nets.map_size
    manifest = Manifest(
        name=out.name.removesuffix(".edgead"),
        size=run.config.size,
        target=options.target,
        precision=options.precision,
        model=MODEL_FILE,
        preprocess=spec,
        map_height=height,
        map_width=width,
        gmac=models.gmac,
        golden_tolerance=_GOLDEN_TOLERANCE[options.precision],
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        provenance=_provenance(run, target.engine),
        files={},
    )
    golden = _golden(target, fit_images, test)
    write_bundle(out, manifest, models.target_model, encode_calibration(target.calibration), golden, report)
    bundle = open_bundle(out)
    Inspector(bundle).self_test()
    return Conversion(out, bundle.id, report, sets.warnings)


def labelled_images(run: Run, given: Path | None) -> Dataset | None:
    """The labelled images to measure on: those given, or the run's own data if that is still there and has some.

    Raises:
        DataError: the given folder has no labelled images.
    """
    if given is not None:
        dataset = read_dataset(given)
        if not dataset.test:
            raise DataError(
                f"{given}: has no labelled test images (test/good, test/<defect>) to measure the cost on"
            )
        return dataset
    own = Path(run.config.data)
    if not own.is_dir():
        return None
    dataset = read_dataset(own)
    return dataset if dataset.test else None


class _Model:
    """A scorer on an engine, calibrated during the conversion; satisfies the evaluation's Scorer."""

    def __init__(self, engine: Engine, spec: PreprocessSpec) -> None:
        self.engine, self.spec = engine, spec
        self._calibration: Calibration | None = None

    @property
    def calibration(self) -> Calibration:
        assert self._calibration is not None
        return self._calibration

    def raw_maps(self, image: Image) -> RawMaps:
        return self.engine.run(preprocess(image, self.spec))

    def fit(self, images: Sequence[Image], trained: RunConfig, options: ConvertOptions, source: str) -> None:
        maps = [self.raw_maps(i) for i in tqdm(images, desc=f"calibrate ({self.engine.name})", leave=False)]
        self._calibration = fit_calibration(
            maps,
            bundle="",
            source=source,
            false_reject_rate=options.false_reject_rate,
            threshold=options.threshold,
            score=options.score or trained.score,
            mix=options.mix or trained.mix,
            background=trained.background if options.background is None else options.background,
        )


def choose_images(run: Run, folder: Path, test: Dataset | None, seed: int) -> ImageSets:
    """Sort the calibration images by whether the run was trained on them.

    Quantiles and threshold take only images that were not trained on: those of the folder, else the run's
    own validation images, if they are still where they were. Ranges take the others, or all when there are few
    others. Test images are left out of both.

    Raises:
        DataError: there are too few images that were not trained on.
    """
    given = read_dataset(folder)
    images = {content_hash(p): p for p in (*given.good, *given.validation)}
    warnings = list(given.warnings)
    tested = set() if test is None else {content_hash(i.path) for i in test.test}
    if leaking := [p for h, p in images.items() if h in tested]:
        warnings.append(
            f"{len(leaking)} calibration images are test images too and are left out ({leaking[0]}, …)"
        )
        images = {h: p for h, p in images.items() if h not in tested}
    trained = set(run.split.train.values())
    fit = {h: p for h, p in images.items() if h not in trained}
    if len(fit) < MIN_IMAGES:
        new, fit = len(fit), _validation_images(run)
        if len(fit) < MIN_IMAGES:
            raise DataError(
                f"{folder}: holds {new} images that the run was not trained on ({MIN_IMAGES} are needed), and the "
                f"run's own validation images are no longer in {run.config.data}; quantiles fitted on trained "
                "images would be too low. Give --calibration-images more good images"
            )
        warnings.append(
            f"{folder} holds {new} images that were not trained on: quantiles and threshold are fitted on the "
            "run's validation images"
        )
    others = [p for h, p in images.items() if h not in fit]
    ranges = sorted(others if len(others) >= FEW_RANGE_IMAGES else images.values())
    if len(ranges) < FEW_RANGE_IMAGES:
        warnings.append(
            f"{len(ranges)} calibration images are few for INT8 ranges; {FEW_RANGE_IMAGES} or more are safer"
        )
    if len(fit) < FEW_FIT_IMAGES:
        warnings.append(
            f"{len(fit)} images to fit quantiles and threshold on are few; the threshold is a rough one. "
            f"Recalibrate with {FEW_FIT_IMAGES} or more good parts that were not trained on"
        )
    picks = np.sort(np.random.default_rng(seed).permutation(len(ranges))[:MAX_RANGE_IMAGES])
    return ImageSets(tuple(ranges[i] for i in picks), tuple(sorted(fit.values())), tuple(warnings))


def _validation_images(run: Run) -> dict[str, Path]:
    found = {}
    for name, digest in run.split.validation.items():
        path = Path(run.config.data) / name
        with contextlib.suppress(ImageError):
            if content_hash(path) == digest:
                found[digest] = path
    return found


def _check_fusion(run: Run, fused: _Model, images: Sequence[Image]) -> float:
    plain = TorchScorer(run.nets, run.config.preprocess)
    worst = 0.0
    for image in images:
        for a, b in zip(plain.raw_maps(image), fused.raw_maps(image), strict=True):
            worst = max(worst, float(np.abs(a - b).max() / np.abs(a).max()))
    if not worst <= FUSION_TOLERANCE:
        raise InputError(
            f"the fused graph deviates from the networks by {worst:.2g} (allowed {FUSION_TOLERANCE}); "
            "the bundle is not written"
        )
    return worst


def _measure(
    reference: _Model, target: _Model, test: Dataset | None, good: Sequence[Image], spec: PreprocessSpec
) -> dict[str, Any]:
    """The cost of the conversion, on the labelled test images or else on the good ones of the fit."""
    figures: dict[str, Any] = {"float": _own(reference), "target": _own(target)}
    labelled = test is not None and bool(test.test)
    if test is not None and labelled:
        for name, model in (("float", reference), ("target", target)):
            figures[name] |= _accuracy(evaluate(model, spec, test, progress=True))
        names = [str(i.path) for i in test.test]
        images: Iterator[Image] = (read_image(i.path) for i in test.test)
    else:
        names, images = [f"fit image {i}" for i in range(len(good))], iter(good)
    pairs = [(reference.raw_maps(i), target.raw_maps(i)) for i in images]
    parity: Parity = compare(
        [p[0] for p in pairs], [p[1] for p in pairs], reference.calibration, target.calibration
    )
    return {
        **figures,
        "measured_on": "labelled test images" if labelled else "the good images of the fit",
        "measured_images": parity.images,
        "score_correlation": parity.score_correlation,
        "map_correlation": parity.map_correlation,
        "worst_map_correlation": parity.worst_map_correlation,
        "flipped_verdicts": [names[i] for i in parity.flipped],
    }


def _own(model: _Model) -> dict[str, Any]:
    c = model.calibration
    return {"calibrated_threshold": c.threshold, "quantiles": msgspec.to_builtins(c.quantiles)}


def _accuracy(evaluation: Evaluation) -> dict[str, Any]:
    c = evaluation.calibrated
    return {
        "image_auroc": evaluation.image_auroc,
        "image_f1": evaluation.image_f1,
        "pixel_auroc": evaluation.pixel_auroc,
        "aupro": evaluation.aupro,
        "false_rejects": c.false_rejects,
        "escapes": c.escapes,
    }


def _latency(reference: _Model, target: _Model, batch: Image) -> dict[str, float]:
    """Median engine time of each, interleaved, on this machine."""
    times: dict[str, list[float]] = {"float": [], "target": []}
    for i in range(_LATENCY_ROUNDS + 2):
        for name, model in (("float", reference), ("target", target)):
            start = time.monotonic_ns()
            model.engine.run(batch)
            if i >= 2:
                times[name].append((time.monotonic_ns() - start) / 1e6)
    return {name: statistics.median(values) for name, values in times.items()}


def _golden(model: _Model, good: Sequence[Image], test: Dataset | None) -> tuple[GoldenSample, ...]:
    """A few good images and, where there is one, the first defect of the test images."""
    images = list(good[:_GOLDEN_GOOD])
    if test is not None:
        images += [read_image(i.path) for i in [t for t in test.test if t.defect][:_GOLDEN_DEFECTS]]
    samples = []
    for image in images:
        batch = preprocess(image, model.spec)
        maps = model.engine.run(batch)
        _, score = apply_calibration(maps, model.calibration)
        samples.append(GoldenSample(batch, maps.st, maps.ae, score))
    return tuple(samples)


def _provenance(run: Run, engine: Engine) -> dict[str, str]:
    c = run.config
    return {
        "edge_ad": __version__,
        "torch": version("torch"),
        "onnx": version("onnx"),
        "engine": engine.name,
        "machine": f"{platform.machine()} {platform.system()}",
        "run": run.path.name,
        "teacher": c.teacher,
        "teacher_sha256": c.teacher_sha256,
        "steps": str(c.steps),
        "seed": str(c.seed),
        "training_images": str(len(run.split.train)),
    }
