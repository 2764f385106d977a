"""TensorRT on an NVIDIA Jetson, through its own Python API."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from edge_ad_runtime.engines.base import Precision, RawMaps
from edge_ad_runtime.engines.cuda import Cuda
from edge_ad_runtime.engines.plan_cache import PlanKey, plan_path, read_plan, write_plan
from edge_ad_runtime.engines.tensorrt_build import BUILD, build_plan
from edge_ad_runtime.errors import BundleError, EdgeAdError, EngineError, InputError, MissingExtra
from edge_ad_runtime.types import FloatArray, Image

_IMAGE = "image"
_MAPS = ("map_st", "map_ae")
_log = logging.getLogger(__name__)


class TensorRtEngine:
    """Runs a fused ONNX graph (float, or QDQ as TensorRT wants it) as a TensorRT engine of static shapes.

    Input ``image``, ``uint8 1xHxWx3``; outputs ``map_st`` and ``map_ae``, ``float32 1xhxw``. The first start
    builds the engine, which takes minutes; later ones read it from
    :mod:`edge_ad_runtime.engines.plan_cache`. Not for use by two threads at once.
    """

    def __init__(self, model: bytes, precision: Precision) -> None:
        """Build or read the engine.

        Raises:
            MissingExtra: TensorRT's Python module or cuda-python is missing.
            BundleError: TensorRT refuses the model, or it has other inputs and outputs.
            EngineError: no GPU, no memory, a driver that does not fit, an error inside TensorRT.
        """
        trt = _load_tensorrt()
        cuda = Cuda()
        self._cuda = cuda
        self.name = f"TensorRT {trt.__version__} on {cuda.gpu.name}"
        try:
            with _translated("opening the engine"):
                # Prints errors to the standard error; the engine keeps using it.
                self._logger = trt.Logger(trt.Logger.ERROR)
                self._runtime = trt.Runtime(self._logger)
                self._engine = self._plan_or_new(trt, model, precision)
                self._shapes = _io_shapes(trt, self._engine)
                self._context = self._engine.create_execution_context()
                if self._context is None:
                    raise EngineError(f"{self.name} has too little memory left to run the engine")
                self._addresses = {
                    name: cuda.allocate(_bytes(name, shape)) for name, shape in self._shapes.items()
                }
                for name, address in self._addresses.items():
                    if not self._context.set_tensor_address(name, address):
                        raise EngineError(f"{self.name} refuses the memory of '{name}'")
        except BaseException:
            cuda.close()
            raise

    def run(self, batch: Image) -> RawMaps:
        """Raw maps of one preprocessed image, ``uint8 1xHxWx3`` RGB.

        Raises:
            InputError: the image has another size or type than the engine's.
            EngineError: CUDA or TensorRT reports an error.
        """
        if batch.shape != self._shapes[_IMAGE] or batch.dtype != np.uint8:
            raise InputError(
                f"the engine takes uint8 {self._shapes[_IMAGE]}, this is {batch.dtype} {batch.shape}"
            )
        batch = np.ascontiguousarray(batch)
        maps: list[FloatArray] = [np.empty(self._shapes[name], np.float32) for name in _MAPS]
        with _translated("running the engine"):
            self._cuda.upload(self._addresses[_IMAGE], batch)
            if not self._context.execute_async_v3(self._cuda.stream):
                raise EngineError(f"{self.name} failed to run; its own messages above say why")
            for name, target in zip(_MAPS, maps, strict=True):
                self._cuda.download(target, self._addresses[name])
            self._cuda.synchronize()
        return RawMaps(maps[0][0], maps[1][0])

    def _plan_or_new(self, trt: Any, model: bytes, precision: Precision) -> Any:
        """The deserialized engine, from the cache where it has a good one."""
        key = PlanKey(
            model=hashlib.sha256(model).hexdigest(),
            tensorrt=trt.__version__,
            gpu=self._cuda.gpu.name,
            compute_capability=self._cuda.gpu.compute_capability,
            precision=precision,
            build=BUILD,
        )
        path = plan_path(key)
        plan = None if path is None else read_plan(path, key)
        if plan is not None:
            engine = self._runtime.deserialize_cuda_engine(plan)
            if engine is not None:
                return engine
            _log.warning("%s: %s does not take it any more; the engine is built anew", path, self.name)
        _log.warning("%s builds the engine of this bundle, which takes minutes", self.name)
        plan = build_plan(trt, self._logger, model, precision)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(f"{self.name} does not take the engine that it has just built")
        if path is not None:
            write_plan(path, key, plan)
        return engine


def _load_tensorrt() -> Any:
    try:
        import tensorrt
    except ImportError as error:
        raise MissingExtra(
            "tensorrt",
            "tensorrt",
            "a bundle of the target 'tensorrt'",
            f"it comes with NVIDIA's JetPack (apt install python3-libnvinfer), and a virtual environment sees it "
            f"when made with --system-site-packages ({error}). What it needs besides, cuda-python, "
            "pip install 'edge-ad[tensorrt]' brings",
        ) from error
    return tensorrt


def _io_shapes(trt: Any, engine: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of ``image`` and the two maps, checked.

    Raises:
        BundleError: the engine has others, or other types, or shapes left open.
    """
    found = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
    if found != {_IMAGE, *_MAPS}:
        raise BundleError(
            f"the model's inputs and outputs are {sorted(found)}; edge-ad's are image and two maps"
        )
    shapes = {name: tuple(engine.get_tensor_shape(name)) for name in (_IMAGE, *_MAPS)}
    for name, shape in shapes.items():
        is_image = name == _IMAGE
        kind = engine.get_tensor_dtype(name)
        mode = trt.TensorIOMode.INPUT if is_image else trt.TensorIOMode.OUTPUT
        if (
            engine.get_tensor_mode(name) != mode
            or kind != (trt.uint8 if is_image else trt.float32)
            or len(shape) != (4 if is_image else 3)
            or shape[0] != 1
            or min(shape) < 1
        ):
            raise BundleError(f"the model's '{name}' is {kind} {shape}, which edge-ad cannot run")
    return shapes


def _bytes(name: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * (1 if name == _IMAGE else 4)


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Turn what TensorRT's bindings raise (a TypeError where there is no GPU, for one) into EngineError."""
    try:
        yield
    except EdgeAdError:
        raise
    except Exception as error:
        raise EngineError(f"TensorRT: {doing} failed: {error}") from error
