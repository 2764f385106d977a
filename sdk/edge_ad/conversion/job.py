"""The conversion job: fuse, export, quantize, calibrate in the target's engine, measure, write, read back."""

from __future__ import annotations

import datetime
import hashlib
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_ad import __version__
from edge_ad.conversion.build import Builder, Graphs, graphs
from edge_ad.conversion.compress import ADVICE, Compressed, compress
from edge_ad.conversion.images import ImageSets, choose_images
from edge_ad.conversion.measure import Measurement, Reference, limits, measured_on
from edge_ad.conversion.model import ConvertedModel, host_engine
from edge_ad.conversion.options import ConvertOptions
from edge_ad.data import Dataset, content_hash
from edge_ad.describe import describe
from edge_ad.report.html import render_html
from edge_ad.report.markdown import render_markdown
from edge_ad.report.model import Compression, Latency, ModelBytes, PrecisionCost, Report, as_dict
from edge_ad.report.model import ImageSets as SetSizes
from edge_ad.report.pictures import Picture, picture_of
from edge_ad.run_folder import Run, TorchScorer
from edge_ad_converters.targets import TargetForm, target_form
from edge_ad_runtime.bundle import GoldenSample, Manifest, check_bundle_path, open_bundle, write_bundle
from edge_ad_runtime.calibration import encode_calibration
from edge_ad_runtime.engines import Precision, Target, open_engine
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.images import read_image
from edge_ad_runtime.inspector import Inspector
from edge_ad_runtime.preprocess import preprocess
from edge_ad_runtime.scoring import apply_calibration
from edge_ad_runtime.timing import time_bundles
from edge_ad_runtime.types import Image

# Largest relative deviation of the fused float graph from the plain networks.
FUSION_TOLERANCE = 1e-4
_PARITY_IMAGES = 4
_GOLDEN_GOOD, _GOLDEN_DEFECTS = 2, 1
# How far another CPU's kernels may round differently; a saturating one (8-bit products added in 16 bits, as
# x86 without VNNI does) is far outside.
_GOLDEN_TOLERANCE = {"fp32": 1e-3, "fp16": 0.05, "int8": 0.05}
# tflite-runtime 2.14 averages and interpolates more coarsely than LiteRT (0.11 measured); TensorRT's golden samples
# are another engine's.
_INT8_GOLDEN_TOLERANCE: dict[Target, float] = {"tflite": 0.15, "tensorrt": 0.15}
_LATENCY_ROUNDS = 20
_VERSIONS = ("torch", "onnx", "onnxruntime", "ai-edge-litert", "openvino", "numpy", "opencv-python-headless")


@dataclass(frozen=True)
class Conversion:
    """A written bundle and what was measured; ``report`` is the bundle's ``report.json``."""

    path: Path
    bundle_id: str
    report: dict[str, Any]
    warnings: tuple[str, ...]


