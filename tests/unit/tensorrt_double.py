"""Doubles of the few calls of TensorRT and of the CUDA runtime that edge-ad makes. No GPU is involved.

They are strict where the documentation is: signatures and enumerations are those of the Python bindings of
TensorRT 8.6.1 and 10.3.0 and of cuda-python 12; memory is really allocated (on the host), copies are checked
against it, a stream does nothing before it is synchronized, a graph is really parsed and really run (by
onnxruntime), a plan is refused by another version or GPU. What they cannot show is what TensorRT computes.
"""

from __future__ import annotations

import ctypes
import enum
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

_MAGIC = b"double of a plan\n"


class CudaError(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorIllegalAddress = 700


class MemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


@dataclass
class Device:
    """A pretended GPU: its memory, its streams, and what was done with it."""

    name: str = "Orin"
    capability: tuple[int, int] = (8, 7)
    memory: dict[int, Any] = field(default_factory=dict)
    streams: dict[int, list[Callable[[], CudaError]]] = field(default_factory=dict)
    failing: dict[str, CudaError] = field(default_factory=dict)
    refuses: set[str] = field(default_factory=set)
    builds: list[SimpleNamespace] = field(default_factory=list)
    _handles: int = 0x1000

    def new_stream(self) -> int:
        self._handles += 16
        self.streams[self._handles] = []
        return self._handles

    def read(self, address: int, size: int) -> bytes | None:
        """The first bytes of an allocation; None where it is not one, or smaller."""
        block = self.memory.get(address)
        return None if block is None or size > len(block) else ctypes.string_at(address, size)

    def write(self, address: int, data: bytes) -> bool:
        if self.read(address, len(data)) is None:
            return False
        ctypes.memmove(address, data, len(data))
        return True


class _Stream:
    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __int__(self) -> int:
        return self.handle


class Cudart:
    """``cuda.bindings.runtime``: each function returns a tuple, the error first."""

    cudaError_t, cudaMemcpyKind = CudaError, MemcpyKind

    def __init__(self, device: Device) -> None:
        self._device = device

    def _failing(self, function: str) -> CudaError | None:
        return self._device.failing.get(function)

    def cudaGetErrorString(self, error: CudaError) -> tuple[CudaError, bytes]:
        return CudaError.cudaSuccess, f"text of {error.name}".encode()

    def cudaGetDeviceProperties(self, device: int) -> tuple[CudaError, Any]:
        if "driver" in self._device.refuses:
            raise RuntimeError("Failed to dlopen libcuda.so.1")
        if error := self._failing("cudaGetDeviceProperties"):
            return error, None
        assert device == 0
        major, minor = self._device.capability
        return CudaError.cudaSuccess, SimpleNamespace(
            name=self._device.name.encode(), major=major, minor=minor
        )

    def cudaMalloc(self, size: int) -> tuple[CudaError, int | None]:
        if error := self._failing("cudaMalloc"):
            return error, None
        assert type(size) is int and size > 0
        block = ctypes.create_string_buffer(size)
        self._device.memory[ctypes.addressof(block)] = block
        return CudaError.cudaSuccess, ctypes.addressof(block)

    def cudaFree(self, devPtr: int) -> tuple[CudaError]:
        freed = self._device.memory.pop(devPtr, None)
        return (CudaError.cudaErrorInvalidValue if freed is None else CudaError.cudaSuccess,)

    def cudaStreamCreate(self) -> tuple[CudaError, _Stream | None]:
        if error := self._failing("cudaStreamCreate"):
            return error, None
        return CudaError.cudaSuccess, _Stream(self._device.new_stream())

    def cudaStreamDestroy(self, stream: _Stream) -> tuple[CudaError]:
        gone = self._device.streams.pop(int(stream), None)
        return (CudaError.cudaErrorInvalidValue if gone is None else CudaError.cudaSuccess,)

    def cudaMemcpyAsync(
        self, dst: int, src: int, count: int, kind: MemcpyKind, stream: _Stream
    ) -> tuple[CudaError]:
        if error := self._failing("cudaMemcpyAsync"):
            return (error,)
        queue = self._device.streams.get(int(stream))
        on_device = dst if kind is MemcpyKind.cudaMemcpyHostToDevice else src
        if queue is None or self._device.read(on_device, count) is None:
            return (CudaError.cudaErrorInvalidValue,)
        if kind is MemcpyKind.cudaMemcpyHostToDevice:
            # Pageable memory is staged before the call returns.
            staged = ctypes.string_at(src, count)
            queue.append(lambda: self._written(dst, staged))
        else:
            queue.append(lambda: self._read_back(dst, src, count))
        return (CudaError.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: _Stream) -> tuple[CudaError]:
        if error := self._failing("cudaStreamSynchronize"):
            return (error,)
        queue = self._device.streams.get(int(stream))
        if queue is None:
            return (CudaError.cudaErrorInvalidValue,)
        while queue:
            if error := queue.pop(0)():
                return (error,)
        return (CudaError.cudaSuccess,)

    def _written(self, address: int, data: bytes) -> CudaError:
        return (
            CudaError.cudaSuccess if self._device.write(address, data) else CudaError.cudaErrorIllegalAddress
        )

    def _read_back(self, host: int, address: int, count: int) -> CudaError:
        data = self._device.read(address, count)
        if data is None:
            return CudaError.cudaErrorIllegalAddress
        ctypes.memmove(host, data, count)
        return CudaError.cudaSuccess


class DataType(enum.IntEnum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64 = range(9)


class LayerType(enum.IntEnum):
    CONVOLUTION, ACTIVATION, POOLING, ELEMENTWISE, SHUFFLE, REDUCE, CAST, QUANTIZE, DEQUANTIZE, OTHER = range(
        10
    )


class TensorIOMode(enum.IntEnum):
    NONE, INPUT, OUTPUT = range(3)


class BuilderFlag(enum.IntEnum):
    FP16, INT8, TF32, OBEY_PRECISION_CONSTRAINTS, PREFER_PRECISION_CONSTRAINTS = range(5)


class Flags8(enum.IntEnum):
    EXPLICIT_BATCH, EXPLICIT_PRECISION = range(2)


class Flags10(enum.IntEnum):
    EXPLICIT_BATCH, STRONGLY_TYPED = range(2)


_LAYERS = {
    "Conv": LayerType.CONVOLUTION, "Relu": LayerType.ACTIVATION, "AveragePool": LayerType.POOLING,
    "Mul": LayerType.ELEMENTWISE, "Sub": LayerType.ELEMENTWISE, "Transpose": LayerType.SHUFFLE,
    "ReduceMean": LayerType.REDUCE, "Cast": LayerType.CAST, "QuantizeLinear": LayerType.QUANTIZE,
    "DequantizeLinear": LayerType.DEQUANTIZE,
}  # fmt: skip
_TYPES = {
    onnx.TensorProto.FLOAT: DataType.FLOAT, onnx.TensorProto.UINT8: DataType.UINT8,
    onnx.TensorProto.INT8: DataType.INT8, onnx.TensorProto.INT64: DataType.INT64,
}  # fmt: skip
_NUMPY = {DataType.FLOAT: np.float32, DataType.UINT8: np.uint8}


class Layer:
    def __init__(self, network: Network, name: str, kind: LayerType, dtype: DataType) -> None:
        self._network, self.name, self.type, self._dtype = network, name, kind, dtype
        self._precision: DataType | None = None
        self.output_type: DataType | None = None

    @property
    def precision(self) -> Any:
        return self._precision

    @precision.setter
    def precision(self, value: DataType) -> None:
        self._network.may_be_constrained()
        self._precision = value

    def get_output(self, index: int) -> Any:
        assert index == 0
        return SimpleNamespace(dtype=self._dtype)

    def set_output_type(self, index: int, dtype: DataType) -> None:
        assert index == 0
        self._network.may_be_constrained()
        self.output_type = dtype


class Network:
    def __init__(self, flags: int, major: int) -> None:
        self.flags, self.major, self.model = flags, major, b""
        self.layers: list[Layer] = []
        self.strongly_typed = major >= 10 and bool(flags & 1 << Flags10.STRONGLY_TYPED)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, index: int) -> Layer:
        return self.layers[index]

    def may_be_constrained(self) -> None:
        assert not self.strongly_typed, "layer precisions are not allowed in a strongly typed network"


class OnnxParser:
    def __init__(self, network: Network, logger: Logger) -> None:
        assert isinstance(logger, Logger)
        self._network = network
        self._errors: list[str] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        text = self._errors[index]
        return SimpleNamespace(desc=lambda: text)

    def parse(self, model: bytes, path: str | None = None) -> bool:
        if self._network.major == 8 and not self._network.flags & 1 << Flags8.EXPLICIT_BATCH:
            self._errors.append("this version supports full-dimensions networks only")
            return False
        try:
            proto = onnx.load_from_string(model)
        except Exception:  # noqa: BLE001 - protobuf's DecodeError, whose stubs are not installed
            self._errors.append("could not parse the model")
            return False
        limit = 17 if self._network.major == 8 else 20
        if proto.opset_import[0].version > limit:
            self._errors.append(f"opset {proto.opset_import[0].version} is above {limit}")
            return False
        inferred = onnx.shape_inference.infer_shapes(proto).graph
        kinds = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
        for node in proto.graph.node:
            kind = _TYPES[kinds[node.output[0]]]
            layer = _LAYERS.get(node.op_type, LayerType.OTHER)
            self._network.layers.append(Layer(self._network, node.output[0], layer, kind))
        # As for the shape arithmetic that the real parser adds.
        self._network.layers.append(Layer(self._network, "shape", LayerType.ELEMENTWISE, DataType.INT32))
        self._network.model = model
        return True


class Config:
    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)


