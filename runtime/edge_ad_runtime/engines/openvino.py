"""OpenVINO on the CPU."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from edge_ad_runtime.engines.base import Precision, RawMaps
from edge_ad_runtime.engines.buffers import contiguous, fixed_shape
from edge_ad_runtime.engines.options import EngineOptions, thread_count
from edge_ad_runtime.errors import BundleError, MissingExtra
from edge_ad_runtime.types import Image

_CORE_TYPES = {"any": "ANY_CORE", "performance": "PCORE_ONLY", "efficiency": "ECORE_ONLY"}


class OpenVinoEngine:
    """Runs a fused ONNX graph (float or QDQ) with OpenVINO's CPU plugin.

    ``fp16`` is a hint: processors without half-precision arithmetic compute in float 32. It reads the image where it
    lies and writes the maps into buffers of its own, set once; the caller gets copies, which stay as they are. Not for use
    by two threads at once.
    """

    def __init__(self, model: bytes, precision: Precision, options: EngineOptions | None = None) -> None:
        options = options or EngineOptions()
        ov = _load()
        self.name = engine_name()
        try:
            core = ov.Core()
            compiled = core.compile_model(
                core.read_model(io.BytesIO(model)), "CPU", _config(precision, options)
            )
            image = compiled.input("image")
            outputs = [compiled.output(name) for name in ("map_st", "map_ae")]
            shapes = [list(port.get_partial_shape().get_min_shape()) for port in (image, *outputs)]
            is_fixed = not any(port.get_partial_shape().is_dynamic for port in (image, *outputs))
        except Exception as error:  # OpenVINO raises plain RuntimeErrors
            raise BundleError(f"OpenVINO refuses the model: {error}") from error
        self._shape = fixed_shape("image", shapes[0] if is_fixed else (), 4)
        self._tensor = ov.Tensor
        self._request = compiled.create_infer_request()
        self._maps = []
        for output, shape in zip(outputs, shapes[1:], strict=True):
            target = np.empty(fixed_shape("map", shape, 3), np.float32)
            self._request.set_tensor(output, ov.Tensor(target, shared_memory=True))
            self._maps.append(target)
        self._given: Image | None = None
        self._bound: Image | None = None

    def run(self, batch: Image) -> RawMaps:
        # A caller that fills the same array again and again has it set once; holding it keeps its memory where it is.
        if batch is not self._given:
            self._bind(batch)
        self._request.infer(share_outputs=True)
        return RawMaps(self._maps[0][0].copy(), self._maps[1][0].copy())

    def _bind(self, batch: Image) -> None:
        image = contiguous(batch, self._shape)
        self._request.set_input_tensor(self._tensor(image, shared_memory=True))
        self._bound = image
        # What had to be copied has to be copied again.
        self._given = batch if image is batch else None


def engine_name() -> str:
    """The engine with its version.

    Raises:
        MissingExtra: OpenVINO is not installed.
    """
    return f"OpenVINO {_load().__version__.split('-')[0]}"


def _load() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtra("openvino", "openvino", "a bundle of the target 'openvino'") from error
    return openvino


def _config(precision: Precision, options: EngineOptions) -> dict[str, Any]:
    own = options.openvino
    # Without the precision, processors with bfloat16 would silently compute the float parts with 8 bits of mantissa.
    config: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f16" if precision == "fp16" else "f32",
    }
    if (threads := thread_count(options)) is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    if own.pinning is not None:
        config["ENABLE_CPU_PINNING"] = own.pinning
    if own.core_type != "any":
        config["SCHEDULING_CORE_TYPE"] = _CORE_TYPES[own.core_type]
    if own.hyper_threading is not None:
        config["ENABLE_HYPER_THREADING"] = own.hyper_threading
    return config
