"""Records of conversions that were never made, consistent in themselves, for the pages to show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edge_ad.report.model import (
    Compression,
    CompressionCandidate,
    FloatLayer,
    ImageResult,
    ImageSets,
    KindResult,
    Latency,
    LayerSensitivity,
    Limits,
    ModelBytes,
    PrecisionCost,
    Quantization,
    RangeCandidate,
    Report,
    Side,
)
from edge_ad.report.pictures import Picture
from edge_ad_runtime.calibration import Quantiles
from edge_ad_runtime.preprocess import Roi
from edge_ad_runtime.verdict import Verdict

FLOAT_THRESHOLD, TARGET_THRESHOLD = 0.2504, 0.2611


def verdict(score: float, threshold: float) -> Verdict:
    return Verdict.PASS if score <= threshold else Verdict.REJECT


def image(
    name: str, kind: str | None, float_score: float, target_score: float, **changes: Any
) -> ImageResult:
    """A measured image, its verdicts those of the scores."""
    fields: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "float_score": float_score,
        "target_score": target_score,
        "float_verdict": verdict(float_score, FLOAT_THRESHOLD),
        "target_verdict": verdict(target_score, TARGET_THRESHOLD),
        "map_correlation": 0.9951,
    }
    return ImageResult(**(fields | changes))


def some_images(good: int = 12, defects: int = 9) -> list[ImageResult]:
    """Good images and two kinds of defects; the last good and the first defect have flipped."""
    rng = np.random.default_rng(3)
    images = []
    for n in range(good):
        a = float(rng.uniform(0.05, 0.22))
        b = 0.3 if n == good - 1 else a * float(rng.uniform(0.95, 1.05))
        correlation = 1 - 10 ** float(rng.uniform(-4, -2))
        images.append(image(f"test/good/{n:03}.png", "good", a, b, map_correlation=correlation))
    for n in range(defects):
        kind = "crack" if n % 2 else "dent"
        a = float(rng.uniform(0.4, 4))
        b = 0.2 if n == 0 else a * float(rng.uniform(0.95, 1.05))
        correlation = 1 - 10 ** float(rng.uniform(-5, -2))
        images.append(image(f"test/{kind}/{n:03}.png", kind, a, b, map_correlation=correlation))
    return images


def side(threshold: float, engine: str, precision: str, **changes: Any) -> Side:
    quantiles = Quantiles(qa_st=0.262311, qb_st=0.342487, qa_ae=0.0251423, qb_ae=0.107581)
    return Side(
        engine=engine, precision=precision, calibrated_threshold=threshold, quantiles=quantiles, **changes
    )


SENSITIVITY = (
    LayerSensitivity(layer="student.conv1", map_error=0.0419, gmac_share=0.113, left_float=True),
    LayerSensitivity(layer="student.conv2", map_error=0.00217, gmac_share=0.64, left_float=False),
    LayerSensitivity(layer="autoencoder.enc1", map_error=None, gmac_share=0.247, left_float=False),
)
QUANTIZATION = Quantization(
    range_method="percentile",
    candidates=(
        RangeCandidate(method="min-max", map_error=0.0312),
        RangeCandidate(method="percentile", map_error=0.0121),
    ),
    headroom=3.75,
    headroom_source="Pasted squares reached 3.1 times as far.",
    equalization=False,
    float_layers=(FloatLayer(layer="student.conv1", cost_ms=1.32),),
)


def report(images: Sequence[ImageResult] | None = None, **changes: Any) -> Report:
    """A record of these images; figures that follow from them follow, the others are made up."""
    images = some_images() if images is None else images
    fields: dict[str, Any] = {
        "name": "bottle",
        "created": "2026-01-02T03:04:05+00:00",
        "built_for": "tflite",
        "score_rule": "max",
        "float_": side(
            FLOAT_THRESHOLD, "onnxruntime 1.32.0", "fp32",
            image_auroc=0.9876, image_f1=0.9654, pixel_auroc=0.9432, aupro=0.9123, false_rejects=0, escapes=0,
        ),
        "target": side(
            TARGET_THRESHOLD, "LiteRT 2.3", "int8",
            image_auroc=0.9871, image_f1=0.9611, pixel_auroc=0.9444, aupro=0.9101, false_rejects=1, escapes=1,
        ),
        "score_correlation": 0.99812,
        "map_correlation": 0.99643,
        "worst_map_correlation": 0.98112,
        "good_map_correlation": 0.99555,
        "flipped_verdicts": tuple(i.name for i in images if i.flipped),
        "latency_ms": Latency(float_=361.8, target=93.4),
        "measured_on": "labelled test images",
        "measured_images": len(images),
        "precisions": (
            PrecisionCost(
                precision="fp32", engine="onnxruntime 1.32.0", engine_ms=361.8, rss_mb=211.4, model_bytes=5396381
            ),
            PrecisionCost(precision="int8", engine="LiteRT 2.3", engine_ms=93.4, rss_mb=None, model_bytes=1439877),
        ),
        "model_bytes": ModelBytes(float_=5396381, target=1439877),
        "gmac": 3.58128,
        "fusion_deviation": 9.80277e-06,
        "quantization": QUANTIZATION,
        "sensitivity": SENSITIVITY,
        "limits": Limits(max_drop=0.002, min_map_correlation=0.995, passed=True, broken=(), forced=False),
        "images": tuple(images),
        "sets": ImageSets(ranges=128, fit=21, measurement=len(images)),
        "warnings": (),
        "provenance": {"edge_ad": "0.1.0", "command": "edge-ad convert runs/bottle -o bottle.edgead", "seed": "42"},
    }  # fmt: skip
    return Report(**(fields | changes))


KINDS = (
    KindResult(kind="crack", images=4, float_auroc=0.9921, target_auroc=0.9412),
    KindResult(kind="dent", images=5, float_auroc=0.9811, target_auroc=0.9833),
)


def candidate(label: str, share: float, auroc: float | None, **changes: Any) -> CompressionCandidate:
    fields: dict[str, Any] = {
        "label": label,
        "gmac": 3.58128 * share,
        "share": share,
        "parameters": int(1_350_000 * share),
        "image_auroc": auroc,
        "aupro": None if auroc is None else auroc - 0.08,
        "latency_ms": 20 * share + 2,
        "latency_ratio": (20 * share + 2) / 22,
    }
    return CompressionCandidate(**(fields | changes))


COMPRESSION = Compression(
    asked="auto",
    uncompressed=candidate("uncompressed", 1.0, 0.9876),
    candidates=(
        candidate(
            "directions 32/16, widths 50%", 0.2514, 0.9611, kinds=KINDS, good_map_correlation=0.9713, lost=0.0812,
            broken=("image AUROC drops from 0.9876 to 0.9611, by more than 0.005",),
        ),
        candidate(
            "directions 32/16, widths 75%", 0.5123, 0.9871, kinds=KINDS, good_map_correlation=0.9931, lost=0.0021,
            target_broken=(), chosen=True,
        ),
        candidate("directions 64/32", 0.9017, 0.9869, kinds=(), good_map_correlation=0.9991, lost=0.0),
    ),
)  # fmt: skip


def unlabelled_report(count: int = 6) -> Report:
    """What a conversion knows without labels: scores and maps of good images, no accuracy."""
    images = [image(f"fit {n}", None, 0.1 + 0.01 * n, 0.101 + 0.01 * n) for n in range(count)]
    return report(
        images,
        float_=side(FLOAT_THRESHOLD, "onnxruntime 1.32.0", "fp32"),
        target=side(TARGET_THRESHOLD, "LiteRT 2.3", "int8"),
        measured_on="the good images of the fit",
        good_map_correlation=None,
    )


def noise_pictures(asked: list[str] | None = None) -> Callable[[str], Picture]:
    """Pictures that compress as badly as any: noise, in the image and in the maps. ``asked`` gets the names."""

    def picture(name: str) -> Picture:
        if asked is not None:
            asked.append(name)
        rng = np.random.default_rng(len(name))
        maps = rng.uniform(0, 1, (2, 240, 320)).astype(np.float32)
        return Picture(rng.integers(0, 256, (240, 320, 3), np.uint8), Roi(0, 0, 320, 240), maps[0], maps[1])

    return picture