class Logger:
    ERROR = 1

    def __init__(self, min_severity: int) -> None:
        self.min_severity = min_severity


class Builder:
    def __init__(self, logger: Logger, version: str, device: Device) -> None:
        if "Builder" in device.refuses:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        assert isinstance(logger, Logger)
        self._version, self._device = version, device

    def create_network(self, flags: int = 0) -> Network:
        return Network(flags, int(self._version.split(".")[0]))

    def create_builder_config(self) -> Config:
        return Config()

    def build_serialized_network(self, network: Network, config: Config) -> memoryview | None:
        """None where the real one would give none: Q/DQ without INT8 in TensorRT 8, flags of precision in a
        strongly typed network."""
        assert network.model, "nothing was parsed into the network"
        self._device.builds.append(SimpleNamespace(network=network, flags=set(config.flags)))
        quantized = any(layer.type == LayerType.QUANTIZE for layer in network.layers)
        if "build" in self._device.refuses:
            return None
        if network.major == 8 and quantized and BuilderFlag.INT8 not in config.flags:
            return None
        if network.strongly_typed and config.flags - {BuilderFlag.TF32}:
            return None
        header = json.dumps([self._version, self._device.name, self._device.capability]).encode()
        return memoryview(_MAGIC + header + b"\n" + network.model)


