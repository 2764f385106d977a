"""onnxruntime on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_ad_runtime.engines.base import RawMaps
from edge_ad_runtime.engines.buffers import contiguous, fixed_shape
from edge_ad_runtime.engines.options import EngineOptions, OrtOptions, thread_count
from edge_ad_runtime.errors import BundleError, MissingExtra
from edge_ad_runtime.types import Image

# It would round the weights of convolutions that were left in float on purpose, with one scale for all channels.
_UNWANTED_OPTIMIZERS = ("WeightBiasQuantization",)


class OrtEngine:
    """Runs a fused ONNX graph (float or QDQ) with onnxruntime's CPU provider.

    It reads the image where it lies and writes the maps into buffers of its own, bound once; the caller gets copies,
    which stay as they are. Not for use by two threads at once.
    """

    def __init__(self, model: bytes, options: EngineOptions | None = None) -> None:
        options = options or EngineOptions()
        ort = _load()
        self.name = engine_name()
        try:
            session: Any = ort.InferenceSession(
                model,
                _session_options(ort, thread_count(options), options.ort),
                providers=["CPUExecutionProvider"],
                disabled_optimizers=_UNWANTED_OPTIMIZERS,
            )
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise BundleError(f"onnxruntime refuses the model: {error}") from error
        shapes = {i.name: list(i.shape) for i in (*session.get_inputs(), *session.get_outputs())}
        self._shape = fixed_shape("image", shapes.get("image", ()), 4)
        self._maps = [
            np.empty(fixed_shape(name, shapes.get(name, ()), 3), np.float32) for name in ("map_st", "map_ae")
        ]
        self._session = session
        self._binding = session.io_binding()
        for name, target in zip(("map_st", "map_ae"), self._maps, strict=True):
            self._binding.bind_output(name, "cpu", 0, np.float32, target.shape, target.ctypes.data)
        self._given: Image | None = None
        self._bound: Image | None = None

    def run(self, batch: Image) -> RawMaps:
        # A caller that fills the same array again and again has it bound once; holding it keeps its memory where it is.
        if batch is not self._given:
            self._bind(batch)
        self._session.run_with_iobinding(self._binding)
        return RawMaps(self._maps[0][0].copy(), self._maps[1][0].copy())

    def _bind(self, batch: Image) -> None:
        image = contiguous(batch, self._shape)
        self._binding.bind_input("image", "cpu", 0, np.uint8, image.shape, image.ctypes.data)
        self._bound = image
        # What had to be copied has to be copied again.
        self._given = batch if image is batch else None


def engine_name() -> str:
    """The engine with its version.

    Raises:
        MissingExtra: onnxruntime is not installed.
    """
    return f"onnxruntime {_load().__version__}"


def _load() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "ort", "a bundle of the target 'ort'") from error
    return onnxruntime


def _session_options(ort: Any, threads: int | None, own: OrtOptions) -> Any:
    session = ort.SessionOptions()
    session.log_severity_level = 3
    session.intra_op_num_threads = threads or 0
    session.inter_op_num_threads = 1
    session.enable_cpu_mem_arena = own.arena
    # By default its threads go on spinning for tens of milliseconds after a run and take the cores from whatever comes
    # next: another engine, the camera, the next part's preprocessing.
    session.add_session_config_entry("session.force_spinning_stop", "1")
    if not own.spinning:
        session.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return session