def convert(
    run: Run, calibration_images: Path, test: Dataset | None, out: Path, options: ConvertOptions
) -> Conversion:
    """Convert a run and write the bundle ``out``.

    Args:
        run: the finished run.
        calibration_images: a folder of good images (or a data set with ``train/good``).
        test: labelled images to measure the cost on; None measures on good images alone.
        out: the bundle's path.
        options: target, precision, threshold, limits.

    Raises:
        BundleError: the bundle cannot be written there.
        DataError: the images do not do.
        MissingExtra: the target's engine is not installed.
        InputError: the converted model breaks a limit, or the fused graph does not compute what the networks
            do (never to be expected).
    """
    check_bundle_path(out)
    spec, form = run.config.preprocess, target_form(options.target)
    sets = choose_images(run, calibration_images, test, options.seed)
    nets = describe(run.nets)
    full = graphs(nets, form)
    fp32 = form.encode(full.graph)
    # Opened before the work begins: a missing engine should not cost anyone minutes.
    _, stand_in = host_engine(options.target, fp32, "fp32")
    float_bytes = full.plain.SerializeToString()
    reference = ConvertedModel(open_engine("ort", float_bytes, "fp32"), "fp32", float_bytes, spec)
    fit_images = [read_image(p) for p in sets.fit]
    deviation = _check_fusion(run, reference, fit_images[:_PARITY_IMAGES])
    reference.fit(fit_images, run.config, options)
    measured = Reference(reference, measured_on(test, sets.held_back, sets.fit))
    builder = Builder(run.config, form, sets, options, measured, fit_images)
    compressed: Compressed | None = None
    # All of the arithmetic is no compression.
    if options.compress is not None and options.compress != 1:
        compressed = compress(nets, full, builder)
    built = compressed.built if compressed else builder.build(full)
    target, measurement, broken, quantized = built.model, built.measurement, built.broken, built.quantized
    cut = compressed is not None and not compressed.record.uncompressed.chosen
    if broken and not options.force:
        advice = ADVICE if cut else "give more calibration images, another --ranges or a wider --max-drop"
        raise InputError(
            f"the {options.precision} model{' that was compressed' if cut else ''} breaks a limit: "
            f"{'; '.join(broken)}. The bundle is not written; {advice}, or insist with --force"
        )
    golden = _golden(target, fit_images, test)
    manifest = _manifest(
        run, out, form, target, options, built.graphs, compressed.record if compressed else None
    )
    costs = _precision_costs(manifest, target, fp32, options.target if stand_in is None else "ort")
    warnings = (
        *sets.warnings,
        *(compressed.warnings if compressed else ()),
        *(quantized.warnings if quantized else ()),
    )
    report = Report(
        name=manifest.name,
        created=manifest.created,
        built_for=options.target,
        score_rule=target.calibration.score,
        float_=measurement.reference,
        target=measurement.target,
        score_correlation=measurement.parity.score_correlation,
        map_correlation=measurement.parity.map_correlation,
        worst_map_correlation=measurement.parity.worst_map_correlation,
        good_map_correlation=measurement.good_map_correlation,
        flipped_verdicts=tuple(i.name for i in measurement.images if i.flipped),
        latency_ms=Latency(float_=costs[0].engine_ms, target=costs[-1].engine_ms),
        measured_on=measurement.on.what,
        measured_images=len(measurement.images),
        precisions=costs,
        model_bytes=ModelBytes(float_=len(fp32), target=len(target.model)),
        gmac=manifest.image_gmac,
        fusion_deviation=deviation,
        quantization=quantized.record if quantized else None,
        sensitivity=quantized.sensitivity if quantized else (),
        limits=limits(broken, options),
        images=measurement.images,
        sets=SetSizes(
            ranges=len(sets.ranges) if quantized else 0,
            fit=len(sets.fit),
            measurement=len(measurement.images),
        ),
        warnings=warnings,
        provenance={**manifest.provenance, **_data_provenance(sets, measurement), "command": options.command},
        stand_in=stand_in,
        kinds=measurement.kinds,
        lost=measurement.lost,
        compression=compressed.record if compressed else None,
    )
    documents = _documents(report, reference, target, measurement)
    fields = as_dict(report)
    write_bundle(
        out, manifest, target.model, encode_calibration(target.calibration), golden, fields, documents
    )
    bundle = open_bundle(out)
    if stand_in is None:
        Inspector(bundle).self_test()
    return Conversion(out, bundle.id, fields, warnings)


def _check_fusion(run: Run, fused: ConvertedModel, images: Sequence[Image]) -> float:
    plain = TorchScorer(run.nets, run.config.preprocess)
    worst = 0.0
    for image in images:
        for a, b in zip(plain.raw_maps(image), fused.raw_maps(image), strict=True):
            worst = max(worst, float(np.abs(a - b).max() / np.abs(a).max()))
    fused.recorded.clear()
    if not worst <= FUSION_TOLERANCE:
        raise InputError(
            f"the fused graph deviates from the networks by {worst:.2g} (allowed {FUSION_TOLERANCE}); "
            "the bundle is not written"
        )
    return worst