class Runtime:
    def __init__(self, logger: Logger, version: str, device: Device) -> None:
        assert isinstance(logger, Logger)
        self._version, self._device = version, device

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        if not serialized_engine.startswith(_MAGIC) or "plan" in self._device.refuses:
            return None
        header, _, model = serialized_engine.removeprefix(_MAGIC).partition(b"\n")
        if json.loads(header) != [self._version, self._device.name, list(self._device.capability)]:
            return None
        return Engine(model, self._device)


class Engine:
    def __init__(self, model: bytes, device: Device) -> None:
        self._device = device
        self.session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        self.tensors: dict[str, tuple[TensorIOMode, Any]] = {
            t.name: (TensorIOMode.INPUT, t) for t in self.session.get_inputs()
        }
        self.tensors |= {t.name: (TensorIOMode.OUTPUT, t) for t in self.session.get_outputs()}

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self.tensors[name][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(d if isinstance(d, int) else -1 for d in self.tensors[name][1].shape)

    def get_tensor_dtype(self, name: str) -> DataType:
        return {"tensor(uint8)": DataType.UINT8, "tensor(float)": DataType.FLOAT}[self.tensors[name][1].type]

    def create_execution_context(self) -> Context | None:
        return None if "context" in self._device.refuses else Context(self, self._device)


class Context:
    def __init__(self, engine: Engine, device: Device) -> None:
        self._engine, self._device = engine, device
        self._addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine.tensors or "address" in self._device.refuses:
            return False
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert type(stream_handle) is int
        queue = self._device.streams.get(stream_handle)
        if queue is None or set(self._addresses) != set(self._engine.tensors):
            return False
        if "execute" in self._device.refuses:
            return False
        queue.append(self._run)
        return True

    def _run(self) -> CudaError:
        feeds = {}
        for name, (mode, _) in self._engine.tensors.items():
            if mode is TensorIOMode.INPUT:
                shape, dtype = (
                    self._engine.get_tensor_shape(name),
                    _NUMPY[self._engine.get_tensor_dtype(name)],
                )
                data = self._device.read(
                    self._addresses[name], int(np.prod(shape)) * np.dtype(dtype).itemsize
                )
                if data is None:
                    return CudaError.cudaErrorIllegalAddress
                feeds[name] = np.frombuffer(data, dtype).reshape(shape)
        names = [n for n, (mode, _) in self._engine.tensors.items() if mode is TensorIOMode.OUTPUT]
        for name, result in zip(names, self._engine.session.run(names, feeds), strict=True):
            if not self._device.write(self._addresses[name], result.tobytes()):
                return CudaError.cudaErrorIllegalAddress
        return CudaError.cudaSuccess


def make_tensorrt(version: str, device: Device) -> SimpleNamespace:
    """What ``import tensorrt`` gives, for version 8.6.1 or 10.3.0."""
    return SimpleNamespace(
        __version__=version,
        Logger=Logger,
        Builder=lambda logger: Builder(logger, version, device),
        OnnxParser=OnnxParser,
        Runtime=lambda logger: Runtime(logger, version, device),
        BuilderFlag=BuilderFlag,
        NetworkDefinitionCreationFlag=Flags8 if version.startswith("8.") else Flags10,
        LayerType=LayerType,
        TensorIOMode=TensorIOMode,
        float32=DataType.FLOAT,
        uint8=DataType.UINT8,
    )


def install(monkeypatch: pytest.MonkeyPatch, device: Device, version: str) -> None:
    """Put the doubles where the engine imports TensorRT and cuda-python from.

    With 8.6.1 comes the older cuda-python, which has ``cuda.cudart`` alone.
    """
    cudart = Cudart(device)
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(version, device))
    if version.startswith("8."):
        monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(cudart=cudart))
        monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    else:
        monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(runtime=cudart))
