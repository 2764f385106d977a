"""OpenVINO on the CPU."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from edge_ad_runtime.engines.base import Precision, RawMaps
from edge_ad_runtime.errors import BundleError, MissingExtra
from edge_ad_runtime.types import Image


class OpenVinoEngine:
    """Runs a fused ONNX graph (float or QDQ) with OpenVINO's CPU plugin.

    ``fp16`` is a hint: processors without half-precision arithmetic compute in float 32.
    """

    def __init__(self, model: bytes, precision: Precision, threads: int | None = None) -> None:
        try:
            import openvino as ov
        except ImportError as error:
            raise MissingExtra("openvino", "openvino", "a bundle of the target 'openvino'") from error
        self.name = f"OpenVINO {ov.__version__.split('-')[0]}"
        # Without the hint, processors with bfloat16 would silently compute the float parts with 8 bits of mantissa.
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f16" if precision == "fp16" else "f32",
        }
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            core = ov.Core()
            compiled = core.compile_model(core.read_model(io.BytesIO(model)), "CPU", config)
        except Exception as error:  # OpenVINO raises plain RuntimeErrors
            raise BundleError(f"OpenVINO refuses the model: {error}") from error
        self._request = compiled.create_infer_request()
        self._outputs = [compiled.output(name) for name in ("map_st", "map_ae")]

    def run(self, batch: Image) -> RawMaps:
        result = self._request.infer({"image": batch}, share_inputs=True)
        map_st, map_ae = (np.array(result[o][0], np.float32) for o in self._outputs)
        return RawMaps(map_st, map_ae)
