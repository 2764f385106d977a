"""onnxruntime on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_ad_runtime.engines.base import RawMaps
from edge_ad_runtime.errors import BundleError, MissingExtra
from edge_ad_runtime.types import Image

# It would round the weights of convolutions that were left in float on purpose, with one scale for all channels.
_UNWANTED_OPTIMIZERS = ("WeightBiasQuantization",)


class OrtEngine:
    """Runs a fused ONNX graph (float or QDQ) with onnxruntime's CPU provider."""

    def __init__(self, model: bytes, threads: int | None = None) -> None:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise MissingExtra("onnxruntime", "ort", "a bundle of the target 'ort'") from error
        self.name = f"onnxruntime {ort.__version__}"
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        # By default its threads go on spinning for tens of milliseconds after a run and take the cores from
        # whatever comes next: another engine, the camera, the next part's preprocessing.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._session: Any = ort.InferenceSession(
                model,
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=_UNWANTED_OPTIMIZERS,
            )
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise BundleError(f"onnxruntime refuses the model: {error}") from error

    def run(self, batch: Image) -> RawMaps:
        map_st, map_ae = self._session.run(("map_st", "map_ae"), {"image": batch})
        return RawMaps(np.asarray(map_st[0], np.float32), np.asarray(map_ae[0], np.float32))
