"""Inference engines behind one narrow interface."""

from __future__ import annotations

from typing import get_args

from edge_ad_runtime.engines.base import Engine, Precision, RawMaps, Target
from edge_ad_runtime.errors import BundleError

__all__ = ["PRECISIONS", "TARGETS", "Engine", "Precision", "RawMaps", "Target", "open_engine"]

TARGETS: tuple[Target, ...] = get_args(Target)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def open_engine(target: Target, model: bytes, precision: Precision, threads: int | None = None) -> Engine:
    """Open a model file's content in the engine of its target.

    Args:
        target: one of :data:`TARGETS`, as the bundle's manifest names it.
        model: the model file.
        precision: what the model was converted to; an engine that computes fp16 is told so here.
        threads: CPU threads; None lets the engine use all cores.

    Raises:
        BundleError: the engine refuses the model.
        MissingExtra: the engine's package is not installed.
    """
    if target == "ort":
        from edge_ad_runtime.engines.ort import OrtEngine

        return OrtEngine(model, threads)
    if target == "openvino":
        from edge_ad_runtime.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(model, precision, threads)
    if target == "tflite":
        from edge_ad_runtime.engines.tflite import TfliteEngine

        return TfliteEngine(model, threads)
    if target == "tensorrt":
        from edge_ad_runtime.engines.tensorrt import TensorRtEngine

        return TensorRtEngine(model, precision)
    raise BundleError(f"target '{target}' is unknown here; known are {', '.join(TARGETS)}. Update edge-ad")
