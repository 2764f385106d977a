"""The target ``ort``: ONNX for onnxruntime, float or QDQ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edge_ad_converters.cost import gmac
from edge_ad_converters.description import NetsDescription
from edge_ad_converters.fuse import fuse
from edge_ad_converters.onnx_float import export_onnx
from edge_ad_converters.onnx_qdq import quantize_onnx, tensors_to_observe
from edge_ad_converters.ranges import observe
from edge_ad_runtime.types import Image

MODEL_FILE = "model.onnx"


@dataclass(frozen=True)
class OrtModels:
    """The float graph and the one of the wanted precision (the same for fp32), serialized."""

    float_model: bytes
    target_model: bytes
    gmac: float


def build_ort(
    nets: NetsDescription, precision: Literal["fp32", "int8"], calibration: Sequence[Image]
) -> OrtModels:
    """Fuse, export, and quantize with ``calibration`` (``uint8 1xHxWx3`` batches; unused for fp32)."""
    model = export_onnx(fuse(nets))
    encoded = model.SerializeToString()
    target = encoded
    if precision == "int8":
        statistics = observe(model, tensors_to_observe(model), calibration)
        target = quantize_onnx(model, statistics).SerializeToString()
    return OrtModels(encoded, target, gmac(model))