def _manifest(
    run: Run,
    out: Path,
    form: TargetForm,
    target: ConvertedModel,
    options: ConvertOptions,
    graphs: Graphs,
    compression: Compression | None,
) -> Manifest:
    grid = run.config.preprocess.grid
    height, width = run.nets.map_size if grid is None else grid.map_size
    return Manifest(
        name=out.name.removesuffix(".edgead"),
        size=run.config.size,
        target=options.target,
        precision=options.precision,
        model=form.file,
        preprocess=run.config.preprocess,
        map_height=height,
        map_width=width,
        gmac=graphs.gmac,
        golden_tolerance=_golden_tolerance(options),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        provenance=_provenance(run, target, compression),
        files={},
    )


def _golden_tolerance(options: ConvertOptions) -> float:
    usual = _GOLDEN_TOLERANCE[options.precision]
    return _INT8_GOLDEN_TOLERANCE.get(options.target, usual) if options.precision == "int8" else usual


def _precision_costs(
    manifest: Manifest, target: ConvertedModel, fp32: bytes, engine: Target
) -> tuple[PrecisionCost, ...]:
    """fp32 and the wanted precision in the same engine, in turn, as bundles that live for this only."""
    files: list[tuple[Precision, bytes]] = [("fp32", fp32)]
    if target.model != fp32:
        files.append((target.precision, target.model))
    calibration = encode_calibration(target.calibration)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.edgead" for number in range(len(files))]
        for path, (name, model) in zip(paths, files, strict=True):
            fields = msgspec.structs.replace(manifest, precision=name, target=engine)
            write_bundle(path, fields, model, calibration, (), {})
        timings = time_bundles(paths, rounds=_LATENCY_ROUNDS)
    return tuple(
        PrecisionCost(
            precision=name,
            engine=timing.engine,
            engine_ms=timing.engine_ms.p50,
            rss_mb=timing.rss_mb,
            model_bytes=len(model),
        )
        for timing, (name, model) in zip(timings, files, strict=True)
    )


def _documents(
    report: Report, reference: ConvertedModel, target: ConvertedModel, measurement: Measurement
) -> dict[str, bytes]:
    paths = dict(zip(measurement.on.names, measurement.on.paths, strict=True))

    def picture(name: str) -> Picture:
        image = read_image(paths[name])
        maps = [apply_calibration(m.raw_maps(image), m.calibration)[0] for m in (reference, target)]
        return picture_of(image, maps[0], maps[1], target.spec)

    return {
        "report.html": render_html(report, picture).encode(),
        "report.md": render_markdown(report).encode(),
    }


def _golden(model: ConvertedModel, good: Sequence[Image], test: Dataset | None) -> tuple[GoldenSample, ...]:
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


def _provenance(run: Run, target: ConvertedModel, compression: Compression | None) -> dict[str, str]:
    c = run.config
    cut = {}
    if compression is not None and not compression.uncompressed.chosen:
        chosen, whole = compression.chosen, compression.uncompressed.gmac
        cut = {
            "compressed": f"{chosen.label}: {chosen.share:.3g} of {whole:.3g} GMAC (--compress {compression.asked})"
        }
    return {
        "edge_ad": __version__,
        **{name: found for name in _VERSIONS if (found := _version(name))},
        "engine": target.engine.name,
        "machine": f"{platform.machine()} {platform.system()}",
        "run": run.path.name,
        "teacher": c.teacher,
        "teacher_sha256": c.teacher_sha256,
        "steps": str(c.steps),
        "seed": str(c.seed),
        "training_images": str(len(run.split.train)),
        **cut,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _data_provenance(sets: ImageSets, measurement: Measurement) -> dict[str, str]:
    """SHA-256 over the sorted SHA-256 of the images' contents."""
    found = {}
    for name, paths in (
        ("ranges_sha256", sets.ranges),
        ("fit_sha256", sets.fit),
        ("measured_sha256", measurement.on.paths),
    ):
        found[name] = hashlib.sha256("".join(sorted(content_hash(p) for p in paths)).encode()).hexdigest()
    return found
