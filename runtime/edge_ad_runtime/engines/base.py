"""What an engine is."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from edge_ad_runtime.types import FloatArray, Image

# ort: onnxruntime; tflite: LiteRT or the older tflite-runtime; openvino; tensorrt: NVIDIA's, on a Jetson.
Target = Literal["ort", "tflite", "openvino", "tensorrt"]
Precision = Literal["fp32", "fp16", "int8"]


class RawMaps(NamedTuple):
    """Channel-mean squared differences, ``float32 hxw`` each, before any calibration."""

    st: FloatArray
    ae: FloatArray


class Engine(Protocol):
    """Runs a fused graph.

    The maps are the caller's own: the next run does not change them. The copy that this takes is half a microsecond for
    a map of 56x56. The image is read during the run only, but an engine may hold on to the array: an array that is filled
    anew for each run and handed over again saves the engine looking at it anew.
    """

    name: str

    def run(self, batch: Image) -> RawMaps:
        """Raw maps of one preprocessed image, ``uint8 1xHxWx3`` RGB."""
        ...
